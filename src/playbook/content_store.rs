//! Contents of steps: files, rendered templates and inline texts become digests, and the bytes are stored once.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value as Json, json};
use tera::Context;

use super::model::{PlaybookStep, ValueTemplate};
use super::secret_redactor::SecretRedactor;
use super::templates::Templates;
use crate::inventory::{Diagnostic, Origin};
use crate::plan::Digest;
use crate::resources::{ContentKey, ContentSource, ResourceKind};

/// Bytes by their digest.
pub type ContentMap = BTreeMap<Digest, Arc<[u8]>>;

/// Bytes with their digest.
type CachedContent = (Digest, Arc<[u8]>);

/// Contents of all hosts of a run, with their sources.
pub(super) struct ContentStore<'a> {
    pub templates: &'a Templates,
    /// Folders in which `src` of a file is looked for, in this order.
    pub folders: Vec<PathBuf>,
    /// The published shard map.
    pub published_map: Option<String>,
    pub secret_redactor: SecretRedactor,
    file_cache: Mutex<HashMap<PathBuf, CachedContent>>,
    blob_cache: Mutex<HashMap<Digest, Arc<[u8]>>>,
}

/// Result of resolving the contents of one step.
pub(super) struct ResolvedStep {
    /// The table with each content as `{digest, len}`.
    pub table: Map<String, Json>,
    /// The bytes.
    pub contents: Vec<CachedContent>,
    /// The fields whose content has a secret, or is rendered by a template that reads secrets.
    pub secret_fields: Vec<String>,
}

impl<'a> ContentStore<'a> {
    pub(super) fn new(
        templates: &'a Templates,
        folders: Vec<PathBuf>,
        published_map: Option<String>,
        secret_redactor: SecretRedactor,
    ) -> Self {
        Self {
            templates,
            folders,
            published_map,
            secret_redactor,
            file_cache: Mutex::default(),
            blob_cache: Mutex::default(),
        }
    }

    /// Replaces the content keys of the playbook by the fields of the desired state.
    pub(super) fn resolve_contents(
        &self,
        step: &PlaybookStep,
        mut table: Map<String, Json>,
        context: &Context,
    ) -> Result<ResolvedStep, Vec<Diagnostic>> {
        let mut resolved = ResolvedStep { table: Map::new(), contents: Vec::new(), secret_fields: Vec::new() };
        let mut wrong = Vec::new();
        for (key, given) in take_contents(step, &mut table).map_err(|one| vec![one])? {
            let place = key_origin(step, key.playbook_key);
            match self.load_content(key, given.as_deref(), &place, context) {
                Ok(((digest, bytes), sensitive)) => {
                    table.insert(key.field.to_owned(), json!({"digest": digest, "len": bytes.len()}));
                    resolved.contents.push((digest, bytes));
                    if sensitive {
                        resolved.secret_fields.push(key.field.to_owned());
                    }
                }
                Err(found) => wrong.extend(found),
            }
        }
        resolved.table = table;
        if wrong.is_empty() { Ok(resolved) } else { Err(wrong) }
    }

    fn load_content(
        &self,
        key: &ContentKey,
        given: Option<&str>,
        place: &Origin,
        context: &Context,
    ) -> Result<(CachedContent, bool), Vec<Diagnostic>> {
        let given = given.unwrap_or_default();
        match key.source {
            ContentSource::File => self.read_file(given, place).map(|held| (held, false)).map_err(|d| vec![d]),
            ContentSource::Template => {
                let (text, sensitive) = self.render_template(given, context, place)?;
                Ok((self.intern_text(text), sensitive))
            }
            ContentSource::Published => match &self.published_map {
                Some(text) => Ok((self.intern_text(text.clone()), false)),
                None => Err(vec![missing_map_error(place)]),
            },
            ContentSource::Inline => Ok((self.intern_text(given.to_owned()), self.secret_redactor.is_secret_in(given))),
        }
    }

    /// Renders a template, and returns whether a secret went into it.
    pub(super) fn render_template(
        &self,
        template: &str,
        context: &Context,
        by: &Origin,
    ) -> Result<(String, bool), Vec<Diagnostic>> {
        let text = self.templates.render_template(template, context, by)?;
        let sensitive = self.templates.reads_secrets(template) || self.secret_redactor.is_secret_in(&text);
        Ok((text, sensitive))
    }

    fn intern_text(&self, text: String) -> CachedContent {
        let digest = Digest::of_bytes(text.as_bytes());
        let mut shared = self.blob_cache.lock().expect("no holder of this lock panics");
        let bytes = shared.entry(digest.clone()).or_insert_with(|| Arc::from(text.into_bytes()));
        (digest, Arc::clone(bytes))
    }

