//! Changing the authored map in place: comments, order and layout stay as they were.

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::{Epoch, MapError, Placement, ShardId, ShardMap};

/// Why a map was not edited.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The text is not a valid map, or would not be one after the edit.
    #[error("the shard map is not valid {}: {}", if *.after { "after the edit" } else { "as it stands" }, join(.errors))]
    Invalid {
        /// Whether the mistakes come from the edit.
        after: bool,
        /// Every mistake; the places are those of the text before the edit, or of the result.
        errors: Vec<MapError>,
    },
    /// The text is not TOML.
    #[error("the shard map is not TOML")]
    Toml(#[from] toml_edit::TomlError),
    /// There is no such shard in the map.
    #[error("there is no shard {0} in the map")]
    NoSuchShard(ShardId),
    /// A change needs a higher epoch than the map has.
    #[error("the map has epoch {have}; a change needs a higher one than {wanted}")]
    Epoch {
        /// The epoch of the map.
        have: Epoch,
        /// The epoch that was asked for.
        wanted: Epoch,
    },
}

/// Puts the copies of shards on other hosts and sets the epoch; returns the new text.
///
/// The epoch must be higher than the map's, unless nothing changes: calling it again with the same arguments on its own
/// result returns that result. Errors: an unknown shard, a result that is not a valid map (two copies on one host).
pub fn place_shards(text: &str, places: &[Placement], epoch: Epoch) -> Result<String, EditError> {
    let before = ShardMap::parse(text).map_err(|errors| EditError::Invalid { after: false, errors })?;
    let mut document: DocumentMut = text.parse()?;
    for place in places {
        let shard = find(&mut document, place.shard).ok_or(EditError::NoSuchShard(place.shard))?;
        if let Some(item) = shard.get_mut("host") {
            replace(item, Value::from(place.host.as_str()));
        }
        let stood = before.shard(place.shard).is_some_and(|entry| entry.replicas == place.replicas);
        if !stood {
            set_replicas(shard, &place.replicas);
        }
    }
    replace(&mut document["epoch"], Value::from(i64::try_from(epoch.0).unwrap_or(i64::MAX)));
    let edited = document.to_string();
    let after = ShardMap::parse(&edited).map_err(|errors| EditError::Invalid { after: true, errors })?;
    if after == before {
        return Ok(text.to_owned());
    }
    if epoch <= before.epoch {
        return Err(EditError::Epoch { have: before.epoch, wanted: epoch });
    }
    Ok(edited)
}

/// Has the map ask for so many replicas of each shard, from its next epoch on; returns the new text.
///
/// Errors: not a map, or more than a map may ask for.
pub fn ask_for_replicas(text: &str, replicas: u16) -> Result<String, EditError> {
    ShardMap::parse(text).map_err(|errors| EditError::Invalid { after: false, errors })?;
    let mut document: DocumentMut = text.parse()?;
    let number = Value::from(i64::from(replicas));
    match document.get_mut("replicas") {
        Some(item) => replace(item, number),
        None => drop(document.insert("replicas", Item::Value(number))),
    }
    let edited = document.to_string();
    ShardMap::parse(&edited).map_err(|errors| EditError::Invalid { after: true, errors })?;
    Ok(edited)
}

/// Sets a value and keeps the white space and the comment around it.
fn replace(item: &mut Item, mut value: Value) {
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
        Some(item) => replace(item, list),
        None => drop(shard.insert("replicas", Item::Value(list))),
    }
}

