//! Packages a release: builds the sources, checks them, and builds and signs the artifact.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::artifact::{
    Artifact, CargoBuild, MissingSources, SharedContent, StaleSource, VersionTaken, build_artifact, default_version,
    find_cargo_builds, list_stale_sources, list_untracked_files,
};
use super::recipe_file::RecipeFile;
use super::signature::{SIGN_PASSWORD, SignatureError, check_signature};
use crate::inventory::{Diagnostic, Diagnostics};
use crate::process::Program;
use crate::project::Project;
use crate::protocol::deploy::{ReleaseVersion, ServiceName, SignatureCheck};

/// Maximum number of files that an error names.
const MAX_FILES_NAMED: usize = 10;

/// A release to be packaged.
pub struct PackageJob<'a> {
    /// The recipe.
    pub recipe_file: &'a RecipeFile,
    /// The project.
    pub project: &'a Project,
    /// Version of the release; without it one from git or of the contents.
    pub version: Option<ReleaseVersion>,
    /// Folder of the artifact.
    pub output_dir: &'a Path,
    /// Key that signs the release.
    pub sign_key: Option<&'a minisign::SecretKey>,
    /// Builds the sources first.
    pub build: bool,
    /// Packages files that git neither tracks nor ignores.
    pub allow_untracked: bool,
    /// Packages results of a build although tracked files are newer.
    pub allow_stale: bool,
}

/// Reports the progress of a build.
pub enum BuildEvent<'a> {
    /// A command starts.
    Started(&'a str),
    /// The command printed a text.
    Output(&'a str),
}

/// A packaged release.
pub struct PackagedRelease {
    /// The artifact.
    pub artifact: Artifact,
    /// Reason for which hosts refuse the release, if they do.
    pub refusal: Option<SignatureError>,
}

/// Describes why a release is not packaged.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Files would be packaged by accident.
    #[error("git does not track files in the sources of {service}: {}", describe_files(files))]
    Untracked {
        /// The service.
        service: ServiceName,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Results of a build are older than the files from which they may have been built.
    #[error("sources of {service} are older than {}: {}", newer.display(), sources.join(", "))]
    Stale {
        /// The service.
        service: ServiceName,
        /// The sources.
        sources: Vec<String>,
        /// The newest tracked file.
        newer: PathBuf,
    },
    /// A build command failed.
    #[error("the build command `{command}` ended with exit code {status}; nothing was packaged")]
    BuildFailed {
        /// Program and arguments.
        command: String,
        /// Its exit code.
        status: i32,
    },
    /// Another content has the name of the version.
    #[error(transparent)]
    VersionTaken(VersionTaken),
    /// The sources have content where all releases have a shared file or folder.
    #[error(transparent)]
    SharedContent(SharedContent),
    /// Sources are missing; at their positions in the recipe.
    #[error("sources are missing")]
    MissingSources(Diagnostics),
    /// An operation failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

fn describe_files(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().take(MAX_FILES_NAMED).map(|path| path.display().to_string()).collect();
    let more = files.len().saturating_sub(names.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", names.join(", "))
}

impl PackageJob<'_> {
    /// Packages the release. The same files and version give the same bytes.
    ///
    /// # Errors
    /// See [`PackageError`].
    pub fn run(self, on_event: &dyn Fn(BuildEvent<'_>)) -> Result<PackagedRelease, PackageError> {
        let (recipe, root) = (&self.recipe_file.recipe, &self.project.root);
        let builds = find_cargo_builds(recipe, root);
        self.refuse_untracked_files(&builds)?;
        if self.build && self.run_builds(&builds, on_event)? {
            // A build may create files that git does not ignore.
            self.refuse_untracked_files(&builds)?;
        } else {
            self.refuse_stale_sources()?;
        }
        let locate = |error: anyhow::Error| self.locate_error(error);
        let version = self.version.clone().map_or_else(|| default_version(recipe, root), Ok).map_err(locate)?;
        let mut artifact = build_artifact(recipe, root, &version, self.output_dir).map_err(locate)?;
        if let Some(key) = self.sign_key {
            artifact.sign(key)?;
        }
        let (public_keys, signature) = (recipe.public_keys.clone(), artifact.signature.clone());
        let refusal = check_signature(&artifact.manifest, &SignatureCheck { public_keys, signature }).err();
        Ok(PackagedRelease { artifact, refusal })
    }

    /// Runs the recipe's build command; without one, the builds of the Cargo projects that create its sources. Returns
    /// whether there was one.
    fn run_builds(&self, builds: &[CargoBuild], on_event: &dyn Fn(BuildEvent<'_>)) -> Result<bool, PackageError> {
        let root = &self.project.root;
        if let Some(command) = &self.recipe_file.recipe.build {
            run_build(command, root, on_event)?;
            return Ok(true);
        }
        for build in builds {
            run_build(&build.to_argv(), &root.join(&build.folder), on_event)?;
        }
        Ok(!builds.is_empty())
    }

    fn refuse_untracked_files(&self, builds: &[CargoBuild]) -> Result<(), PackageError> {
        if self.allow_untracked {
            return Ok(());
        }
        let recipe = &self.recipe_file.recipe;
        let files = list_untracked_files(recipe, &self.project.root, builds)?;
        if files.is_empty() {
            return Ok(());
        }
        Err(PackageError::Untracked { service: recipe.service.clone(), files })
    }

    fn refuse_stale_sources(&self) -> Result<(), PackageError> {
        if self.allow_stale {
            return Ok(());
        }
        let (recipe, project) = (&self.recipe_file.recipe, self.project);
        let playbooks = project.playbook.parent().unwrap_or(&project.root).to_owned();
        let excluded =
            [playbooks, project.inventory.clone(), project.templates.clone(), project.root.join("dunlin.toml")];
        let stale = list_stale_sources(recipe, &project.root, &excluded)?;
        let Some(StaleSource { newer, .. }) = stale.first().cloned() else { return Ok(()) };
        let sources = stale.iter().map(|stale| stale.source.display().to_string()).collect();
        Err(PackageError::Stale { service: recipe.service.clone(), sources, newer })
    }

    /// Tells the errors of a build of an artifact apart; missing sources have positions in the recipe.
    fn locate_error(&self, error: anyhow::Error) -> PackageError {
        let error = match error.downcast::<VersionTaken>() {
            Ok(taken) => return PackageError::VersionTaken(taken),
            Err(error) => error,
        };
        let error = match error.downcast::<SharedContent>() {
            Ok(conflict) => return PackageError::SharedContent(conflict),
            Err(error) => error,
        };
        let Some(missing) = error.chain().find_map(|cause| cause.downcast_ref::<MissingSources>()) else {
            return PackageError::Failed(error);
        };
        let mut found = Diagnostics::new();
        for (span, what) in &missing.sources {
            found.push(Diagnostic::error_at_span(&self.recipe_file.file, span.clone(), what.clone()));
        }
        PackageError::MissingSources(found)
    }
}

/// Runs a build command in the project's folder.
fn run_build(argv: &[String], folder: &Path, on_event: &dyn Fn(BuildEvent<'_>)) -> Result<(), PackageError> {
    let command = argv.join(" ");
    on_event(BuildEvent::Started(&command));
    let mut show = |_: bool, text: String| on_event(BuildEvent::Output(text.trim_end_matches('\n')));
    let program = Program::with_own_environment(&argv[0]).args(&argv[1..]).folder(folder).without_env(SIGN_PASSWORD);
    match program.stream(&mut show)? {
        0 => Ok(()),
        status => Err(PackageError::BuildFailed { command, status }),
    }
}
