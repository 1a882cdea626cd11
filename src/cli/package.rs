//! `dunlin package`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::InventoryArgs;
use super::exit::Exit;
use super::project::find_project;
use super::recipe::load_recipe;
use super::sign_key::load_sign_key;
use crate::deploy::artifact::Artifact;
use crate::deploy::package::{BuildEvent, PackageError, PackageJob};
use crate::plan::format_count;
use crate::protocol::deploy::ReleaseVersion;
use crate::report::Reporter;

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
    /// Include files of the recipe's folders that git neither tracks nor ignores
    #[arg(long)]
    allow_untracked: bool,
    /// Package the sources as they are, without a build
    #[arg(long)]
    no_build: bool,
    /// Package results of a build although tracked files are newer
    #[arg(long)]
    allow_stale: bool,
    /// Sign the release with this minisign secret key (its password: DUNLIN_SIGN_PASSWORD, or a prompt)
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
}

impl PackageCommand {
    /// Builds the artifact. The same files and version give the same bytes.
    ///
    /// # Errors
    /// Returns an error if the recipe has mistakes, a source is missing, or the artifact cannot be written.
    pub fn run(self, common: &CommonArgs) -> Result<Exit, CommandError> {
        let project = find_project(&InventoryArgs::default(), common)?;
        let loaded = load_recipe(&self.service, &project, common)?;
        let sign_key = self.sign_key.as_deref().map(load_sign_key).transpose()?;
        let version = self.version.map(ReleaseVersion::new).transpose();
        let job = PackageJob {
            recipe_file: &loaded,
            project: &project,
            version: version.map_err(|error| CommandError::with_message(Exit::Usage, error))?,
            output_dir: self.out.as_deref().unwrap_or(&project.dist),
            sign_key: sign_key.as_ref(),
            build: !self.no_build,
            allow_untracked: self.allow_untracked,
            allow_stale: self.allow_stale,
        };
        let reporter = common.new_reporter();
        let on_event = |event: BuildEvent<'_>| match event {
            BuildEvent::Started(command) => reporter.print_status(&format!("building: {command}")),
            BuildEvent::Output(text) => text.lines().for_each(|line| reporter.print_status(line)),
        };
        let packaged = job.run(&on_event).map_err(|error| to_command_error(error, common))?;
        report_artifact(&packaged.artifact, &reporter);
        if let Some(refusal) = packaged.refusal {
            let hint = "hosts refuse the release; sign it with --sign-key FILE, with a key of `public_keys`".to_owned();
            // A key was given, and it is another one.
            if sign_key.is_some() {
                return Err(CommandError::new(Exit::Refused, refusal).with_hint(hint));
            }
            reporter.print_status(&format!("note: {refusal}; {hint}"));
        }
        Ok(Exit::Done)
    }
}

fn report_artifact(artifact: &Artifact, reporter: &Reporter) {
    let manifest = &artifact.manifest;
    let (version, files, bytes) = (&manifest.version, manifest.files.len(), manifest.total_bytes());
    reporter.print_json(
        "package",
        json!({
            "service": manifest.service, "version": version, "path": artifact.path,
            "files": files, "bytes": bytes, "sha256": artifact.digest,
            "is_signed": artifact.signature.is_some(),
            "revision": manifest.origin.as_ref().and_then(|origin| origin.revision.as_ref()),
        }),
    );
    reporter.print_data(&format!("{}", artifact.path.display()));
    reporter.print_status(&format!(
        "release {version}: {}, {}, sha256 {}",
        format_count(files, "file"),
        format_count(bytes, "byte"),
        artifact.digest.short_hex()
    ));
}

fn to_command_error(error: PackageError, common: &CommonArgs) -> CommandError {
    let (exit, hints): (Exit, &[&str]) = match &error {
        PackageError::MissingSources(found) => return CommandError::from_diagnostics(found, common.stderr_color()),
        PackageError::Untracked { .. } => {
            (Exit::Refused, &["add them to git or to .gitignore", "--allow-untracked packages them"])
        }
        PackageError::Stale { .. } => {
            (Exit::Refused, &["build them, or let the recipe do it with `build`", "--allow-stale packages them"])
        }
        PackageError::VersionTaken(_) => (Exit::Refused, &["choose another --version, or remove the file"]),
        PackageError::SharedContent(_) => (Exit::Refused, &[]),
        PackageError::BuildFailed { .. } | PackageError::Failed(_) => (Exit::Error, &[]),
    };
    hints.iter().fold(CommandError::new(exit, error), |error, hint| error.with_hint(*hint))
}
