//! One instance → one step of the catalogue: values filled in, contents resolved, held against its type.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value as Json};

use super::contents::{self, Resolved, Store};
use super::expand::Instance;
use super::model::{Node, Play};
use super::strings::Strings;
use super::{nodes, table};
use crate::inventory::{Diagnostic, Diagnostics, Origin};
use crate::plan::Digest;
use crate::resources::{self, Blobs, InvalidContent};
use crate::wire::provision;

/// A step as the agent gets it, with what is known about it here.
pub(super) struct Built {
    pub step: provision::Step,
    pub contents: Vec<(Digest, Arc<[u8]>)>,
    owns: Vec<String>,
    shares: Vec<String>,
}

/// Builds a step; what is wrong with it is pushed.
pub(super) fn build(
    instance: &Instance<'_>,
    store: &Store<'_>,
    strings: &Strings,
    found: &mut Diagnostics,
) -> Option<Built> {
    let step = instance.step;
    let resolved = nodes::evaluate_table(&step.table, strings, &instance.context)
        .and_then(|table| store.resolve(step, table, &instance.context))
        .and_then(|resolved| typed(instance, conceal(instance, store, resolved)))
        .and_then(|(resolved, resource)| match store.secrets.are_in(&resource.resource()) {
            false => Ok((resolved, resource)),
            true => Err(vec![would_show(instance)]),
        });
    match resolved {
        Ok((resolved, resource)) => {
            let wire = provision::Step {
                name: instance.name.as_ref().map(|name| store.secrets.conceal(name)),
                kind: step.kind.name.to_owned(),
                desired: Json::Object(resolved.table),
                notify: Vec::new(),
            };
            Some(Built { step: wire, contents: resolved.contents, owns: resource.owns(), shares: resource.shares() })
        }
        Err(wrong) => {
            wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
            None
        }
    }
}

/// What a secret went into is not shown, where its type can hide it.
fn conceal(instance: &Instance<'_>, store: &Store<'_>, mut resolved: Resolved) -> Resolved {
    let table = &mut resolved.table;
    let is_secret = resolved.sensitive || table.values().any(|value| store.secrets.are_in_json(value));
    if is_secret && contents::has_field(instance.step.kind, "sensitive") {
        table.insert("sensitive".to_owned(), true.into());
    }
    resolved
}

/// Type and key of a resource stand in every plan, in logs and in the journal.
fn would_show(instance: &Instance<'_>) -> Diagnostic {
    let message = format!("a secret would stand in every plan, in what this `{}` is called", instance.step.kind.name);
    let help = "put it into a `file`, whose content is hidden, and let the program read that";
    Diagnostic::on(&instance.step.origin, message).help(help)
}

fn typed(
    instance: &Instance<'_>,
    mut resolved: Resolved,
) -> Result<(Resolved, Box<dyn resources::Step>), Vec<Diagnostic>> {
    let step = instance.step;
    let place = (&step.origin.file, &step.origin);
    let mut parsed = table::parse(step.kind, &resolved.table);
    // `value = "{{ port }}"` gives a number; where the type wants text, its digits are meant.
    if let Err(faults) = &parsed
        && as_text(instance, faults, &mut resolved.table)
    {
        parsed = table::parse(step.kind, &resolved.table);
    }
    let diagnose = |fault: &table::Fault| fault.diagnostic(step.kind, &step.table, place);
    let resource = parsed.map_err(|faults| faults.iter().map(diagnose).collect::<Vec<_>>())?;
    resource.validate().map_err(|said| vec![diagnose(&table::Fault::whole(said))])?;
    let invalid = resource.validate_contents(&StepContents(&resolved.contents)).err();
    if let Some(InvalidContent { key, message }) = invalid {
        return Err(vec![Diagnostic::on(&contents::place_of(step, key), message)]);
    }
    Ok((resolved, resource))
}

/// The contents of one step.
struct StepContents<'a>(&'a [(Digest, Arc<[u8]>)]);

impl Blobs for StepContents<'_> {
    fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        let found = self.0.iter().find(|(of, _)| of == digest);
        found.map(|(_, bytes)| bytes.to_vec()).context("the step names no such content")
    }
}

/// Turns numbers and booleans that came out of a placeholder into text, for the keys at fault.
fn as_text(instance: &Instance<'_>, faults: &[table::Fault], table: &mut Map<String, Json>) -> bool {
    let mut turned = false;
    for key in faults.iter().filter(|fault| !fault.unknown).filter_map(|fault| fault.key.as_deref()) {
        let entry = instance.step.table.iter().find(|entry| entry.key == key);
        let is_text = entry.is_some_and(|entry| matches!(entry.item.node, Node::Text(_)));
        if let Some(value) = table.get_mut(key).filter(|value| is_text && (value.is_number() || value.is_boolean())) {
            *value = value.to_string().into();
            turned = true;
        }
    }
    turned
}

/// What the steps of a host manage: alone, or a part of it together with steps of the same type.
#[derive(Default)]
pub(super) struct Owners {
    alone: HashMap<String, Origin>,
    shared: HashMap<String, Origin>,
}

/// Notes what a step manages; a second step with the same is an error that names both places.
pub(super) fn claim(instance: &Instance<'_>, built: &Built, owners: &mut Owners, found: &mut Diagnostics) {
    let origin = &instance.step.origin;
    for thing in &built.owns {
        match owners.alone.get(thing).or_else(|| owners.shared.get(thing)) {
            Some(earlier) => found.push(conflict(thing, origin, earlier)),
            None => drop(owners.alone.insert(thing.clone(), origin.clone())),
        }
    }
    for thing in &built.shares {
        match owners.alone.get(thing) {
            Some(earlier) => found.push(conflict(thing, origin, earlier)),
            None => drop(owners.shared.entry(thing.clone()).or_insert_with(|| origin.clone())),
        }
    }
}

fn conflict(thing: &str, origin: &Origin, earlier: &Origin) -> Diagnostic {
    if earlier == origin {
        return Diagnostic::on(origin, format!("two items of this step manage {thing}"))
            .help("let what differs between the items, such as `{{ item.id }}`, be part of it");
    }
    Diagnostic::on(origin, format!("{thing} is managed by another step already"))
        .help(format!("the other one stands at {earlier}"))
}

/// Handlers by name, and whether each runs on the host.
pub(super) type HandlerNames = BTreeMap<String, bool>;

/// The names of all handlers of a host, and whether each runs there.
pub(super) fn handler_names(handlers: &[Instance<'_>], found: &mut Diagnostics) -> HandlerNames {
    let mut names = BTreeMap::new();
    for handler in handlers {
        let Some(name) = &handler.name else { continue };
        if names.insert(name.clone(), handler.runs).is_some() {
            found.push(Diagnostic::on(&handler.step.origin, format!("two handlers have the name `{name}`")));
        }
    }
    names
}

/// The handlers that a step notifies on this host; one whose condition does not hold is left out.
pub(super) fn notify(
    instance: &Instance<'_>,
    (play, names): (&Play, &HandlerNames),
    found: &mut Diagnostics,
) -> Vec<String> {
    let mut notified = Vec::with_capacity(instance.notify.len());
    for notify in &instance.notify {
        match names.get(&notify.name) {
            Some(true) => notified.push(notify.name.clone()),
            Some(false) => {}
            None if !play.knows_handlers => {}
            None => {
                let message = format!("no handler `{}` in play `{}`", notify.name, play.name.value);
                let known = names.keys().map(String::as_str);
                found.push(Diagnostic::on(&notify.origin, message).suggest_or_list(&notify.name, known));
            }
        }
    }
    notified
}
