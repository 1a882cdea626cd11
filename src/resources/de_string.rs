//! Values that come out of templates are text (`port = "{{ item.port }}"`): what reads a number or a truth value takes
//! its text as well. For `#[serde(default, deserialize_with = "de_string::optional")]` and `text::required`.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A value, or its text.
#[derive(Deserialize)]
#[serde(untagged)]
enum ValueOrText<T> {
    Value(T),
    Text(String),
}

/// Deserializes a number or truth value, or text that is one.
///
/// # Errors
/// Returns an error if it is neither; the message contains the text.
pub fn required<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr + Display,
    T::Err: Display,
{
    let wanted = expected_type::<T>();
    match ValueOrText::<T>::deserialize(deserializer) {
        Ok(ValueOrText::Value(value)) => Ok(value),
        Ok(ValueOrText::Text(text)) => {
            text.trim().parse().map_err(|_| de::Error::custom(format!("expected {wanted}, not \"{text}\"")))
        }
        Err(_) => Err(de::Error::custom(format!("expected {wanted}"))),
    }
}

/// Deserializes the same for a key that may be missing.
///
/// # Errors
/// Returns an error under the same conditions as [`required`].
pub fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr + Display,
    T::Err: Display,
{
    Option::<ParsedFromText<T>>::deserialize(deserializer).map(|value| value.map(|wrapped| wrapped.0))
}

#[derive(Deserialize)]
#[serde(transparent, bound = "T: Deserialize<'de> + FromStr + Display, T::Err: Display")]
struct ParsedFromText<T>(#[serde(deserialize_with = "required")] T);

fn expected_type<T>() -> &'static str {
    if std::any::type_name::<T>() == "bool" { "true or false" } else { "a whole number in range" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct SampleStep {
        #[serde(default, deserialize_with = "optional")]
        uid: Option<u32>,
        #[serde(default, deserialize_with = "required")]
        system: bool,
    }

    fn parse_step(json: &str) -> Result<SampleStep, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn values_and_their_text_are_equal() {
        let wanted = Ok(SampleStep { uid: Some(990), system: true });
        assert_eq!(parse_step(r#"{"uid":990,"system":true}"#), wanted);
        assert_eq!(parse_step(r#"{"uid":"990","system":"true"}"#), wanted);
        assert_eq!(parse_step(r#"{"uid":null}"#), Ok(SampleStep { uid: None, system: false }));
        assert_eq!(parse_step("{}"), Ok(SampleStep { uid: None, system: false }));
    }

    #[test]
    fn other_values_are_rejected_with_their_text() {
        let wrong = [r#"{"uid":"-1"}"#, r#"{"uid":4294967296}"#, r#"{"system":"yes"}"#, r#"{"system":1}"#];
        crate::messages::check("value-errors", wrong.map(|wrong| (wrong, parse_step(wrong).unwrap_err())));
    }
}
