//! Reading TOML tables field by field: every mistake is reported with its place, and reading continues.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::{Located, Origin, SourceFile};
use super::toml_recovery;

/// Parses a whole file. Syntax errors are reported, at most one per line; the readable part is returned anyway.
pub fn parse_table<'i>(file: &'i SourceFile, found: &mut Diagnostics) -> Spanned<DeTable<'i>> {
    let (mut table, mut errors) = DeTable::parse_recoverable(file.text());
    if errors.iter().any(|error| error.message().starts_with("unclosed")) {
        let unclosed_statements = toml_recovery::find_unclosed(file.text());
        for one in &unclosed_statements {
            let bracket = &file.text()[one.bracket..=one.bracket];
            found.push(Diagnostic::error_at_span(
                file,
                one.bracket..one.bracket + 1,
                format!("`{bracket}` is not closed"),
            ));
        }
        (table, errors) = DeTable::parse_recoverable(
            file.recovered_text(|text| toml_recovery::blank_statements(text, &unclosed_statements)),
        );
    }
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    let mut last_line = 0;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        // What follows on the same line is mostly the same mistake again.
        let (line, _) = file.line_col(span.start);
        if line != last_line {
            found.push(syntax_error(file, span, error.message()));
        }
        last_line = line;
    }
    table
}

/// Converts the parser's message; its second line, if any, says what it expected and becomes the help.
fn syntax_error(file: &SourceFile, span: Range<usize>, message: &str) -> Diagnostic {
    let mut lines = message.lines();
    let diagnostic = Diagnostic::error_at_span(file, span, lines.next().unwrap_or("not valid TOML"));
    let rest: Vec<&str> = lines.collect();
    if rest.is_empty() { diagnostic } else { diagnostic.with_help(rest.join("\n")) }
}

/// A table of a file whose fields are taken one by one; the remaining keys are reported as unknown.
pub struct TableReader<'t, 'i> {
    file: &'t SourceFile,
    table: &'t DeTable<'i>,
    span: Range<usize>,
    known_keys: Vec<&'static str>,
}

impl<'t, 'i> TableReader<'t, 'i> {
    /// Creates a reader of the table at `span` (for the root: the whole file).
    pub fn new(file: &'t SourceFile, table: &'t DeTable<'i>, span: Range<usize>) -> Self {
        Self { file, table, span, known_keys: Vec::new() }
    }

    /// Returns the place of the table.
    pub fn table_origin(&self) -> Origin {
        Origin::at_span(self.file, self.span.clone())
    }

    /// Takes a field as it is.
    pub fn take_raw(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known_keys.push(key);
        self.table.get(key)
    }

    /// Returns the place of a field's value, or of the table if the field is absent.
    pub fn field_origin(&self, key: &str) -> Origin {
        self.table.get(key).map_or_else(|| self.table_origin(), |value| Origin::at_span(self.file, value.span()))
    }

    /// Takes a string.
    pub fn take_string(&mut self, key: &'static str, found: &mut Diagnostics) -> Option<Located<String>> {
        let value = self.take_raw(key)?;
        read_string(self.file, key, value, found)
    }

    /// Takes a string and parses it; what the parser says becomes the message.
    pub fn take_parsed<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        found: &mut Diagnostics,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Located<T>> {
        let text = self.take_string(key, found)?;
        match parse(&text.value) {
            Ok(value) => Some(Located::new(value, text.origin)),
            Err(error) => {
                found.push(Diagnostic::error_at(&text.origin, error.to_string()));
                None
            }
        }
    }

    /// Takes `true` or `false`.
    pub fn take_bool(&mut self, key: &'static str, found: &mut Diagnostics) -> Option<Located<bool>> {
        let value = self.take_raw(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(Located::new(*flag, Origin::at_span(self.file, value.span()))),
            _ => self.report_wrong_type(key, value, "true or false", found),
        }
    }

