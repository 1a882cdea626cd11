//! The register of resource types: one line each.

use serde_json::Value;

use super::{
    ContentKey, Resource, Step, command, directory, file, group, line, link, package, redis_shard, service, shard_map,
    template, unit, user,
};

/// A type of resource as the playbook loader and the agent know it.
pub struct Kind {
    /// The step's key in a playbook.
    pub name: &'static str,
    /// The keys of the step that hold content.
    pub contents: &'static [ContentKey],
    /// Makes the desired state out of the step's table, contents already resolved.
    pub parse: fn(Value) -> Result<Box<dyn Step>, serde_json::Error>,
}

/// All types, in the order of the reference.
pub const KINDS: &[Kind] = &[
    of::<package::Package>(),
    of::<file::File>(),
    of::<template::Template>(),
    of::<directory::Directory>(),
    of::<link::Link>(),
    of::<line::Line>(),
    of::<user::User>(),
    of::<group::Group>(),
    of::<unit::Unit>(),
    of::<service::Service>(),
    of::<command::Command>(),
    of::<redis_shard::RedisShard>(),
    of::<shard_map::ShardMap>(),
];

/// The type of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

const fn of<R: Resource>() -> Kind {
    Kind { name: R::KIND, contents: R::CONTENTS, parse: parse::<R> }
}

fn parse<R: Resource>(table: Value) -> Result<Box<dyn Step>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<R>(table)?))
}
