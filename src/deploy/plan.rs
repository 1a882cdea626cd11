//! What a deploy does to one host: asked-for state × observation → rows. Pure; also run on the host itself, which
//! compares the rows' fingerprints with those of the plan that was shown and finds out what is due.

mod reload;
mod shared;
mod shown;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use similar::TextDiff;

use crate::plan::{Action, AttributeChange, Digest, HostPlan, ResourceChange, StepRef, digest_json, format_count};
use crate::protocol::deploy::{
    DesiredState, ObservedPath, ObservedRelease, ObservedText, ObservedUnit, ReleaseFile, ReleaseTask, ReleaseVersion,
    ServiceObservation, UnitFile,
};

pub use reload::find_reload_units;
pub use shared::check_shared_paths;
pub use shown::hide_sensitive_digests;

/// Looks up the text of a unit or configuration file that is to be shown as a diff; `None` where it is not at hand.
pub type TextLookup<'a> = &'a dyn Fn(&Digest) -> Option<String>;

/// The plan of one host. `tasks` holds the due tasks for the rollout's first host and is empty for the others.
///
/// # Errors
/// Returns an error with the next step if the state cannot be reached from the observed one.
pub fn plan_host(
    host: &str,
    desired: &DesiredState,
    observation: &ServiceObservation,
    tasks: &[ReleaseTask],
    texts: TextLookup<'_>,
) -> Result<HostPlan, String> {
    let mut rows = plan_rows(desired, observation, texts)?;
    // Tasks belong to the release: they are due for as long as it is on its way to this or any other host.
    for step in tasks {
        rows.push(plan_task(step, desired));
    }
    for (step, row) in rows.iter_mut().enumerate() {
        row.step = StepRef { play: 0, step };
    }
    Ok(HostPlan { host: host.to_owned(), rows })
}

/// A plan's rows as `(resource, fingerprint)`: what `Stage` compares on the host before it does anything.
///
/// The rows of tasks are left out: another host may have done one meanwhile, and `RunTask` checks again.
pub fn expected_fingerprints(plan: &HostPlan) -> Vec<(String, Digest)> {
    let rows = plan.rows.iter().filter(|row| !row.resource.starts_with(TASK_PREFIX));
    rows.map(|row| (row.resource.clone(), row.fingerprint.clone())).collect()
}

/// Prefix of a task's row in the plan.
const TASK_PREFIX: &str = "task ";

/// The rows of one host without tasks: release, configuration, units, link, restarts.
///
/// # Errors
/// Returns an error under the same conditions as [`plan_host`].
pub fn plan_rows(
    desired: &DesiredState,
    observation: &ServiceObservation,
    texts: TextLookup<'_>,
) -> Result<Vec<ResourceChange>, String> {
    let mut rows = Vec::new();
    rows.extend(plan_adoption(desired, observation)?);
    rows.push(plan_release(desired, observation)?);
    check_shared_paths(desired)?;
    rows.extend(shared::plan_shared(desired, observation));
    for (config, at) in desired.config.configs.iter().zip(&observation.configs) {
        let to = DesiredText {
            digest: &config.digest,
            size: config.size,
            mode: config.mode,
            owner: &config.owner,
            group: &config.group,
            sensitive: config.sensitive,
        };
        rows.push(plan_text_file("config", &config.dest, at, &to, texts)?);
    }
    for (unit, at) in desired.config.units.iter().zip(&observation.units) {
        let mut row = plan_unit(unit, at, &observation.agent_account, texts)?;
        if observation.lacks_unit_verification && row.changes.iter().any(|change| change.attribute == "content") {
            row.reason = Some("not verified: the host has no systemd-analyze".to_owned());
        }
        rows.push(row);
    }
    for leftover in &observation.leftover_files {
        let mut row = new_row("file", &leftover.path.display().to_string(), Action::Remove, Vec::new(), leftover);
        row.reason = Some(format!("release {} does not have it", desired.manifest.version));
        rows.push(row);
    }
    rows.push(plan_link(desired, observation));
    let cause = restart_reason(desired, observation, &rows);
    let mut services = Vec::new();
    for (unit, at) in desired.config.units.iter().zip(&observation.units).filter(|(unit, _)| should_run(unit)) {
        services.push(plan_service(unit, at, cause.as_deref()));
    }
    reload::describe_reloads(&mut services, &find_reload_units(desired, observation, &rows));
    rows.extend(services);
    if cause.is_none()
        && observation.confirmed.as_ref().is_some_and(|confirmed| *confirmed != desired.to_release_target())
    {
        let mut row =
            new_row("settings", desired.manifest.service.as_str(), Action::Change, Vec::new(), &observation.confirmed);
        row.reason = Some("health check, hooks, shared paths or account changed; nothing is restarted".to_owned());
        rows.push(row);
    }
    if observation.out_of_rotation {
        let mut row = new_row("rotation", desired.manifest.service.as_str(), Action::Run, Vec::new(), &true);
        row.reason = Some("the hooks after an earlier switch did not succeed; they run again".to_owned());
        rows.push(row);
    }
    Ok(rows)
}

