//! Objects of a RabbitMQ server on the host: virtual hosts, users with their permissions, policies.

pub mod policy;
mod server;
pub mod user;
pub mod vhost;
