//! What a deploy does to one host: asked-for state × observation → rows. Pure; also run on the host itself, which
//! compares the rows' fingerprints with those of the plan that was shown and finds out what is due.

use std::path::Path;

use serde::Serialize;
use similar::TextDiff;

use crate::plan::{Action, Change, Digest, HostPlan, Row, StepRef, digest_of};
use crate::wire::deploy::{Desired, Observation, Once, Release, Seen, TextSeen, Unit, UnitSeen};

/// Looks up the text of a unit or configuration file that is to be shown as a diff; `None` where it is not at hand.
pub type Texts<'a> = &'a dyn Fn(&Digest) -> Option<String>;

/// The plan of one host. `once` holds the once-steps of the rollout's first host and is empty for the others.
///
/// # Errors
/// The state cannot be reached from what was observed; a sentence with the way out.
pub fn plan_host(
    host: &str,
    desired: &Desired,
    seen: &Observation,
    once: &[Once],
    texts: Texts<'_>,
) -> Result<HostPlan, String> {
    let mut rows = rows(desired, seen, texts)?;
    // Once-steps belong to the release: they are due for as long as it is on its way to this or any other host.
    for step in once {
        rows.push(once_row(step, desired, seen));
    }
    for (step, row) in rows.iter_mut().enumerate() {
        row.at = StepRef { play: 0, step };
    }
    Ok(HostPlan { host: host.to_owned(), rows })
}

/// A plan's rows as `(resource, fingerprint)`: what `Stage` compares on the host before it does anything.
///
/// The rows of once-steps are left out: another host may have done one meanwhile, and `Once` looks for itself.
pub fn expected(plan: &HostPlan) -> Vec<(String, Digest)> {
    let rows = plan.rows.iter().filter(|row| !row.resource.starts_with(ONCE));
    rows.map(|row| (row.resource.clone(), row.fingerprint.clone())).collect()
}

/// What a once-step's row is called.
const ONCE: &str = "once ";

/// The rows of one host without once-steps: release, configuration, units, link, restarts.
///
/// # Errors
/// As for [`plan_host`].
pub fn rows(desired: &Desired, seen: &Observation, texts: Texts<'_>) -> Result<Vec<Row>, String> {
    let mut rows = vec![release_row(desired, seen)?];
    for (config, at) in desired.setup.configs.iter().zip(&seen.configs) {
        let to = Wanted {
            digest: &config.digest,
            size: config.size,
            mode: config.mode,
            owner: &config.owner,
            group: &config.group,
            sensitive: config.sensitive,
        };
        rows.push(text_row("config", &config.dest, at, &to, texts)?);
    }
    for (unit, at) in desired.setup.units.iter().zip(&seen.units) {
        rows.push(unit_row(unit, at, &seen.account, texts)?);
    }
    for left in &seen.leftover {
        let mut row = row("file", &left.path.display().to_string(), Action::Remove, Vec::new(), left);
        row.reason = Some(format!("release {} does not have it", desired.manifest.version));
        rows.push(row);
    }
    rows.push(link_row(desired, seen));
    let cause = cause(desired, seen, &rows);
    for (unit, at) in desired.setup.units.iter().zip(&seen.units).filter(|(unit, _)| keeps_running(unit)) {
        rows.push(service_row(unit, at, cause.as_deref()));
    }
    if cause.is_none() && seen.confirmed.as_ref().is_some_and(|confirmed| *confirmed != desired.target()) {
        let mut row = row("settings", desired.manifest.service.as_str(), Action::Change, Vec::new(), &seen.confirmed);
        row.reason = Some("health check, hooks or account changed; nothing is restarted".to_owned());
        rows.push(row);
    }
    Ok(rows)
}

/// Is the unit to be running? A service that is neither restarted nor enabled is started by something else: a timer.
pub fn keeps_running(unit: &Unit) -> bool {
    unit.restart || unit.enable || !unit.name.ends_with(".service")
}

/// The unit's row among the rows is pending: it is restarted or started.
pub fn is_due(rows: &[Row], unit: &str) -> bool {
    let resource = format!("service {unit}");
    rows.iter().any(|row| row.resource == resource && row.action.is_pending())
}

