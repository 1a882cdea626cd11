//! d

pub mod inventory;
