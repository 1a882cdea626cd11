//! The rules that hold between the values of a map: who owns which slot, unique numbers, ports that exist.

use std::collections::{HashMap, HashSet};

use toml::Spanned;

use super::{
    MapError, SlotCoverage,
    raw_shard::{RawShard, map_error},
};
use crate::slot::{Slot, SlotRange};

/// Checks all rules between the shards of a map.
pub(super) fn check_map(drafts: &[RawShard], port_base: Option<u16>, errors: &mut Vec<MapError>) {
    check_ids(drafts, errors);
    check_ports(drafts, port_base, errors);
    check_replicas(drafts, errors);
    check_slots(drafts, errors);
}

fn check_ids(drafts: &[RawShard], errors: &mut Vec<MapError>) {
    let mut seen = HashSet::new();
    for id in drafts.iter().filter_map(|draft| draft.id.as_ref()) {
        if !seen.insert(*id.get_ref()) {
            let message = format!("there is a shard {} already", id.get_ref());
            errors.push(map_error(Some(id.span()), message, Some("each shard needs a number of its own")));
        }
    }
}

fn check_ports(drafts: &[RawShard], port_base: Option<u16>, errors: &mut Vec<MapError>) {
    let Some(base) = port_base else { return };
    for id in drafts.iter().filter_map(|draft| draft.id.as_ref()) {
        if base.checked_add(*id.get_ref()).is_none() {
            let port = u32::from(base) + u32::from(*id.get_ref());
            let message = format!("shard {} would listen on port {port}", id.get_ref());
            errors.push(map_error(Some(id.span()), message, Some("ports end at 65535: lower port_base or the number")));
        }
    }
}

fn check_replicas(drafts: &[RawShard], errors: &mut Vec<MapError>) {
    for draft in drafts {
        let mut seen = HashMap::new();
        for replica in &draft.replicas {
            let name = replica.get_ref();
            if draft.host.as_ref().is_some_and(|host| host.get_ref() == name) {
                let message = format!("the replica is on {name}, the host of the primary");
                errors.push(map_error(Some(replica.span()), message, Some("put it on another host")));
            }
            if seen.insert(name, ()).is_some() {
                errors.push(map_error(Some(replica.span()), format!("{name} is named twice"), None));
            }
        }
    }
}

fn check_slots(drafts: &[RawShard], errors: &mut Vec<MapError>) {
    let ranges = |draft: &'_ RawShard| draft.slots.as_ref().map_or_else(Vec::new, |slots| slots.get_ref().clone());
    let all: Vec<Vec<SlotRange>> = drafts.iter().map(ranges).collect();
    let coverage = SlotCoverage::from_ranges(all.iter().map(Vec::as_slice));
    for overlap in coverage.overlaps() {
        let span = drafts[overlap.second].slots.as_ref().map(Spanned::span);
        let message = if overlap.first == overlap.second {
            format!("{} names slots {} twice", shard_name(&drafts[overlap.second]), overlap.slots)
        } else {
            let (first, second) = (shard_name(&drafts[overlap.first]), shard_name(&drafts[overlap.second]));
            format!("slots {} belong to {first} and to {second}", overlap.slots)
        };
        errors.push(map_error(span, message, Some("each slot belongs to exactly one shard")));
    }
    // a shard whose slots could not be read is reported for that; the hole it leaves is not a second mistake
    let all_read = !drafts.is_empty() && drafts.iter().all(|draft| draft.slots.is_some());
    let holes = coverage.find_gaps();
    if let (true, Some(first)) = (all_read, holes.first()) {
        let before = first.first.0.checked_sub(1).and_then(|slot| coverage.owner_of(Slot(slot)));
        let span = before.and_then(|index| drafts[index].slots.as_ref()).map(Spanned::span);
        let count: u32 = holes.iter().map(|hole| u32::from(hole.count())).sum();
        let message = format!("no shard owns the slots {} ({count} slots)", SlotRange::format_list(&holes));
        errors.push(map_error(span, message, Some("give them to a shard: the slots 0-16383 must all have an owner")));
    }
}

fn shard_name(draft: &RawShard) -> String {
    match &draft.id {
        Some(id) => format!("shard {}", id.get_ref()),
        None => format!("the shard without a number at byte {}", draft.span.start),
    }
}
