//! The template engine: tera without escaping, with the filters that configuration files need.

use tera::{Context, Error, Kwargs, State, Tera, TeraResult, Value};

use crate::inventory::ByteSize;
use crate::plan::Digest;

/// Creates an engine without templates.
pub(super) fn new_engine() -> Tera {
    let mut tera = Tera::new();
    // Configuration files are not HTML, whatever their names end with.
    tera.autoescape_on(Vec::<&str>::new());
    tera.register_filter("to_json", to_json);
    tera.register_filter("sha256", sha256_hex);
    tera.register_filter("quote", shell_quote);
    tera.register_filter("bytes", parse_bytes);
    tera
}

/// Returns the value as JSON.
fn to_json(value: &Value, _: Kwargs, _: &State) -> TeraResult<String> {
    if value.is_undefined() {
        return Err(Error::message("the value is not defined"));
    }
    serde_json::to_string(value).map_err(|error| Error::message(error.to_string()))
}

/// Returns the SHA-256 of a text, 64 hexadecimal digits: the form in which Redis keeps passwords of ACL users.
fn sha256_hex(text: &str, _: Kwargs, _: &State) -> String {
    Digest::of_bytes(text.as_bytes()).as_str().to_owned()
}

/// Quotes a text as one word of a POSIX shell.
fn shell_quote(text: &str, _: Kwargs, _: &State) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Converts a size such as `"4GiB"` to bytes; a number is returned unchanged.
fn parse_bytes(value: &Value, _: Kwargs, _: &State) -> TeraResult<Value> {
    if let Some(number) = value.as_u64() {
        return Ok(Value::from(number));
    }
    let text = value.as_str().ok_or_else(|| Error::message("`bytes` takes a size such as \"4GiB\""))?;
    let parsed: ByteSize = text.parse().map_err(|error| Error::message(format!("{error}")))?;
    Ok(Value::from(parsed.0))
}

/// Returns the value at a dotted path.
pub(super) fn lookup_path<'c>(context: &'c Context, path: &'c [String]) -> Option<&'c Value> {
    let mut value = context.get(path.first()?)?;
    for field in &path[1..] {
        value = field_of(value, field)?;
    }
    Some(value)
}

/// Returns a field of a table.
pub(super) fn field_of<'v>(value: &'v Value, field: &'v str) -> Option<&'v Value> {
    value.as_map()?.get(&tera::value::Key::Str(field))
}

#[cfg(test)]
mod tests {
    use super::new_engine;
    use tera::Context;

    #[test]
    fn filters_render_configuration_values() {
        let mut context = Context::new();
        context.insert("text", "it's <b>");
        context.insert("size", "4GiB");
        context.insert("list", &[1, 2]);
        let tera = new_engine();
        for (template, wanted) in [
            ("{{ text | quote }}", r"'it'\''s <b>'"),
            ("{{ size | bytes }}", "4294967296"),
            ("{{ (5) | bytes }}", "5"),
            ("{{ list | to_json }}", "[1,2]"),
            ("{{ '' | sha256 }}", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ] {
            assert_eq!(tera.render_str(template, &context, false).unwrap(), wanted, "{template}");
        }
        let error = tera.render_str("{{ text | bytes }}", &context, false).unwrap_err().to_string();
        crate::messages::check("bytes-filter", [("no number", error)]);
    }
}