    /// Takes a whole number within bounds.
    pub fn take_integer(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<i64>,
        found: &mut Diagnostics,
    ) -> Option<Located<i64>> {
        let value = self.take_raw(key)?;
        let DeValue::Integer(digits) = value.get_ref() else {
            return self.report_wrong_type(key, value, "a whole number", found);
        };
        match i64::from_str_radix(digits.as_str(), digits.radix()).ok().filter(|n| bounds.contains(n)) {
            Some(n) => Some(Located::new(n, Origin::at_span(self.file, value.span()))),
            None => {
                let message = format!("`{key}` must be between {} and {}", bounds.start(), bounds.end());
                found.push(Diagnostic::error_at_span(self.file, value.span(), message));
                None
            }
        }
    }

    /// Takes a finite number, whole or not.
    pub fn take_number(&mut self, key: &'static str, found: &mut Diagnostics) -> Option<Located<f64>> {
        let value = self.take_raw(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).ok().map(|n| n as f64),
            DeValue::Float(digits) => digits.as_str().parse().ok().filter(|n: &f64| n.is_finite()),
            _ => None,
        };
        match number {
            Some(number) => Some(Located::new(number, Origin::at_span(self.file, value.span()))),
            None => self.report_wrong_type(key, value, "a finite number", found),
        }
    }

    /// Takes a list of strings; an absent list is empty.
    pub fn take_strings(&mut self, key: &'static str, found: &mut Diagnostics) -> Vec<Located<String>> {
        let Some(value) = self.take_raw(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| read_string(self.file, key, item, found)).collect(),
            _ => {
                let _: Option<()> = self.report_wrong_type(key, value, "a list of strings", found);
                Vec::new()
            }
        }
    }

    /// Takes a sub-table.
    pub fn take_table(&mut self, key: &'static str, found: &mut Diagnostics) -> Option<TableReader<'t, 'i>> {
        let value = self.take_raw(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(TableReader::new(self.file, table, value.span())),
            _ => self.report_wrong_type(key, value, "a table", found),
        }
    }

    /// Returns the entries of a table with free names, in the order of the file, each with the place of its key.
    /// Entries that are not tables are reported and skipped.
    pub fn named_tables(&self, what: &str, found: &mut Diagnostics) -> Vec<(Located<String>, TableReader<'t, 'i>)> {
        let mut entries = Vec::with_capacity(self.table.len());
        for (key, value) in self.table {
            let name = Located::new(key.get_ref().to_string(), Origin::at_span(self.file, key.span()));
            match value.get_ref() {
                DeValue::Table(table) => entries.push((name, TableReader::new(self.file, table, value.span()))),
                other => found.push(
                    Diagnostic::error_at_span(
                        self.file,
                        value.span(),
                        format!("{what} `{}` is not a table", name.value),
                    )
                    .with_label(format!("this is {}", type_name(other))),
                ),
            }
        }
        entries.sort_by_key(|(name, _)| name.origin.span.as_ref().map(|span| span.start));
        entries
    }

    /// Returns the entries unchanged, in the order of the file.
    pub fn sorted_entries(&self) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    /// Reports every unknown key, with a suggestion. `what` names the table: "a host".
    pub fn report_unknown_keys(self, what: &str, found: &mut Diagnostics) {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if !self.known_keys.contains(&name) {
                found.push(
                    Diagnostic::error_at_span(self.file, key.span(), format!("unknown key `{name}` in {what}"))
                        .suggest_or_list(name, self.known_keys.iter().copied()),
                );
            }
        }
    }

    fn report_wrong_type<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'i>>,
        wanted: &str,
        found: &mut Diagnostics,
    ) -> Option<T> {
        found.push(wrong_type_error(self.file, key, value, wanted));
        None
    }
}

/// Creates the error for a value of the wrong type.
pub fn wrong_type_error(file: &SourceFile, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Diagnostic {
    Diagnostic::error_at_span(file, value.span(), format!("`{key}` must be {wanted}"))
        .with_label(format!("this is {}", type_name(value.get_ref())))
}

/// Returns the type of a TOML value with its article.
pub fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn read_string(
    file: &SourceFile,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    found: &mut Diagnostics,
) -> Option<Located<String>> {
    match value.get_ref() {
        DeValue::String(text) => Some(Located::new(text.to_string(), Origin::at_span(file, value.span()))),
        _ => {
            found.push(wrong_type_error(file, key, value, "a string"));
            None
        }
    }
}
