//! The seal of a saved plan: an HMAC of the file's text under the inventory's key, as the last member of its JSON.
//!
//! The text is sealed, not its values: a number that is read and written again may differ in its last digit.

use serde::{Deserialize, Serialize};

use super::{Digest, DigestKey};

/// Stands before the seal. A line break within a JSON string is escaped, so that no value contains it.
const SEAL_MEMBER: &str = ",\n  \"seal\": ";
/// End of indented JSON.
const END: &str = "\n}";

/// Proof that a text was not changed after it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    /// Identifies the key without revealing it.
    key_id: Digest,
    /// HMAC of everything else.
    authenticator: Digest,
}

/// Describes why a seal is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The file has no seal, or not as its last member.
    #[error("the saved plan has no seal; no changes were made")]
    Missing,
    /// The file was changed after it was saved.
    #[error("the saved plan was changed after it was saved; no changes were made")]
    Changed,
    /// The plan was saved under another key.
    #[error(
        "the plan was saved on a machine with another digest key; copy .dunlin/digest-INVENTORY.key from there to \
         digest.key in the inventory's folder on both"
    )]
    OtherKey,
}

/// Returns a struct as indented JSON with a seal as its last member.
///
/// # Errors
/// Returns an error if the value cannot be written as JSON.
pub fn to_sealed_json<T: Serialize>(value: &T, key: &DigestKey) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let seal = Seal { key_id: key_id(key), authenticator: key.authenticate(text.as_bytes()) };
    let seal = serde_json::to_string(&seal)?;
    Ok(format!("{}{SEAL_MEMBER}{seal}{END}", text.strip_suffix(END).unwrap_or(&text)))
}

/// Checks the seal of a text, and returns the JSON that was sealed. Nothing else of the text may be used.
///
/// # Errors
/// Returns an error if the text has no seal, was changed, or was sealed under another key.
pub fn open_sealed_json(text: &str, key: &DigestKey) -> Result<String, SealError> {
    let (content, seal) = text.rsplit_once(SEAL_MEMBER).ok_or(SealError::Missing)?;
    let seal = seal.trim_end().strip_suffix(END).and_then(|seal| serde_json::from_str::<Seal>(seal).ok());
    let seal = seal.ok_or(SealError::Missing)?;
    if seal.key_id != key_id(key) {
        return Err(SealError::OtherKey);
    }
    let content = format!("{content}{END}");
    if key.authenticate(content.as_bytes()) == seal.authenticator { Ok(content) } else { Err(SealError::Changed) }
}

fn key_id(key: &DigestKey) -> Digest {
    key.authenticate(b"id of this key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Plan {
        hosts: Vec<&'static str>,
        gap: f64,
        note: &'static str,
    }

    #[test]
    fn only_the_sealed_text_is_accepted() {
        let (key, other) = (DigestKey::from_random(b"1"), DigestKey::from_random(b"2"));
        let plan = Plan { hosts: vec!["a", "b"], gap: 0.1 + 0.2, note: "x,\n  \"seal\": {}\n}" };
        let text = to_sealed_json(&plan, &key).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["seal"]["key_id"].is_string());
        assert_eq!(open_sealed_json(&text, &key).unwrap(), serde_json::to_string_pretty(&plan).unwrap());
        open_sealed_json(&format!("{text}\n"), &key).unwrap();
        assert_eq!(open_sealed_json(&text, &other), Err(SealError::OtherKey));
        assert_eq!(open_sealed_json(&text.replace("\"b\"", "\"c\""), &key), Err(SealError::Changed));
        let appended = text.strip_suffix(END).unwrap().to_owned() + ",\n  \"hosts\": []\n}";
        assert_eq!(open_sealed_json(&appended, &key), Err(SealError::Missing));
        assert_eq!(open_sealed_json(&serde_json::to_string_pretty(&plan).unwrap(), &key), Err(SealError::Missing));
    }
}
