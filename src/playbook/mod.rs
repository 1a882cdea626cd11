//! Plays, steps and templates: playbook + inventory + facts → a catalog per host, with the contents that it names.
//!
//! Everything here runs on the controller and opens no connection. [`Playbook::load_file`] and
//! [`Templates::load_folder`] parse once; a [`Compiler`] then makes each host's catalog. Every error is reported with
//! its place, all in one run.

mod batch;
mod catalog_step;
mod check;
mod compile;
mod content_store;
mod context;
mod decoys;
mod engine;
mod environment;
mod expand;
mod load;
mod model;
mod project_sources;
mod references;
mod render;
mod secret_redactor;
mod shard_map_file;
mod shards;
mod step_schema;
mod template_errors;
mod template_string;
mod templates;
mod value_template;
mod variable_paths;

#[cfg(test)]
mod tests;

pub use batch::{BatchSchedule, BatchSize};
pub use check::{check_project, debian_facts};
pub use compile::{CompiledHost, Compiler, CompilerInput, StepSelection};
pub use content_store::ContentMap;
pub use environment::{Environment, PlaybookFiles};
pub use model::{LocatedValue, Playbook, PlaybookPlay, PlaybookStep, TableEntry, ValueTemplate};
pub use project_sources::ProjectSources;
pub use render::{RenderedTemplate, TemplateRenderer};
pub use secret_redactor::SecretRedactor;
pub use shard_map_file::load_shard_map;
pub use template_string::TemplateString;
pub use templates::Templates;
