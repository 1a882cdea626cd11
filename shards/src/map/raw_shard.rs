//! A shard of the map before its rules are checked.

use std::ops::Range;

use toml::Spanned;

use super::MapError;
use crate::slot::SlotRange;

/// The values of a shard that could be read, each with its place in the file.
pub(super) struct RawShard {
    pub(super) span: Range<usize>,
    pub(super) id: Option<Spanned<u16>>,
    pub(super) slots: Option<Spanned<Vec<SlotRange>>>,
    pub(super) host: Option<Spanned<String>>,
    pub(super) replicas: Vec<Spanned<String>>,
    pub(super) pinned: bool,
}

/// Makes an error with its place.
pub(super) fn map_error(span: Option<Range<usize>>, message: String, help: Option<&str>) -> MapError {
    MapError { span, message, help: help.map(str::to_owned) }
}
