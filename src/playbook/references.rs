//! What can be told of a play before any host is looked at: tables against their types, handlers against `notify`.

use serde_json::{Map, Value as Json};

use super::contents;
use super::model::{Entry, Play, Step};
use super::{nodes, table};
use crate::inventory::{Diagnostic, Diagnostics, SourceFile};

/// Holds each step's table against its type. Values with placeholders are looked at when a host's are known.
pub(super) fn check_tables(file: &SourceFile, play: &mut Play, found: &mut Diagnostics) {
    for step in play.steps.iter_mut().chain(&mut play.handlers) {
        let wrong = check_table(file, step);
        step.sound = wrong.is_empty();
        wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
    }
}

fn check_table(file: &SourceFile, step: &Step) -> Vec<Diagnostic> {
    let written: Map<String, Json> =
        step.table.iter().map(|entry| (entry.key.clone(), nodes::as_written(&entry.item))).collect();
    let filled = match contents::stand_ins(step, written) {
        Ok(table) => table,
        Err(wrong) => return vec![wrong],
    };
    let later = |key: &str| {
        let of_key = |entry: &Entry| entry.key == key && entry.item.has_placeholder();
        step.table.iter().any(of_key)
    };
    let place = (file, &step.origin);
    match table::parse(step.kind, &filled) {
        Err(faults) => {
            let now = faults.iter().filter(|fault| fault.unknown || !fault.key.as_deref().is_some_and(later));
            now.map(|fault| fault.diagnostic(step.kind, &step.table, place)).collect()
        }
        Ok(resource) if !step.table.iter().any(|entry| entry.item.has_placeholder()) => {
            let refused = resource.validate().err();
            let fault = |said| table::Fault::whole(said).diagnostic(step.kind, &step.table, place);
            refused.map(fault).into_iter().collect()
        }
        Ok(_) => Vec::new(),
    }
}

/// Holds `notify` against the handlers' names, as far as they are written out.
pub(super) fn check_references(play: &Play, found: &mut Diagnostics) {
    let names: Vec<&str> = play.handlers.iter().filter_map(|h| h.name.as_ref()).map(|name| name.raw.as_str()).collect();
    let templated = play.handlers.iter().any(|handler| handler.name.as_ref().is_some_and(|name| !name.is_plain()));
    let notified: Vec<_> = play.steps.iter().flat_map(|step| &step.notify).collect();
    for notify in &notified {
        // Whatever has placeholders on one side can only be told once they are filled in.
        if names.contains(&notify.raw.as_str()) || templated || !notify.is_plain() || !play.knows_handlers {
            continue;
        }
        let message = format!("no handler `{}` in play `{}`", notify.raw, play.name.value);
        found.push(Diagnostic::on(&notify.origin, message).suggest_or_list(&notify.raw, names.iter().copied()));
    }
    for (index, name) in play.handlers.iter().filter_map(|handler| handler.name.as_ref()).enumerate() {
        if names[..index].contains(&name.raw.as_str()) {
            found.push(Diagnostic::on(&name.origin, format!("there is a handler `{}` already", name.raw)));
        } else if !notified.iter().any(|notify| notify.raw == name.raw || notify.is_plain() != name.is_plain()) {
            let message = format!("no step notifies the handler `{}`", name.raw);
            found.push(Diagnostic::on(&name.origin, message).warning());
        }
    }
}
