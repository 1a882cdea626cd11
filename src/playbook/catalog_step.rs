//! One instance → one step of the catalog: values rendered, contents resolved, validated by its type.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value as Json};
use tera::Context;

use super::content_store::{self, ContentStore, DISPLAY_FIELD, ResolvedStep};
use super::decoys::{differing_keys, hide_message, make_decoys};
use super::expand::StepInstance;
use super::model::{PlaybookPlay, TableEntry, ValueTemplate};
use super::template_string::TemplateStrings;
use super::{step_schema, value_template};
use crate::inventory::{Diagnostic, Diagnostics, Origin};
use crate::plan::{Digest, StepRef};
use crate::protocol::provision::{self, Catalog};
use crate::resources::{self, BlobSource, InvalidContent};

/// A step as the agent gets it, with what is known about it here.
pub(super) struct BuiltStep {
    pub step: provision::CatalogStep,
    pub contents: Vec<(Digest, Arc<[u8]>)>,
    exclusive_claims: Vec<String>,
    shared_claims: Vec<String>,
}

/// Builds a step; reports its mistakes as diagnostics.
pub(super) fn build_step(
    instance: &StepInstance<'_>,
    store: &ContentStore<'_>,
    strings: &TemplateStrings,
    found: &mut Diagnostics,
) -> Option<BuiltStep> {
    let step = instance.step;
    let resolve = |context: &Context| {
        value_template::evaluate_table(&step.table, strings, context)
            .and_then(|table| store.resolve_contents(step, table, context))
    };
    let resolved = instance
        .context
        .evaluate(resolve)
        .and_then(|resolved| {
            let decoy = instance.context.decoy.as_ref().map(|decoy| resolve(decoy).ok());
            hide_secrets(instance, store, resolved, decoy.as_ref().map(Option::as_ref))
        })
        .and_then(|resolved| parse_resource(instance, resolved))
        .and_then(|(resolved, resource)| match is_name_secret(instance, store, &resolved, &*resource) {
            false => Ok((resolved, resource)),
            true => Err(vec![exposed_secret_error(instance)]),
        });
    match resolved {
        Ok((resolved, resource)) => {
            let wire = provision::CatalogStep {
                name: shown_name(instance, store),
                kind: step.kind.name.to_owned(),
                desired: Json::Object(resolved.table),
                secret_fields: resolved.secret_fields,
                notify: Vec::new(),
            };
            Some(BuiltStep {
                step: wire,
                contents: resolved.contents,
                exclusive_claims: resource.exclusive_claims(),
                shared_claims: resource.shared_claims(),
            })
        }
        Err(wrong) => {
            wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
            None
        }
    }
}

/// Finds the fields that depend on a secret, and hides them: by the type's `sensitive`, by what the type hides itself,
/// or by the agent. A table with decoys that could not be made (`Some(None)`) means that every field may depend on one.
fn hide_secrets(
    instance: &StepInstance<'_>,
    store: &ContentStore<'_>,
    mut resolved: ResolvedStep,
    decoy: Option<Option<&ResolvedStep>>,
) -> Result<ResolvedStep, Vec<Diagnostic>> {
    let step = instance.step;
    let kind = step.kind;
    let mut secret: BTreeSet<String> = std::mem::take(&mut resolved.secret_fields).into_iter().collect();
    if let Some(decoy) = decoy {
        secret.extend(differing_keys(&resolved.table, decoy.map(|decoy| &decoy.table)));
    }
    let has_known_secret = |(_, value): &(&String, &Json)| store.secret_redactor.is_secret_in_json(value);
    secret.extend(resolved.table.iter().filter(has_known_secret).map(|(key, _)| key.clone()));
    if secret.is_empty() {
        return Ok(resolved);
    }
    let is_hidden = |field: &&String| {
        let is_argument_list = resolved.table.get(*field).is_some_and(Json::is_array);
        kind.secret_fields.contains(&field.as_str()) && !is_argument_list
    };
    let shown: Vec<Diagnostic> =
        secret.iter().filter(|field| !is_hidden(field)).map(|field| shown_secret_error(instance, field)).collect();
    if !shown.is_empty() {
        return Err(shown);
    }
    if content_store::has_field(kind, "sensitive") {
        resolved.table.insert("sensitive".to_owned(), true.into());
        // Without a chosen mode, only the owner has access.
        if content_store::has_field(kind, "mode") {
            resolved.table.entry("mode").or_insert_with(|| PRIVATE_MODE.into());
        }
    }
    if content_store::has_field(kind, DISPLAY_FIELD) {
        resolved.table.insert(DISPLAY_FIELD.to_owned(), source_display(instance));
    }
    resolved.secret_fields = secret.into_iter().collect();
    Ok(resolved)
}