fn release_row(desired: &Desired, seen: &Observation) -> Result<Row, String> {
    let manifest = &desired.manifest;
    let there = seen.releases.iter().find(|release| release.version == manifest.version);
    let partial = seen.partial.contains(&manifest.version.to_string());
    let travels = manifest.files.iter().filter(|file| !seen.has.contains(&file.sha256)).map(|file| file.size);
    let bytes = format!("{} files, {} bytes, {} to send", manifest.files.len(), manifest.bytes(), travels.sum::<u64>());
    let observed = (there.map(Observed::of), partial);
    let mut row = row("release", manifest.version.as_str(), Action::None, Vec::new(), &observed);
    match there {
        None => {
            row.action = Action::Add;
            row.changes = vec![Change::set("content", bytes)];
            row.reason = partial.then(|| "an earlier run did not complete it: it is made anew".to_owned());
        }
        Some(there) if there.manifest != manifest.digest() => {
            let kept = [&seen.confirmed, &seen.previous, &seen.unfinished];
            if kept.into_iter().flatten().any(|target| target.version == manifest.version) {
                return Err(format!(
                    "release {0} is on the host with other contents and in use; package these under another version",
                    manifest.version
                ));
            }
            row.action = Action::Change;
            row.changes = vec![Change::new("manifest", there.manifest.short(), manifest.digest().short())];
        }
        Some(there) if !there.damage.is_empty() => {
            row.action = Action::Change;
            row.changes = vec![Change::new("content", there.damage.join(", "), bytes)];
            row.reason = Some("its files are not those of its manifest: it is repaired".to_owned());
        }
        Some(_) => {}
    }
    Ok(row)
}

/// What of a release counts for a plan: not the time, not the failures.
#[derive(Serialize)]
struct Observed<'a> {
    manifest: &'a Digest,
    damage: &'a [String],
}

impl<'a> Observed<'a> {
    fn of(release: &'a Release) -> Self {
        Self { manifest: &release.manifest, damage: &release.damage }
    }
}

/// How a text is to stand on the host.
struct Wanted<'a> {
    digest: &'a Digest,
    size: u64,
    mode: u32,
    owner: &'a str,
    group: &'a str,
    sensitive: bool,
}

fn text_row(kind: &str, path: &Path, at: &TextSeen, to: &Wanted<'_>, texts: Texts<'_>) -> Result<Row, String> {
    let (action, changes) = match &at.state {
        Seen::Other => {
            return Err(format!("{} is neither a file nor a link; remove it or name another path", path.display()));
        }
        Seen::Absent => {
            let owner = format!("{}:{}", to.owner, to.group);
            let changes = vec![
                content(None, at, to, texts),
                Change::set("mode", format!("{:04o}", to.mode)),
                Change::set("owner", owner),
            ];
            (Action::Add, changes)
        }
        Seen::Link { target } => {
            let link = Change::new("type", format!("link to {}", target.display()), "file");
            (Action::Change, vec![link, content(None, at, to, texts)])
        }
        Seen::File { digest, mode, owner, group } => {
            let mut changes = Vec::new();
            if digest != to.digest {
                changes.push(content(Some(digest), at, to, texts));
            }
            if *mode != to.mode {
                changes.push(Change::new("mode", format!("{mode:04o}"), format!("{:04o}", to.mode)));
            }
            if owner != to.owner {
                changes.push(Change::new("owner", owner, to.owner));
            }
            if group != to.group {
                changes.push(Change::new("group", group, to.group));
            }
            (if changes.is_empty() { Action::None } else { Action::Change }, changes)
        }
    };
    Ok(row(kind, &path.display().to_string(), action, changes, &at.state))
}

/// The change of a text: a diff where both sides may be shown, else digests and a length.
fn content(from: Option<&Digest>, at: &TextSeen, to: &Wanted<'_>, texts: Texts<'_>) -> Change {
    let told = format!("{}, {} bytes", to.digest.short(), to.size);
    let change = match from {
        Some(from) => Change::new("content", from.short(), told),
        None => Change::set("content", told),
    };
    let old = match from {
        Some(_) => at.text.clone(),
        None => Some(String::new()),
    };
    let new = at.wanted.clone().or_else(|| texts(to.digest));
    match (to.sensitive, old, new) {
        (false, Some(old), Some(new)) => {
            change.with_diff(TextDiff::from_lines(&old, &new).unified_diff().context_radius(3).to_string())
        }
        _ => change,
    }
}

