//! `StartReplica`: the target starts as a replica, by its configuration file, closed to all users but dunlin's and
//! replication's.

use anyhow::{Context, Result, bail};

use super::archive::archive_files;
use super::redis_client::probe_role;
use super::replication_proxy;
use crate::protocol::shard::{MoveSpec, ReplicationRole};
use crate::resources::redis_shard::RedisShard;
use crate::resources::redis_shard::acl::AclFile;
use crate::resources::redis_shard::conf::RedisConf;
use crate::resources::{BlobSource, Content};

/// Returns true if the instance's own file makes it a replica of the source, directly or through the proxy.
///
/// # Errors
/// Returns an error if the file could not be read.
pub fn is_copy(instance: &RedisShard, spec: &MoveSpec) -> Result<bool> {
    let configured_primary = instance.read_conf()?.and_then(|conf| conf.replica_of());
    Ok(configured_primary
        .is_some_and(|of| of == spec.record.from || replication_proxy::is_proxy_address(spec.header.shard, &of)))
}

/// Creates the copy, or starts the one that exists; files of an earlier instance are archived. It first follows a
/// placeholder address: nothing is sent before somebody watches the copy, nor to one that crashes and starts again.
///
/// # Errors
/// Returns an error if something else runs there, or the instance cannot be started.
pub fn start_replica(instance: &RedisShard, spec: &MoveSpec, blobs: &dyn BlobSource) -> Result<()> {
    let primary_address = replication_proxy::placeholder_address(spec.header.shard);
    if is_copy(instance, spec)? {
        if !instance.is_running()? {
            instance.set_replicaof(&primary_address)?;
        }
        return instance.enable_and_start();
    }
    match probe_role(&spec.record.to, &spec.header.credentials) {
        ReplicationRole::Unreachable if !instance.is_running()? => {}
        role => bail!("another instance runs at {} ({role}); it was not changed", spec.record.to),
    }
    archive_files(instance, "old")?;
    instance.create_replica(&primary_address, &closed_users(instance, spec, blobs)?, blobs)
}

/// The users that are off while a copy is made: all that its ACL file is to let in, but for dunlin's and replication's.
///
/// # Errors
/// Returns an error if the contents are not there, or the ACL file is not valid.
pub fn closed_users(instance: &RedisShard, spec: &MoveSpec, blobs: &dyn BlobSource) -> Result<Vec<String>> {
    let text = |content: &Content| {
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&blobs.read_blob(&content.digest)?).into_owned())
    };
    let acl = AclFile::parse(&text(&instance.acl)?).context("the ACL file")?;
    let replication = RedisConf::parse(&text(&instance.conf)?).last_value("masteruser");
    let is_closed = |user: &&str| *user != spec.header.credentials.user && replication.as_deref() != Some(*user);
    Ok(acl.users_on().filter(is_closed).map(str::to_owned).collect())
}