/// Mode of a file with a secret whose step names none.
const PRIVATE_MODE: &str = "0600";

/// Returns the texts of the playbook, placeholders included, that are shown in place of the rendered ones.
fn source_display(instance: &StepInstance<'_>) -> Json {
    let item = instance.item_number.map(|number| format!(" (item {number})")).unwrap_or_default();
    let source = |entry: &TableEntry| match value_template::to_source_json(&entry.value) {
        Json::String(text) => text,
        Json::Array(items) => {
            let words: Vec<String> =
                items.iter().map(|item| item.as_str().map_or(item.to_string(), str::to_owned)).collect();
            words.join(" ")
        }
        other => other.to_string(),
    };
    let shown = |entry: &TableEntry| Json::String(format!("{}{item}", source(entry)));
    instance.step.table.iter().map(|entry| (entry.key.clone(), shown(entry))).collect()
}

/// Returns the step's name as it may be shown.
fn shown_name(instance: &StepInstance<'_>, store: &ContentStore<'_>) -> Option<String> {
    let name = instance.name.as_ref()?;
    let redact = |name: &str| store.secret_redactor.redact_text(name);
    if instance.decoy_name.as_ref() == Some(name) {
        return Some(redact(name));
    }
    // The source text, where what a filter made of the secret cannot be cut out.
    Some(instance.step.name.as_ref().map_or_else(String::new, |text| text.source_text.clone()))
}

/// Returns whether the type and key of a step depend on a secret.
fn is_name_secret(
    instance: &StepInstance<'_>,
    store: &ContentStore<'_>,
    resolved: &ResolvedStep,
    resource: &dyn resources::DynResource,
) -> bool {
    if store.secret_redactor.is_secret_in(&resource.resource_name()) {
        return true;
    }
    // With every secret field replaced, the name must be the same.
    let mut table = resolved.table.clone();
    for field in &resolved.secret_fields {
        let Some(value) = table.get_mut(field) else { continue };
        *value = make_decoys(value);
    }
    let renamed = (instance.step.kind.parse)(Json::Object(table)).ok();
    renamed.is_some_and(|other| other.resource_name() != resource.resource_name())
}

/// Creates the error for a secret in a field that plans, messages or the host itself would show to others.
fn shown_secret_error(instance: &StepInstance<'_>, field: &str) -> Diagnostic {
    let content_key = instance.step.kind.contents.iter().find(|content| content.field == field);
    let origin = content_store::key_origin(instance.step, content_key.map_or(field, |content| content.playbook_key));
    let message = format!("a secret in `{field}` would be shown in plans, or to every user of the host");
    Diagnostic::error_at(&origin, message)
        .with_help("write it into a `file`, whose content is hidden, or pass it to a `command` in `env`")
}

/// Creates the error for a secret in the type or key of a resource, which are part of every plan, of logs and of the
/// journal.
fn exposed_secret_error(instance: &StepInstance<'_>) -> Diagnostic {
    let message =
        format!("the name of this `{}` depends on a secret, and every plan would show it", instance.step.kind.name);
    let help = "put it into a `file`, whose content is hidden, and let the program read that";
    Diagnostic::error_at(&instance.step.origin, message).with_help(help)
}

