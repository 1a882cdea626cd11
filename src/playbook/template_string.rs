//! Strings of a playbook: plain text, text with placeholders, conditions and lists; parsed once, evaluated per host.

use std::ops::Range;

use serde_json::Value as Json;
use tera::{Context, Tera};

use super::engine;
use super::template_errors::{self, TemplateLocator};
use super::variable_paths::{self, PathReference};
use crate::inventory::{Diagnostic, Diagnostics, Origin, SourceFile};

/// A string of the playbook.
#[derive(Clone, Debug)]
pub struct TemplateString {
    /// As the author wrote it, escapes resolved.
    pub source_text: String,
    /// Place of the string in the playbook.
    pub origin: Origin,
    kind: TemplateKind,
}

#[derive(Clone, Copy, Debug)]
enum TemplateKind {
    /// Text without a placeholder.
    Plain,
    /// Text with placeholders.
    Interpolated(usize),
    /// A single expression whose type is preserved: `"{{ port }}"`, or the list of `for_each`.
    Expression(usize),
    /// An expression that is true or false.
    Condition(usize),
}

/// Kind of evaluation of a string of the playbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StringUsage {
    /// A value: placeholders are filled in.
    Value,
    /// An expression that gives a list.
    List,
    /// An expression that is true or false.
    Condition,
}

impl TemplateString {
    /// Returns whether the string has no placeholder and is thus the same for every host.
    pub fn is_plain(&self) -> bool {
        matches!(self.kind, TemplateKind::Plain)
    }
}

/// Strings that must be evaluated.
pub(super) struct TemplateStrings {
    file: SourceFile,
    tera: Tera,
    parsed: Vec<ParsedString>,
}

struct ParsedString {
    /// The name under which the engine knows it.
    name: String,
    /// Source for the template engine.
    source: String,
    origin: Origin,
    /// Bytes by which an offset in `source` exceeds the offset in the author's string.
    prefix_len: usize,
    /// Offset of the author's string in the file; `None` if escapes make offsets differ.
    file_offset: Option<usize>,
    /// The string could not be parsed, which is already reported.
    is_broken: bool,
    /// The paths that are looked up beforehand; offsets into the author's string.
    paths: Vec<PathReference>,
}

impl TemplateStrings {
    pub(super) fn new(file: &SourceFile) -> Self {
        Self { file: file.clone(), tera: engine::new_engine(), parsed: Vec::new() }
    }

    /// Takes a string in; it is parsed with all others by [`Self::parse_all`].
    pub(super) fn add_string(&mut self, raw: &str, span: Range<usize>, usage: StringUsage) -> TemplateString {
        let begin = string_content_start(&self.file, &span, raw);
        let origin = Origin::at_span(&self.file, span);
        let number = self.parsed.len();
        let (form, source, shift, expression) = match (usage, single_expression(raw)) {
            (StringUsage::Value, Some(inner)) => {
                (TemplateKind::Expression(number), format!("{{{{ ({inner}) | to_json }}}}"), 2, Some((inner, 2)))
            }
            (StringUsage::Value, None) if ["{{", "{%", "{#"].iter().any(|mark| raw.contains(mark)) => {
                (TemplateKind::Interpolated(number), raw.to_owned(), 0, None)
            }
            (StringUsage::Value, None) => {
                return TemplateString { source_text: raw.to_owned(), origin, kind: TemplateKind::Plain };
            }
            (StringUsage::List, _) => {
                (TemplateKind::Expression(number), format!("{{{{ ({raw}) | to_json }}}}"), 4, Some((raw, 0)))
            }
            (StringUsage::Condition, _) => {
                (TemplateKind::Condition(number), format!("{{% if {raw} %}}1{{% endif %}}"), 6, Some((raw, 0)))
            }
        };
        let mut paths = expression.map(|(text, _)| variable_paths::find_paths(text)).unwrap_or_default();
        let by = expression.map_or(0, |(_, by)| by);
        paths.iter_mut().flat_map(|path| &mut path.spans).for_each(|span| *span = span.start + by..span.end + by);
        let name = format!("string {number}");
        self.parsed.push(ParsedString {
            name,
            source,
            origin: origin.clone(),
            prefix_len: shift,
            file_offset: begin,
            is_broken: false,
            paths,
        });
        TemplateString { source_text: raw.to_owned(), origin, kind: form }
    }

    /// Parses what was added; each string that cannot be parsed is reported and stays empty.
    pub(super) fn parse_all(&mut self, found: &mut Diagnostics) {
        let all: Vec<(&str, &str)> = self.parsed.iter().map(|one| (&*one.name, &*one.source)).collect();
        if self.tera.add_raw_templates(all).is_ok() {
            return;
        }
        for number in 0..self.parsed.len() {
            let one = &self.parsed[number];
            if let Err(error) = self.tera.add_raw_template(&one.name, &one.source) {
                template_errors::template_diagnostics(&error, self, &one.origin)
                    .into_iter()
                    .for_each(|d| found.push(d));
                self.parsed[number].is_broken = true;
            }
        }
    }