fn find(document: &mut DocumentMut, id: ShardId) -> Option<&mut dyn TableLike> {
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

fn join(errors: &[MapError]) -> String {
    errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::{EditError, Epoch, Placement, ShardId, ask_for_replicas, place_shards};
    use crate::ShardMap;

    const MAP: &str = r#"# who runs what
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
    fn at(text: &str, id: u16, host: &str) -> Placement {
        let map = ShardMap::parse(text).expect("a map");
        let replicas = map.shard(ShardId(id)).map_or_else(Vec::new, |entry| entry.replicas.clone());
        Placement { shard: ShardId(id), host: host.to_owned(), replicas }
    }

    #[test]
    fn only_the_values_change() {
        let edited = place_shards(MAP, &[at(MAP, 0, "redis-03")], Epoch(8)).expect("an edit");
        let wanted = MAP.replace("epoch   = 7 ", "epoch   = 8 ").replace("host = \"redis-01\"", "host = \"redis-03\"");
        assert_eq!(edited, wanted);
        let again = place_shards(&edited, &[at(MAP, 0, "redis-03")], Epoch(8)).expect("the same edit again");
        assert_eq!(again, edited);
    }

    #[test]
    fn replicas_are_replaced_added_and_taken_out() {
        let place = |id, host: &str, replicas: &[&str]| Placement {
            shard: ShardId(id),
            host: host.to_owned(),
            replicas: replicas.iter().map(|name| (*name).to_owned()).collect(),
        };
        let places = [place(0, "redis-02", &["redis-01"]), place(1, "redis-02", &["redis-03"])];
        let edited = place_shards(MAP, &places, Epoch(8)).expect("an edit");
        let wanted = MAP
            .replace("epoch   = 7 ", "epoch   = 8 ")
            .replace("host = \"redis-01\"", "host = \"redis-02\"")
            .replace("[\"redis-02\"]", "[\"redis-01\"]")
            .replace("id = 1\n", "id = 1\nreplicas = [\"redis-03\"]\n");
        assert_eq!(edited, wanted);
        let without = place_shards(MAP, &[place(0, "redis-01", &[])], Epoch(8)).expect("an edit");
        assert_eq!(without, MAP.replace("epoch   = 7 ", "epoch   = 8 ").replace("replicas = [\"redis-02\"]\n", ""));
    }

    #[test]
    fn replicas_are_asked_for_at_the_top() {
        let edited = ask_for_replicas(MAP, 1).expect("an edit");
        assert_eq!(edited, MAP.replace("port_base = 7000\n", "port_base = 7000\nreplicas = 1\n"));
        let lacking = |text: &str| ShardMap::parse(text).expect("a map").lacking().map(|s| s.id.0).collect::<Vec<_>>();
        assert_eq!((lacking(MAP), lacking(&edited)), (vec![], vec![1]));
        let two = ask_for_replicas(&edited.replace("replicas = 1", "replicas = 1  # other zone"), 2).expect("an edit");
        assert_eq!(two, edited.replace("replicas = 1", "replicas = 2  # other zone"));
        assert!(matches!(ask_for_replicas(MAP, 99), Err(EditError::Invalid { after: true, .. })));
    }

    #[test]
    fn an_inline_array_of_shards_too() {
        let inline = "cluster = \"t\"\nepoch = 1\nport_base = 1\nshard = [\n  { id = 0, slots = \"0-16383\", host = \"a\" }, # one\n]\n";
        let edited = place_shards(inline, &[at(inline, 0, "b")], Epoch(2)).expect("an edit");
        assert_eq!(edited, inline.replace("epoch = 1", "epoch = 2").replace("host = \"a\"", "host = \"b\""));
    }

    #[test]
    fn refusals() {
        let same = place_shards(MAP, &[at(MAP, 0, "redis-03")], Epoch(7));
        assert!(matches!(same, Err(EditError::Epoch { .. })), "{same:?}");
        let lower = place_shards(MAP, &[], Epoch(6));
        assert!(matches!(lower, Err(EditError::Epoch { .. })), "{lower:?}");
        let unknown = place_shards(MAP, &[at(MAP, 9, "redis-03")], Epoch(8));
        assert!(matches!(unknown, Err(EditError::NoSuchShard(ShardId(9)))), "{unknown:?}");
        let onto_replica = place_shards(MAP, &[at(MAP, 0, "redis-02")], Epoch(8));
        assert!(matches!(onto_replica, Err(EditError::Invalid { after: true, .. })), "{onto_replica:?}");
        let broken = place_shards("cluster = 1", &[], Epoch(8));
        assert!(matches!(broken, Err(EditError::Invalid { after: false, .. })), "{broken:?}");
    }
}
