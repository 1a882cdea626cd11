//! Removes failed and then the oldest releases, and what killed runs left; never one that serves, that a rollback goes
//! to, or that was never tried.

use anyhow::Result;

use super::layout::ServiceLayout;
use super::releases::StoredRelease;
use super::state::DeployState;
use crate::host_fs;
use crate::protocol::deploy::{INCOMPLETE_SUFFIX, ReleaseVersion};
use crate::protocol::{Event, ProgressSink};

pub(super) fn prune_releases(
    layout: &ServiceLayout,
    keep_releases: usize,
    sink: &dyn ProgressSink,
) -> Result<Vec<String>> {
    let mut state = DeployState::read(layout)?;
    let (stored, partial) = StoredRelease::list_all(layout)?;
    let mut removed = Vec::new();
    let current = layout.read_current_link()?;
    let in_use = |version: &ReleaseVersion| state.is_used(version) || current.as_deref() == Some(version.as_str());
    let excess = stored.len().saturating_sub(keep_releases.max(1));
    // A release that was never tried may be the next one; those that failed go first.
    let removable = |version: &&ReleaseVersion| !in_use(version) && state.was_tried(version);
    let mut spare: Vec<ReleaseVersion> =
        stored.iter().map(|kept| &kept.manifest.version).filter(removable).cloned().collect();
    spare.sort_by_key(|version| !state.failures.contains_key(version));
    spare.truncate(excess);
    for version in spare {
        sink.emit(Event::Note { text: format!("removing release {version}") });
        remove_release(layout, &mut state, &version)?;
        removed.push(version.to_string());
    }
    for name in partial {
        host_fs::remove_tree(&layout.releases_dir().join(format!("{name}{INCOMPLETE_SUFFIX}")))?;
        removed.push(format!("{name}{INCOMPLETE_SUFFIX}"));
    }
    Ok(removed)
}

/// Removes a release.
pub(super) fn remove_release(layout: &ServiceLayout, state: &mut DeployState, version: &ReleaseVersion) -> Result<()> {
    // Renamed first: a kill in the middle leaves a folder that counts as incomplete, not as a damaged release.
    let partial = layout.partial_dir(version);
    host_fs::remove_tree(&partial)?;
    std::fs::rename(layout.release_dir(version), &partial)?;
    state.remove_release(version);
    state.write(layout)?;
    Ok(host_fs::remove_tree(&partial)?)
}
