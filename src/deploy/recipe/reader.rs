//! Reads a recipe's tables one by one, so that a mistake in one does not hide those in the others.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Recipe, RecipeError};
use crate::deploy::signature::is_public_key;
use crate::protocol::deploy::{is_account_name, is_normalized_absolute};

/// The keys of a recipe.
const RECIPE_KEYS: [&str; 19] = [
    "service",
    "hosts",
    "root",
    "keep_releases",
    "batches",
    "rollback_batches",
    "user",
    "ports",
    "build",
    "public_keys",
    "shared",
    "file",
    "unit",
    "config",
    "health",
    "task",
    "hooks",
    "notify",
    "freeze",
];
/// Kinds of units that a deploy may install.
const UNIT_KINDS: [&str; 5] = [".service", ".socket", ".timer", ".path", ".target"];

/// The tables that were not read yet, and what was found wrong so far.
pub(super) struct RecipeReader<'i> {
    remaining: DeTable<'i>,
    errors: Vec<RecipeError>,
}

impl<'i> RecipeReader<'i> {
    pub fn new(text: &'i str) -> Result<Self, Vec<RecipeError>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { remaining: table.into_inner(), errors: Vec::new() });
        }
        let whole = 0..text.len().min(1);
        let error = |error: toml::de::Error| RecipeError {
            span: error.span().unwrap_or_else(|| whole.clone()),
            message: error.message().to_owned(),
            help: None,
        };
        Err(errors.into_iter().map(error).collect())
    }

    /// Notes a mistake.
    pub fn add_error(&mut self, span: &Range<usize>, message: impl Into<String>, help: Option<&str>) {
        self.errors.push(RecipeError { span: span.clone(), message: message.into(), help: help.map(str::to_owned) });
    }

    pub fn take_required<T: DeserializeOwned>(&mut self, key: &str, help: &str) -> Option<(Range<usize>, T)> {
        if !self.remaining.contains_key(key) {
            self.add_error(&(0..0), format!("`{key}` is missing"), Some(help));
        }
        self.take_optional(key)
    }

    pub fn take_optional<T: DeserializeOwned>(&mut self, key: &str) -> Option<(Range<usize>, T)> {
        let value = self.remaining.remove(key)?;
        self.parse_value(value)
    }

    /// The tables of an array, each read by itself.
    pub fn take_tables<T: DeserializeOwned>(&mut self, key: &str) -> Vec<(Range<usize>, T)> {
        let Some(value) = self.remaining.remove(key) else { return Vec::new() };
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(tables) => tables.into_iter().filter_map(|table| self.parse_value(table)).collect(),
            _ => {
                self.add_error(&span, format!("`{key}` is a list of tables"), Some(&format!("write [[{key}]]")));
                Vec::new()
            }
        }
    }

    fn parse_value<T: DeserializeOwned>(&mut self, value: Spanned<DeValue<'_>>) -> Option<(Range<usize>, T)> {
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some((span, value)),
            Err(error) => {
                self.add_error(&error.span().unwrap_or(span), error.message().trim_end(), None);
                None
            }
        }
    }

    /// Refuses unknown keys.
    pub fn reject_unknown_keys(&mut self) {
        let rest: Vec<(Range<usize>, String)> =
            self.remaining.keys().map(|key| (key.span(), key.get_ref().to_string())).collect();
        for (span, key) in rest {
            let help = format!("known keys: {}", RECIPE_KEYS.join(", "));
            self.add_error(&span, format!("unknown key `{key}`"), Some(&help));
        }
    }

    pub fn check_absolute_path(&mut self, span: &Range<usize>, key: &str, path: &Path) {
        if !is_normalized_absolute(path) {
            let message = format!("{key} must be an absolute path without `.` or `..`, not {:?}", path.display());
            self.add_error(span, message, None);
        }
    }

    pub fn check_template_path(&mut self, span: &Range<usize>, src: &Path) {
        if src.is_absolute() || src.components().any(|part| part == std::path::Component::ParentDir) {
            self.add_error(span, "src is a template's path inside the templates folder", None);
        }
    }

    pub fn check_account_name(&mut self, span: &Range<usize>, key: &str, name: &str) {
        if !is_account_name(name) {
            self.add_error(span, format!("{key} must be the name of an account, not {name:?}"), None);
        }
    }

    pub fn check_public_keys(&mut self, span: &Range<usize>, keys: &[String]) {
        let help = "a public key is the second line of a key file of minisign, such as \"RWQ…\"";
        if keys.is_empty() {
            self.add_error(span, "public_keys must not be empty", Some(help));
        }
        for key in keys.iter().filter(|key| !is_public_key(key)) {
            self.add_error(span, format!("{key:?} is not a public key of minisign"), Some(help));
        }
    }

    pub fn check_unit_name(&mut self, span: &Range<usize>, name: &str) {
        let good = |c: char| c.is_ascii_alphanumeric() || "_-.:@\\".contains(c);
        let kind = UNIT_KINDS.iter().find_map(|kind| name.strip_suffix(kind));
        if kind.is_none_or(|stem| stem.is_empty() || stem.starts_with(['-', '.']) || stem.ends_with('@'))
            || !name.chars().all(good)
        {
            let message = format!("{name:?} is not the name of a unit that can be started");
            self.add_error(span, message, Some(&format!("a name that ends with one of {}", UNIT_KINDS.join(", "))));
        }
    }

    pub fn check_argv(&mut self, span: &Range<usize>, argv: &[String]) {
        if argv.first().is_none_or(String::is_empty) {
            self.add_error(span, "a command needs a program", Some("[\"program\", \"argument\", …]"));
        } else if argv.iter().any(|arg| arg.contains('\0')) {
            self.add_error(span, "an argument cannot contain a NUL byte", None);
        }
    }

    pub fn check_url(&mut self, span: &Range<usize>, url: &str) {
        let help = "the host itself sends the request, without encryption: http://127.0.0.1:8080/readyz";
        if crate::http::Url::parse(url).is_none() {
            self.add_error(span, format!("{url:?} is not an address of the form http://HOST[:PORT]/PATH"), Some(help));
        }
    }

    pub fn check_address(&mut self, span: &Range<usize>, address: &str) {
        let good = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !good {
            self.add_error(span, format!("{address:?} is not an address of the form HOST:PORT"), None);
        }
    }

    /// The recipe, if nothing was wrong; else all that was, in the order of the file.
    pub fn finish_recipe(mut self, recipe: Recipe) -> Result<Recipe, Vec<RecipeError>> {
        if self.errors.is_empty() {
            return Ok(recipe);
        }
        self.errors.sort_by_key(|error| error.span.start);
        Err(self.errors)
    }
}