/// Returns whether the rows change files, units or processes: such a change takes the host out of rotation.
pub fn changes_service(rows: &[ResourceChange]) -> bool {
    let is_record = |row: &ResourceChange| {
        ["settings ", "rotation ", shared::PREFIX].iter().any(|kind| row.resource.starts_with(kind))
    };
    rows.iter().any(|row| row.action.is_pending() && !is_record(row))
}

/// Returns whether the unit should run. Another unit, such as a timer, starts a service that is neither restarted nor
/// enabled.
pub fn should_run(unit: &UnitFile) -> bool {
    unit.restart_on_release || unit.start_at_boot || !unit.name.ends_with(".service")
}

/// The unit's row among the rows is pending: it is restarted or started.
pub fn is_restart_due(rows: &[ResourceChange], unit: &str) -> bool {
    let resource = format!("service {unit}");
    rows.iter().any(|row| row.resource == resource && row.action.is_pending())
}

/// Plans to keep what the host had before dunlin deployed the service, so that the host can return to it.
fn plan_adoption(desired: &DesiredState, observation: &ServiceObservation) -> Result<Option<ResourceChange>, String> {
    if observation.unmanaged_paths.is_empty() {
        return Ok(None);
    }
    let texts = observation.units.iter().map(|unit| &unit.file).chain(&observation.configs);
    let is_kept =
        |text: &&ObservedText| observation.confirmed.is_none() || observation.unmanaged_paths.contains(&text.path);
    for text in texts.filter(is_kept) {
        if let ObservedPath::Link { target } = &text.state {
            return Err(format!(
                "{} is a link to {}; only files can be kept to return to: replace the link with a file",
                text.path.display(),
                target.display()
            ));
        }
    }
    let is_first = observation.confirmed.is_none();
    if is_first && observation.current_link.as_deref() == Some(desired.manifest.version.as_str()) {
        return Err(format!(
            "releases/{0} is active, and dunlin did not make it; package this release under another version",
            desired.manifest.version
        ));
    }
    let service = desired.manifest.service.as_str();
    let mut row = new_row("adopt", service, Action::Run, Vec::new(), &observation.unmanaged_paths);
    let paths = join_paths(&observation.unmanaged_paths);
    row.reason = Some(match &observation.confirmed {
        Some(serving) => format!("dunlin did not make {paths}; they are kept with release {}", serving.version),
        None => format!("dunlin did not make {paths}; they are kept as release {}", ReleaseVersion::ADOPTED),
    });
    Ok(Some(row))
}

/// Returns the refusal of a host with a service or units that dunlin did not deploy, with the flag that keeps them;
/// `serving` is the active release.
pub fn describe_unmanaged(paths: &[PathBuf], serving: Option<&ReleaseVersion>) -> String {
    let kept = match serving {
        Some(serving) => format!("keep them with the active release {serving}"),
        None => format!("keep the present service as release {}", ReleaseVersion::ADOPTED),
    };
    let paths = join_paths(paths);
    format!(
        "dunlin did not make {paths}; deploy with --adopt to {kept}, to which a failed deploy and a rollback return"
    )
}

fn join_paths(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

/// Returns the name of a release from the target of a `current` link; other targets are returned as they are.
pub fn release_name(link_target: &str) -> String {
    link_target.strip_prefix("releases/").unwrap_or(link_target).to_owned()
}

fn plan_release(desired: &DesiredState, observation: &ServiceObservation) -> Result<ResourceChange, String> {
    let manifest = &desired.manifest;
    let installed = observation.releases.iter().find(|release| release.version == manifest.version);
    let partial = observation.incomplete_releases.contains(&manifest.version.to_string());
    let mut present: BTreeSet<&Digest> = observation.present_blobs.iter().collect();
    let contents = manifest.files.iter().flat_map(ReleaseFile::contents);
    // A content that several files have is sent once.
    let sizes_to_send = contents.filter(|(digest, _)| present.insert(digest)).map(|(_, size)| size);
    let bytes = format!(
        "{}, {}, {} to send",
        format_count(manifest.files.len(), "file"),
        format_count(manifest.total_bytes(), "byte"),
        sizes_to_send.sum::<u64>()
    );
    let observed = (installed.map(ReleaseFingerprint::from_release), partial);
    let mut row = new_row("release", manifest.version.as_str(), Action::None, Vec::new(), &observed);
    match installed {
        None => {
            row.action = Action::Add;
            row.changes = vec![AttributeChange::from_absent("content", bytes)];
            row.reason = partial.then(|| "an earlier run did not complete it: it is created again".to_owned());
        }
        Some(there) if there.manifest_digest != manifest.digest() => {
            let kept = [&observation.confirmed, &observation.previous, &observation.unfinished_switch];
            if kept.into_iter().flatten().any(|target| target.version == manifest.version) {
                return Err(format!(
                    "release {0} is on the host with other contents and in use; package these under another version",
                    manifest.version
                ));
            }
            row.action = Action::Change;
            row.changes = vec![AttributeChange::new(
                "manifest",
                there.manifest_digest.short_hex(),
                manifest.digest().short_hex(),
            )];
        }
        Some(there) if !there.damaged_files.is_empty() => {
            row.action = Action::Change;
            row.changes = vec![AttributeChange::new("content", there.damaged_files.join(", "), bytes)];
            row.reason = Some("its files are not those of its manifest: it is repaired".to_owned());
        }
        Some(_) => {}
    }
    Ok(row)
}

/// Properties of a release that a plan compares; time and failures are not among them.
#[derive(Serialize)]
struct ReleaseFingerprint<'a> {
    manifest: &'a Digest,
    damage: &'a [String],
}

