//! The `templates/` folder: every file is parsed once and may include or extend the others.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tera::{Context, ErrorKind, Tera};

use super::diagnose::{self, Places};
use super::engine;
use crate::inventory::{Diagnostic, Diagnostics, Origin, SourceFile, nearest, read_source};

/// All templates, by their path below the folder: `redis/shard.conf`.
pub struct Templates {
    dir: PathBuf,
    tera: Tera,
    files: BTreeMap<String, SourceFile>,
    /// Templates that read `secrets`, themselves or through what they include.
    secret: Vec<String>,
}

impl Templates {
    /// Reads a folder with all below it; a folder that is not there has no templates. Hidden files and what an editor
    /// leaves behind (`x~`) are passed over. Mistakes are pushed, and that template is empty from then on.
    pub fn load(dir: &Path, found: &mut Diagnostics) -> Self {
        let mut files = BTreeMap::new();
        collect(dir, "", (&mut files, found));
        let mut templates = Self { dir: dir.to_owned(), tera: engine::new(), files, secret: Vec::new() };
        templates.parse(found);
        templates.secret = templates
            .files
            .keys()
            .filter(|name| {
                let reads = templates.tera.get_template_variables(name);
                reads.is_ok_and(|names| names.contains("secrets"))
            })
            .cloned()
            .collect();
        templates
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The templates' names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Whether a template reads `secrets`.
    pub(super) fn reads_secrets(&self, name: &str) -> bool {
        self.secret.iter().any(|secret| secret == name)
    }

    /// Renders a template. The caller adds which step wanted it.
    pub(super) fn render(&self, name: &str, context: &Context, by: &Origin) -> Result<String, Vec<Diagnostic>> {
        if !self.files.contains_key(name) {
            let near = nearest(name, self.names()).first().map(|near| format!("did you mean `{near}`?"));
            let message = format!("there is no template `{name}` in {}", self.dir.display());
            let diagnostic = Diagnostic::on(by, message);
            return Err(vec![match near {
                Some(near) => diagnostic.help(near),
                None => diagnostic,
            }]);
        }
        let rendered = self.tera.render(name, context);
        rendered.map_err(|error| {
            let found = diagnose::diagnostics(&error, self, by).into_iter();
            let wanted_by = format!("rendered for the step at {by}");
            let with_step = found.map(|diagnostic| match diagnostic.help.clone() {
                Some(help) => diagnostic.help(format!("{help}\n{wanted_by}")),
                None => diagnostic.help(wanted_by.clone()),
            });
            with_step.collect()
        })
    }

    fn parse(&mut self, found: &mut Diagnostics) {
        let mut sources: BTreeMap<&str, &str> =
            self.files.iter().map(|(name, file)| (name.as_str(), file.text())).collect();
        // One after another at first: tera stops at the first file that it cannot parse.
        for (name, file) in &self.files {
            let error = engine::new().add_raw_template(name, file.text()).err();
            if let Some(error) = error.filter(|error| matches!(error.kind(), ErrorKind::SyntaxError(_))) {
                diagnose::diagnostics(&error, self, &Origin::whole(file)).into_iter().for_each(|d| found.push(d));
                sources.insert(name, "");
            }
        }
        let mut tera = engine::new();
        if let Err(error) = tera.add_raw_templates(sources) {
            let folder = SourceFile::new(&self.dir, "");
            let said = diagnose::diagnostics(&error, self, &Origin::whole(&folder));
            said.into_iter().for_each(|d| found.push(d));
            // Names stay known, so that steps are not blamed as well.
            let empty = self.files.keys().map(|name| (name.as_str(), ""));
            tera.add_raw_templates(empty).expect("empty templates can be parsed");
        }
        self.tera = tera;
    }
}

impl Places for Templates {
    fn source(&self, template: &str) -> Option<&str> {
        self.files.get(template).map(SourceFile::text)
    }

    fn place(&self, template: &str, range: Range<usize>) -> Origin {
        match self.files.get(template) {
            Some(file) => Origin::at(file, range),
            None => Origin::whole(&SourceFile::new(self.dir.join(template), "")),
        }
    }
}

fn collect(dir: &Path, prefix: &str, (files, found): (&mut BTreeMap<String, SourceFile>, &mut Diagnostics)) {
    let entries = match std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return found.push(Diagnostic::path(dir, format!("cannot be read: {error}"))),
    };
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let path = entry.path();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            collect(&path, &format!("{name}/"), (&mut *files, &mut *found));
            continue;
        }
        match read_source(&path) {
            Ok(file) => files.extend(file.map(|file| (name, file))),
            Err(error) => found.push(error),
        }
    }
}
