//! Merges a host or group from several sources; sets the order of hosts.

use std::collections::{HashMap, HashSet};

use super::raw::{RawGroup, RawHost};
use super::source::Located;

/// Merges a host from a further source; values of the earlier source take precedence.
pub(super) fn merge_hosts(drafts: Vec<RawHost>) -> Vec<RawHost> {
    let mut index: HashMap<String, usize> = HashMap::with_capacity(drafts.len());
    let mut merged: Vec<RawHost> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        match index.get(&draft.name.value) {
            None => {
                index.insert(draft.name.value.clone(), merged.len());
                merged.push(draft);
            }
            Some(at) => {
                let first = &mut merged[*at];
                let mut connection = draft.connection;
                connection.override_with(&first.connection);
                first.connection = connection;
                first.has_address |= draft.has_address;
                first.address = first.address.take().or(draft.address);
                if first.host_keys.is_empty() {
                    first.host_keys = draft.host_keys;
                }
                first.zone = first.zone.take().or(draft.zone);
                first.memory = first.memory.take().or(draft.memory);
                first.weight = first.weight.take().or(draft.weight);
                first.drain |= draft.drain;
                draft.vars.into_iter().for_each(|(name, var)| {
                    first.vars.entry(name).or_insert(var);
                });
            }
        }
    }
    merged
}

/// Merges a group from a further source: hosts and children are joined, other values of the earlier source take
/// precedence.
pub(super) fn merge_groups(drafts: Vec<RawGroup>) -> Vec<RawGroup> {
    let mut index: HashMap<String, usize> = HashMap::with_capacity(drafts.len());
    let mut merged: Vec<RawGroup> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        match index.get(&draft.name.value) {
            None => {
                index.insert(draft.name.value.clone(), merged.len());
                merged.push(draft);
            }
            Some(at) => {
                let first = &mut merged[*at];
                let known: HashSet<String> = first.members.iter().map(|member| member.value.clone()).collect();
                first.members.extend(draft.members.into_iter().filter(|member| !known.contains(&member.value)));
                first.children.extend(draft.children);
                let mut connection = draft.connection;
                connection.override_with(&first.connection);
                first.connection = connection;
                draft.vars.into_iter().for_each(|(name, var)| {
                    first.vars.entry(name).or_insert(var);
                });
            }
        }
    }
    merged
}

/// Returns every mention of a host, in the order of the files; those without a place (a dynamic inventory) come last.
pub(super) fn host_order(hosts: &[RawHost], groups: &[RawGroup]) -> Vec<Located<String>> {
    let members = groups.iter().flat_map(|group| &group.members);
    let mut mentions: Vec<Located<String>> = members.chain(hosts.iter().map(|host| &host.name)).cloned().collect();
    mentions.sort_by_key(|mention| mention.origin.span.as_ref().map_or(usize::MAX, |span| span.start));
    let mut seen = HashSet::with_capacity(mentions.len());
    mentions.retain(|mention| seen.insert(mention.value.clone()));
    mentions
}
