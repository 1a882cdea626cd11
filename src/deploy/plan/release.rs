//! Plans the files of a release and the link to the active one.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{new_row, release_name};
use crate::plan::{Action, AttributeChange, Digest, ResourceChange, digest_json, format_count};
use crate::protocol::deploy::{DesiredState, ObservedRelease, ReleaseFile, ReleaseTarget, ServiceObservation};

pub(super) fn plan_release(desired: &DesiredState, observation: &ServiceObservation) -> Result<ResourceChange, String> {
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

pub(super) fn plan_link(desired: &DesiredState, observation: &ServiceObservation) -> ResourceChange {
    let to = desired.link_target().map(|target| release_name(&target.to_string_lossy()));
    let (action, changes) = match (&observation.current_link, &to) {
        (from, to) if from == to => (Action::None, Vec::new()),
        (Some(from), Some(to)) => (Action::Change, vec![AttributeChange::new("release", from, to)]),
        (Some(from), None) => (Action::Remove, vec![AttributeChange::new("release", from, "absent")]),
        (None, to) => (Action::Add, to.iter().map(|to| AttributeChange::from_absent("release", to)).collect()),
    };
    let older = (action != Action::None).then(|| describe_older_release(desired, observation)).flatten();
    let mut row = new_row("link", "current", action, changes, &());
    row.fingerprint = link_fingerprint(
        observation.current_link.as_deref(),
        observation.confirmed.as_ref(),
        observation.unfinished_switch.as_ref(),
    );
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
        row.reason = Some("the link was changed outside of dunlin; the health of the release is checked".to_owned());
    }
    row
}

/// Returns the fingerprint of the link's row.
pub(super) fn link_fingerprint(
    link: Option<&str>,
    confirmed: Option<&ReleaseTarget>,
    unfinished: Option<&ReleaseTarget>,
) -> Digest {
    digest_json(&(link, confirmed, unfinished))
}

/// Says that the release is older than the active one, by the times of their revisions.
fn describe_older_release(desired: &DesiredState, observation: &ServiceObservation) -> Option<String> {
    let active = &observation.confirmed.as_ref()?.version;
    let active_time = observation.releases.iter().find(|release| release.version == *active)?.revision_time?;
    let time = desired.manifest.origin.as_ref()?.revision_time?;
    (time < active_time).then(|| format!("{} is older than {active}, which serves now", desired.manifest.version))
}
