//! Variables: typed values with the place of their definition.
//!
//! Precedence, lowest first: `[defaults] vars` < `[groups.all]` < groups by depth (a child beats its parents), at equal
//! depth by name (`b` beats `a`) < `[hosts.NAME] vars`. A table is replaced as a whole, never merged into.

use std::collections::BTreeMap;

use serde::Serialize;
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::fields::TableReader;
use super::source::{Origin, SourceFile};

/// A variable's value. Serializes as the plain value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum VarData {
    /// Text.
    String(String),
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A list.
    Array(Vec<VarData>),
    /// A table by key.
    Table(BTreeMap<String, VarData>),
}

/// A value and where it was set.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// The value.
    pub value: VarData,
    /// Place of the value; displays as `path:line:col`.
    pub origin: Origin,
}

/// Variables by name.
pub type Vars = BTreeMap<String, Variable>;

impl VarData {
    /// Returns it as a JSON value.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::String(text) => text.as_str().into(),
            Self::Integer(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Boolean(flag) => (*flag).into(),
            Self::Array(items) => items.iter().map(Self::to_json).collect(),
            Self::Table(entries) => entries.iter().map(|(key, value)| (key.clone(), value.to_json())).collect(),
        }
    }

    /// Converts JSON. `null` is not a value: it gives `None` at the top, and is left out of tables.
    ///
    /// # Errors
    /// Returns a sentence if a [`VarData`] cannot hold the value: `null` in a list, whole numbers beyond 64 bits.
    pub fn from_json(json: &serde_json::Value) -> Result<Option<Self>, &'static str> {
        Ok(Some(match json {
            serde_json::Value::Null => return Ok(None),
            serde_json::Value::Bool(flag) => Self::Boolean(*flag),
            serde_json::Value::String(text) => Self::String(text.clone()),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Self::Integer(whole),
                (None, Some(float)) if !number.is_u64() && float.is_finite() => Self::Float(float),
                _ => return Err("a whole number beyond 64 bits"),
            },
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| Self::from_json(item)?.ok_or("`null` in a list"));
                Self::Array(items.collect::<Result<_, _>>()?)
            }
            serde_json::Value::Object(entries) => {
                let mut table = BTreeMap::new();
                for (key, entry) in entries {
                    if let Some(value) = Self::from_json(entry)? {
                        table.insert(key.clone(), value);
                    }
                }
                Self::Table(table)
            }
        }))
    }

    /// Converts a TOML value; reports unsupported values (dates, infinite numbers) and returns `None` for them.
    fn from_toml(file: &SourceFile, toml: &Spanned<DeValue<'_>>, found: &mut Diagnostics) -> Option<Self> {
        let mut refuse = |message: &str, help: &str| {
            found.push(Diagnostic::error_at_span(file, toml.span(), message).with_help(help));
            None
        };
        match toml.get_ref() {
            DeValue::String(text) => Some(Self::String(text.to_string())),
            DeValue::Boolean(flag) => Some(Self::Boolean(*flag)),
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(number) => Some(Self::Integer(number)),
                Err(_) => refuse("a whole number beyond 64 bits", "write it as a string"),
            },
            DeValue::Float(digits) => match digits.as_str().parse::<f64>().ok().filter(|number| number.is_finite()) {
                Some(number) => Some(Self::Float(number)),
                None => refuse("a variable must be a finite number", "leave it out, or write it as a string"),
            },
            DeValue::Datetime(_) => refuse("a variable cannot be a date or time", "write it as a string"),
            DeValue::Array(items) => {
                Some(Self::Array(items.iter().filter_map(|item| Self::from_toml(file, item, found)).collect()))
            }
            DeValue::Table(entries) => Some(Self::Table(
                entries
                    .iter()
                    .filter_map(|(key, value)| Some((key.get_ref().to_string(), Self::from_toml(file, value, found)?)))
                    .collect(),
            )),
        }
    }
}

impl From<&VarData> for serde_json::Value {
    fn from(value: &VarData) -> Self {
        value.to_json()
    }
}

/// Returns whether a text is a valid name of a variable: `[A-Za-z_][A-Za-z0-9_]*`, as templates require.
pub fn is_var_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Takes the `vars` of a table.
pub(super) fn read_vars(file: &SourceFile, fields: &mut TableReader<'_, '_>, found: &mut Diagnostics) -> Vars {
    let mut vars = Vars::new();
    let Some(table) = fields.take_table("vars", found) else { return vars };
    for (key, value) in table.sorted_entries() {
        let name = key.get_ref();
        if !is_var_name(name) {
            found.push(
                Diagnostic::error_at_span(
                    file,
                    key.span(),
                    format!("`{}` is not a valid variable name", name.escape_debug()),
                )
                .with_help("letters, digits and `_`, not beginning with a digit: templates read `a-b` as a minus"),
            );
        }
        if let Some(read) = VarData::from_toml(file, value, found) {
            vars.insert(name.to_string(), Variable { value: read, origin: Origin::at_span(file, value.span()) });
        }
    }
    vars
}
