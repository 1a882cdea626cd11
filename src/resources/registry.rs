//! The register of resource types: one line each.

use serde_json::Value;

use super::{
    ContentKey, DynResource, Resource, command, directory, file, group, line, link, package, postgres, rabbitmq,
    redis_shard, service, shard_map, template, unit, user,
};

/// A type of resource as the playbook loader and the agent know it.
pub struct ResourceKind {
    /// The step's key in a playbook.
    pub name: &'static str,
    /// The keys of the step that hold content.
    pub contents: &'static [ContentKey],
    /// The fields that may depend on a secret; see [`Resource::SECRET_FIELDS`].
    pub secret_fields: &'static [&'static str],
    /// Makes the desired state out of the step's table, contents already resolved.
    pub parse: fn(Value) -> Result<Box<dyn DynResource>, serde_json::Error>,
}

/// Every resource type, in the order of the reference.
pub const RESOURCE_KINDS: &[ResourceKind] = &[
    kind_of::<package::PackageResource>(),
    kind_of::<file::FileResource>(),
    kind_of::<template::TemplateResource>(),
    kind_of::<directory::DirectoryResource>(),
    kind_of::<link::LinkResource>(),
    kind_of::<line::LineResource>(),
    kind_of::<user::UserResource>(),
    kind_of::<group::GroupResource>(),
    kind_of::<unit::UnitResource>(),
    kind_of::<service::ServiceResource>(),
    kind_of::<command::CommandResource>(),
    kind_of::<postgres::role::PostgresRole>(),
    kind_of::<postgres::database::PostgresDatabase>(),
    kind_of::<postgres::hba::PostgresHba>(),
    kind_of::<rabbitmq::vhost::RabbitVhost>(),
    kind_of::<rabbitmq::user::RabbitUser>(),
    kind_of::<rabbitmq::policy::RabbitPolicy>(),
    kind_of::<redis_shard::RedisShard>(),
    kind_of::<shard_map::ShardMapResource>(),
];

/// Returns the type with this name.
pub fn find_kind(name: &str) -> Option<&'static ResourceKind> {
    RESOURCE_KINDS.iter().find(|kind| kind.name == name)
}

const fn kind_of<R: Resource>() -> ResourceKind {
    ResourceKind { name: R::KIND, contents: R::CONTENTS, secret_fields: R::SECRET_FIELDS, parse: parse_resource::<R> }
}

fn parse_resource<R: Resource>(table: Value) -> Result<Box<dyn DynResource>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<R>(table)?))
}
