//! A playbook after loading: typed, every value with its place, strings already parsed as templates.

use std::ops::Range;

use super::batch::BatchSchedule;
use super::template_string::{TemplateString, TemplateStrings};
use crate::inventory::{Located, Origin, Selector, SourceFile};
use crate::resources::ResourceKind;

/// A whole playbook.
pub struct Playbook {
    /// The file that it was read from.
    pub file: SourceFile,
    /// Its plays, in order.
    pub plays: Vec<PlaybookPlay>,
    pub(super) strings: TemplateStrings,
}

/// One play: which hosts, and what they are to be.
pub struct PlaybookPlay {
    /// Its name, unique in the playbook.
    pub name: Located<String>,
    /// Whom it applies to.
    pub hosts: Located<Selector>,
    /// How many hosts at a time; all where absent.
    pub batch: Option<BatchSchedule>,
    /// Variables of the play; they win over those of the inventory.
    pub vars: Vec<TableEntry>,
    /// A condition that is evaluated for each host.
    pub when: Option<TemplateString>,
    /// Tags that all its steps have.
    pub tags: Vec<String>,
    /// What is done, in order.
    pub steps: Vec<PlaybookStep>,
    /// What runs once at the end of the play, where it was notified.
    pub handlers: Vec<PlaybookStep>,
    /// Whether every handler could be read; else a name in `notify` that nobody knows is no second mistake.
    pub(super) has_all_handlers: bool,
}

/// One step or handler.
pub struct PlaybookStep {
    /// What a person reads; for a handler the name that `notify` names.
    pub name: Option<TemplateString>,
    /// The list whose items this step is repeated for: an expression (a string) or the list itself.
    pub for_each: Option<LocatedValue>,
    /// A condition that is evaluated for each host and item.
    pub when: Option<TemplateString>,
    /// Names of handlers.
    pub notify: Vec<TemplateString>,
    /// Its tags, those of the play not included.
    pub tags: Vec<String>,
    /// The type of resource.
    pub kind: &'static ResourceKind,
    /// The resource's table.
    pub table: Vec<TableEntry>,
    /// Where the step stands: its key that names the resource type.
    pub origin: Origin,
    /// Whether loading found nothing wrong with it; what is not sound is never compiled.
    pub is_valid: bool,
}

/// A value of a step's table.
pub enum ValueTemplate {
    /// A string, with or without placeholders.
    Text(TemplateString),
    /// A number or a boolean.
    Literal(serde_json::Value),
    /// A list.
    List(Vec<LocatedValue>),
    /// A table, in the order of the file.
    Table(Vec<TableEntry>),
}

/// A value and its place in the playbook.
pub struct LocatedValue {
    /// The value.
    pub value: ValueTemplate,
    /// Byte offsets into the playbook's text.
    pub span: Range<usize>,
}

/// A key with its value.
pub struct TableEntry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Range<usize>,
    /// The value.
    pub value: LocatedValue,
}

impl LocatedValue {
    /// Whether a placeholder is anywhere in it.
    pub fn has_placeholder(&self) -> bool {
        match &self.value {
            ValueTemplate::Text(text) => !text.is_plain(),
            ValueTemplate::Literal(_) => false,
            ValueTemplate::List(items) => items.iter().any(Self::has_placeholder),
            ValueTemplate::Table(entries) => entries.iter().any(|entry| entry.value.has_placeholder()),
        }
    }
}
