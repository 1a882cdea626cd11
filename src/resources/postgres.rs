//! Objects of a Postgres server on the host: roles, databases, and who may connect.

pub mod database;
pub mod hba;
pub mod role;
mod scram;
mod server;
