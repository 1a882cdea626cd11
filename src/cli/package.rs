//! `dunlin package`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::InventoryArgs;
use super::exit::Exit;
use super::project::find_project;
use super::recipe::LoadedRecipe;
use super::sign_key::load_sign_key;
use crate::deploy::artifact::{
    CargoBuild, MissingSources, SharedContent, VersionTaken, build_artifact, default_version, find_cargo_builds,
    list_stale_sources, list_untracked_files,
};
use crate::deploy::signature::{SIGN_PASSWORD, check_signature};
use crate::inventory::{Diagnostic, Diagnostics};
use crate::plan::format_count;
use crate::process::Program;
use crate::project::Project;
use crate::protocol::deploy::{ReleaseVersion, SignatureCheck};

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
        let loaded = LoadedRecipe::load_recipe(&self.service, &project, common)?;
        let sign_key = self.sign_key.as_deref().map(load_sign_key).transpose()?;
        let builds = find_cargo_builds(&loaded.recipe, &project.root);
        if !self.allow_untracked {
            refuse_untracked_files(&loaded, &project.root, &builds)?;
        }
        let has_built = !self.no_build && run_builds(&loaded, &builds, &project.root, common)?;
        // A build may create files that git does not ignore.
        if has_built && !self.allow_untracked {
            refuse_untracked_files(&loaded, &project.root, &builds)?;
        }
        if !has_built && !self.allow_stale {
            refuse_stale_sources(&loaded, &project)?;
        }
        let to_command_error = |error: anyhow::Error| locate_missing_sources(error, &loaded, common);
        let version = match self.version {
            Some(version) => {
                ReleaseVersion::new(version).map_err(|error| CommandError::with_message(Exit::Usage, error))?
            }
            None => default_version(&loaded.recipe, &project.root).map_err(to_command_error)?,
        };
        let out = self.out.unwrap_or(project.dist);
        let mut built = build_artifact(&loaded.recipe, &project.root, &version, &out).map_err(to_command_error)?;
        if let Some(key) = &sign_key {
            built.sign(key)?;
        }
        let (reporter, manifest) = (common.new_reporter(), &built.manifest);
        let (files, bytes) = (manifest.files.len(), manifest.total_bytes());
        reporter.print_json(
            "package",
            json!({
                "service": manifest.service, "version": version, "path": built.path,
                "files": files, "bytes": bytes, "sha256": built.digest,
                "is_signed": built.signature.is_some(),
                "revision": manifest.origin.as_ref().and_then(|origin| origin.revision.as_ref()),
            }),
        );
        reporter.print_data(&format!("{}", built.path.display()));
        reporter.print_status(&format!(
            "release {version}: {}, {}, sha256 {}",
            format_count(files, "file"),
            format_count(bytes, "byte"),
            built.digest.short_hex()
        ));
        let (public_keys, signature) = (loaded.recipe.public_keys.clone(), built.signature.clone());
        if let Err(error) = check_signature(manifest, &SignatureCheck { public_keys, signature }) {
            let hint = "hosts refuse the release; sign it with --sign-key FILE, with a key of `public_keys`".to_owned();
            // A key was given, and it is another one.
            if sign_key.is_some() {
                return Err(CommandError::new(Exit::Refused, error).with_hint(hint));
            }
            reporter.print_status(&format!("note: {error}; {hint}"));
        }
        Ok(Exit::Done)
    }
}

/// Runs the recipe's build command; without one, the builds of the Cargo projects that create its sources. Returns
/// whether there was one.
fn run_builds(
    loaded: &LoadedRecipe,
    builds: &[CargoBuild],
    root: &Path,
    common: &CommonArgs,
) -> Result<bool, CommandError> {
    if let Some(command) = &loaded.recipe.build {
        run_build(command, root, common)?;
        return Ok(true);
    }
    for build in builds {
        run_build(&build.to_argv(), &root.join(&build.folder), common)?;
    }
    Ok(!builds.is_empty())
}

/// Runs a build command in the project's folder; its output goes to standard error.
fn run_build(argv: &[String], folder: &Path, common: &CommonArgs) -> Result<(), CommandError> {
    let shown = argv.join(" ");
    let reporter = common.new_reporter();
    reporter.print_status(&format!("building: {shown}"));
    let mut show = |_: bool, text: String| text.lines().for_each(|line| reporter.print_status(line));
    let program = Program::with_own_environment(&argv[0]).args(&argv[1..]).folder(folder).without_env(SIGN_PASSWORD);
    match program.stream(&mut show)? {
        0 => Ok(()),
        status => {
            let text = format!("the build command `{shown}` ended with exit code {status}; nothing was packaged");
            Err(CommandError::with_message(Exit::Error, text))
        }
    }
}

/// Refuses files that would be packaged by accident.
fn refuse_untracked_files(loaded: &LoadedRecipe, folder: &Path, builds: &[CargoBuild]) -> Result<(), CommandError> {
    let untracked = list_untracked_files(&loaded.recipe, folder, builds)?;
    if untracked.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = untracked.iter().take(10).map(|path| path.display().to_string()).collect();
    let more = untracked.len().saturating_sub(names.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let text =
        format!("git does not track files in the sources of {}: {}{more}", loaded.recipe.service, names.join(", "));
    Err(CommandError::with_message(Exit::Refused, text)
        .with_hint("add them to git or to .gitignore".to_owned())
        .with_hint("--allow-untracked packages them".to_owned()))
}

/// Refuses results of a build that are older than the files from which they may have been built.
fn refuse_stale_sources(loaded: &LoadedRecipe, project: &Project) -> Result<(), CommandError> {
    let playbooks = project.playbook.parent().unwrap_or(&project.root).to_owned();
    let excluded = [playbooks, project.inventory.clone(), project.templates.clone(), project.root.join("dunlin.toml")];
    let stale = list_stale_sources(&loaded.recipe, &project.root, &excluded)?;
    let Some(first) = stale.first() else { return Ok(()) };
    let names: Vec<String> = stale.iter().map(|stale| stale.source.display().to_string()).collect();
    let text =
        format!("sources of {} are older than {}: {}", loaded.recipe.service, first.newer.display(), names.join(", "));
    Err(CommandError::with_message(Exit::Refused, text)
        .with_hint("build them, or let the recipe do it with `build`".to_owned())
        .with_hint("--allow-stale packages them".to_owned()))
}

/// Reports missing sources at their positions in the recipe.
fn locate_missing_sources(error: anyhow::Error, loaded: &LoadedRecipe, common: &CommonArgs) -> CommandError {
    if let Some(taken) = error.downcast_ref::<VersionTaken>() {
        return CommandError::new(Exit::Refused, taken.clone())
            .with_hint("choose another --version, or remove the file".to_owned());
    }
    if let Some(conflict) = error.downcast_ref::<SharedContent>() {
        return CommandError::new(Exit::Refused, conflict.clone());
    }
    let Some(missing) = error.chain().find_map(|cause| cause.downcast_ref::<MissingSources>()) else {
        return error.into();
    };
    let mut diagnostics = Diagnostics::new();
    for (span, what) in &missing.sources {
        diagnostics.push(Diagnostic::error_at_span(&loaded.file, span.clone(), what.clone()));
    }
    CommandError::from_diagnostics(&diagnostics, common.stderr_color())
}
