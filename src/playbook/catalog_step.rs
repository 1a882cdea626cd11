//! One instance → one step of the catalog: values rendered, contents resolved, validated by its type.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value as Json};

use super::content_store::{self, ContentStore, ResolvedStep};
use super::expand::StepInstance;
use super::model::{PlaybookPlay, ValueTemplate};
use super::template_string::TemplateStrings;
use super::{step_schema, value_template};
use crate::inventory::{Diagnostic, Diagnostics, Origin};
use crate::plan::Digest;
use crate::protocol::provision;
use crate::resources::{self, BlobSource, InvalidContent};

/// A step as the agent gets it, with what is known about it here.
pub(super) struct BuiltStep {
    pub step: provision::CatalogStep,
    pub contents: Vec<(Digest, Arc<[u8]>)>,
    exclusive_claims: Vec<String>,
    shared_claims: Vec<String>,
}

/// Builds a step; what is wrong with it is pushed.
pub(super) fn build_step(
    instance: &StepInstance<'_>,
    store: &ContentStore<'_>,
    strings: &TemplateStrings,
    found: &mut Diagnostics,
) -> Option<BuiltStep> {
    let step = instance.step;
    let resolved = value_template::evaluate_table(&step.table, strings, &instance.context)
        .and_then(|table| store.resolve_contents(step, table, &instance.context))
        .and_then(|resolved| parse_resource(instance, mark_sensitive(instance, store, resolved)))
        .and_then(|(resolved, resource)| match store.secret_redactor.is_secret_in(&resource.resource_name()) {
            false => Ok((resolved, resource)),
            true => Err(vec![exposed_secret_error(instance)]),
        });
    match resolved {
        Ok((resolved, resource)) => {
            let wire = provision::CatalogStep {
                name: instance.name.as_ref().map(|name| store.secret_redactor.redact_text(name)),
                kind: step.kind.name.to_owned(),
                desired: Json::Object(resolved.table),
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

/// Marks a step as sensitive if a secret is part of it and its type can hide it.
fn mark_sensitive(instance: &StepInstance<'_>, store: &ContentStore<'_>, mut resolved: ResolvedStep) -> ResolvedStep {
    let table = &mut resolved.table;
    let is_secret = resolved.sensitive || table.values().any(|value| store.secret_redactor.is_secret_in_json(value));
    if is_secret && content_store::has_field(instance.step.kind, "sensitive") {
        table.insert("sensitive".to_owned(), true.into());
    }
    resolved
}

/// Type and key of a resource are part of every plan, of logs and of the journal.
fn exposed_secret_error(instance: &StepInstance<'_>) -> Diagnostic {
    let message = format!("a secret would stand in every plan, in what this `{}` is called", instance.step.kind.name);
    let help = "put it into a `file`, whose content is hidden, and let the program read that";
    Diagnostic::error_at(&instance.step.origin, message).with_help(help)
}

fn parse_resource(
    instance: &StepInstance<'_>,
    mut resolved: ResolvedStep,
) -> Result<(ResolvedStep, Box<dyn resources::DynResource>), Vec<Diagnostic>> {
    let step = instance.step;
    let step_position = (&step.origin.file, &step.origin);
    let mut parsed = step_schema::parse_resource(step.kind, &resolved.table);
    // `value = "{{ port }}"` gives a number; where the type wants text, its digits are meant.
    if let Err(faults) = &parsed
        && convert_to_text(instance, faults, &mut resolved.table)
    {
        parsed = step_schema::parse_resource(step.kind, &resolved.table);
    }
    let diagnose = |fault: &step_schema::SchemaError| fault.to_diagnostic(step.kind, &step.table, step_position);
    let resource = parsed.map_err(|faults| faults.iter().map(diagnose).collect::<Vec<_>>())?;
    resource.validate().map_err(|said| vec![diagnose(&step_schema::SchemaError::for_table(said))])?;
    let invalid = resource.validate_contents(&StepContents(&resolved.contents)).err();
    if let Some(InvalidContent { key, message }) = invalid {
        return Err(vec![Diagnostic::error_at(&content_store::key_origin(step, key), message)]);
    }
    Ok((resolved, resource))
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

/// The names of all handlers of a host, and whether each runs there.
pub(super) fn handler_names(handlers: &[StepInstance<'_>], found: &mut Diagnostics) -> HandlerNames {
    let mut names = BTreeMap::new();
    for handler in handlers {
        let Some(name) = &handler.name else { continue };
        if names.insert(name.clone(), handler.is_selected).is_some() {
            found.push(Diagnostic::error_at(&handler.step.origin, format!("two handlers have the name `{name}`")));
        }
    }
    names
}

/// The handlers that a step notifies on this host; one whose condition does not hold is left out.
pub(super) fn notified_handlers(
    instance: &StepInstance<'_>,
    (play, names): (&PlaybookPlay, &HandlerNames),
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
