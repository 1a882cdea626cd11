//! Finds units that systemd would not start: faults of their text, programs and accounts that do not exist.

use anyhow::Result;

use crate::deploy::host::layout::ServiceLayout;
use crate::deploy::host::service_manager::ServiceManager;
use crate::protocol::deploy::ReleaseManifest;
use crate::resources::{PathMeta, atomic_file};

/// Folder that replaces `current` while units are verified, because `current` is the active release, not the new one.
const CURRENT_STAND_IN: &str = ".dunlin/release-to-verify";

/// A unit, rendered for this host.
pub(super) struct UnitText {
    pub name: String,
    pub text: String,
}

/// Returns the faults of the units.
pub(super) fn find_invalid_units(
    layout: &ServiceLayout,
    services: &dyn ServiceManager,
    manifest: &ReleaseManifest,
    units: &[UnitText],
) -> Result<Vec<String>> {
    let root = layout.root().display().to_string();
    let (current, stand_in) = (format!("{root}/current/"), format!("{root}/{CURRENT_STAND_IN}/"));
    let texts: Vec<(&str, String)> =
        units.iter().map(|unit| (unit.name.as_str(), unit.text.replace(&current, &stand_in))).collect();
    let checker = LineChecker { root: &root, stand_in: &stand_in, manifest };
    let mut problems = Vec::new();
    for line in services.verify_units(&texts)? {
        if let Some(problem) = units.iter().find_map(|unit| checker.to_problem(&unit.name, &line)) {
            problems.push(problem.replace(&stand_in, &current));
        }
    }
    problems.extend(units.iter().filter_map(find_missing_account));
    Ok(problems)
}

/// Decides which lines of `systemd-analyze verify` are faults of a unit.
struct LineChecker<'a> {
    root: &'a str,
    stand_in: &'a str,
    manifest: &'a ReleaseManifest,
}

impl LineChecker<'_> {
    /// Returns the problem that the line reports about the unit, if it does.
    fn to_problem(&self, unit: &str, line: &str) -> Option<String> {
        let is_about_unit =
            line.strip_prefix(unit).is_some_and(|rest| rest.starts_with(':')) || line.contains(&format!("/{unit}:"));
        // Unknown keys are ignored by systemd too. A summary line repeats what was said.
        if !is_about_unit || line.to_lowercase().ends_with("ignoring.") || line.contains("has a bad unit file setting")
        {
            return None;
        }
        let at = line.find(&format!("/{unit}:")).map_or(0, |at| at + 1);
        let problem = &line[at..];
        let program = problem.split_once("Command ").and_then(|(_, rest)| rest.split_once(" is not executable"));
        match program {
            Some((program, _)) if self.may_exist(program) => None,
            _ => Some(problem.to_owned()),
        }
    }

    /// Returns whether a program that is not on the host yet may be there when the unit starts: the release has it, or
    /// a task makes it in the service's folder.
    fn may_exist(&self, program: &str) -> bool {
        let Some(path) = program.strip_prefix(self.stand_in) else {
            return program.strip_prefix(self.root).is_some_and(|rest| rest.starts_with('/'));
        };
        let is_in_release = self.manifest.files.iter().any(|file| file.path.as_str() == path && file.mode & 0o111 != 0);
        // A link may be the program, or a folder above it.
        let leads_to_it =
            |link: &str| path.strip_prefix(link).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]));
        is_in_release || self.manifest.links.iter().any(|link| leads_to_it(link.path.as_str()))
    }
}

/// Returns the account that a unit names and the host does not have.
fn find_missing_account(unit: &UnitText) -> Option<String> {
    let value = |key: &str| unit.text.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    let is_dynamic = value("DynamicUser").is_some_and(|text| matches!(text.trim(), "yes" | "true" | "on" | "1"));
    let user = value("User").map(str::trim).filter(|user| !user.is_empty() && !user.contains('%'))?;
    if is_dynamic || user.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let meta = PathMeta { mode: 0, owner: user.to_owned(), group: "root".to_owned() };
    atomic_file::resolve_ids(&meta).err().map(|error| format!("{}: {error:#}", unit.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Digest;
    use crate::protocol::deploy::{
        MANIFEST_FORMAT, ReleaseFile, ReleaseLink, ReleasePath, ReleaseVersion, ServiceName,
    };

    fn manifest() -> ReleaseManifest {
        let file = |path: &str, mode| ReleaseFile {
            path: ReleasePath::new(path).unwrap(),
            mode,
            size: 0,
            sha256: Digest::of_bytes(b""),
            chunks: Vec::new(),
            owner: None,
        };
        ReleaseManifest {
            format_version: MANIFEST_FORMAT,
            service: ServiceName::new("shop").unwrap(),
            version: ReleaseVersion::new("1").unwrap(),
            files: vec![file("bin/server.py", 0o755), file("bin/data", 0o644)],
            links: vec![ReleaseLink { path: ReleasePath::new("venv").unwrap(), target: "bin".to_owned() }],
            origin: None,
            folders: Vec::new(),
        }
    }

    #[test]
    fn only_lines_that_keep_a_unit_from_starting_are_problems() {
        let manifest = manifest();
        let stand_in = format!("/srv/shop/{CURRENT_STAND_IN}/");
        let checker = LineChecker { root: "/srv/shop", stand_in: &stand_in, manifest: &manifest };
        let problem = |line: &str| checker.to_problem("shop.service", &line.replace("CURRENT/", &stand_in));
        let missing =
            |program: &str| format!("shop.service: Command {program} is not executable: No such file or directory");
        for harmless in [
            "/tmp/x/shop.service:3: Unknown key 'Foo' in section [Service], ignoring.".to_owned(),
            "/usr/lib/systemd/system/other.service:3: Failed to parse".to_owned(),
            "Unit shop.service has a bad unit file setting.".to_owned(),
            missing("CURRENT/bin/server.py"),
            missing("CURRENT/venv/python"),
            missing("/srv/shop/shared/venv/bin/python"),
        ] {
            assert_eq!(problem(&harmless), None);
        }
        let relative = "/tmp/x/shop.service:2: Neither a valid executable name nor an absolute path: bin/server.py";
        assert_eq!(problem(relative).unwrap(), relative.trim_start_matches("/tmp/x/"));
        for program in ["CURRENT/bin/data", "CURRENT/bin/gone", "/usr/bin/nosuch", "/srv/shopping/bin/x"] {
            assert!(problem(&missing(program)).is_some(), "{program}");
        }
    }

    #[test]
    fn accounts_of_units_must_exist() {
        let unit = |text: &str| UnitText { name: "shop.service".to_owned(), text: text.to_owned() };
        for good in ["User=root", "User=nosuch\nDynamicUser=yes", "User=%i", "User=1234", "ExecStart=/bin/true"] {
            assert_eq!(find_missing_account(&unit(good)), None, "{good}");
        }
        assert!(find_missing_account(&unit("[Service]\nUser=no-such-user\n")).unwrap().contains("no-such-user"));
    }
}
