//! Changing the authored map in place: comments, order and layout stay as they were.

use toml_edit::{DocumentMut, Item, TableLike, Value};

use super::{Epoch, MapError, ShardId, ShardMap};

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

/// Puts shards on other hosts and sets the epoch; returns the new text.
///
/// The epoch must be higher than the map's, unless nothing changes: calling it again with the same arguments on its own
/// result returns that result. Errors: an unknown shard, a result that is not a valid map (a move onto a replica's host).
pub fn move_shards(text: &str, moves: &[(ShardId, &str)], epoch: Epoch) -> Result<String, EditError> {
    let before = ShardMap::parse(text).map_err(|errors| EditError::Invalid { after: false, errors })?;
    let mut document: DocumentMut = text.parse()?;
    for (id, host) in moves {
        let shard = find(&mut document, *id).ok_or(EditError::NoSuchShard(*id))?;
        if let Some(item) = shard.get_mut("host") {
            replace(item, Value::from(*host));
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

/// Sets a value and keeps the white space and the comment around it.
fn replace(item: &mut Item, mut value: Value) {
    let Some(old) = item.as_value_mut() else { return };
    *value.decor_mut() = old.decor().clone();
    *old = value;
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
    use super::{EditError, Epoch, ShardId, move_shards};

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

    #[test]
    fn only_the_values_change() {
        let edited = move_shards(MAP, &[(ShardId(0), "redis-03")], Epoch(8)).expect("an edit");
        let wanted = MAP.replace("epoch   = 7 ", "epoch   = 8 ").replace("host = \"redis-01\"", "host = \"redis-03\"");
        assert_eq!(edited, wanted);
        let again = move_shards(&edited, &[(ShardId(0), "redis-03")], Epoch(8)).expect("the same edit again");
        assert_eq!(again, edited);
    }

    #[test]
    fn an_inline_array_of_shards_too() {
        let inline = "cluster = \"t\"\nepoch = 1\nport_base = 1\nshard = [\n  { id = 0, slots = \"0-16383\", host = \"a\" }, # one\n]\n";
        let edited = move_shards(inline, &[(ShardId(0), "b")], Epoch(2)).expect("an edit");
        assert_eq!(edited, inline.replace("epoch = 1", "epoch = 2").replace("host = \"a\"", "host = \"b\""));
    }

    #[test]
    fn refusals() {
        let same = move_shards(MAP, &[(ShardId(0), "redis-03")], Epoch(7));
        assert!(matches!(same, Err(EditError::Epoch { .. })), "{same:?}");
        let lower = move_shards(MAP, &[], Epoch(6));
        assert!(matches!(lower, Err(EditError::Epoch { .. })), "{lower:?}");
        let unknown = move_shards(MAP, &[(ShardId(9), "redis-03")], Epoch(8));
        assert!(matches!(unknown, Err(EditError::NoSuchShard(ShardId(9)))), "{unknown:?}");
        let onto_replica = move_shards(MAP, &[(ShardId(0), "redis-02")], Epoch(8));
        assert!(matches!(onto_replica, Err(EditError::Invalid { after: true, .. })), "{onto_replica:?}");
        let broken = move_shards("cluster = 1", &[], Epoch(8));
        assert!(matches!(broken, Err(EditError::Invalid { after: false, .. })), "{broken:?}");
    }
}
