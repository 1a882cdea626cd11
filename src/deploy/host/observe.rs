//! Reads a service as it is on this host. Writes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::layout::Layout;
use super::releases::{self, Kept};
use super::services::Services;
use super::state::State;
use crate::plan::Digest;
use crate::resources::{PathState, World};
use crate::wire::deploy::{
    About, Config, Desired, Leftover, Observation, Seen, Setup, Target, TextSeen, UnitSeen, Version,
};

/// Longest text that is sent for a diff, in bytes.
const LONGEST: usize = 256 * 1024;

/// Reads the service, compared with `about`; `Err` inside: the release asked about is not there.
pub(super) fn observe(layout: &Layout, services: &dyn Services, about: &About) -> Result<Result<Observation, String>> {
    let state = State::read(layout)?;
    let (kept, partial) = Kept::all(layout)?;
    let mut seen = Observation {
        releases: kept.iter().map(|kept| kept.told(&state)).collect(),
        partial,
        current: layout.points_to()?,
        confirmed: state.confirmed().cloned(),
        previous: state.previous().cloned(),
        unfinished: state.switching.clone(),
        once: state.once.clone(),
        locked: layout.service_lock().holders()?.into_iter().next(),
        ..Observation::default()
    };
    match about {
        About::Nothing => {}
        About::Desired(desired) => compare(&mut seen, layout, services, desired, &kept, None)?,
        About::Kept(version) => {
            let target = match kept_target(&state, version.as_ref(), &kept) {
                Ok(target) => target,
                Err(why) => return Ok(Err(why)),
            };
            let Some(desired) = releases::desired(layout, &target)? else {
                return Ok(Err(format!("the records of release {} are not whole; deploy it again", target.version)));
            };
            let release = kept.iter().find(|kept| kept.manifest.version == target.version);
            compare(&mut seen, layout, services, &desired, &kept, release)?;
            seen.kept = Some(desired);
        }
    }
    Ok(Ok(seen))
}

/// The state that a rollback goes to: of that version, else the one before; or why there is none.
///
/// While a switch is not confirmed, "the one before" is what served until then.
pub(super) fn kept_target(state: &State, version: Option<&Version>, kept: &[Kept]) -> Result<Target, String> {
    let have = || {
        let versions: Vec<&str> = kept.iter().map(|kept| kept.manifest.version.as_str()).collect();
        if versions.is_empty() { "there is none".to_owned() } else { format!("here are {}", versions.join(", ")) }
    };
    let Some(version) = version else {
        let before = if state.switching.is_some() { state.confirmed() } else { state.previous() };
        return before.cloned().ok_or_else(|| format!("no release served here before this one; {}", have()));
    };
    let Some(kept) = kept.iter().find(|kept| kept.manifest.version == *version) else {
        return Err(format!("release {version} is not on this host; {}", have()));
    };
    let staged = || kept.stamp.setup.clone().map(|setup| Target { version: version.clone(), setup });
    state.last_of(version).cloned().or_else(staged).ok_or_else(|| format!("release {version} was never staged whole"))
}

fn compare(
    seen: &mut Observation,
    layout: &Layout,
    services: &dyn Services,
    desired: &Desired,
    kept: &[Kept],
    texts: Option<&Kept>,
) -> Result<()> {
    let mut world = World::now();
    let setup = &desired.setup;
    seen.account = account(&mut world)?;
    let names: Vec<&str> = setup.units.iter().map(|unit| unit.name.as_str()).collect();
    for (unit, state) in setup.units.iter().zip(services.states(&names)?) {
        let path = services.unit_folder().join(&unit.name);
        let file = text_seen(&mut world, &path, &unit.digest, false, texts)?;
        seen.units.push(UnitSeen { file, enabled: state.enabled, active: state.active });
    }
    for config in &setup.configs {
        seen.configs.push(text_seen(&mut world, &config.dest, &config.digest, config.sensitive, texts)?);
    }
    // What an unfinished switch has put there counts as well as what served.
    for target in [seen.confirmed.clone(), seen.unfinished.clone()].into_iter().flatten() {
        if let Some(earlier) = releases::desired(layout, &target)? {
            leftovers(&mut seen.leftover, &mut world, services.unit_folder(), &earlier.setup, setup)?;
        }
    }
    seen.has = has(desired, seen, kept);
    Ok(())
}

