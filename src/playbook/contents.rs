//! Contents of steps: files, rendered templates and inline texts become digests, and the bytes are kept once.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value as Json, json};
use tera::Context;

use super::model::{Node, Step};
use super::templates::Templates;
use crate::inventory::{Diagnostic, Origin};
use crate::plan::Digest;
use crate::resources::{ContentKey, Kind, Source};

/// Bytes by their digest.
pub type Contents = BTreeMap<Digest, Arc<[u8]>>;

/// Bytes with their digest.
type Held = (Digest, Arc<[u8]>);

/// Where contents come from, shared by all hosts of a run.
pub(super) struct Store<'a> {
    pub templates: &'a Templates,
    /// Folders in which `src` of a file is looked for, in this order.
    pub folders: Vec<PathBuf>,
    /// The published shard map.
    pub published: Option<String>,
    pub secrets: SecretWords,
    files: Mutex<HashMap<PathBuf, Held>>,
    shared: Mutex<HashMap<Digest, Arc<[u8]>>>,
}

/// The secrets' values and their SHA-256 digests: what must not be shown.
pub(super) struct SecretWords(Vec<String>);

impl SecretWords {
    /// All strings of a (nested) table that have at least four characters; shorter ones would be found anywhere.
    pub(super) fn of(secrets: &Json) -> Self {
        let mut words = Vec::new();
        walk(secrets, &mut words);
        let digests: Vec<String> = words.iter().map(|word| Digest::of(word.as_bytes()).as_str().to_owned()).collect();
        words.extend(digests);
        Self(words)
    }

    pub(super) fn are_in(&self, text: &str) -> bool {
        self.0.iter().any(|word| text.contains(word.as_str()))
    }

    /// The text with every such word replaced by `***`.
    pub(super) fn conceal(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, word| text.replace(word.as_str(), "***"))
    }

    /// Whether a string anywhere in a value holds one.
    pub(super) fn are_in_json(&self, value: &Json) -> bool {
        match value {
            Json::String(text) => self.are_in(text),
            Json::Array(items) => items.iter().any(|item| self.are_in_json(item)),
            Json::Object(table) => table.values().any(|item| self.are_in_json(item)),
            _ => false,
        }
    }
}

fn walk(value: &Json, words: &mut Vec<String>) {
    match value {
        Json::String(text) if text.chars().count() >= 4 => words.push(text.clone()),
        Json::Object(table) => table.values().for_each(|value| walk(value, words)),
        _ => {}
    }
}

/// What the contents of one step gave.
pub(super) struct Resolved {
    /// The table with each content as `{digest, len}`.
    pub table: Map<String, Json>,
    /// The bytes.
    pub contents: Vec<Held>,
    /// Whether a secret went into one of them.
    pub sensitive: bool,
}

impl<'a> Store<'a> {
    pub(super) fn new(
        templates: &'a Templates,
        folders: Vec<PathBuf>,
        published: Option<String>,
        secrets: SecretWords,
    ) -> Self {
        Self { templates, folders, published, secrets, files: Mutex::default(), shared: Mutex::default() }
    }

    /// Replaces the keys that hold content by what they stand for.
    pub(super) fn resolve(
        &self,
        step: &Step,
        mut table: Map<String, Json>,
        context: &Context,
    ) -> Result<Resolved, Vec<Diagnostic>> {
        let mut resolved = Resolved { table: Map::new(), contents: Vec::new(), sensitive: false };
        let mut wrong = Vec::new();
        for (key, given) in take_contents(step, &mut table).map_err(|one| vec![one])? {
            let place = place_of(step, key.toml);
            let given = (given.as_deref(), &place);
            match self.bytes(key, given, context) {
                Ok(((digest, bytes), sensitive)) => {
                    table.insert(key.field.to_owned(), json!({"digest": digest, "len": bytes.len()}));
                    resolved.contents.push((digest, bytes));
                    resolved.sensitive |= sensitive;
                }
                Err(found) => wrong.extend(found),
            }
        }
        resolved.table = table;
        if wrong.is_empty() { Ok(resolved) } else { Err(wrong) }
    }

    fn bytes(
        &self,
        key: &ContentKey,
        (given, place): (Option<&str>, &Origin),
        context: &Context,
    ) -> Result<(Held, bool), Vec<Diagnostic>> {
        let given = given.unwrap_or_default();
        match key.source {
            Source::File => self.file(given, place).map(|held| (held, false)).map_err(|d| vec![d]),
            Source::Template => {
                let (text, sensitive) = self.render(given, context, place)?;
                Ok((self.share(text), sensitive))
            }
            Source::Published => match &self.published {
                Some(text) => Ok((self.share(text.clone()), false)),
                None => Err(vec![no_map(place)]),
            },
            Source::Inline => Ok((self.share(given.to_owned()), self.secrets.are_in(given))),
        }
    }

