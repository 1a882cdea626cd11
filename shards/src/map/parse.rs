//! From text to a map, going on after each mistake so that all of them are reported together.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Epoch, MapError, Shard, ShardId, ShardMap, check,
    raw_shard::{RawShard, map_error},
};
use crate::slot::SlotRange;

const KNOWN_MAP_KEYS: [&str; 5] = ["cluster", "epoch", "port_base", "replicas", "shard"];
/// Each replica makes the primary send its write stream one more time.
const MAX_REPLICAS: u64 = 16;
const KNOWN_SHARD_KEYS: [&str; 5] = ["id", "slots", "host", "replicas", "pinned"];

pub(super) fn parse_map(text: &str) -> Result<ShardMap, Vec<MapError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // what was recovered around a syntax error would only cause false errors
        return Err(errors.iter().map(|error| map_error(error.span(), error.message().to_owned(), None)).collect());
    }
    let mut reader = MapReader { errors: Vec::new() };
    let map = reader.read_map(table.get_ref());
    let mut errors = reader.errors;
    errors.sort_by_key(|error| error.span.as_ref().map_or(usize::MAX, |span| span.start));
    match map {
        Some(map) if errors.is_empty() => Ok(map),
        _ => Err(errors),
    }
}

struct MapReader {
    errors: Vec<MapError>,
}

impl MapReader {
    fn read_map(&mut self, table: &DeTable<'_>) -> Option<ShardMap> {
        self.report_unknown_keys(table, &KNOWN_MAP_KEYS);
        let cluster = self.read_name(table, "cluster", None);
        let epoch = self.read_integer(table, "epoch", None, i64::MAX as u64);
        let port_base = self.read_integer(table, "port_base", None, u64::from(u16::MAX));
        if let Some(zero) = port_base.as_ref().filter(|base| *base.get_ref() == 0) {
            self.push_error(Some(zero.span()), "port_base must be at least 1".to_owned(), None);
        }
        let port_base = port_base.map(|base| u16::try_from(*base.get_ref()).unwrap_or(u16::MAX));
        let replicas = table.get("replicas").and_then(|_| self.read_integer(table, "replicas", None, MAX_REPLICAS));
        let drafts = self.read_shards(table);
        check::check_map(&drafts, port_base, &mut self.errors);
        Some(ShardMap {
            cluster: cluster?.into_inner(),
            epoch: Epoch(epoch?.into_inner()),
            port_base: port_base?,
            replicas: replicas.and_then(|number| u16::try_from(number.into_inner()).ok()),
            shards: drafts.into_iter().map(build_shard).collect::<Option<_>>()?,
        })
    }

    fn read_shards(&mut self, table: &DeTable<'_>) -> Vec<RawShard> {
        let Some(value) = table.get("shard") else {
            self.push_error(None, "the map has no shards".to_owned(), Some("add a [[shard]] with id, slots and host"));
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.report_wrong_type(value, "shard", "an array of tables", Some("write [[shard]], with two brackets"));
            return Vec::new();
        };
        if array.is_empty() {
            self.push_error(Some(value.span()), "the map has no shards".to_owned(), None);
        }
        array.iter().filter_map(|element| self.read_shard(element)).collect()
    }

    fn read_shard(&mut self, element: &Spanned<DeValue<'_>>) -> Option<RawShard> {
        let Some(table) = element.get_ref().as_table() else {
            self.report_wrong_type(element, "shard", "a table", None);
            return None;
        };
        let span = element.span();
        self.report_unknown_keys(table, &KNOWN_SHARD_KEYS);
        let id = self.read_integer(table, "id", Some(&span), u64::from(u16::MAX));
        Some(RawShard {
            id: id.map(|id| Spanned::new(id.span(), u16::try_from(*id.get_ref()).unwrap_or(u16::MAX))),
            slots: self.read_slots(table, &span),
            host: self.read_name(table, "host", Some(&span)),
            replicas: self.read_replicas(table),
            pinned: self.read_boolean(table, "pinned"),
            span,
        })
    }

    fn read_slots(&mut self, table: &DeTable<'_>, shard: &Range<usize>) -> Option<Spanned<Vec<SlotRange>>> {
        let value = self.take_required(table, "slots", Some(shard))?;
        let Some(text) = value.get_ref().as_str() else {
            self.report_wrong_type(value, "slots", "a string", Some("write it as \"0-255\" or \"0-255,300\""));
            return None;
        };
        match SlotRange::parse_list(text) {
            Ok(ranges) => Some(Spanned::new(value.span(), ranges)),
            Err(message) => {
                self.push_error(Some(value.span()), message, Some("write slots as \"0-255\" or \"0-255,300\""));
                None
            }
        }
    }

