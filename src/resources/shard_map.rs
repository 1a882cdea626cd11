//! `shard_map`: the published shard map on a host that uses it; its text comes from `shards.toml` of the inventory.
//!
//! Does not change: the folder it is in, as `file` does. A map of a lower epoch or of another cluster never replaces
//! the existing one: an operator with an old inventory would send writes to the wrong hosts. A second run is a no-op
//! because the text is the same for the same map.

use std::path::PathBuf;

use anyhow::{Result, bail};
use dunlin_shards::{Epoch, Routing};
use serde::{Deserialize, Serialize};

use super::file::{self, FileResource};
use super::mode::{self, FileMode, Presence};
use super::{ApplyContext, BlobSource, Content, ContentKey, ContentSource, Diff, HostView, ReadOutcome, Resource};
use crate::plan::Digest;

/// Desired state. The controller adds the content.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardMapResource {
    /// Absolute path on the host.
    pub dest: PathBuf,
    /// The published text.
    pub content: Content,
    /// Permissions, as in `"0644"`.
    #[serde(default = "FileMode::default_file")]
    pub mode: FileMode,
    /// The owning user.
    #[serde(default = "mode::default_owner")]
    pub owner: String,
    /// The owning group; the owner's name if absent.
    pub group: Option<String>,
    /// Address at which the consumer reports its epoch (`http://`). The host itself sends the request; the answer is a
    /// JSON object with `map_epoch`. A rebalance retires an instance when all consumers use the new epoch.
    #[serde(default)]
    pub status_url: Option<String>,
}

/// Observed file and the map in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedShardMap {
    file: file::ObservedFile,
    /// Cluster and epoch; absent where there is no file or no map in it.
    map: Option<(String, Epoch)>,
}

impl Resource for ShardMapResource {
    const KIND: &'static str = "shard_map";
    const CONTENTS: &'static [ContentKey] =
        &[ContentKey { playbook_key: "", field: "content", source: ContentSource::Published }];
    type Observed = ObservedShardMap;

    fn key(&self) -> String {
        self.dest.display().to_string()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![format!("path {}", self.dest.display())]
    }

