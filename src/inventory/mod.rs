//! Hosts, groups, variables and selectors; everything typed, every value has its `file:line:col`.
//!
//! [`Inventory::load_folder`] reads a folder (`hosts.toml`, an executable `hosts`, `secrets.toml`,
//! `known_hosts`), reports all mistakes at
//! once and opens no connection. [`SourceFile`], [`Diagnostic`] and [`fields`] serve other loaders as well.

mod ansible;
mod byte_size;
mod certificates;
mod check;
mod diagnostic;
mod dynamic;
mod edit;
pub mod fields;
mod graph;
mod host;
mod host_key;
mod hosts_toml;
mod known_hosts;
mod load;
mod merge;
mod proxy_jump;
mod range;
mod raw;
mod read;
mod resolve;
mod secrets;
mod selector;
mod source;
mod toml_recovery;
pub mod validate;
mod vars;

#[cfg(test)]
mod tests;

pub use byte_size::{ByteSize, ByteSizeError};
pub use certificates::{Certificate, CertificateProblem, TlsCertificates, certificate_table_key};
pub use diagnostic::{Diagnostic, Diagnostics, Severity, nearest_words};
pub use edit::{HostEditError, NewHost, add_host};
pub use host::{HostGroup, Inventory, InventoryHost, ProxyJump};
pub use host_key::{HostKey, HostKeyError};
pub use load::LoadedInventory;
pub use read::{read_secret_source, read_source};
pub use secrets::{Secret, Secrets};
pub use selector::{SelectError, Selector, SelectorError};
pub use source::{Located, Origin, SourceFile};
pub use vars::{VarData, Variable, Vars, is_var_name};
