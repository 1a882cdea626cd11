//! Changing the authored map in place: comments, order and layout are preserved.

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::{Epoch, MapError, ShardId, ShardMap, ShardPlacement};

/// Error of an edit of a map.
#[derive(Debug, thiserror::Error)]
pub enum MapEditError {
    /// The text is not a valid map, or would not be one after the edit.
    #[error("the shard map is not valid {}: {}", if *.after { "after the edit" } else { "before the edit" }, join_messages(.errors))]
    Invalid {
        /// The errors are caused by the edit.
        after: bool,
        /// Every mistake; the places are those of the text before the edit, or of the result.
        errors: Vec<MapError>,
    },
    /// The text is not TOML.
    #[error("the shard map is not TOML")]
    Toml(#[from] toml_edit::TomlError),
    /// There is no such shard in the map.
    #[error("there is no shard {0} in the map")]
    UnknownShard(ShardId),
    /// A change needs a higher epoch than the map has.
    #[error("the map has epoch {current}; a change needs a higher one than {requested}")]
    EpochTooLow {
        /// The epoch of the map.
        current: Epoch,
        /// Requested epoch.
        requested: Epoch,
    },
}

/// Puts the copies of shards on other hosts and sets the epoch; returns the new text.
///
/// The epoch must be higher than the map's, unless nothing changes: calling it again with the same arguments on its own
/// result returns that result. Errors: an unknown shard, a result that is not a valid map (two copies on one host).
pub fn set_placements(text: &str, places: &[ShardPlacement], epoch: Epoch) -> Result<String, MapEditError> {
    let before = ShardMap::parse(text).map_err(|errors| MapEditError::Invalid { after: false, errors })?;
    let mut document: DocumentMut = text.parse()?;
    for place in places {
        let shard = find_shard_table(&mut document, place.shard).ok_or(MapEditError::UnknownShard(place.shard))?;
        if let Some(item) = shard.get_mut("host") {
            replace_value(item, Value::from(place.host.as_str()));
        }
        let is_unchanged = before.find_shard(place.shard).is_some_and(|entry| entry.replicas == place.replicas);
        if !is_unchanged {
            set_replicas(shard, &place.replicas);
        }
    }
    replace_value(&mut document["epoch"], Value::from(i64::try_from(epoch.0).unwrap_or(i64::MAX)));
    let edited = document.to_string();
    let after = ShardMap::parse(&edited).map_err(|errors| MapEditError::Invalid { after: true, errors })?;
    if after == before {
        return Ok(text.to_owned());
    }
    if epoch <= before.epoch {
        return Err(MapEditError::EpochTooLow { current: before.epoch, requested: epoch });
    }
    Ok(edited)
}

/// Sets the number of replicas per shard from the map's next epoch on; returns the new text.
///
/// Errors: not a map, or more than a map may ask for.
pub fn set_replica_count(text: &str, replicas: u16) -> Result<String, MapEditError> {
    ShardMap::parse(text).map_err(|errors| MapEditError::Invalid { after: false, errors })?;
    let mut document: DocumentMut = text.parse()?;
    let number = Value::from(i64::from(replicas));
    match document.get_mut("replicas") {
        Some(item) => replace_value(item, number),
        None => drop(document.insert("replicas", Item::Value(number))),
    }
    let edited = document.to_string();
    ShardMap::parse(&edited).map_err(|errors| MapEditError::Invalid { after: true, errors })?;
    Ok(edited)
}

/// Sets a value and keeps the white space and the comment around it.
fn replace_value(item: &mut Item, mut value: Value) {
    let Some(old) = item.as_value_mut() else { return };
    *value.decor_mut() = old.decor().clone();
    *old = value;
}

/// Replaces the list of replicas, adds one, or takes it out where there are none.
fn set_replicas(shard: &mut dyn TableLike, replicas: &[String]) {
    if replicas.is_empty() {
        shard.remove("replicas");
        return;
    }
    let list = Value::from(replicas.iter().map(String::as_str).collect::<Array>());
    match shard.get_mut("replicas") {
        Some(item) => replace_value(item, list),
        None => drop(shard.insert("replicas", Item::Value(list))),
    }
}

fn find_shard_table(document: &mut DocumentMut, id: ShardId) -> Option<&mut dyn TableLike> {
    let wanted = |table: &dyn TableLike| table.get("id").and_then(Item::as_integer) == Some(i64::from(id.0));
    match document.get_mut("shard")? {
        Item::ArrayOfTables(tables) => {
            tables.iter_mut().map(|table| table as &mut dyn TableLike).find(|table| wanted(*table))
        }
        Item::Value(Value::Array(array)) => array
            .iter_mut()
            .filter_map(Value::as_inline_table_mut)
            .map(|table| table as &mut dyn TableLike)
            .find(|table| wanted(*table)),
        _ => None,
    }
}

fn join_messages(errors: &[MapError]) -> String {
    errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::{Epoch, MapEditError, ShardId, ShardPlacement, set_placements, set_replica_count};
    use crate::ShardMap;

    const EXAMPLE_MAP: &str = r#"# who runs what
cluster = "timeline"
epoch   = 7   # one more each time
port_base = 7000

[[shard]]   # the low half
id = 0
slots = "0-8191"
host = "redis-01"  # rack 3
replicas = ["redis-02"]

# the high half
[[shard]]
host = "redis-02"
slots = "8192-16383"
id = 1
"#;

    /// Shard `id` at `host`, its replicas as the map has them.
    fn placement_on(text: &str, id: u16, host: &str) -> ShardPlacement {
        let map = ShardMap::parse(text).expect("a map");
        let replicas = map.find_shard(ShardId(id)).map_or_else(Vec::new, |entry| entry.replicas.clone());
        ShardPlacement { shard: ShardId(id), host: host.to_owned(), replicas }
    }

    #[test]
    fn only_the_values_change() {
        let edited =
            set_placements(EXAMPLE_MAP, &[placement_on(EXAMPLE_MAP, 0, "redis-03")], Epoch(8)).expect("an edit");
        let wanted =
            EXAMPLE_MAP.replace("epoch   = 7 ", "epoch   = 8 ").replace("host = \"redis-01\"", "host = \"redis-03\"");
        assert_eq!(edited, wanted);
        let again = set_placements(&edited, &[placement_on(EXAMPLE_MAP, 0, "redis-03")], Epoch(8))
            .expect("the same edit again");
        assert_eq!(again, edited);
    }

    #[test]
    fn replicas_are_replaced_added_and_removed() {
        let place = |id, host: &str, replicas: &[&str]| ShardPlacement {
            shard: ShardId(id),
            host: host.to_owned(),
            replicas: replicas.iter().map(|name| (*name).to_owned()).collect(),
        };
        let places = [place(0, "redis-02", &["redis-01"]), place(1, "redis-02", &["redis-03"])];
        let edited = set_placements(EXAMPLE_MAP, &places, Epoch(8)).expect("an edit");
        let wanted = EXAMPLE_MAP
            .replace("epoch   = 7 ", "epoch   = 8 ")
            .replace("host = \"redis-01\"", "host = \"redis-02\"")
            .replace("[\"redis-02\"]", "[\"redis-01\"]")
            .replace("id = 1\n", "id = 1\nreplicas = [\"redis-03\"]\n");
        assert_eq!(edited, wanted);
        let without = set_placements(EXAMPLE_MAP, &[place(0, "redis-01", &[])], Epoch(8)).expect("an edit");
        assert_eq!(
            without,
            EXAMPLE_MAP.replace("epoch   = 7 ", "epoch   = 8 ").replace("replicas = [\"redis-02\"]\n", "")
        );
    }

    #[test]
    fn replica_count_is_set_at_the_top() {
        let edited = set_replica_count(EXAMPLE_MAP, 1).expect("an edit");
        assert_eq!(edited, EXAMPLE_MAP.replace("port_base = 7000\n", "port_base = 7000\nreplicas = 1\n"));
        let lacking = |text: &str| {
            ShardMap::parse(text).expect("a map").underreplicated_shards().map(|s| s.id.0).collect::<Vec<_>>()
        };
        assert_eq!((lacking(EXAMPLE_MAP), lacking(&edited)), (vec![], vec![1]));
        let two = set_replica_count(&edited.replace("replicas = 1", "replicas = 1  # other zone"), 2).expect("an edit");
        assert_eq!(two, edited.replace("replicas = 1", "replicas = 2  # other zone"));
        assert!(matches!(set_replica_count(EXAMPLE_MAP, 99), Err(MapEditError::Invalid { after: true, .. })));
    }

    #[test]
    fn inline_arrays_of_shards_are_edited() {
        let inline = "cluster = \"t\"\nepoch = 1\nport_base = 1\nshard = [\n  { id = 0, slots = \"0-16383\", host = \"a\" }, # one\n]\n";
        let edited = set_placements(inline, &[placement_on(inline, 0, "b")], Epoch(2)).expect("an edit");
        assert_eq!(edited, inline.replace("epoch = 1", "epoch = 2").replace("host = \"a\"", "host = \"b\""));
    }

    #[test]
    fn invalid_edits_are_rejected() {
        let same = set_placements(EXAMPLE_MAP, &[placement_on(EXAMPLE_MAP, 0, "redis-03")], Epoch(7));
        assert!(matches!(same, Err(MapEditError::EpochTooLow { .. })), "{same:?}");
        let lower = set_placements(EXAMPLE_MAP, &[], Epoch(6));
        assert!(matches!(lower, Err(MapEditError::EpochTooLow { .. })), "{lower:?}");
        let unknown = set_placements(EXAMPLE_MAP, &[placement_on(EXAMPLE_MAP, 9, "redis-03")], Epoch(8));
        assert!(matches!(unknown, Err(MapEditError::UnknownShard(ShardId(9)))), "{unknown:?}");
        let onto_replica = set_placements(EXAMPLE_MAP, &[placement_on(EXAMPLE_MAP, 0, "redis-02")], Epoch(8));
        assert!(matches!(onto_replica, Err(MapEditError::Invalid { after: true, .. })), "{onto_replica:?}");
        let broken = set_placements("cluster = 1", &[], Epoch(8));
        assert!(matches!(broken, Err(MapEditError::Invalid { after: false, .. })), "{broken:?}");
    }
}