/// The names of the user and the group that this process runs as.
pub(super) fn account(world: &mut World) -> Result<(String, String)> {
    // The kernel gives this folder to the effective user, proc(5).
    match world.path(Path::new("/proc/self/fd"))? {
        PathState::Directory { meta } => Ok((meta.owner, meta.group)),
        _ => bail!("/proc is not there: who the agent runs as cannot be told"),
    }
}

fn text_seen(world: &mut World, path: &Path, to: &Digest, sensitive: bool, texts: Option<&Kept>) -> Result<TextSeen> {
    let state = match world.path(path)? {
        PathState::Absent => Seen::Absent,
        PathState::File { digest, meta } => {
            Seen::File { digest, mode: meta.mode, owner: meta.owner, group: meta.group }
        }
        PathState::Link { target } => Seen::Link { target },
        PathState::Directory { .. } | PathState::Other => Seen::Other,
    };
    let unlike = !matches!(&state, Seen::File { digest, .. } if digest == to);
    let shown =
        |bytes: Vec<u8>| String::from_utf8(bytes).ok().filter(|text| text.len() <= LONGEST && !text.contains('\0'));
    let (mut text, mut wanted) = (None, None);
    if unlike && !sensitive {
        if matches!(state, Seen::File { .. }) {
            text = world.content(path)?.and_then(shown);
        }
        wanted = texts.and_then(|kept| kept.text(to).ok()).and_then(shown);
    }
    Ok(TextSeen { path: path.to_owned(), state, text, wanted })
}

/// Units and configuration that an earlier state put on the host and the asked-for one does not have.
fn leftovers(found: &mut Vec<Leftover>, world: &mut World, units: &Path, earlier: &Setup, now: &Setup) -> Result<()> {
    let mut add = |path: PathBuf, unit: Option<String>| -> Result<()> {
        let left = Leftover { path, unit };
        if !found.contains(&left) && world.path(&left.path)? != PathState::Absent {
            found.push(left);
        }
        Ok(())
    };
    for unit in earlier.units.iter().filter(|unit| now.units.iter().all(|other| other.name != unit.name)) {
        add(units.join(&unit.name), Some(unit.name.clone()))?;
    }
    let gone = |config: &&Config| now.configs.iter().all(|other| other.dest != config.dest);
    for config in earlier.configs.iter().filter(gone) {
        add(config.dest.clone(), None)?;
    }
    Ok(())
}

/// Which of the asked-for contents any release here has whole.
fn has(desired: &Desired, seen: &Observation, kept: &[Kept]) -> Vec<Digest> {
    let mut here = BTreeSet::new();
    for kept in kept {
        let damaged = seen.releases.iter().find(|release| release.version == kept.manifest.version);
        let damaged: &[String] = damaged.map_or(&[], |release| &release.damage);
        let whole = kept.manifest.files.iter().filter(|file| !damaged.iter().any(|path| path == file.path.as_str()));
        here.extend(whole.map(|file| file.sha256.clone()));
    }
    let setup: BTreeSet<&Digest> = desired.setup.contents().collect();
    let known = |digest: &Digest| here.contains(digest) || (setup.contains(digest) && has_text(digest, kept));
    desired.contents().into_iter().filter(known).collect()
}

fn has_text(digest: &Digest, kept: &[Kept]) -> bool {
    kept.iter().any(|kept| kept.text(digest).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_release_before_there_is_nowhere_to_go() {
        let folder = tempfile::tempdir().unwrap();
        let scope = crate::wire::deploy::Scope {
            service: crate::wire::deploy::Service::new("demo").unwrap(),
            root: folder.path().join("demo"),
            by: "test".to_owned(),
        };
        let state = State::read(&Layout::of(&scope).unwrap()).unwrap();
        let refused = |version: Option<&Version>| kept_target(&state, version, &[]).unwrap_err();
        let named = refused(Some(&Version::new("1").unwrap()));
        crate::messages::check("rollback-no-release", [("the one before", refused(None)), ("a named one", named)]);
    }
}
