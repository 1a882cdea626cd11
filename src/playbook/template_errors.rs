//! Converts tera's errors to diagnostics with their place in the template.

use std::ops::Range;

use tera::ErrorKind;

use crate::inventory::{Diagnostic, Origin};

/// Finds the file of a template by the name under which tera knows it, and the place of some of its bytes.
pub(super) trait TemplateLocator {
    /// Returns the source of the template as tera has it.
    fn template_source(&self, template: &str) -> Option<&str>;
    /// Returns the place of a range of bytes of the source.
    fn locate_range(&self, template: &str, range: Range<usize>) -> Origin;
}

/// Converts a tera error to diagnostics: usually one; several for errors that tera detects after it has loaded all
/// templates.
pub(super) fn template_diagnostics(
    error: &tera::Error,
    places: &impl TemplateLocator,
    whole: &Origin,
) -> Vec<Diagnostic> {
    match error.kind() {
        ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => {
            let origin = places.locate_range(report.filename(), report.span().range.clone());
            vec![translate_message(&origin, report.message())]
        }
        ErrorKind::MissingParent { current, parent } => {
            let origin = places.locate_range(current, 0..0);
            vec![Diagnostic::error_at(&origin, format!("template `{parent}` to extend does not exist"))]
        }
        _ => reference_diagnostics(&error.to_string(), places)
            .unwrap_or_else(|| vec![translate_message(whole, &error.to_string())]),
    }
}

/// Returns the diagnostics for unknown filters, tests, functions and includes, which tera reports as one text.
fn reference_diagnostics(text: &str, places: &impl TemplateLocator) -> Option<Vec<Diagnostic>> {
    let mut found = Vec::new();
    for report in text.split("\n\n") {
        let mut lines = report.lines();
        let message = lines.next()?.strip_prefix("error: ")?;
        let place = lines.next()?.trim_start().strip_prefix("--> ")?;
        let mut parts = place.rsplitn(3, ':');
        let col: usize = parts.next()?.parse().ok()?;
        let line: usize = parts.next()?.parse().ok()?;
        let name = parts.next()?;
        let marked = lines.last().map_or(1, |line| line.matches('^').count().max(1));
        let start = byte_offset(places.template_source(name)?, line, col)?;
        found.push(translate_message(&places.locate_range(name, start..start + marked), message));
    }
    Some(found)
}

fn byte_offset(source: &str, line: usize, col: usize) -> Option<usize> {
    let start = match line {
        1 => 0,
        _ => source.match_indices('\n').nth(line - 2)?.0 + 1,
    };
    Some(start + source[start..].chars().take(col - 1).map(char::len_utf8).sum::<usize>())
}

/// Rewords a message of tera, which lists every known name: the nearest ones are enough.
fn translate_message(origin: &Origin, message: &str) -> Diagnostic {
    if let Some((what, known)) = message.split_once(" is not defined.") {
        let name = what.split('`').nth(1).unwrap_or_default();
        let known: Vec<&str> = known.split_once(": ").map(|(_, list)| list.split(", ").collect()).unwrap_or_default();
        let kind = if what.starts_with("Variable") { "variable" } else { "field" };
        return undefined_error(origin, kind, name, &known);
    }
    let mut lines = message.lines();
    let first = lines.next().unwrap_or("the template is not valid").trim_end_matches('.');
    let mut chars = first.chars();
    let lower = chars.next().map(|c| c.to_lowercase().chain(chars).collect::<String>()).unwrap_or_default();
    let rest: Vec<&str> = lines.collect();
    let diagnostic = Diagnostic::error_at(origin, lower);
    if rest.is_empty() { diagnostic } else { diagnostic.with_help(rest.join("\n")) }
}

/// Creates the error for an undefined variable or field, with the near names.
pub(super) fn undefined_error(origin: &Origin, kind: &str, name: &str, known: &[&str]) -> Diagnostic {
    let mut diagnostic = Diagnostic::error_at(origin, format!("{kind} `{name}` is not defined"));
    if name == "item" {
        return diagnostic.with_help("`item` exists in steps that have `for_each`");
    }
    if ["shards_here", "shards", "shard_map"].contains(&name) {
        return diagnostic.with_help("its source, `shards.toml` in the folder of the inventory, does not exist");
    }
    if name == "secrets" {
        return diagnostic.with_help("their source, `secrets.toml` in the folder of the inventory, does not exist");
    }
    if name == "maxmemory" {
        return diagnostic.with_help("set the variable `shard_maxmemory` for its host, for example \"256MiB\"");
    }
    diagnostic = match kind {
        "variable" => diagnostic.suggest_nearest(name, known.iter().copied()),
        _ => diagnostic.suggest_or_list(name, known.iter().copied()),
    };
    diagnostic
}
