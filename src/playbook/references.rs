//! Checks of a play that need no host: tables against their types, handlers against `notify`.

use serde_json::{Map, Value as Json};

use super::content_store;
use super::model::{PlaybookPlay, PlaybookStep, TableEntry};
use super::{step_schema, value_template};
use crate::inventory::{Diagnostic, Diagnostics, SourceFile};

/// Validates each step's table by its type. Values with placeholders are validated once they are rendered for a host.
pub(super) fn check_tables(file: &SourceFile, play: &mut PlaybookPlay, found: &mut Diagnostics) {
    for step in play.steps.iter_mut().chain(&mut play.handlers) {
        let wrong = check_step_table(file, step);
        step.is_valid = wrong.is_empty();
        wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
    }
}

fn check_step_table(file: &SourceFile, step: &PlaybookStep) -> Vec<Diagnostic> {
    let written: Map<String, Json> =
        step.table.iter().map(|entry| (entry.key.clone(), value_template::to_source_json(&entry.value))).collect();
    let filled = match content_store::placeholder_table(step, written) {
        Ok(table) => table,
        Err(wrong) => return vec![wrong],
    };
    let later = |key: &str| {
        let of_key = |entry: &TableEntry| entry.key == key && entry.value.has_placeholder();
        step.table.iter().any(of_key)
    };
    match step_schema::parse_resource(step.kind, &filled) {
        Err(faults) => {
            let now = faults.iter().filter(|fault| fault.is_unknown || !fault.key.as_deref().is_some_and(later));
            now.map(|fault| fault.to_diagnostic(step.kind, &step.table, file, &step.origin)).collect()
        }
        Ok(resource) if !step.table.iter().any(|entry| entry.value.has_placeholder()) => {
            let refused = resource.validate().err();
            let fault = |said| {
                step_schema::SchemaError::for_table(said).to_diagnostic(step.kind, &step.table, file, &step.origin)
            };
            refused.map(fault).into_iter().collect()
        }
        Ok(_) => Vec::new(),
    }
}

/// Holds `notify` against the handlers' names, as far as they are written out.
pub(super) fn check_handler_references(play: &PlaybookPlay, found: &mut Diagnostics) {
    let names: Vec<&str> =
        play.handlers.iter().filter_map(|h| h.name.as_ref()).map(|name| name.source_text.as_str()).collect();
    let templated = play.handlers.iter().any(|handler| handler.name.as_ref().is_some_and(|name| !name.is_plain()));
    let notified: Vec<_> = play.steps.iter().flat_map(|step| &step.notify).collect();
    for notify in &notified {
        // Names with placeholders can only be compared after rendering.
        if names.contains(&notify.source_text.as_str()) || templated || !notify.is_plain() || !play.has_all_handlers {
            continue;
        }
        let message = format!("no handler `{}` in play `{}`", notify.source_text, play.name.value);
        found.push(
            Diagnostic::error_at(&notify.origin, message).suggest_or_list(&notify.source_text, names.iter().copied()),
        );
    }
    for (index, name) in play.handlers.iter().filter_map(|handler| handler.name.as_ref()).enumerate() {
        if names[..index].contains(&name.source_text.as_str()) {
            found.push(Diagnostic::error_at(&name.origin, format!("a handler `{}` exists already", name.source_text)));
        } else if !notified
            .iter()
            .any(|notify| notify.source_text == name.source_text || notify.is_plain() != name.is_plain())
        {
            let message = format!("no step notifies the handler `{}`", name.source_text);
            found.push(Diagnostic::error_at(&name.origin, message).as_warning());
        }
    }
}
