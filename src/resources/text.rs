//! Values that come out of templates are text (`port = "{{ item.port }}"`): what reads a number or a truth value takes
//! its text as well. For `#[serde(default, deserialize_with = "text::optional")]` and `text::required`.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A value, or its text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Either<T> {
    Value(T),
    Text(String),
}

/// A number or truth value, or text that is one.
///
/// # Errors
/// It is neither; the message holds the text.
pub fn required<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr + Display,
    T::Err: Display,
{
    let wanted = wanted::<T>();
    match Either::<T>::deserialize(deserializer) {
        Ok(Either::Value(value)) => Ok(value),
        Ok(Either::Text(text)) => {
            text.trim().parse().map_err(|_| de::Error::custom(format!("expected {wanted}, not \"{text}\"")))
        }
        Err(_) => Err(de::Error::custom(format!("expected {wanted}"))),
    }
}

/// The same for a key that may be missing.
///
/// # Errors
/// As for [`required`].
pub fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr + Display,
    T::Err: Display,
{
    Option::<Wrapped<T>>::deserialize(deserializer).map(|value| value.map(|wrapped| wrapped.0))
}

#[derive(Deserialize)]
#[serde(transparent, bound = "T: Deserialize<'de> + FromStr + Display, T::Err: Display")]
struct Wrapped<T>(#[serde(deserialize_with = "required")] T);

fn wanted<T>() -> &'static str {
    if std::any::type_name::<T>() == "bool" { "true or false" } else { "a whole number in range" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Step {
        #[serde(default, deserialize_with = "optional")]
        uid: Option<u32>,
        #[serde(default, deserialize_with = "required")]
        system: bool,
    }

    fn read(json: &str) -> Result<Step, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_value_and_its_text_are_the_same() {
        let wanted = Ok(Step { uid: Some(990), system: true });
        assert_eq!(read(r#"{"uid":990,"system":true}"#), wanted);
        assert_eq!(read(r#"{"uid":"990","system":"true"}"#), wanted);
        assert_eq!(read(r#"{"uid":null}"#), Ok(Step { uid: None, system: false }));
        assert_eq!(read("{}"), Ok(Step { uid: None, system: false }));
    }

    #[test]
    fn anything_else_is_refused_with_what_was_read() {
        let wrong = [r#"{"uid":"-1"}"#, r#"{"uid":4294967296}"#, r#"{"system":"yes"}"#, r#"{"system":1}"#];
        crate::messages::check("value-errors", wrong.map(|wrong| (wrong, read(wrong).unwrap_err())));
    }
}
