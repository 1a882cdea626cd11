//! Plans to keep a service that dunlin did not deploy.

use std::path::PathBuf;

use super::new_row;
use crate::plan::{Action, ResourceChange};
use crate::protocol::deploy::{DesiredState, ObservedPath, ObservedText, ReleaseVersion, ServiceObservation};

/// Plans to keep what the host had before dunlin deployed the service, so that the host can return to it.
pub(super) fn plan_adoption(
    desired: &DesiredState,
    observation: &ServiceObservation,
) -> Result<Option<ResourceChange>, String> {
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
