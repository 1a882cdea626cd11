//! The differences between an instance's files and the desired ones, as a plan shows them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::acl::{AclFile, user_change};
use super::conf::{self, RedisConf};
use super::marks::Mark;
use super::{ObservedShardFiles, RedisShard};
use crate::plan::{AttributeChange, DigestKey};
use crate::resources::{BlobSource, Content, PathMeta, PathState, mode};

impl RedisShard {
    pub(super) fn folder_changes(
        &self,
        attribute: &str,
        path: &Path,
        found: &PathState,
    ) -> Result<Vec<AttributeChange>> {
        match found {
            PathState::Absent => Ok(vec![AttributeChange::from_absent(attribute, path.display())]),
            PathState::Directory { meta } => Ok(mode::diff_meta(meta, &self.folder_meta())),
            _ => bail!("{} is not a directory", path.display()),
        }
    }

    pub(super) fn conf_changes(
        &self,
        observed: &ObservedShardFiles,
        blobs: &dyn BlobSource,
    ) -> Result<Vec<AttributeChange>> {
        let Some((meta, meaning)) = &observed.conf else {
            return Ok(vec![AttributeChange::from_absent("configuration", self.conf_path().display())]);
        };
        let mut changes = mode::diff_meta(meta, &self.file_meta());
        if !self.is_unchanged(observed.conf.as_ref(), &self.conf, &observed.source_stamps) {
            let desired = RedisConf::parse(&String::from_utf8_lossy(&blobs.read_blob(&self.conf.digest)?)).normalize();
            let shown = |value: Option<String>| value.map(|value| describe_value(&value, blobs.digest_key()));
            for (name, from, to) in meaning.diff_directives(&desired) {
                changes.push(AttributeChange { attribute: name, from: shown(from), to: shown(to), diff: None });
            }
        }
        Ok(changes)
    }

    pub(super) fn acl_changes(
        &self,
        observed: &ObservedShardFiles,
        blobs: &dyn BlobSource,
    ) -> Result<Vec<AttributeChange>> {
        let Some((meta, acl)) = &observed.acl else {
            return Ok(vec![AttributeChange::from_absent("ACL users", self.acl_path().display())]);
        };
        let mut changes = mode::diff_meta(meta, &self.file_meta());
        if let Some(error) = &observed.acl_error {
            changes.push(AttributeChange::new("ACL file", format!("not valid: {error}"), "as desired"));
        } else if !self.is_unchanged(observed.acl.as_ref(), &self.acl, &observed.source_stamps) {
            let desired = AclFile::parse(&String::from_utf8_lossy(&blobs.read_blob(&self.acl.digest)?))
                .context("the ACL file")?;
            let differing = acl.diff_users(&desired).into_iter();
            changes.extend(differing.map(|(user, what)| AttributeChange::new(&user_change(&user), what, "as desired")));
        }
        Ok(changes)
    }

    /// Returns whether the file has the meaning that this very content had when it was written. Then the content itself
    /// is not needed.
    pub(super) fn is_unchanged<T: Serialize>(
        &self,
        now: Option<&(PathMeta, T)>,
        content: &Content,
        marks: &[Mark],
    ) -> bool {
        now.is_some_and(|(_, meaning)| marks.contains(&Mark::of(content, meaning)))
    }
}

/// Shows a value of the configuration: a password by its digest under the inventory's key.
fn describe_value(value: &str, key: Option<&DigestKey>) -> String {
    match (value.strip_prefix(conf::SECRET_PREFIX), key) {
        (Some(digest), Some(key)) => format!("secret {}", key.authenticate(digest.as_bytes()).short_hex()),
        (Some(_), None) => "secret (hidden)".to_owned(),
        (None, _) => value.to_owned(),
    }
}
