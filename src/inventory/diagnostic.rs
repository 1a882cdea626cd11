//! Findings of loaders: collected, then shown together with an excerpt or as JSON.
//!
//! Loaders never stop at the first mistake. They push into [`Diagnostics`] and go on with what they could read.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Origin as Place, Renderer, Snippet};

use super::source::{Origin, SourceFile};

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The input cannot be used.
    Error,
    /// The input can be used, but is probably not intended.
    Warning,
}

impl Severity {
    /// Returns `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A finding with its place and a suggested correction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file and the bytes in it.
    pub origin: Origin,
    /// Message in one line, without a full stop at its end.
    pub message: String,
    /// Text beside the caret.
    pub label: Option<String>,
    /// Suggested correction; may have several lines.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Creates an error at a range of bytes of a file.
    pub fn error_at_span(file: &SourceFile, span: Range<usize>, message: impl Into<String>) -> Self {
        Self::error_at(&Origin::at_span(file, span), message)
    }

    /// Creates an error about a file as a whole.
    pub fn error_in_file(file: &SourceFile, message: impl Into<String>) -> Self {
        Self::error_at(&Origin::whole_file(file), message)
    }

    /// Creates an error about a path that was not read, or could not be.
    pub fn error_at_path(path: &Path, message: impl Into<String>) -> Self {
        Self::error_in_file(&SourceFile::new(path, ""), message)
    }

    /// Creates an error about a value with a known place.
    pub fn error_at(origin: &Origin, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, origin: origin.clone(), message: message.into(), label: None, help: None }
    }

    /// Turns it into a warning.
    pub fn as_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Sets the text beside the caret.
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets what to do about it.
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds `did you mean …?` where one of the known words is near the unknown one.
    pub fn suggest_nearest<'a>(self, unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest_words(unknown, known).first() {
            Some(near) => self.with_help(format!("did you mean `{near}`?")),
            None => self,
        }
    }

    /// Adds help like [`Self::suggest_nearest`]; if no known word is near, the help lists all of them.
    pub fn suggest_or_list<'a>(self, unknown: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Self {
        let with = self.suggest_nearest(unknown, known.clone());
        let all: Vec<&str> = known.into_iter().collect();
        if with.help.is_some() || all.is_empty() {
            with
        } else {
            with.with_help(format!("known keys: {}", all.join(", ")))
        }
    }

    /// Returns the path of the file.
    pub fn file_path(&self) -> &Path {
        self.origin.file.path()
    }

    /// Renders the text for a person: headline, place, excerpt with a caret, help.
    pub fn render(&self, colored: bool) -> String {
        let renderer = if colored { Renderer::styled() } else { Renderer::plain() };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let path = self.file_path().display().to_string();
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        group = match &self.origin.span {
            Some(span) if !self.origin.file.is_concealed() => group.element(self.build_snippet(span, path)),
            Some(span) => {
                let (line, col) = self.origin.file.line_col(span.start);
                group.element(Place::path(path).line(line).char_column(col))
            }
            None => group.element(Place::path(path)),
        };
        for line in self.help.iter().flat_map(|help| help.lines()) {
            group = group.element(Level::HELP.message(line));
        }
        renderer.render(&[group])
    }

    fn build_snippet(&self, span: &Range<usize>, path: String) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
        let (line, start, mut text) = self.origin.file.lines_around(span);
        // A long table would be shown whole; its first line says enough.
        let mut end = span.end;
        if text.lines().count() > 3 {
            text = text.lines().next().unwrap_or_default();
            end = end.min(start + text.len());
        }
        let from = span.start.saturating_sub(start).min(text.len());
        let to = end.saturating_sub(start).clamp(from, text.len());
        let mut mark = AnnotationKind::Primary.span(from..to);
        if let Some(label) = &self.label {
            mark = mark.label(label.as_str());
        }
        Snippet::source(text).line_start(line).path(path).fold(false).annotation(mark)
    }

    /// Returns `{severity, file, line, col, message, label, help}`; absent values are `null`.
    pub fn to_json(&self) -> serde_json::Value {
        let place = self.origin.line_col();
        serde_json::json!({
            "severity": self.severity.as_str(),
            "file": self.file_path().display().to_string(),
            "line": place.map(|(line, _)| line),
            "col": place.map(|(_, col)| col),
            "message": self.message,
            "label": self.label,
            "help": self.help,
        })
    }
}

/// Formats the finding as one line: `path:line:col: error: message`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.severity.as_str(), self.message)
    }
}

/// Findings of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Creates an empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.items.push(diagnostic);
    }

    /// Adds the findings of another load.
    pub fn extend(&mut self, other: Self) {
        self.items.extend(other.items);
    }

    /// Returns whether there are no findings.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns whether a finding makes the result unusable.
    pub fn has_errors(&self) -> bool {
        self.error_count() > 0
    }

    /// Returns the number of errors.
    pub fn error_count(&self) -> usize {
        self.items.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// Returns the number of warnings.
    pub fn warning_count(&self) -> usize {
        self.items.len() - self.error_count()
    }

    /// Returns the findings in their current order; [`Self::sort`] orders them by place.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.items.iter()
    }

    /// Orders by file, then place; the same finding at the same place stays once.
    pub fn sort(&mut self) {
        let key = |d: &Diagnostic| d.origin.span.as_ref().map(|s| (s.start, s.end));
        self.items.sort_by(|a, b| {
            (a.file_path(), key(a), a.severity, &a.message).cmp(&(b.file_path(), key(b), b.severity, &b.message))
        });
        self.items.dedup();
    }

    /// Renders the findings as text, separated by empty lines and with a line feed at the end. Returns an empty text if
    /// there are no findings.
    pub fn render(&self, colored: bool) -> String {
        let shown: Vec<String> = self.items.iter().map(|d| d.render(colored) + "\n").collect();
        shown.join("\n")
    }

    /// Returns a JSON array of [`Diagnostic::to_json`].
    pub fn to_json(&self) -> serde_json::Value {
        self.items.iter().map(Diagnostic::to_json).collect()
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Returns the known words near an unknown one, nearest first, at most three. Near means: a third of the letters
/// differ, or one of the two begins with the other.
pub fn nearest_words<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = unknown.to_lowercase();
    let budget = (unknown.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|word| {
            // The length alone rules most words out; that keeps ten thousand names cheap.
            let shares_prefix =
                lower.len() > 2 && word.len() > 2 && (word.starts_with(&lower) || lower.starts_with(word));
            if word.len().abs_diff(lower.len()) > budget * 4 && !shares_prefix {
                return None;
            }
            let distance = strsim::damerau_levenshtein(&lower, &word.to_lowercase());
            (distance <= budget || shares_prefix).then_some((distance, word))
        })
        .collect();
    near.sort();
    near.into_iter().map(|(_, word)| word).take(3).collect()
}
