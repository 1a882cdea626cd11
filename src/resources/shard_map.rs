//! `shard_map`: the published shard map on a host that uses it; its text comes from `shards.toml` of the inventory.
//!
//! Leaves alone: the folder it is in, as `file` does. A map of a lower epoch or of another cluster is never put over the
//! one that stands there: an operator with an old inventory would send writes to the wrong hosts. A second run is a
//! no-op because the text is the same for the same map.

use std::path::PathBuf;

use anyhow::{Result, bail};
use dunlin_shards::{Epoch, Routing};
use serde::{Deserialize, Serialize};

use super::file::{self, File};
use super::mode::{self, Mode, Presence};
use super::{Blobs, Content, ContentKey, Diff, Read, Resource, Site, Source, World};
use crate::plan::Digest;

/// The desired state: where the map stands. Its content is filled in by the controller.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardMap {
    /// Where it stands: an absolute path.
    pub dest: PathBuf,
    /// The published text.
    pub content: Content,
    /// Permissions, as in `"0644"`.
    #[serde(default = "Mode::file")]
    pub mode: Mode,
    /// The owning user.
    #[serde(default = "mode::root")]
    pub owner: String,
    /// The owning group; the owner's name where it is not given.
    pub group: Option<String>,
    /// Where the service that reads it tells which epoch it has: an http:// address whose answer is a JSON object with
    /// `map_epoch`, asked on the host itself. A rebalance retires an instance once all services have left it.
    #[serde(default)]
    pub version_url: Option<String>,
}

/// What was there: the file, and the map in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observed {
    file: file::Observed,
    /// Cluster and epoch; absent where there is no file or no map in it.
    map: Option<(String, Epoch)>,
}

impl Resource for ShardMap {
    const KIND: &'static str = "shard_map";
    const CONTENTS: &'static [ContentKey] = &[ContentKey { toml: "", field: "content", source: Source::Published }];
    type Observed = Observed;

    fn key(&self) -> String {
        self.dest.display().to_string()
    }

    fn owns(&self) -> Vec<String> {
        vec![format!("path {}", self.dest.display())]
    }

    fn validate(&self) -> Result<(), String> {
        match &self.version_url {
            Some(url) if !url.starts_with("http://") => {
                Err(format!("version_url must be an http:// address, not \"{url}\""))
            }
            _ => self.file().validate(),
        }
    }

    fn read(&self, world: &mut World) -> Result<Read<Observed>> {
        let text = world.content(&self.dest)?.and_then(|bytes| String::from_utf8(bytes).ok());
        // What is no map cannot be of a higher epoch.
        let map = text.and_then(|text| Routing::parse(&text).ok()).map(|routing| (routing.cluster, routing.epoch));
        Ok(match self.file().read(world)? {
            Read::Known(file) => Read::Known(Observed { file, map }),
            Read::Unknown(reason) => Read::Unknown(reason),
        })
    }

    fn needs(&self, observed: &Observed) -> Vec<Digest> {
        self.file().needs(&observed.file)
    }

    fn diff(&self, observed: &Observed, blobs: &dyn Blobs) -> Result<Diff> {
        if let (Some((cluster, epoch)), false) = (&observed.map, self.needs(observed).is_empty()) {
            let wanted = Routing::parse(&String::from_utf8_lossy(&blobs.get(&self.content.digest)?))?;
            if wanted.cluster != *cluster {
                bail!(
                    "the map there is of cluster {cluster}, not of {}; remove it first if that is meant",
                    wanted.cluster
                );
            }
            if wanted.epoch < *epoch {
                bail!(
                    "the map there has epoch {epoch}, ours only {}; bring shards.toml of the inventory up to date",
                    wanted.epoch
                );
            }
        }
        self.file().diff(&observed.file, blobs)
    }

    fn expect(&self, world: &mut World) {
        self.file().expect(world);
    }

    fn apply(&self, observed: &Observed, site: &mut Site) -> Result<()> {
        self.file().apply(&observed.file, site)
    }
}

impl ShardMap {
    fn file(&self) -> File {
        File {
            dest: self.dest.clone(),
            content: Some(self.content.clone()),
            mode: self.mode,
            owner: self.owner.clone(),
            group: self.group.clone(),
            sensitive: false,
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

    struct Held(BTreeMap<Digest, Vec<u8>>);

    impl Blobs for Held {
        fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
            self.0.get(digest).cloned().ok_or_else(|| anyhow::anyhow!("no such content"))
        }
    }

    fn published(cluster: &str, epoch: u64) -> String {
        let shard = "[[shard]]\nid = 0\nslots = \"0-16383\"\nhost = \"a\"\n";
        let text = format!("cluster = \"{cluster}\"\nepoch = {epoch}\nport_base = 7000\n{shard}");
        Routing::from_map(&Map::parse(&text).unwrap(), |_| Some("192.0.2.1".to_owned())).unwrap().to_toml()
    }

    fn wanted(dest: &Path, text: &str) -> (ShardMap, Held) {
        let (digest, len) = (Digest::of(text.as_bytes()), text.len() as u64);
        // Whoever runs the test.
        let Ok(PathState::File { meta, .. }) = World::now().path(dest) else { panic!("a file stands there") };
        let resource = ShardMap {
            dest: dest.to_owned(),
            content: Content { digest: digest.clone(), len },
            mode: Mode::file(),
            owner: meta.owner,
            group: Some(meta.group),
            version_url: None,
        };
        (resource, Held(BTreeMap::from([(digest, text.as_bytes().to_vec())])))
    }

    fn observe(resource: &ShardMap) -> Observed {
        match resource.read(&mut World::now()).unwrap() {
            Read::Known(observed) => observed,
            Read::Unknown(reason) => panic!("unknown: {reason}"),
        }
    }

    #[test]
    fn a_lower_epoch_and_another_cluster_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let dest = folder.path().join("shards.toml");
        std::fs::write(&dest, published("timeline", 7)).unwrap();
        let diff = |cluster: &str, epoch| {
            let (resource, blobs) = wanted(&dest, &published(cluster, epoch));
            resource.diff(&observe(&resource), &blobs)
        };
        let refused = [("an older map", diff("timeline", 6)), ("another cluster", diff("other", 8))];
        crate::messages::check("map-refused", refused.map(|(case, diff)| (case, diff.unwrap_err())));
        assert_eq!(diff("timeline", 8).unwrap().action, Action::Change);
    }

    #[test]
    fn what_is_no_map_is_replaced_and_a_second_run_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let dest = folder.path().join("shards.toml");
        std::fs::write(&dest, "no map\n").unwrap();
        let (resource, blobs) = wanted(&dest, &published("timeline", 1));
        let observed = observe(&resource);
        assert_eq!(resource.diff(&observed, &blobs).unwrap().action, Action::Change);
        resource.apply(&observed, &mut Site::new(&blobs)).unwrap();
        let after = observe(&resource);
        assert_eq!(after.map, Some(("timeline".to_owned(), Epoch(1))));
        assert_eq!(resource.needs(&after), []);
    }
}