    fn validate(&self) -> Result<(), String> {
        match &self.status_url {
            Some(url) if !url.starts_with("http://") => {
                Err(format!("status_url must be an http:// address, not \"{url}\""))
            }
            _ => self.to_file().validate(),
        }
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedShardMap>> {
        let text = view.read_content(&self.dest)?.and_then(|bytes| String::from_utf8(bytes).ok());
        // What is no map cannot be of a higher epoch.
        let map = text.and_then(|text| Routing::parse(&text).ok()).map(|routing| (routing.cluster, routing.epoch));
        Ok(match self.to_file().read(view)? {
            ReadOutcome::Known(file) => ReadOutcome::Known(ObservedShardMap { file, map }),
            ReadOutcome::UnknownUntilApply(reason) => ReadOutcome::UnknownUntilApply(reason),
        })
    }

    fn required_blobs(&self, observed: &ObservedShardMap) -> Vec<Digest> {
        self.to_file().required_blobs(&observed.file)
    }

    fn diff(&self, observed: &ObservedShardMap, blobs: &dyn BlobSource) -> Result<Diff> {
        if let (Some((cluster, epoch)), false) = (&observed.map, self.required_blobs(observed).is_empty()) {
            let wanted = Routing::parse(&String::from_utf8_lossy(&blobs.read_blob(&self.content.digest)?))?;
            if wanted.cluster != *cluster {
                bail!(
                    "the map on the host is of cluster {cluster}, not of {}; remove it first if that is intended",
                    wanted.cluster
                );
            }
            if wanted.epoch < *epoch {
                bail!(
                    "the map on the host has epoch {epoch}, shards.toml only {}; bring shards.toml of the inventory up to date",
                    wanted.epoch
                );
            }
        }
        self.to_file().diff(&observed.file, blobs)
    }

    fn predict_state(&self, view: &mut HostView) {
        self.to_file().predict_state(view);
    }

    fn apply(&self, observed: &ObservedShardMap, context: &mut ApplyContext) -> Result<()> {
        self.to_file().apply(&observed.file, context)
    }
}

impl ShardMapResource {
    fn to_file(&self) -> FileResource {
        FileResource {
            dest: self.dest.clone(),
            content: Some(self.content.clone()),
            mode: self.mode,
            owner: self.owner.clone(),
            group: self.group.clone(),
            sensitive: false,
            validate: Vec::new(),
            state: Presence::Present,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use dunlin_shards::ShardMap as Map;

    use super::super::PathState;
    use super::*;
    use crate::plan::Action;

    struct TestBlobs(BTreeMap<Digest, Vec<u8>>);

    impl BlobSource for TestBlobs {
        fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
            self.0.get(digest).cloned().ok_or_else(|| anyhow::anyhow!("no such content"))
        }
    }

    fn published_map(cluster: &str, epoch: u64) -> String {
        let shard = "[[shard]]\nid = 0\nslots = \"0-16383\"\nhost = \"a\"\n";
        let text = format!("cluster = \"{cluster}\"\nepoch = {epoch}\nport_base = 7000\n{shard}");
        Routing::from_map(&Map::parse(&text).unwrap(), |_| Some("192.0.2.1".to_owned())).unwrap().to_toml()
    }

    fn desired_map(dest: &Path, text: &str) -> (ShardMapResource, TestBlobs) {
        let (digest, len) = (Digest::of_bytes(text.as_bytes()), text.len() as u64);
        // Whoever runs the test.
        let Ok(PathState::File { meta, .. }) = HostView::current().path_state(dest) else {
            panic!("a file is at this path")
        };
        let resource = ShardMapResource {
            dest: dest.to_owned(),
            content: Content { digest: digest.clone(), len },
            mode: FileMode::default_file(),
            owner: meta.owner,
            group: Some(meta.group),
            status_url: None,
        };
        (resource, TestBlobs(BTreeMap::from([(digest, text.as_bytes().to_vec())])))
    }

    fn read_observed(resource: &ShardMapResource) -> ObservedShardMap {
        match resource.read(&mut HostView::current()).unwrap() {
            ReadOutcome::Known(observed) => observed,
            ReadOutcome::UnknownUntilApply(reason) => panic!("unknown: {reason}"),
        }
    }

    #[test]
    fn lower_epochs_and_other_clusters_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let dest = folder.path().join("shards.toml");
        std::fs::write(&dest, published_map("timeline", 7)).unwrap();
        let diff = |cluster: &str, epoch| {
            let (resource, blobs) = desired_map(&dest, &published_map(cluster, epoch));
            resource.diff(&read_observed(&resource), &blobs)
        };
        let refused = [("an older map", diff("timeline", 6)), ("another cluster", diff("other", 8))];
        crate::messages::check("map-refused", refused.map(|(case, diff)| (case, diff.unwrap_err())));
        assert_eq!(diff("timeline", 8).unwrap().action, Action::Change);
    }

    #[test]
    fn invalid_maps_are_replaced_once() {
        let folder = tempfile::tempdir().unwrap();
        let dest = folder.path().join("shards.toml");
        std::fs::write(&dest, "no map\n").unwrap();
        let (resource, blobs) = desired_map(&dest, &published_map("timeline", 1));
        let observed = read_observed(&resource);
        assert_eq!(resource.diff(&observed, &blobs).unwrap().action, Action::Change);
        resource.apply(&observed, &mut ApplyContext::new(&blobs)).unwrap();
        let after = read_observed(&resource);
        assert_eq!(after.map, Some(("timeline".to_owned(), Epoch(1))));
        assert_eq!(resource.required_blobs(&after), []);
    }
}
