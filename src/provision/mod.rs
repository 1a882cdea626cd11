//! Provisioning: hosts are brought to the state of a playbook.

pub mod host;