/// Makes the resource. Where a value depends on a secret, errors are those of the playbook's own text, or hidden.
fn parse_resource(
    instance: &StepInstance<'_>,
    mut resolved: ResolvedStep,
) -> Result<(ResolvedStep, Box<dyn resources::DynResource>), Vec<Diagnostic>> {
    match check_resource(instance, &mut resolved.table, &resolved.contents) {
        Ok(resource) => Ok((resolved, resource)),
        Err(found) if resolved.secret_fields.is_empty() => Err(found),
        Err(found) => {
            let mut source = resolved.table;
            for entry in instance.step.table.iter().filter(|entry| resolved.secret_fields.contains(&entry.key)) {
                if let Some(value) = source.get_mut(&entry.key).filter(|value| !value.is_object()) {
                    *value = value_template::to_source_json(&entry.value);
                }
            }
            let shown = check_resource(instance, &mut source, &[]).err();
            Err(shown.unwrap_or_else(|| found.iter().map(hide_message).collect()))
        }
    }
}

fn check_resource(
    instance: &StepInstance<'_>,
    table: &mut Map<String, Json>,
    contents: &[(Digest, Arc<[u8]>)],
) -> Result<Box<dyn resources::DynResource>, Vec<Diagnostic>> {
    let step = instance.step;
    let mut parsed = step_schema::parse_resource(step.kind, table);
    // `value = "{{ port }}"` yields a number; if the type expects text, its digits are used.
    if let Err(faults) = &parsed
        && convert_to_text(instance, faults, table)
    {
        parsed = step_schema::parse_resource(step.kind, table);
    }
    let diagnose =
        |fault: &step_schema::SchemaError| fault.to_diagnostic(step.kind, &step.table, &step.origin.file, &step.origin);
    let resource = parsed.map_err(|faults| faults.iter().map(diagnose).collect::<Vec<_>>())?;
    resource.validate().map_err(|said| vec![diagnose(&step_schema::SchemaError::for_table(said))])?;
    let invalid = resource.validate_contents(&StepContents(contents)).err();
    if let Some(InvalidContent { key, message }) = invalid {
        return Err(vec![Diagnostic::error_at(&content_store::key_origin(step, key), message)]);
    }
    Ok(resource)
}

/// The contents of one step.
struct StepContents<'a>(&'a [(Digest, Arc<[u8]>)]);

impl BlobSource for StepContents<'_> {
    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let found = self.0.iter().find(|(of, _)| of == digest);
        found.map(|(_, bytes)| bytes.to_vec()).context("the step names no such content")
    }
}

/// Turns numbers and booleans that came out of a placeholder into text, for the keys at fault.
fn convert_to_text(
    instance: &StepInstance<'_>,
    faults: &[step_schema::SchemaError],
    table: &mut Map<String, Json>,
) -> bool {
    let mut is_converted = false;
    for key in faults.iter().filter(|fault| !fault.is_unknown).filter_map(|fault| fault.key.as_deref()) {
        let entry = instance.step.table.iter().find(|entry| entry.key == key);
        let is_text = entry.is_some_and(|entry| matches!(entry.value.value, ValueTemplate::Text(_)));
        if let Some(value) = table.get_mut(key).filter(|value| is_text && (value.is_number() || value.is_boolean())) {
            *value = value.to_string().into();
            is_converted = true;
        }
    }
    is_converted
}

/// Objects that the steps of a host manage: alone, or in part together with steps of the same type.
#[derive(Default)]
pub(super) struct OwnershipIndex {
    exclusive: HashMap<String, Origin>,
    shared: HashMap<String, Origin>,
    /// The steps that change a part of a path.
    editors: HashMap<String, Vec<StepRef>>,
    /// The paths of which a step of the playbook, selected or not, makes a part secret.
    secret_paths: BTreeSet<String>,
}

impl OwnershipIndex {
    /// Notes the paths that a step, selected or not, writes a secret to.
    pub(super) fn note_secret_paths(&mut self, built: &BuiltStep) {
        if !built.step.secret_fields.is_empty() {
            self.secret_paths.extend(built.shared_claims.iter().cloned());
        }
    }

