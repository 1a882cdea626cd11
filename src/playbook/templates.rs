//! The `templates/` folder: every file is parsed once and may include or extend the others.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tera::{Context, ErrorKind, Tera};

use super::engine;
use super::template_errors::{self, TemplateLocator};
use crate::inventory::{Diagnostic, Diagnostics, Origin, SourceFile, nearest_words, read_source};

/// Templates by their path below the folder, such as `redis/shard.conf`.
pub struct Templates {
    dir: PathBuf,
    tera: Tera,
    files: BTreeMap<String, SourceFile>,
    /// Templates that read `secrets`, themselves or through what they include.
    secret_templates: Vec<String>,
}

impl Templates {
    /// Reads a folder with all below it; a folder that is not there has no templates. Hidden files and what an editor
    /// leaves behind (`x~`) are passed over. Mistakes are pushed, and that template is empty from then on.
    pub fn load_folder(dir: &Path, found: &mut Diagnostics) -> Self {
        let mut files = BTreeMap::new();
        collect_templates(dir, "", &mut files, found);
        let mut templates =
            Self { dir: dir.to_owned(), tera: engine::new_engine(), files, secret_templates: Vec::new() };
        templates.parse_all(found);
        templates.secret_templates = templates
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

    /// Returns the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the templates' names, in alphabetical order.
    pub fn template_names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Returns whether a template reads `secrets`.
    pub(super) fn reads_secrets(&self, name: &str) -> bool {
        self.secret_templates.iter().any(|secret| secret == name)
    }

    /// Renders a template. The caller adds which step wanted it.
    pub(super) fn render_template(
        &self,
        name: &str,
        context: &Context,
        by: &Origin,
    ) -> Result<String, Vec<Diagnostic>> {
        if !self.files.contains_key(name) {
            let near = nearest_words(name, self.template_names()).first().map(|near| format!("did you mean `{near}`?"));
            let message = format!("template `{name}` does not exist in {}", self.dir.display());
            let diagnostic = Diagnostic::error_at(by, message);
            return Err(vec![match near {
                Some(near) => diagnostic.with_help(near),
                None => diagnostic,
            }]);
        }
        let rendered = self.tera.render(name, context);
        rendered.map_err(|error| {
            let found = template_errors::template_diagnostics(&error, self, by).into_iter();
            let wanted_by = format!("rendered for the step at {by}");
            let with_step = found.map(|diagnostic| match diagnostic.help.clone() {
                Some(help) => diagnostic.with_help(format!("{help}\n{wanted_by}")),
                None => diagnostic.with_help(wanted_by.clone()),
            });
            with_step.collect()
        })
    }

    fn parse_all(&mut self, found: &mut Diagnostics) {
        let mut sources: BTreeMap<&str, &str> =
            self.files.iter().map(|(name, file)| (name.as_str(), file.text())).collect();
        // One after another at first: tera stops at the first file that it cannot parse.
        for (name, file) in &self.files {
            let error = engine::new_engine().add_raw_template(name, file.text()).err();
            if let Some(error) = error.filter(|error| matches!(error.kind(), ErrorKind::SyntaxError(_))) {
                template_errors::template_diagnostics(&error, self, &Origin::whole_file(file))
                    .into_iter()
                    .for_each(|d| found.push(d));
                sources.insert(name, "");
            }
        }
        let mut tera = engine::new_engine();
        if let Err(error) = tera.add_raw_templates(sources) {
            let folder = SourceFile::new(&self.dir, "");
            let said = template_errors::template_diagnostics(&error, self, &Origin::whole_file(&folder));
            said.into_iter().for_each(|d| found.push(d));
            // Names stay known, so that steps are not blamed as well.
            let empty = self.files.keys().map(|name| (name.as_str(), ""));
            tera.add_raw_templates(empty).expect("empty templates can be parsed");
        }
        self.tera = tera;
    }
}

impl TemplateLocator for Templates {
    fn template_source(&self, template: &str) -> Option<&str> {
        self.files.get(template).map(SourceFile::text)
    }

    fn locate_range(&self, template: &str, range: Range<usize>) -> Origin {
        match self.files.get(template) {
            Some(file) => Origin::at_span(file, range),
            None => Origin::whole_file(&SourceFile::new(self.dir.join(template), "")),
        }
    }
}

fn collect_templates(dir: &Path, prefix: &str, files: &mut BTreeMap<String, SourceFile>, found: &mut Diagnostics) {
    let entries = match std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return found.push(Diagnostic::error_at_path(dir, format!("cannot be read: {error}"))),
    };
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let path = entry.path();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            collect_templates(&path, &format!("{name}/"), &mut *files, &mut *found);
            continue;
        }
        match read_source(&path) {
            Ok(file) => files.extend(file.map(|file| (name, file))),
            Err(error) => found.push(error),
        }
    }
}