impl<'a> ReleaseFingerprint<'a> {
    fn from_release(release: &'a ObservedRelease) -> Self {
        Self { manifest: &release.manifest_digest, damage: &release.damaged_files }
    }
}

/// Describes the desired state of a text file on the host.
struct DesiredText<'a> {
    digest: &'a Digest,
    size: u64,
    mode: u32,
    owner: &'a str,
    group: &'a str,
    sensitive: bool,
}

fn plan_text_file(
    kind: &str,
    path: &Path,
    at: &ObservedText,
    to: &DesiredText<'_>,
    texts: TextLookup<'_>,
) -> Result<ResourceChange, String> {
    let (action, changes) = match &at.state {
        ObservedPath::Other => {
            return Err(format!("{} is neither a file nor a link; remove it or name another path", path.display()));
        }
        ObservedPath::Absent => {
            let owner = format!("{}:{}", to.owner, to.group);
            let changes = vec![
                content_change(None, at, to, texts),
                AttributeChange::from_absent("mode", format!("{:04o}", to.mode)),
                AttributeChange::from_absent("owner", owner),
            ];
            (Action::Add, changes)
        }
        ObservedPath::Link { target } => {
            let link = AttributeChange::new("type", format!("link to {}", target.display()), "file");
            (Action::Change, vec![link, content_change(None, at, to, texts)])
        }
        ObservedPath::File { digest, mode, owner, group } => {
            let mut changes = Vec::new();
            if digest != to.digest {
                changes.push(content_change(Some(digest), at, to, texts));
            }
            if *mode != to.mode {
                changes.push(AttributeChange::new("mode", format!("{mode:04o}"), format!("{:04o}", to.mode)));
            }
            if owner != to.owner {
                changes.push(AttributeChange::new("owner", owner, to.owner));
            }
            if group != to.group {
                changes.push(AttributeChange::new("group", group, to.group));
            }
            (if changes.is_empty() { Action::None } else { Action::Change }, changes)
        }
    };
    Ok(new_row(kind, &path.display().to_string(), action, changes, &at.state))
}

/// The change of a text: a diff where both sides may be shown, else digests and a length.
fn content_change(
    from: Option<&Digest>,
    at: &ObservedText,
    to: &DesiredText<'_>,
    texts: TextLookup<'_>,
) -> AttributeChange {
    let size_text = format!("{}, {} bytes", to.digest.short_hex(), to.size);
    let change = match from {
        Some(from) => AttributeChange::new("content", from.short_hex(), size_text),
        None => AttributeChange::from_absent("content", size_text),
    };
    let old = match from {
        Some(_) => at.text.clone(),
        None => Some(String::new()),
    };
    let new = at.desired_text.clone().or_else(|| texts(to.digest));
    match (to.sensitive, old, new) {
        (false, Some(old), Some(new)) => {
            change.with_diff(TextDiff::from_lines(&old, &new).unified_diff().context_radius(3).to_string())
        }
        _ => change,
    }
}

fn plan_unit(
    unit: &UnitFile,
    at: &ObservedUnit,
    (owner, group): &(String, String),
    texts: TextLookup<'_>,
) -> Result<ResourceChange, String> {
    let to = DesiredText { digest: &unit.digest, size: unit.size, mode: 0o644, owner, group, sensitive: false };
    let mut row = plan_text_file("unit", &at.file.path, &at.file, &to, texts)?;
    if unit.start_at_boot != at.is_enabled {
        row.changes.push(AttributeChange::new("enabled", at.is_enabled, unit.start_at_boot));
        row.action = if row.action == Action::None { Action::Change } else { row.action };
    }
    row.fingerprint = digest_json(&(&at.file.state, at.is_enabled));
    Ok(row)
}

