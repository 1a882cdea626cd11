//! `dunlin package`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use super::project::find_project;
use super::recipe::LoadedRecipe;
use crate::deploy::artifact::{MissingSources, build_artifact, default_version};
use crate::inventory::{Diagnostic, Diagnostics};
use crate::protocol::deploy::ReleaseVersion;

/// Build a release artefact of a service
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct PackageCommand {
    /// The service: `deploy-SERVICE.toml` beside the playbook
    service: String,
    /// The release's version (default: from git, else a digest of the files)
    #[arg(long, value_name = "V")]
    version: Option<String>,
    /// Where the artefact is put (default: `dist` of dunlin.toml)
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl PackageCommand {
    /// Builds it; the same files and version give the same bytes.
    ///
    /// # Errors
    /// A broken recipe, missing files, a disk that said no.
    pub fn run(self, common: &CommonArgs) -> Result<Exit, CommandError> {
        let project = find_project(common)?;
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

/// Sources that are missing are told at their places in the recipe.
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
