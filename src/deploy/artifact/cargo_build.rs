//! Finds the builds that create a recipe's sources where the recipe has no build command.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::deploy::recipe::Recipe;

/// The folder that Cargo builds into.
const TARGET_DIR: &str = "target";
/// Folders beside those of the profiles.
const OTHER_DIRS: [&str; 3] = ["doc", "package", "tmp"];

/// A run of `cargo build` that creates sources of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CargoBuild {
    /// The folder with `Cargo.toml`, relative to the project's folder; empty for the project's folder itself.
    pub folder: PathBuf,
    /// Name of the profile's folder: `release`, `debug`, or that of a custom profile.
    pub profile: String,
    /// The target triple, if the sources are in its folder.
    pub target: Option<String>,
}

impl CargoBuild {
    /// Returns the build that creates a source: one below a `target` folder beside a `Cargo.toml`.
    fn find_for_source(source: &Path, source_dir: &Path) -> Option<Self> {
        let parts: Vec<&str> = source.components().filter(|part| *part != Component::CurDir).map(part_name).collect();
        let (at, folder) = parts
            .iter()
            .enumerate()
            .filter(|(_, part)| **part == TARGET_DIR)
            .map(|(at, _)| (at, parts[..at].iter().collect::<PathBuf>()))
            .find(|(_, folder)| source_dir.join(folder).join("Cargo.toml").is_file())?;
        // TARGET/PROFILE/… or PROFILE/…; a triple has at least two hyphens.
        let (target, profile) = match parts[at + 1..] {
            [triple, profile, ..] if triple.matches('-').count() >= 2 => (Some(triple.to_owned()), profile),
            [profile, ..] => (None, profile),
            [] => return None,
        };
        (!OTHER_DIRS.contains(&profile)).then(|| Self { folder, profile: profile.to_owned(), target })
    }

    /// Returns the program and its arguments.
    pub fn to_argv(&self) -> Vec<String> {
        let mut argv = vec!["cargo".to_owned(), "build".to_owned(), "--locked".to_owned()];
        match self.profile.as_str() {
            "debug" => {}
            "release" => argv.push("--release".to_owned()),
            profile => argv.extend(["--profile".to_owned(), profile.to_owned()]),
        }
        if let Some(target) = &self.target {
            argv.extend(["--target".to_owned(), target.clone()]);
        }
        argv
    }
}

fn part_name(part: Component<'_>) -> &str {
    part.as_os_str().to_str().unwrap_or_default()
}

/// Returns the builds of Cargo projects that create sources of the recipe, each once.
pub fn find_cargo_builds(recipe: &Recipe, source_dir: &Path) -> Vec<CargoBuild> {
    let builds = recipe.files.iter().filter_map(|entry| CargoBuild::find_for_source(&entry.source, source_dir));
    builds.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_follows_from_the_path_of_a_source() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("tools/one")).unwrap();
        for folder in ["", "tools/one"] {
            std::fs::write(base.path().join(folder).join("Cargo.toml"), "").unwrap();
        }
        let argv = |source: &str| {
            let build = CargoBuild::find_for_source(Path::new(source), base.path())?;
            Some((build.folder.display().to_string(), build.to_argv()[3..].join(" ")))
        };
        let expected = |folder: &str, flags: &str| Some((folder.to_owned(), flags.to_owned()));
        assert_eq!(argv("target/release/app"), expected("", "--release"));
        assert_eq!(argv("./target/debug/app"), expected("", ""));
        assert_eq!(
            argv("target/x86_64-unknown-linux-musl/dist/app"),
            expected("", "--profile dist --target x86_64-unknown-linux-musl")
        );
        assert_eq!(argv("tools/one/target/release/one"), expected("tools/one", "--release"));
        for other in ["app/server.py", "tools/target/release/x", "target/doc/app", "target"] {
            assert_eq!(argv(other), None, "{other}");
        }
    }
}
