//! `shared` of a recipe.

use std::ops::Range;

use super::reader::RecipeReader;
use crate::protocol::deploy::{ReleasePath, SharedPath};

impl RecipeReader<'_> {
    /// Reads the shared paths. A path whose last part has a dot is a file, unless it ends with `/`.
    pub(super) fn read_shared(&mut self, paths: Option<(Range<usize>, Vec<String>)>) -> Vec<SharedPath> {
        let Some((span, paths)) = paths else { return Vec::new() };
        let mut shared: Vec<SharedPath> = Vec::new();
        for text in paths {
            let name = text.strip_suffix('/').unwrap_or(&text);
            let is_folder = text.ends_with('/') || !name.rsplit('/').next().unwrap_or_default().contains('.');
            match ReleasePath::new(name) {
                Ok(path) => {
                    if let Some(other) = shared.iter().find(|other| overlaps(&other.path, &path)) {
                        let help = "name only the path that contains the other one";
                        self.add_error(
                            &span,
                            format!("the shared paths {} and {path} overlap", other.path),
                            Some(help),
                        );
                    }
                    shared.push(SharedPath { path, is_folder });
                }
                Err(reason) => self.add_error(&span, reason, None),
            }
        }
        shared
    }
}

fn overlaps(a: &ReleasePath, b: &ReleasePath) -> bool {
    let (a, b) = (std::path::Path::new(a.as_str()), std::path::Path::new(b.as_str()));
    a.starts_with(b) || b.starts_with(a)
}

#[cfg(test)]
mod tests {
    use crate::deploy::recipe::Recipe;

    fn parse(shared: &str) -> Result<Vec<(String, bool)>, String> {
        let text = format!("service = \"shop\"\nhosts = \"web\"\nroot = \"/srv/shop\"\nshared = {shared}\n");
        let recipe = Recipe::parse(&text).map_err(|errors| errors[0].message.clone())?;
        Ok(recipe.shared.into_iter().map(|shared| (shared.path.to_string(), shared.is_folder)).collect())
    }

    #[test]
    fn a_path_with_a_dot_in_its_last_part_is_a_file() {
        let read = parse(r#"["uploads", "config/local.toml", ".env", "data.d/", "conf.d/cache"]"#).unwrap();
        let kinds: Vec<(&str, bool)> = read.iter().map(|(path, is_folder)| (path.as_str(), *is_folder)).collect();
        assert_eq!(
            kinds,
            [
                ("uploads", true),
                ("config/local.toml", false),
                (".env", false),
                ("data.d", true),
                ("conf.d/cache", true)
            ]
        );
    }

    #[test]
    fn paths_outside_of_the_release_and_overlaps_are_refused() {
        for bad in
            [r#"["/uploads"]"#, r#"["../uploads"]"#, r#"[".dunlin/x"]"#, r#"["data", "data/cache"]"#, r#"["a", "a/"]"#]
        {
            let error = parse(bad).unwrap_err();
            assert!(error.contains("overlap") || error.contains("not allowed in a release"), "{bad}: {error}");
        }
    }
}
