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

/// A play: a selector of hosts and the steps for them.
pub struct PlaybookPlay {
    /// Its name, unique in the playbook.
    pub name: Located<String>,
    /// Selector of the hosts.
    pub hosts: Located<Selector>,
    /// Hosts at a time; every host if absent.
    pub batch: Option<BatchSchedule>,
    /// Variables of the play; they win over those of the inventory.
    pub vars: Vec<TableEntry>,
    /// A condition that is evaluated for each host.
    pub when: Option<TemplateString>,
    /// Tags that all its steps have.
    pub tags: Vec<String>,
    /// Steps, in order.
    pub steps: Vec<PlaybookStep>,
    /// Handlers; those that were notified run once at the end of the play.
    pub handlers: Vec<PlaybookStep>,
    /// Every handler could be read. Otherwise an unknown name in `notify` is not reported as a second error.
    pub(super) has_all_handlers: bool,
}

/// A step or handler.
pub struct PlaybookStep {
    /// Text for people; for a handler the name that `notify` refers to.
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
    /// Place of the key that names the resource type.
    pub origin: Origin,
    /// Loading found no error in the step. Other steps are never compiled.
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
    /// Place of the key.
    pub key_span: Range<usize>,
    /// The value.
    pub value: LocatedValue,
}

impl LocatedValue {
    /// Returns whether the value contains a placeholder.
    pub fn has_placeholder(&self) -> bool {
        match &self.value {
            ValueTemplate::Text(text) => !text.is_plain(),
            ValueTemplate::Literal(_) => false,
            ValueTemplate::List(items) => items.iter().any(Self::has_placeholder),
            ValueTemplate::Table(entries) => entries.iter().any(|entry| entry.value.has_placeholder()),
        }
    }
}
