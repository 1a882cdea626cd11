//! Strings of a playbook: plain text, text with placeholders, conditions and lists; parsed once, evaluated per host.

use std::ops::Range;

use serde_json::Value as Json;
use tera::{Context, Tera};

use super::diagnose::{self, Places};
use super::paths::{self, PathUse};
use super::{engine, nodes};
use crate::inventory::{Diagnostic, Diagnostics, Origin, SourceFile};

/// A string of the playbook.
#[derive(Clone, Debug)]
pub struct Text {
    /// As the author wrote it, escapes resolved.
    pub raw: String,
    /// Where it stands.
    pub origin: Origin,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// No placeholder.
    Plain,
    /// Text with placeholders.
    Mixed(usize),
    /// One expression whose type is kept: `"{{ port }}"`, or the list of `for_each`.
    Typed(usize),
    /// An expression that is true or false.
    Condition(usize),
}

/// What becomes of a string of the playbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A value: placeholders are filled in.
    Value,
    /// An expression that gives a list.
    List,
    /// An expression that is true or false.
    Condition,
}

impl Text {
    /// Whether it has no placeholder: it is the same for every host.
    pub fn is_plain(&self) -> bool {
        matches!(self.form, Form::Plain)
    }
}

/// All strings that have to be evaluated.
pub(super) struct Strings {
    file: SourceFile,
    tera: Tera,
    parsed: Vec<Parsed>,
}

struct Parsed {
    /// The name under which the engine knows it.
    name: String,
    /// What the engine was given.
    source: String,
    origin: Origin,
    /// What the offset of a byte in `source` is more than its offset in the author's string.
    shift: usize,
    /// Where the author's string begins in the file; `None` where escapes make offsets differ.
    begin: Option<usize>,
    /// Whether it could not be parsed, which is reported already.
    is_broken: bool,
    /// The paths that are looked up beforehand; offsets into the author's string.
    paths: Vec<PathUse>,
}

impl Strings {
    pub(super) fn new(file: &SourceFile) -> Self {
        Self { file: file.clone(), tera: engine::new(), parsed: Vec::new() }
    }

    /// Takes a string in; it is parsed with all others by [`Self::finish`].
    pub(super) fn add(&mut self, raw: &str, span: Range<usize>, usage: Use) -> Text {
        let begin = nodes::begin_of(&self.file, &span, raw);
        let origin = Origin::at(&self.file, span);
        let number = self.parsed.len();
        let (form, source, shift, expression) = match (usage, single_expression(raw)) {
            (Use::Value, Some(inner)) => {
                (Form::Typed(number), format!("{{{{ ({inner}) | to_json }}}}"), 2, Some((inner, 2)))
            }
            (Use::Value, None) if ["{{", "{%", "{#"].iter().any(|mark| raw.contains(mark)) => {
                (Form::Mixed(number), raw.to_owned(), 0, None)
            }
            (Use::Value, None) => return Text { raw: raw.to_owned(), origin, form: Form::Plain },
            (Use::List, _) => (Form::Typed(number), format!("{{{{ ({raw}) | to_json }}}}"), 4, Some((raw, 0))),
            (Use::Condition, _) => {
                (Form::Condition(number), format!("{{% if {raw} %}}1{{% endif %}}"), 6, Some((raw, 0)))
            }
        };
        let mut paths = expression.map(|(text, _)| paths::of(text)).unwrap_or_default();
        let by = expression.map_or(0, |(_, by)| by);
        paths.iter_mut().flat_map(|path| &mut path.spans).for_each(|span| *span = span.start + by..span.end + by);
        let name = format!("string {number}");
        self.parsed.push(Parsed { name, source, origin: origin.clone(), shift, begin, is_broken: false, paths });
        Text { raw: raw.to_owned(), origin, form }
    }

    /// Parses what was added; each string that cannot be parsed is reported and stays empty.
    pub(super) fn finish(&mut self, found: &mut Diagnostics) {
        let all: Vec<(&str, &str)> = self.parsed.iter().map(|one| (&*one.name, &*one.source)).collect();
        if self.tera.add_raw_templates(all).is_ok() {
            return;
        }
        for number in 0..self.parsed.len() {
            let one = &self.parsed[number];
            if let Err(error) = self.tera.add_raw_template(&one.name, &one.source) {
                diagnose::diagnostics(&error, self, &one.origin).into_iter().for_each(|d| found.push(d));
                self.parsed[number].is_broken = true;
            }
        }
    }