fn unit_row(unit: &Unit, at: &UnitSeen, (owner, group): &(String, String), texts: Texts<'_>) -> Result<Row, String> {
    let to = Wanted { digest: &unit.digest, size: unit.size, mode: 0o644, owner, group, sensitive: false };
    let mut row = text_row("unit", &at.file.path, &at.file, &to, texts)?;
    if unit.enable != at.enabled {
        row.changes.push(Change::new("enabled", at.enabled, unit.enable));
        row.action = if row.action == Action::None { Action::Change } else { row.action };
    }
    row.fingerprint = digest_of(&(&at.file.state, at.enabled));
    Ok(row)
}

fn link_row(desired: &Desired, seen: &Observation) -> Row {
    let to = desired.manifest.version.to_string();
    let (action, changes) = match &seen.current {
        Some(from) if *from == to => (Action::None, Vec::new()),
        Some(from) => (Action::Change, vec![Change::new("release", from, &to)]),
        None => (Action::Add, vec![Change::set("release", &to)]),
    };
    let observed = (&seen.current, &seen.confirmed, &seen.unfinished);
    let mut row = row("link", "current", action, changes, &observed);
    if let Some(unfinished) = &seen.unfinished {
        row.action = if row.action == Action::None { Action::Run } else { row.action };
        let back = match &seen.confirmed {
            Some(confirmed) => format!("if it fails, the host returns to {}", confirmed.version),
            None => "there is nothing to return to".to_owned(),
        };
        row.reason = Some(format!("a switch to {} was not confirmed healthy; {back}", unfinished.version));
    }
    if row.action == Action::None && seen.confirmed.as_ref().is_none_or(|at| at.version != desired.manifest.version) {
        row.action = Action::Run;
        row.reason = Some("the link was set by somebody else; the release is asked for its health".to_owned());
    }
    row
}

/// Why all services of the release restart, if they do.
fn cause(desired: &Desired, seen: &Observation, rows: &[Row]) -> Option<String> {
    if let Some(unfinished) = &seen.unfinished {
        return Some(format!("a switch to {} was not confirmed healthy", unfinished.version));
    }
    let starts = || format!("release {} starts to serve", desired.manifest.version);
    if seen.confirmed.as_ref().is_none_or(|confirmed| confirmed.version != desired.manifest.version) {
        return Some(starts());
    }
    let pending = rows.iter().find(|row| row.action.is_pending() && !only_enables(row))?;
    Some(match pending.resource.split_once(' ') {
        Some(("config", path)) => format!("{path} changes"),
        Some(("unit", path)) => format!("{path} changes"),
        Some(("file", path)) => format!("{path} goes"),
        _ => starts(),
    })
}

/// Enabling a unit does not restart it; repairing the owner of its file neither.
fn only_enables(row: &Row) -> bool {
    row.resource.starts_with("unit ")
        && row.changes.iter().all(|change| change.what != "content" && change.what != "type")
}

fn service_row(unit: &Unit, at: &UnitSeen, cause: Option<&str>) -> Row {
    let changes_itself = !matches!(&at.file.state, Seen::File { digest, .. } if *digest == unit.digest);
    let reason = match cause {
        Some(cause) if unit.restart => Some(cause.to_owned()),
        _ if changes_itself => Some("its unit changes".to_owned()),
        _ if !at.is_running() => Some(format!("it is {}", at.active)),
        _ => None,
    };
    let action = if reason.is_some() { Action::Run } else { Action::None };
    let mut row = row("service", &unit.name, action, Vec::new(), &at.is_running());
    row.reason = reason;
    row
}

fn once_row(step: &Once, desired: &Desired, seen: &Observation) -> Row {
    let done = seen.once.iter().any(|(name, version)| *name == step.name && *version == desired.manifest.version);
    let action = if done { Action::None } else { Action::Run };
    let mut row = row("once", &step.name, action, Vec::new(), &done);
    row.reason = (!done).then(|| format!("it did not run for release {} yet", desired.manifest.version));
    row
}

fn row(kind: &str, key: &str, action: Action, changes: Vec<Change>, observed: &impl Serialize) -> Row {
    Row {
        at: StepRef { play: 0, step: 0 },
        name: None,
        resource: format!("{kind} {key}"),
        action,
        changes,
        reason: None,
        fingerprint: digest_of(observed),
    }
}

#[cfg(test)]
mod tests;
