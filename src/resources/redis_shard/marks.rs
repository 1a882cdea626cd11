//! Marks in a configuration file that identify the content it was written from, so that it need not be sent again.

use serde::{Deserialize, Serialize};

use crate::plan::digest_json;
use crate::resources::Content;

/// A comment at the head of the configuration (Redis keeps comments): a content's digest, and that of what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark(String, String);

impl Mark {
    const START: &'static str = "# dunlin:";

    /// Returns the mark of a content with this meaning.
    pub fn of(content: &Content, meaning: &impl Serialize) -> Self {
        Self(content.digest.as_str().to_owned(), digest_json(meaning).as_str().to_owned())
    }

    /// Returns its line.
    pub fn line(&self) -> String {
        format!("{} {} {}\n", Self::START, self.0, self.1)
    }

    /// Reads the marks of a configuration file.
    pub fn read(conf: &str) -> Vec<Self> {
        let marks = conf.lines().filter_map(|line| line.strip_prefix(Self::START)?.trim().split_once(' '));
        marks.map(|(content, meaning)| Self(content.to_owned(), meaning.to_owned())).collect()
    }
}