    /// The text with its placeholders filled in. No diagnostics in an error: the string is reported already.
    pub(super) fn text(&self, text: &Text, context: &Context) -> Result<String, Vec<Diagnostic>> {
        Ok(match self.value(text, context)? {
            Json::String(text) => text,
            other => other.to_string(),
        })
    }

    /// The value of a string: a single placeholder keeps the type of what it stands for.
    pub(super) fn value(&self, text: &Text, context: &Context) -> Result<Json, Vec<Diagnostic>> {
        match text.form {
            Form::Plain => Ok(text.raw.as_str().into()),
            Form::Mixed(number) => self.render(number, context).map(Json::from),
            Form::Condition(number) => self.render(number, context).map(|shown| Json::from(!shown.is_empty())),
            Form::Typed(number) => {
                let shown = self.render(number, context)?;
                let place = |error| vec![Diagnostic::on(&text.origin, format!("{error}"))];
                serde_json::from_str(&shown).map_err(place)
            }
        }
    }

    /// Whether a condition holds.
    pub(super) fn holds(&self, text: &Text, context: &Context) -> Result<bool, Vec<Diagnostic>> {
        self.value(text, context).map(|value| value == Json::Bool(true))
    }

    fn render(&self, number: usize, context: &Context) -> Result<String, Vec<Diagnostic>> {
        let parsed = &self.parsed[number];
        if parsed.is_broken {
            return Err(Vec::new());
        }
        for path in &parsed.paths {
            self.look_up(parsed, path, context).map_err(|diagnostic| vec![diagnostic])?;
        }
        let rendered = self.tera.render(&parsed.name, context);
        rendered.map_err(|error| diagnose::diagnostics(&error, self, &parsed.origin))
    }

    fn look_up(&self, parsed: &Parsed, path: &PathUse, context: &Context) -> Result<(), Diagnostic> {
        for length in 1..=path.names.len() {
            if engine::lookup(context, &path.names[..length]).is_some() {
                continue;
            }
            let span = &path.spans[length - 1];
            let origin = self.place_of(parsed, span.clone());
            let name = &path.names[length - 1];
            return Err(match length {
                1 => {
                    let known = super::context::names(context);
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    diagnose::undefined(&origin, "variable", name, &known)
                }
                _ => {
                    let parent = engine::lookup(context, &path.names[..length - 1]).and_then(|value| value.as_map());
                    let known: Vec<&str> =
                        parent.into_iter().flat_map(|map| map.keys()).filter_map(|key| key.as_str()).collect();
                    diagnose::undefined(&origin, "field", name, &known)
                }
            });
        }
        Ok(())
    }

    /// The place of some bytes of the author's string.
    fn place_of(&self, parsed: &Parsed, range: Range<usize>) -> Origin {
        match parsed.begin {
            Some(begin) => Origin::at(&self.file, begin + range.start..begin + range.end),
            None => parsed.origin.clone(),
        }
    }

    fn parsed(&self, name: &str) -> Option<&Parsed> {
        self.parsed.get(name.strip_prefix("string ")?.parse::<usize>().ok()?)
    }
}

impl Places for Strings {
    fn source(&self, template: &str) -> Option<&str> {
        self.parsed(template).map(|parsed| parsed.source.as_str())
    }

    fn place(&self, template: &str, range: Range<usize>) -> Origin {
        match self.parsed(template) {
            // What tera complains about may be our own frame; then the whole string is the place.
            Some(parsed) => match (range.start.checked_sub(parsed.shift), range.end.checked_sub(parsed.shift)) {
                (Some(start), Some(end)) if end <= parsed.origin_len() => self.place_of(parsed, start..end.max(start)),
                _ => parsed.origin.clone(),
            },
            None => Origin::whole(&self.file),
        }
    }
}

impl Parsed {
    fn origin_len(&self) -> usize {
        self.origin.span.as_ref().map_or(0, |span| span.len())
    }
}

/// What stands in `{{ … }}` where that is the whole string.
fn single_expression(raw: &str) -> Option<&str> {
    let inner = raw.strip_prefix("{{")?.strip_suffix("}}")?;
    let trimmed = !inner.starts_with('-') && !inner.ends_with('-');
    (trimmed && !["{{", "}}", "{%", "{#"].iter().any(|mark| inner.contains(mark))).then_some(inner)
}
