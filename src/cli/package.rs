//! `dunlin package`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::InventoryArgs;
use super::exit::Exit;
use super::project::find_project;
use super::recipe::LoadedRecipe;
use crate::deploy::artifact::{MissingSources, build_artifact, default_version};
use crate::inventory::{Diagnostic, Diagnostics};
use crate::protocol::deploy::ReleaseVersion;

/// Build a release artifact of a service
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct PackageCommand {
    /// Service name; its recipe is `deploy-SERVICE.toml` next to the playbook
    service: String,
    /// Release version (default: from git, otherwise a digest of the files)
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Folder for the artifact (default: `dist` in dunlin.toml)
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl PackageCommand {
    /// Builds the artifact. The same files and version give the same bytes.
    ///
    /// # Errors
    /// The recipe has mistakes, a source is missing, or the artifact cannot be written.
    pub fn run(self, common: &CommonArgs) -> Result<Exit, CommandError> {
        let project = find_project(&InventoryArgs::default(), common)?;
        let loaded = LoadedRecipe::load_recipe(&self.service, &project, common)?;
        let to_command_error = |error: anyhow::Error| locate_missing_sources(error, &loaded, common);
        let version = match self.version {
            Some(version) => {
                ReleaseVersion::new(version).map_err(|error| CommandError::with_message(Exit::Usage, error))?
            }
            None => default_version(&loaded.recipe, &project.root).map_err(to_command_error)?,
        };
        let out = self.out.unwrap_or(project.dist);
        let built = build_artifact(&loaded.recipe, &project.root, &version, &out).map_err(to_command_error)?;
        let (reporter, manifest) = (common.new_reporter(), &built.manifest);
        let (files, bytes) = (manifest.files.len(), manifest.total_bytes());
        reporter.print_json(
            "package",
            json!({
                "service": manifest.service, "version": version, "path": built.path,
                "files": files, "bytes": bytes, "sha256": built.digest,
            }),
        );
        reporter.print_data(&format!("{}", built.path.display()));
        reporter.print_status(&format!(
            "release {version}: {files} files, {bytes} bytes, sha256 {}",
            built.digest.short_hex()
        ));
        Ok(Exit::Done)
    }
}

/// Reports missing sources at their positions in the recipe.
fn locate_missing_sources(error: anyhow::Error, loaded: &LoadedRecipe, common: &CommonArgs) -> CommandError {
    let Some(missing) = error.chain().find_map(|cause| cause.downcast_ref::<MissingSources>()) else {
        return error.into();
    };
    let mut diagnostics = Diagnostics::new();
    for (span, what) in &missing.sources {
        diagnostics.push(Diagnostic::error_at_span(&loaded.file, span.clone(), what.clone()));
    }
    CommandError::from_diagnostics(&diagnostics, common.stderr_colour())
}
