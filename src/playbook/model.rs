//! A playbook after loading: typed, every value with its place, strings already parsed as templates.

use std::ops::Range;

use super::batch::Batch;
use super::strings::{Strings, Text};
use crate::inventory::{Located, Origin, Selector, SourceFile};
use crate::resources::Kind;

/// A whole playbook.
pub struct Playbook {
    /// The file that it was read from.
    pub file: SourceFile,
    /// Its plays, in order.
    pub plays: Vec<Play>,
    pub(super) strings: Strings,
}

/// One play: which hosts, and what they are to be.
pub struct Play {
    /// Its name, unique in the playbook.
    pub name: Located<String>,
    /// Whom it applies to.
    pub hosts: Located<Selector>,
    /// How many hosts at a time; all where absent.
    pub batch: Option<Batch>,
    /// Variables of the play; they win over those of the inventory.
    pub vars: Vec<Entry>,
    /// A condition that is evaluated for each host.
    pub when: Option<Text>,
    /// Tags that all its steps have.
    pub tags: Vec<String>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What runs once at the end of the play, where it was notified.
    pub handlers: Vec<Step>,
    /// Whether every handler could be read; else a name in `notify` that nobody knows is no second mistake.
    pub(super) knows_handlers: bool,
}

/// One step or handler.
pub struct Step {
    /// What a person reads; for a handler the name that `notify` names.
    pub name: Option<Text>,
    /// The list whose items this step is repeated for: an expression (a string) or the list itself.
    pub for_each: Option<Item>,
    /// A condition that is evaluated for each host and item.
    pub when: Option<Text>,
    /// Names of handlers.
    pub notify: Vec<Text>,
    /// Its tags, those of the play not included.
    pub tags: Vec<String>,
    /// The type of resource.
    pub kind: &'static Kind,
    /// The resource's table.
    pub table: Vec<Entry>,
    /// Where the step stands: its key that names the resource type.
    pub origin: Origin,
    /// Whether loading found nothing wrong with it; what is not sound is never compiled.
    pub sound: bool,
}

/// A value of a step's table.
pub enum Node {
    /// A string, with or without placeholders.
    Text(Text),
    /// A number or a boolean.
    Plain(serde_json::Value),
    /// A list.
    List(Vec<Item>),
    /// A table, in the order of the file.
    Table(Vec<Entry>),
}

/// A value and its place in the playbook.
pub struct Item {
    /// The value.
    pub node: Node,
    /// Byte offsets into the playbook's text.
    pub span: Range<usize>,
}

/// A key with its value.
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Range<usize>,
    /// The value.
    pub item: Item,
}

impl Item {
    /// Whether a placeholder is anywhere in it.
    pub fn has_placeholder(&self) -> bool {
        match &self.node {
            Node::Text(text) => !text.is_plain(),
            Node::Plain(_) => false,
            Node::List(items) => items.iter().any(Self::has_placeholder),
            Node::Table(entries) => entries.iter().any(|entry| entry.item.has_placeholder()),
        }
    }
}
