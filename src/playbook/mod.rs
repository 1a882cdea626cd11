//! Plays, steps and templates: playbook + inventory + facts → a catalogue per host, with the contents that it names.
//!
//! Everything here runs on the controller and opens no connection. [`Playbook::load`] and [`Templates::load`] parse once;
//! a [`Compiler`] then makes each host's catalogue. Whatever is wrong is found with its place, all at once.

mod batch;
mod check;
mod compile;
mod contents;
mod context;
mod diagnose;
mod engine;
mod expand;
mod host_steps;
mod load;
mod map_file;
mod model;
mod nodes;
mod paths;
mod references;
mod render;
mod shards;
mod sources;
mod strings;
mod table;
mod templates;

#[cfg(test)]
mod tests;

pub use batch::{Batch, BatchSize};
pub use check::{check, plain_debian};
pub use compile::{Compiled, Compiler, Parts, Selection};
pub use contents::Contents;
pub use map_file::load_shard_map;
pub use model::{Entry, Item, Node, Play, Playbook, Step};
pub use render::{Rendered, Rendering};
pub use sources::Sources;
pub use strings::Text;
pub use templates::Templates;
