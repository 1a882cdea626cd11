//! `dunlin.toml` at the top of a project: where its parts are. Without one, the usual names are looked for.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::inventory::fields::{self, Fields};
use crate::inventory::{Diagnostic, Diagnostics, SourceFile};

/// The parts of a project, all paths as they can be opened from the current folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// The folder that holds `dunlin.toml`; the current folder where there is none.
    pub root: PathBuf,
    /// The inventory's folder, where it names one: there is no usual environment.
    pub inventory: Option<PathBuf>,
    /// The playbook, `playbooks/site.toml` where it names none.
    pub playbook: PathBuf,
    /// The templates' folder, `templates` where it names none.
    pub templates: PathBuf,
    /// Where artefacts are put, `dist` where it names none.
    pub dist: PathBuf,
}

/// The file's name.
const NAME: &str = "dunlin.toml";

impl Project {
    /// Looks for `dunlin.toml` in a folder and those above it.
    pub fn find(from: &Path, found: &mut Diagnostics) -> Self {
        let absolute = std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
        for (above, folder) in absolute.ancestors().enumerate() {
            let path = folder.join(NAME);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    // Paths in messages stay as short as the user would write them.
                    let root = if above == 0 { from.to_owned() } else { folder.to_owned() };
                    return Self::from_text(&root, &text, found);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => found.push(Diagnostic::path(&path, format!("cannot be read: {error}"))),
            }
        }
        Self::usual(from)
    }

    /// A project without `dunlin.toml`.
    pub fn usual(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            inventory: None,
            playbook: place(root, "playbooks/site.toml"),
            templates: place(root, "templates"),
            dist: place(root, "dist"),
        }
    }

    /// Reads the text of a `dunlin.toml` that stands in `root`.
    pub fn from_text(root: &Path, text: &str, found: &mut Diagnostics) -> Self {
        let file = SourceFile::new(place(root, NAME), text);
        let table = fields::parse(&file, found);
        let mut fields = Fields::new(&file, table.get_ref(), 0..0);
        let mut named = |key| fields.string(key, found).map(|path| place(root, &path.value));
        let usual = Self::usual(root);
        let project = Self {
            inventory: named("inventory"),
            playbook: named("playbook").unwrap_or(usual.playbook),
            templates: named("templates").unwrap_or(usual.templates),
            dist: named("dist").unwrap_or(usual.dist),
            root: usual.root,
        };
        fields.finish("dunlin.toml", found);
        project
    }

    /// The folders in which `src` of a `file` is looked for: beside the playbook, then at the top.
    pub fn file_folders(&self) -> Vec<PathBuf> {
        let beside = self.playbook.parent().unwrap_or(Path::new("."));
        let mut folders = vec![place(beside, "files"), place(&self.root, "files"), beside.to_owned()];
        folders.dedup();
        folders
    }
}

/// Joins; the current folder is not written out.
fn place(root: &Path, path: &str) -> PathBuf {
    if root == Path::new(".") || root == Path::new("") { PathBuf::from(path) } else { root.join(path) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Project;
    use crate::inventory::Diagnostics;

    #[test]
    fn it_is_found_from_below() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(folder.path().join("dunlin.toml"), "inventory = \"inventories/x\"\ntemplates = \"t\"\n")
            .unwrap();
        let mut found = Diagnostics::new();
        let project = Project::find(&below, &mut found);
        assert!(found.is_empty(), "{}", found.render(false));
        assert_eq!(project.root, folder.path());
        assert_eq!(project.inventory, Some(folder.path().join("inventories/x")));
        assert_eq!(project.templates, folder.path().join("t"));
        assert_eq!(project.playbook, folder.path().join("playbooks/site.toml"));
    }

    #[test]
    fn unknown_keys_are_reported() {
        let mut found = Diagnostics::new();
        let project = Project::from_text(Path::new("."), "inventry = \"x\"\nplaybook = 1\n", &mut found);
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "dunlin.toml:2:12: error: `playbook` must be a string",
                "dunlin.toml:1:1: error: unknown key `inventry` in dunlin.toml",
            ]
        );
        assert_eq!(project, Project::usual(Path::new(".")));
    }
}
