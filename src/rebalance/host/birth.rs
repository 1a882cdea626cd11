//! P1: the target starts as a replica of the source, by its configuration file, closed to all users but dunlin's
//! and replication's.

use anyhow::{Context, Result, bail};

use super::aside::set_aside;
use super::link::role_of;
use super::relay;
use crate::resources::redis_shard::RedisShard;
use crate::resources::redis_shard::acl::Acl;
use crate::resources::redis_shard::conf::Conf;
use crate::resources::{Blobs, Content};
use crate::wire::shard::{MoveSpec, Role};

/// The target instance of a move.
///
/// # Errors
/// The desired state in the request has another form.
pub fn instance(spec: &MoveSpec) -> Result<RedisShard> {
    serde_json::from_value(spec.instance.clone()).with_context(|| format!("the instance of shard {}", spec.job.shard))
}

/// Does the instance's own file say that it follows the source, or waits at its dead end until a relay leads it there?
///
/// # Errors
/// The file could not be read.
pub fn is_copy(instance: &RedisShard, spec: &MoveSpec) -> Result<bool> {
    let follows = instance.current()?.and_then(|conf| conf.replica_of());
    Ok(follows.is_some_and(|of| of == spec.from || relay::is_of(spec.job.shard, &of)))
}

/// Makes the copy, or starts the one that is there; files of an earlier instance are set aside. A copy that is to spare
/// its source starts at its dead end, so that nothing is sent before the relay is there.
///
/// # Errors
/// Something else runs there, or what the system said.
pub fn born(instance: &RedisShard, spec: &MoveSpec, blobs: &dyn Blobs) -> Result<()> {
    let follows = if spec.limits.sparing.is_asked() { relay::dead_end(spec.job.shard) } else { spec.from.clone() };
    if is_copy(instance, spec)? {
        if !instance.is_running()? {
            instance.follow(&follows)?;
        }
        return instance.start_with_host();
    }
    match role_of(&spec.to, &spec.job.credentials) {
        Role::Unreachable if !instance.is_running()? => {}
        role => bail!("something else runs at {} already ({role:?}); it was not touched", spec.to),
    }
    set_aside(instance, "old")?;
    instance.birth(&follows, &closed_users(instance, spec, blobs)?, blobs)
}

/// The users that are off while a copy is made: all that its ACL file is to let in, but for dunlin's and replication's.
///
/// # Errors
/// The contents are not there, or the ACL file is not valid.
pub fn closed_users(instance: &RedisShard, spec: &MoveSpec, blobs: &dyn Blobs) -> Result<Vec<String>> {
    let text =
        |content: &Content| Ok::<_, anyhow::Error>(String::from_utf8_lossy(&blobs.get(&content.digest)?).into_owned());
    let acl = Acl::parse(&text(&instance.acl)?).context("the ACL file")?;
    let replication = Conf::parse(&text(&instance.conf)?).get("masteruser");
    let is_closed = |user: &&str| *user != spec.job.credentials.user && replication.as_deref() != Some(*user);
    Ok(acl.users_on().filter(is_closed).map(str::to_owned).collect())
}
