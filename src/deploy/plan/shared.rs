//! Plans the files and folders that all releases share.

use super::new_row;
use crate::plan::{Action, AttributeChange, ResourceChange};
use crate::protocol::deploy::{DesiredState, ReleaseManifest, ServiceObservation, SharedPath};

/// Prefix of a shared path's row in the plan.
pub(super) const PREFIX: &str = "shared ";

/// Returns whether the row is that of a shared path. Such a row restarts nothing: the path is new to the service.
pub(super) fn is_shared(row: &ResourceChange) -> bool {
    row.resource.starts_with(PREFIX)
}

/// Checks that the release has no content where its shared paths go.
///
/// # Errors
/// Returns an error that names the shared path and the content of the release.
pub fn check_shared_paths(shared_paths: &[SharedPath], manifest: &ReleaseManifest) -> Result<(), String> {
    let conflict = |shared: &SharedPath| Some((shared.path.clone(), shared.find_conflict(manifest)?.clone()));
    match shared_paths.iter().find_map(conflict) {
        None => Ok(()),
        Some((shared, content)) => Err(format!(
            "{shared} is shared by all releases, but release {} has {content}; remove it from the artifact or from \
             `shared`",
            manifest.version
        )),
    }
}

pub(super) fn plan_shared(desired: &DesiredState, observation: &ServiceObservation) -> Vec<ResourceChange> {
    let owner = desired.config.user.as_ref().unwrap_or(&observation.agent_account.0);
    let paths = desired.config.shared.iter().zip(&observation.shared);
    let plan = paths.map(|(shared, at)| {
        let link = || AttributeChange::from_absent("link", format!("in release {}", desired.manifest.version));
        let (action, changes) = match (at.exists, at.is_linked) {
            (true, true) => (Action::None, Vec::new()),
            (true, false) => (Action::Change, vec![link()]),
            (false, is_linked) => {
                let kind = if shared.is_folder { "folder" } else { "empty file" };
                let created =
                    [AttributeChange::from_absent("type", kind), AttributeChange::from_absent("owner", owner)];
                (Action::Add, created.into_iter().chain((!is_linked).then(link)).collect())
            }
        };
        new_row(PREFIX.trim_end(), shared.path.as_str(), action, changes, at)
    });
    plan.collect()
}