fn plan_link(desired: &DesiredState, observation: &ServiceObservation) -> ResourceChange {
    let to = desired.link_target().map(|target| release_name(&target.to_string_lossy()));
    let (action, changes) = match (&observation.current_link, &to) {
        (from, to) if from == to => (Action::None, Vec::new()),
        (Some(from), Some(to)) => (Action::Change, vec![AttributeChange::new("release", from, to)]),
        (Some(from), None) => (Action::Remove, vec![AttributeChange::new("release", from, "absent")]),
        (None, to) => (Action::Add, to.iter().map(|to| AttributeChange::from_absent("release", to)).collect()),
    };
    let older = (action != Action::None).then(|| describe_older_release(desired, observation)).flatten();
    let observed = (&observation.current_link, &observation.confirmed, &observation.unfinished_switch);
    let mut row = new_row("link", "current", action, changes, &observed);
    row.reason = older;
    if let Some(unfinished) = &observation.unfinished_switch {
        row.action = if row.action == Action::None { Action::Run } else { row.action };
        let back = match &observation.confirmed {
            Some(confirmed) => format!("if it fails, the host returns to {}", confirmed.version),
            None => "there is nothing to return to".to_owned(),
        };
        row.reason = Some(format!("a switch to {} was not confirmed healthy; {back}", unfinished.version));
    }
    if row.action == Action::None
        && observation.confirmed.as_ref().is_none_or(|at| at.version != desired.manifest.version)
    {
        row.action = Action::Run;
        row.reason = Some("the link was set by somebody else; the release is asked for its health".to_owned());
    }
    row
}

/// Says that the release is older than the active one, by the times of their revisions.
fn describe_older_release(desired: &DesiredState, observation: &ServiceObservation) -> Option<String> {
    let active = &observation.confirmed.as_ref()?.version;
    let active_time = observation.releases.iter().find(|release| release.version == *active)?.revision_time?;
    let time = desired.manifest.origin.as_ref()?.revision_time?;
    (time < active_time).then(|| format!("{} is older than {active}, which serves now", desired.manifest.version))
}

/// Returns why all services of the release restart, if they do.
fn restart_reason(desired: &DesiredState, observation: &ServiceObservation, rows: &[ResourceChange]) -> Option<String> {
    if let Some(unfinished) = &observation.unfinished_switch {
        return Some(format!("a switch to {} was not confirmed healthy", unfinished.version));
    }
    let starts = || format!("release {} starts to serve", desired.manifest.version);
    if observation.confirmed.as_ref().is_none_or(|confirmed| confirmed.version != desired.manifest.version) {
        return Some(starts());
    }
    let pending = rows.iter().find(|row| row.action.is_pending() && !is_enable_only(row) && !shared::is_shared(row))?;
    Some(match pending.resource.split_once(' ') {
        Some(("config", path)) => format!("{path} changes"),
        Some(("unit", path)) => format!("{path} changes"),
        Some(("file", path)) => format!("{path} goes"),
        _ => starts(),
    })
}

/// Enabling a unit does not restart it; repairing the owner of its file neither.
fn is_enable_only(row: &ResourceChange) -> bool {
    row.resource.starts_with("unit ")
        && row.changes.iter().all(|change| change.attribute != "content" && change.attribute != "type")
}

fn plan_service(unit: &UnitFile, at: &ObservedUnit, cause: Option<&str>) -> ResourceChange {
    let changes_itself = !matches!(&at.file.state, ObservedPath::File { digest, .. } if *digest == unit.digest);
    let reason = match cause {
        Some(cause) if unit.restart_on_release => Some(cause.to_owned()),
        _ if changes_itself => Some("its unit changes".to_owned()),
        _ if !at.is_running() => Some(format!("it is {}", at.active_state)),
        _ => None,
    };
    let action = if reason.is_some() { Action::Run } else { Action::None };
    let mut row = new_row("service", &unit.name, action, Vec::new(), &at.is_running());
    row.reason = reason;
    row
}

/// Plans a task that is due for the release.
fn plan_task(task: &ReleaseTask, desired: &DesiredState) -> ResourceChange {
    let mut row = new_row("task", &task.name, Action::Run, Vec::new(), &());
    row.reason = Some(format!("it did not run for release {} yet", desired.manifest.version));
    row
}

fn new_row(
    kind: &str,
    key: &str,
    action: Action,
    changes: Vec<AttributeChange>,
    observed: &impl Serialize,
) -> ResourceChange {
    ResourceChange {
        step: StepRef { play: 0, step: 0 },
        name: None,
        resource: format!("{kind} {key}"),
        action,
        changes,
        reason: None,
        fingerprint: digest_json(observed),
    }
}

#[cfg(test)]
mod tests;
