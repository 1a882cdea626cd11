//! A text file that was read, and places in it. Both are cheap to clone, so every value can keep its place.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A file with its text. A clone shares the text.
#[derive(Clone)]
pub struct SourceFile {
    inner: Arc<SourceFileInner>,
}

struct SourceFileInner {
    path: PathBuf,
    text: String,
    line_starts: Vec<usize>,
    concealed: bool,
    /// The text without what no parser could make sense of; same length, same places.
    without_unclosed: OnceLock<String>,
}

impl SourceFile {
    /// Creates a file whose lines may be shown in diagnostics.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self::from_parts(path.into(), text.into(), false)
    }

    /// Creates a file whose lines are never shown, because it holds secrets; diagnostics give the place only.
    pub fn new_concealed(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self::from_parts(path.into(), text.into(), true)
    }

    fn from_parts(path: PathBuf, text: String, concealed: bool) -> Self {
        let line_starts =
            std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1));
        let line_starts = line_starts.collect();
        Self {
            inner: Arc::new(SourceFileInner { path, text, line_starts, concealed, without_unclosed: OnceLock::new() }),
        }
    }

    /// Returns the path as the user gave it.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns the whole text.
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// Keeps a text of the same length with spoiled parts blanked out, for a second reading.
    pub(super) fn recovered_text(&self, mend: impl FnOnce(&str) -> String) -> &str {
        self.inner.without_unclosed.get_or_init(|| mend(self.text()))
    }

    /// Returns whether lines of this file must not be shown.
    pub fn is_concealed(&self) -> bool {
        self.inner.concealed
    }

    /// Returns line and column of a byte offset, both from 1; columns count characters. An offset past the end counts
    /// as the end.
    pub fn line_col(&self, offset: usize) -> (usize, usize) {
        let offset = self.clamp_offset(offset);
        let line = self.line_index(offset);
        let col = self.inner.text[self.inner.line_starts[line]..offset].chars().count();
        (line + 1, col + 1)
    }

    /// Returns the number of the first line (from 1), its byte offset, and the text of all lines that a span touches.
    pub(super) fn lines_around(&self, span: &Range<usize>) -> (usize, usize, &str) {
        let starts = &self.inner.line_starts;
        let first = self.line_index(self.clamp_offset(span.start));
        let last = self.line_index(self.clamp_offset(span.end.max(span.start + 1) - 1)).max(first);
        let end = starts.get(last + 1).copied().unwrap_or(self.inner.text.len());
        (first + 1, starts[first], &self.inner.text[starts[first]..end])
    }

    fn line_index(&self, offset: usize) -> usize {
        self.inner.line_starts.partition_point(|start| *start <= offset) - 1
    }

    fn clamp_offset(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.inner.text.len());
        while !self.inner.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFile({})", self.path().display())
    }
}

impl PartialEq for SourceFile {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) || (self.path() == other.path() && self.text() == other.text())
    }
}

impl Eq for SourceFile {}

/// Place of a value: a file and, if known, the range of bytes in it. Displays as `path:line:col`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: SourceFile,
    /// Byte offsets into the file's text; `None` for the file as a whole.
    pub span: Option<Range<usize>>,
}

impl Origin {
    /// Creates a place in a file.
    pub fn at_span(file: &SourceFile, span: Range<usize>) -> Self {
        Self { file: file.clone(), span: Some(span) }
    }

    /// Creates the place of a file as a whole.
    pub fn whole_file(file: &SourceFile) -> Self {
        Self { file: file.clone(), span: None }
    }

    /// Returns line and column from 1; `None` for a file as a whole.
    pub fn line_col(&self) -> Option<(usize, usize)> {
        self.span.as_ref().map(|span| self.file.line_col(span.start))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.path().display())?;
        match self.line_col() {
            Some((line, col)) => write!(f, ":{line}:{col}"),
            None => Ok(()),
        }
    }
}

/// A value together with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Place of the value.
    pub origin: Origin,
}

impl<T> Located<T> {
    /// Puts a value and its place together.
    pub fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }
}

#[cfg(test)]
mod tests {
    use super::{Origin, SourceFile};

    #[test]
    fn columns_count_characters_and_lines_start_at_one() {
        let file = SourceFile::new("a.toml", "x = 1\nä = 2\n");
        assert_eq!(file.line_col(0), (1, 1));
        assert_eq!(file.line_col(5), (1, 6));
        assert_eq!(file.line_col(6), (2, 1));
        assert_eq!(file.line_col(8), (2, 2));
        assert_eq!(file.line_col(7), (2, 1), "inside a character counts as its start");
        assert_eq!(file.line_col(999), (3, 1));
        assert_eq!(Origin::at_span(&file, 6..7).to_string(), "a.toml:2:1");
        assert_eq!(Origin::whole_file(&file).to_string(), "a.toml");
    }

    #[test]
    fn empty_files_have_one_line() {
        let file = SourceFile::new("a.toml", "");
        assert_eq!(file.line_col(0), (1, 1));
        assert_eq!(file.lines_around(&(0..0)), (1, 0, ""));
    }
}
