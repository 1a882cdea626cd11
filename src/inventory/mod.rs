//! Hosts, groups, variables and selectors; everything typed, every value knows its `file:line:col`.
//!
//! [`Inventory::load`] reads a folder (`hosts.toml`, an executable `hosts`, `secrets.toml`), reports all mistakes at once
//! and opens no connection. [`SourceFile`], [`Diagnostic`] and [`fields`] serve other loaders as well.

mod ansible;
mod bytes;
mod check;
mod diagnostic;
mod draft;
mod duration;
mod edit;
pub mod fields;
mod graph;
mod host;
mod host_key;
mod hosts_toml;
mod join;
mod jump;
mod load;
mod merge;
pub mod name;
mod range;
mod read;
mod secrets;
mod selector;
mod source;
mod unclosed;
mod vars;

#[cfg(test)]
mod tests;

pub use bytes::{Bytes, BytesError};
pub use diagnostic::{Diagnostic, Diagnostics, Severity, nearest};
pub use duration::parse_duration;
pub use edit::{EditError, NewHost, add_host};
pub use host::{Group, Host, Inventory, Jump};
pub use host_key::{HostKey, HostKeyError};
pub use load::Loaded;
pub use read::{read_secret_source, read_source};
pub use secrets::{Secret, Secrets};
pub use selector::{SelectError, Selector, SelectorError};
pub use source::{Located, Origin, SourceFile};
pub use vars::{Value, VarValue, Vars, is_var_name};
