//! `dunlin.toml`: the paths of a project. Only this module reads the file, and only here is the search path of the
//! files of steps.

mod digest_key;

use std::path::{Path, PathBuf};

use crate::inventory::fields::{self, TableReader};
use crate::inventory::{Diagnostic, Diagnostics, SourceFile, read_source};
pub use digest_key::load_digest_key;

/// The parts of a project, all paths as they can be opened from the current folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// The folder that holds `dunlin.toml`; the folder where the search began if there is none.
    pub root: PathBuf,
    /// The inventory's folder; default `inventories/example`.
    pub inventory: PathBuf,
    /// The playbook; default `playbooks/site.toml`.
    pub playbook: PathBuf,
    /// The folder of templates; default `templates`.
    pub templates: PathBuf,
    /// The folder of release artifacts; default `dist`.
    pub dist: PathBuf,
}

/// The file's name.
const NAME: &str = "dunlin.toml";

impl Project {
    /// Searches `dunlin.toml` in a folder and the folders above it, and reads the first one. A project without
    /// `dunlin.toml` has the default paths.
    ///
    /// Returns `None`, with the reasons in `found`, if the file exists but cannot be used.
    pub fn find(from: &Path, found: &mut Diagnostics) -> Option<Self> {
        let absolute = std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
        for (above, folder) in absolute.ancestors().enumerate() {
            // Paths in messages stay as short as the user would write them.
            let root = if above == 0 { from } else { folder };
            match read_source(&join(root, NAME)) {
                Ok(Some(file)) => return Self::from_file(root, &file, found),
                Ok(None) => {}
                Err(error) => {
                    found.push(error);
                    return None;
                }
            }
        }
        Some(Self::with_defaults(from))
    }

    /// Returns a project that has the default paths.
    pub fn with_defaults(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            inventory: join(root, "inventories/example"),
            playbook: join(root, "playbooks/site.toml"),
            templates: join(root, "templates"),
            dist: join(root, "dist"),
        }
    }

    /// Reads the text of a `dunlin.toml` in the folder `root`. Returns `None`, with the reasons in `found`, if there is
    /// a mistake in it.
    pub fn from_file(root: &Path, file: &SourceFile, found: &mut Diagnostics) -> Option<Self> {
        let mut mistakes = Diagnostics::new();
        let table = fields::parse_table(file, &mut mistakes);
        let mut fields = TableReader::new(file, table.get_ref(), 0..0);
        let mut read_path = |key| {
            let path = fields.take_string(key, &mut mistakes)?;
            if path.value.is_empty() {
                mistakes.push(Diagnostic::error_at(&path.origin, format!("`{key}` is empty")));
            }
            Some(join(root, &path.value))
        };
        let defaults = Self::with_defaults(root);
        let project = Self {
            inventory: read_path("inventory").unwrap_or(defaults.inventory),
            playbook: read_path("playbook").unwrap_or(defaults.playbook),
            templates: read_path("templates").unwrap_or(defaults.templates),
            dist: read_path("dist").unwrap_or(defaults.dist),
            root: defaults.root,
        };
        fields.report_unknown_keys(NAME, &mut mistakes);
        let is_sound = !mistakes.has_errors();
        found.extend(mistakes);
        is_sound.then_some(project)
    }

    /// Returns the folders in which `src` of a step is searched, in this order: `files` next to the playbook, `files`
    /// of the project, the playbook's own folder.
    pub fn file_folders(&self, playbook: &Path) -> Vec<PathBuf> {
        let beside = match playbook.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut folders = vec![join(beside, "files"), join(&self.root, "files"), beside.to_owned()];
        folders.dedup();
        folders
    }
}

/// Joins two paths; the current folder is not written out.
fn join(root: &Path, path: &str) -> PathBuf {
    if root == Path::new(".") || root == Path::new("") { PathBuf::from(path) } else { root.join(path) }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::Project;
    use crate::inventory::{Diagnostics, SourceFile};

    fn read(text: &str) -> (Option<Project>, Vec<String>) {
        let mut found = Diagnostics::new();
        let project = Project::from_file(Path::new("."), &SourceFile::new("dunlin.toml", text), &mut found);
        (project, found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn it_is_found_from_below() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(folder.path().join("dunlin.toml"), "inventory = \"inventories/x\"\ntemplates = \"t\"\n")
            .unwrap();
        let mut found = Diagnostics::new();
        let project = Project::find(&below, &mut found).unwrap();
        assert!(found.is_empty(), "{}", found.render(false));
        assert_eq!(project.root, folder.path());
        assert_eq!(project.inventory, folder.path().join("inventories/x"));
        assert_eq!(project.templates, folder.path().join("t"));
        assert_eq!(project.playbook, folder.path().join("playbooks/site.toml"));
    }

    #[test]
    fn a_file_with_a_mistake_gives_no_project() {
        let (project, messages) = read("inventry = \"x\"\nplaybook = 1\ndist = \"\"\n");
        assert_eq!(project, None);
        assert_eq!(
            messages,
            [
                "dunlin.toml:2:12: error: `playbook` must be a string",
                "dunlin.toml:3:8: error: `dist` is empty",
                "dunlin.toml:1:1: error: unknown key `inventry` in dunlin.toml",
            ]
        );
        assert_eq!(read("inventory = \"a\"\ninventory = \"b\"\n").0, None);
        assert_eq!(read("inventory = \n").0, None);
    }

    #[test]
    fn a_byte_order_mark_and_dos_line_ends_are_read() {
        for text in ["inventory = \"a\"\r\ndist = \"d\"\r\n", "\u{feff}inventory = \"a\"\ndist = \"d\"\n"] {
            let (project, messages) = read(text);
            assert_eq!(messages, [""; 0], "{text:?}");
            let project = project.unwrap();
            assert_eq!((project.inventory, project.dist), (PathBuf::from("a"), PathBuf::from("d")));
        }
        assert_eq!(read("").0, Some(Project::with_defaults(Path::new("."))));
    }

    #[test]
    fn files_are_searched_next_to_the_playbook_first() {
        let project = Project::with_defaults(Path::new("/p"));
        let folders = |playbook: &str| project.file_folders(Path::new(playbook));
        assert_eq!(
            folders("/p/playbooks/a.toml"),
            ["/p/playbooks/files", "/p/files", "/p/playbooks"].map(PathBuf::from)
        );
        assert_eq!(folders("/p/a.toml"), ["/p/files", "/p"].map(PathBuf::from));
        assert_eq!(folders("a.toml"), ["files", "/p/files", "."].map(PathBuf::from));
    }
}
