//! `hosts` of a part of a recipe.

use std::ops::Range;

/// A selector of the hosts that have a part of the recipe, with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct PartSelector {
    /// The selector, as written.
    pub text: String,
    /// Byte offset of its table in the recipe.
    pub span: Range<usize>,
}

impl PartSelector {
    /// Returns the selector of a table, if it has one.
    pub(super) fn from_table(hosts: Option<String>, span: &Range<usize>) -> Option<Self> {
        hosts.map(|text| Self { text, span: span.clone() })
    }
}
