//! Enums whose values have names in messages, in JSON and in files.

/// Declares an enum with the name of each value: `as_str` returns it, `Display` writes it with the width of the format,
/// and serde reads and writes it.
macro_rules! named_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        $vis enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Returns the name in messages and in JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use named_enum;

#[cfg(test)]
mod tests {
    use serde_json::json;

    named_enum! {
        /// Result of a test.
        enum Outcome {
            /// As expected.
            Passed = "passed",
            /// The name has a space.
            TimedOut = "timed out",
        }
    }

    #[test]
    fn messages_and_json_have_the_same_names() {
        for (outcome, name) in [(Outcome::Passed, "passed"), (Outcome::TimedOut, "timed out")] {
            assert_eq!((outcome.as_str(), outcome.to_string()), (name, name.to_owned()));
            assert_eq!(json!(outcome), json!(name));
            assert_eq!(serde_json::from_value::<Outcome>(json!(name)).unwrap(), outcome);
        }
        assert_eq!(format!("{:<10}|", Outcome::Passed), "passed    |");
        serde_json::from_value::<Outcome>(json!("TimedOut")).unwrap_err();
    }
}