    fn read_file(&self, name: &str, place: &Origin) -> Result<CachedContent, Diagnostic> {
        let mut files = self.file_cache.lock().expect("no holder of this lock panics");
        for folder in &self.folders {
            let path = folder.join(name);
            if let Some((digest, bytes)) = files.get(&path) {
                return Ok((digest.clone(), Arc::clone(bytes)));
            }
            match std::fs::read(&path) {
                Ok(read) => {
                    let entry = (Digest::of_bytes(&read), Arc::from(read));
                    files.insert(path, entry.clone());
                    return Ok(entry);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Diagnostic::error_at(place, format!("{} cannot be read: {error}", path.display())));
                }
            }
        }
        let tried: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        Err(Diagnostic::error_at(place, format!("file `{name}` does not exist"))
            .with_help(format!("looked in {}", tried.join(", "))))
    }
}

fn missing_map_error(place: &Origin) -> Diagnostic {
    Diagnostic::error_at(place, "there is no shard map to publish")
        .with_help("it is `shards.toml` in the inventory's folder")
}

/// Takes the keys that hold content out of a table, each with its text. At most one per field.
fn take_contents<'s>(
    step: &'s PlaybookStep,
    table: &mut Map<String, Json>,
) -> Result<Vec<(&'s ContentKey, Option<String>)>, Diagnostic> {
    let mut taken: Vec<(&ContentKey, Option<String>)> = Vec::new();
    for key in step.kind.contents {
        if key.source == ContentSource::Published {
            taken.push((key, None));
            continue;
        }
        let Some(value) = table.remove(key.playbook_key) else { continue };
        let place = key_origin(step, key.playbook_key);
        if let Some((first, _)) = taken.iter().find(|(first, _)| first.field == key.field) {
            let message = format!("`{}` and `{}` cannot be used together", first.playbook_key, key.playbook_key);
            return Err(Diagnostic::error_at(&place, message));
        }
        match value {
            Json::String(text) => taken.push((key, Some(text))),
            // `content = "{{ port }}"` gave a number; its digits are meant.
            Json::Number(_) | Json::Bool(_) if is_template_string(step, key.playbook_key) => {
                taken.push((key, Some(value.to_string())))
            }
            _ => return Err(Diagnostic::error_at(&place, format!("`{}` must be a string", key.playbook_key))),
        }
    }
    Ok(taken)
}

fn is_template_string(step: &PlaybookStep, key: &str) -> bool {
    step.table.iter().any(|entry| entry.key == key && matches!(entry.value.value, ValueTemplate::Text(_)))
}

/// Returns the table with placeholder contents, so that its type can validate it without a host.
pub(super) fn placeholder_table(
    step: &PlaybookStep,
    mut table: Map<String, Json>,
) -> Result<Map<String, Json>, Diagnostic> {
    let filled = |key: &str| key == DISPLAY_FIELD || step.kind.contents.iter().any(|content| content.field == key);
    let written = |key: &str| step.kind.contents.iter().any(|content| content.playbook_key == key);
    if let Some(entry) = step.table.iter().find(|entry| filled(&entry.key) && !written(&entry.key)) {
        let place = Origin::at_span(&step.origin.file, entry.key_span.clone());
        let message = format!("`{}` of `{}` is filled in by dunlin", entry.key, step.kind.name);
        let keys: Vec<&str> =
            step.kind.contents.iter().map(|content| content.playbook_key).filter(|key| !key.is_empty()).collect();
        let diagnostic = Diagnostic::error_at(&place, message);
        return Err(if keys.is_empty() {
            diagnostic
        } else {
            diagnostic.with_help(format!("write `{}`", keys.join("` or `")))
        });
    }
    for (key, _) in take_contents(step, &mut table)? {
        table.insert(key.field.to_owned(), json!({"digest": Digest::of_bytes(b""), "len": 0}));
    }
    Ok(table)
}

/// The field that holds the texts of the playbook, to be shown where a value depends on a secret.
pub(super) const DISPLAY_FIELD: &str = "display";

/// Returns whether the desired state of a type has the field.
pub(super) fn has_field(kind: &ResourceKind, field: &str) -> bool {
    let odd = json!({"\u{0}": null});
    let message = (kind.parse)(odd).err().map(|error| error.to_string()).unwrap_or_default();
    message.contains(&format!("`{field}`"))
}

/// Returns the place of a key's value, or of the step.
pub(super) fn key_origin(step: &PlaybookStep, key: &str) -> Origin {
    match step.table.iter().find(|entry| entry.key == key) {
        Some(entry) => Origin::at_span(&step.origin.file, entry.value.span.clone()),
        None => step.origin.clone(),
    }
}