    /// Fills in the placeholders of a text. An error without diagnostics was reported already.
    pub(super) fn evaluate_text(&self, text: &TemplateString, context: &Context) -> Result<String, Vec<Diagnostic>> {
        Ok(match self.evaluate_value(text, context)? {
            Json::String(text) => text,
            other => other.to_string(),
        })
    }

    /// Evaluates a string; a single placeholder keeps the type of its value.
    pub(super) fn evaluate_value(&self, text: &TemplateString, context: &Context) -> Result<Json, Vec<Diagnostic>> {
        match text.kind {
            TemplateKind::Plain => Ok(text.source_text.as_str().into()),
            TemplateKind::Interpolated(number) => self.render_string(number, context).map(Json::from),
            TemplateKind::Condition(number) => {
                self.render_string(number, context).map(|shown| Json::from(!shown.is_empty()))
            }
            TemplateKind::Expression(number) => {
                let shown = self.render_string(number, context)?;
                let place = |error| vec![Diagnostic::error_at(&text.origin, format!("{error}"))];
                serde_json::from_str(&shown).map_err(place)
            }
        }
    }

    /// Evaluates a condition.
    pub(super) fn evaluate_condition(&self, text: &TemplateString, context: &Context) -> Result<bool, Vec<Diagnostic>> {
        self.evaluate_value(text, context).map(|value| value == Json::Bool(true))
    }

    fn render_string(&self, number: usize, context: &Context) -> Result<String, Vec<Diagnostic>> {
        let parsed = &self.parsed[number];
        if parsed.is_broken {
            return Err(Vec::new());
        }
        for path in &parsed.paths {
            self.check_path_defined(parsed, path, context).map_err(|diagnostic| vec![diagnostic])?;
        }
        let rendered = self.tera.render(&parsed.name, context);
        rendered.map_err(|error| template_errors::template_diagnostics(&error, self, &parsed.origin))
    }

    fn check_path_defined(
        &self,
        parsed: &ParsedString,
        path: &PathReference,
        context: &Context,
    ) -> Result<(), Diagnostic> {
        for length in 1..=path.names.len() {
            if engine::lookup_path(context, &path.names[..length]).is_some() {
                continue;
            }
            let span = &path.spans[length - 1];
            let origin = self.locate_bytes(parsed, span.clone());
            let name = &path.names[length - 1];
            return Err(match length {
                1 => {
                    let known = super::context::context_names(context);
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    template_errors::undefined_error(&origin, "variable", name, &known)
                }
                _ => {
                    let parent =
                        engine::lookup_path(context, &path.names[..length - 1]).and_then(|value| value.as_map());
                    let known: Vec<&str> =
                        parent.into_iter().flat_map(|map| map.keys()).filter_map(|key| key.as_str()).collect();
                    template_errors::undefined_error(&origin, "field", name, &known)
                }
            });
        }
        Ok(())
    }

    /// Returns the place of a range of bytes of the author's string.
    fn locate_bytes(&self, parsed: &ParsedString, range: Range<usize>) -> Origin {
        match parsed.file_offset {
            Some(begin) => Origin::at_span(&self.file, begin + range.start..begin + range.end),
            None => parsed.origin.clone(),
        }
    }

    fn find_parsed(&self, name: &str) -> Option<&ParsedString> {
        self.parsed.get(name.strip_prefix("string ")?.parse::<usize>().ok()?)
    }
}

impl TemplateLocator for TemplateStrings {
    fn template_source(&self, template: &str) -> Option<&str> {
        self.find_parsed(template).map(|parsed| parsed.source.as_str())
    }

    fn locate_range(&self, template: &str, range: Range<usize>) -> Origin {
        match self.find_parsed(template) {
            // What tera complains about may be our own frame; then the whole string is the place.
            Some(parsed) => {
                match (range.start.checked_sub(parsed.prefix_len), range.end.checked_sub(parsed.prefix_len)) {
                    (Some(start), Some(end)) if end <= parsed.span_len() => {
                        self.locate_bytes(parsed, start..end.max(start))
                    }
                    _ => parsed.origin.clone(),
                }
            }
            None => Origin::whole_file(&self.file),
        }
    }
}

impl ParsedString {
    fn span_len(&self) -> usize {
        self.origin.span.as_ref().map_or(0, |span| span.len())
    }
}

/// Returns the expression of a string that is exactly one `{{ … }}`.
fn single_expression(raw: &str) -> Option<&str> {
    let inner = raw.strip_prefix("{{")?.strip_suffix("}}")?;
    let trimmed = !inner.starts_with('-') && !inner.ends_with('-');
    (trimmed && !["{{", "}}", "{%", "{#"].iter().any(|mark| inner.contains(mark))).then_some(inner)
}

/// Returns the offset at which the text of a string begins after its quotes; `None` if escapes make the text differ
/// from the file.
fn string_content_start(file: &SourceFile, span: &Range<usize>, text: &str) -> Option<usize> {
    let written = file.text().get(span.clone())?;
    let quotes = ["\"\"\"\n", "'''\n", "\"\"\"", "'''", "\"", "'"];
    let quote = quotes.iter().find(|quote| written.starts_with(**quote))?;
    written[quote.len()..].starts_with(text).then(|| span.start + quote.len())
}