    /// A rendered template, and whether a secret went into it.
    pub(super) fn render(
        &self,
        template: &str,
        context: &Context,
        by: &Origin,
    ) -> Result<(String, bool), Vec<Diagnostic>> {
        let text = self.templates.render(template, context, by)?;
        let sensitive = self.templates.reads_secrets(template) || self.secrets.are_in(&text);
        Ok((text, sensitive))
    }

    fn share(&self, text: String) -> Held {
        let digest = Digest::of(text.as_bytes());
        let mut shared = self.shared.lock().expect("no holder of this lock panics");
        let bytes = shared.entry(digest.clone()).or_insert_with(|| Arc::from(text.into_bytes()));
        (digest, Arc::clone(bytes))
    }

    fn file(&self, name: &str, place: &Origin) -> Result<Held, Diagnostic> {
        let mut files = self.files.lock().expect("no holder of this lock panics");
        for folder in &self.folders {
            let path = folder.join(name);
            if let Some((digest, bytes)) = files.get(&path) {
                return Ok((digest.clone(), Arc::clone(bytes)));
            }
            match std::fs::read(&path) {
                Ok(read) => {
                    let entry = (Digest::of(&read), Arc::from(read));
                    files.insert(path, entry.clone());
                    return Ok(entry);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Diagnostic::on(place, format!("{} cannot be read: {error}", path.display())));
                }
            }
        }
        let tried: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        Err(Diagnostic::on(place, format!("there is no file `{name}`")).help(format!("looked in {}", tried.join(", "))))
    }
}

fn no_map(place: &Origin) -> Diagnostic {
    Diagnostic::on(place, "there is no shard map to publish").help("it is `shards.toml` in the inventory's folder")
}

/// Takes the keys that hold content out of a table, each with its text. At most one per field.
fn take_contents<'s>(
    step: &'s Step,
    table: &mut Map<String, Json>,
) -> Result<Vec<(&'s ContentKey, Option<String>)>, Diagnostic> {
    let mut taken: Vec<(&ContentKey, Option<String>)> = Vec::new();
    for key in step.kind.contents {
        if key.source == Source::Published {
            taken.push((key, None));
            continue;
        }
        let Some(value) = table.remove(key.toml) else { continue };
        let place = place_of(step, key.toml);
        if let Some((first, _)) = taken.iter().find(|(first, _)| first.field == key.field) {
            let message = format!("`{}` and `{}` exclude each other", first.toml, key.toml);
            return Err(Diagnostic::on(&place, message));
        }
        match value {
            Json::String(text) => taken.push((key, Some(text))),
            // `content = "{{ port }}"` gave a number; its digits are meant.
            Json::Number(_) | Json::Bool(_) if is_text(step, key.toml) => taken.push((key, Some(value.to_string()))),
            _ => return Err(Diagnostic::on(&place, format!("`{}` must be a string", key.toml))),
        }
    }
    Ok(taken)
}

fn is_text(step: &Step, key: &str) -> bool {
    step.table.iter().any(|entry| entry.key == key && matches!(entry.item.node, Node::Text(_)))
}

/// The table with stand-ins for contents, to be held against its type before any host is known.
pub(super) fn stand_ins(step: &Step, mut table: Map<String, Json>) -> Result<Map<String, Json>, Diagnostic> {
    let filled = |key: &str| step.kind.contents.iter().any(|content| content.field == key);
    let written = |key: &str| step.kind.contents.iter().any(|content| content.toml == key);
    if let Some(entry) = step.table.iter().find(|entry| filled(&entry.key) && !written(&entry.key)) {
        let place = Origin::at(&step.origin.file, entry.key_span.clone());
        let message = format!("`{}` of `{}` is filled in by dunlin", entry.key, step.kind.name);
        let keys: Vec<&str> =
            step.kind.contents.iter().map(|content| content.toml).filter(|key| !key.is_empty()).collect();
        let diagnostic = Diagnostic::on(&place, message);
        return Err(if keys.is_empty() {
            diagnostic
        } else {
            diagnostic.help(format!("write `{}`", keys.join("` or `")))
        });
    }
    for (key, _) in take_contents(step, &mut table)? {
        table.insert(key.field.to_owned(), json!({"digest": Digest::of(b""), "len": 0}));
    }
    Ok(table)
}

/// Whether the desired state of a type has that field.
pub(super) fn has_field(kind: &Kind, field: &str) -> bool {
    let odd = json!({"\u{0}": null});
    let said = (kind.parse)(odd).err().map(|error| error.to_string()).unwrap_or_default();
    said.contains(&format!("`{field}`"))
}

/// The place of a key's value, or of the step.
pub(super) fn place_of(step: &Step, key: &str) -> Origin {
    match step.table.iter().find(|entry| entry.key == key) {
        Some(entry) => Origin::at(&step.origin.file, entry.item.span.clone()),
        None => step.origin.clone(),
    }
}