    fn read_replicas(&mut self, table: &DeTable<'_>) -> Vec<Spanned<String>> {
        let Some(value) = table.get("replicas") else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.report_wrong_type(value, "replicas", "an array of host names", Some("write it as [\"redis-02\"]"));
            return Vec::new();
        };
        array.iter().filter_map(|element| self.check_name(element, "replicas")).collect()
    }

    fn read_boolean(&mut self, table: &DeTable<'_>, key: &str) -> bool {
        let Some(value) = table.get(key) else { return false };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.report_wrong_type(value, key, "true or false", None);
            false
        })
    }

    fn read_integer(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        shard: Option<&Range<usize>>,
        max: u64,
    ) -> Option<Spanned<u64>> {
        let value = self.take_required(table, key, shard)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.report_wrong_type(value, key, "an integer", None);
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if number <= max => Some(Spanned::new(value.span(), number)),
            _ => {
                self.push_error(Some(value.span()), format!("{key} must be between 0 and {max}, not {integer}"), None);
                None
            }
        }
    }

    fn read_name(&mut self, table: &DeTable<'_>, key: &str, shard: Option<&Range<usize>>) -> Option<Spanned<String>> {
        let value = self.take_required(table, key, shard)?;
        self.check_name(value, key)
    }

    /// Returns a valid name, which can become neither an option nor a path, nor break a line of a file that it is
    /// written into; reports others.
    fn check_name(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Spanned<String>> {
        let Some(name) = value.get_ref().as_str() else {
            self.report_wrong_type(value, key, "a string", None);
            return None;
        };
        let good = name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !good {
            let help = "a name starts with a letter or digit and contains letters, digits, '.', '_' and '-'";
            self.push_error(Some(value.span()), format!("\"{}\" is not a name", name.escape_debug()), Some(help));
            return None;
        }
        Some(Spanned::new(value.span(), name.to_owned()))
    }

    fn take_required<'t, 'i>(
        &mut self,
        table: &'t DeTable<'i>,
        key: &str,
        shard: Option<&Range<usize>>,
    ) -> Option<&'t Spanned<DeValue<'i>>> {
        let value = table.get(key);
        if value.is_none() {
            let owner = if shard.is_some() { "this shard" } else { "the map" };
            let help = match key {
                "cluster" => "the identity of the cluster: cluster = \"timeline\"",
                "epoch" => "a new map starts with epoch = 1",
                "port_base" => "shard n listens on port_base + n: port_base = 7000",
                "id" => "the number of the shard: id = 0",
                "slots" => "the slots it owns: slots = \"0-255\"",
                _ => "the host of its primary: host = \"redis-01\"",
            };
            self.push_error(shard.cloned(), format!("{owner} has no {key}"), Some(help));
        }
        value
    }

    fn report_unknown_keys(&mut self, table: &DeTable<'_>, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let help = match known.iter().map(|candidate| (edit_distance(name, candidate), candidate)).min() {
                Some((changes, candidate)) if changes <= 2 => format!("did you mean \"{candidate}\"?"),
                _ => format!("known keys: {}", known.join(", ")),
            };
            self.push_error(Some(key.span()), format!("unknown key \"{}\"", name.escape_debug()), Some(&help));
        }
    }

    fn report_wrong_type(&mut self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str, help: Option<&str>) {
        let found = value.get_ref().type_str();
        self.push_error(Some(value.span()), format!("{key} must be {wanted}, not a value of type {found}"), help);
    }

    fn push_error(&mut self, span: Option<Range<usize>>, message: String, help: Option<&str>) {
        self.errors.push(map_error(span, message, help));
    }
}

fn build_shard(draft: RawShard) -> Option<Shard> {
    Some(Shard {
        id: ShardId(draft.id?.into_inner()),
        slots: draft.slots?.into_inner(),
        host: draft.host?.into_inner(),
        replicas: draft.replicas.into_iter().map(Spanned::into_inner).collect(),
        pinned: draft.pinned,
    })
}

/// Computes the number of characters to add, remove or change (Levenshtein distance).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, from) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in to.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}
