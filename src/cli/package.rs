//! `dunlin package`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use super::project::find_project;
use super::recipe::Loaded;
use crate::deploy::artifact::{Missing, default_version, package};
use crate::inventory::{Diagnostic, Diagnostics};
use crate::wire::deploy::Version;

/// Build a release artefact of a service
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct Package {
    /// The service: `deploy-SERVICE.toml` beside the playbook
    service: String,
    /// The release's version (default: from git, else a digest of the files)
    #[arg(long, value_name = "V")]
    version: Option<String>,
    /// Where the artefact is put (default: `dist` of dunlin.toml)
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl Package {
    /// Builds it; the same files and version give the same bytes.
    ///
    /// # Errors
    /// A broken recipe, missing files, a disk that said no.
    pub fn run(self, common: &Common) -> Result<Exit, Failure> {
        let project = find_project(common)?;
        let loaded = Loaded::of(&self.service, &project, common)?;
        let wrong = |error: anyhow::Error| missing(error, &loaded, common);
        let version = match self.version {
            Some(version) => Version::new(version).map_err(|error| Failure::say(Exit::Usage, error))?,
            None => default_version(&loaded.recipe, &project.root).map_err(wrong)?,
        };
        let out = self.out.unwrap_or(project.dist);
        let built = package(&loaded.recipe, &project.root, &version, &out).map_err(wrong)?;
        let (reporter, manifest) = (common.reporter(), &built.manifest);
        let (files, bytes) = (manifest.files.len(), manifest.bytes());
        reporter.line(
            "package",
            json!({
                "service": manifest.service, "version": version, "path": built.path,
                "files": files, "bytes": bytes, "sha256": built.digest,
            }),
        );
        reporter.data(&format!("{}", built.path.display()));
        reporter.say(&format!("release {version}: {files} files, {bytes} bytes, sha256 {}", built.digest.short()));
        Ok(Exit::Done)
    }
}

/// Sources that are missing are told at their places in the recipe.
fn missing(error: anyhow::Error, loaded: &Loaded, common: &Common) -> Failure {
    let Some(missing) = error.chain().find_map(|cause| cause.downcast_ref::<Missing>()) else { return error.into() };
    let mut found = Diagnostics::new();
    for (span, what) in &missing.sources {
        found.push(Diagnostic::at(&loaded.file, span.clone(), what.clone()));
    }
    Failure::findings(&found, common.stderr_colour())
}