    /// Notes a step that changes a part of its paths.
    pub(super) fn note_editor(&mut self, built: &BuiltStep, at: StepRef) {
        for thing in &built.shared_claims {
            self.editors.entry(thing.clone()).or_default().push(at);
        }
    }

    /// Hides what the steps on a path show, where a step puts a secret there: the lines around a change are the file's.
    pub(super) fn hide_shared_paths(&self, catalog: &mut Catalog) {
        let hidden = self.editors.iter().filter(|(thing, _)| self.secret_paths.contains(*thing));
        for at in hidden.flat_map(|(_, editors)| editors) {
            let Some(play) = catalog.plays.get_mut(at.play) else { continue };
            // Handlers are counted after the steps.
            let step = play.steps.iter_mut().chain(&mut play.handlers).nth(at.step);
            if let Some(table) = step.and_then(|step| step.desired.as_object_mut()) {
                table.insert("sensitive".to_owned(), true.into());
            }
        }
    }
}

/// Notes what a step manages; a second step with the same is an error that names both places.
pub(super) fn claim_ownership(
    instance: &StepInstance<'_>,
    built: &BuiltStep,
    owners: &mut OwnershipIndex,
    found: &mut Diagnostics,
) {
    let origin = &instance.step.origin;
    for thing in &built.exclusive_claims {
        match owners.exclusive.get(thing).or_else(|| owners.shared.get(thing)) {
            Some(earlier) => found.push(ownership_conflict(thing, origin, earlier)),
            None => drop(owners.exclusive.insert(thing.clone(), origin.clone())),
        }
    }
    for thing in &built.shared_claims {
        match owners.exclusive.get(thing) {
            Some(earlier) => found.push(ownership_conflict(thing, origin, earlier)),
            None => drop(owners.shared.entry(thing.clone()).or_insert_with(|| origin.clone())),
        }
    }
}

fn ownership_conflict(thing: &str, origin: &Origin, earlier: &Origin) -> Diagnostic {
    if earlier == origin {
        return Diagnostic::error_at(origin, format!("two items of this step manage {thing}"))
            .with_help("add a part that differs between the items, such as `{{ item.id }}`");
    }
    Diagnostic::error_at(origin, format!("{thing} is managed by another step already"))
        .with_help(format!("the other step is at {earlier}"))
}

/// Handlers by name, and whether each runs on the host.
pub(super) type HandlerNames = BTreeMap<String, bool>;

/// Returns the names of all handlers of a host, and whether each runs there.
pub(super) fn handler_names(handlers: &[StepInstance<'_>], found: &mut Diagnostics) -> HandlerNames {
    let mut names = BTreeMap::new();
    for handler in handlers {
        let Some(name) = &handler.name else { continue };
        if handler.decoy_name.as_ref() != Some(name) {
            let message = "the name of a handler must not depend on a secret";
            found.push(Diagnostic::error_at(&handler.step.origin, message));
        }
        if names.insert(name.clone(), handler.is_selected).is_some() {
            found.push(Diagnostic::error_at(&handler.step.origin, format!("two handlers have the name `{name}`")));
        }
    }
    names
}

/// Returns the handlers that a step notifies on this host; one whose condition does not hold is left out.
pub(super) fn notified_handlers(
    instance: &StepInstance<'_>,
    play: &PlaybookPlay,
    names: &HandlerNames,
    found: &mut Diagnostics,
) -> Vec<String> {
    let mut notified = Vec::with_capacity(instance.notify.len());
    for notify in &instance.notify {
        match names.get(&notify.name) {
            Some(true) => notified.push(notify.name.clone()),
            Some(false) => {}
            None if !play.has_all_handlers => {}
            None => {
                let message = format!("no handler `{}` in play `{}`", notify.name, play.name.value);
                let known = names.keys().map(String::as_str);
                found.push(Diagnostic::error_at(&notify.origin, message).suggest_or_list(&notify.name, known));
            }
        }
    }
    notified
}
