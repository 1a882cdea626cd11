//! A lower bound on moved bytes by counting: each host alone, as if all others could give and receive without limit.
//!
//! A host over its range gives away at least some set of its items; a host below its range takes at least some set of
//! the others'. A moved item leaves one host and reaches one, so the least such sets of all hosts may be added up, once
//! for what leaves and once for what arrives.

use super::assignment::Assignment;
use super::model::Model;
use super::resource::HostResource::{self, Bytes};
use super::resource::{LoadRange, PerResource, Weight};

/// Maximum number of items whose subsets are searched exhaustively.
const MAX_EXHAUSTIVE: usize = 22;

/// Returns the bytes that have to move, by counting.
pub(crate) fn counting_bound(model: &Model, ranges: &[LoadRange]) -> i64 {
    let home = Assignment::new(model);
    let movable = |items: &[usize]| -> Vec<Weight> {
        items.iter().map(|item| &model.items[*item]).filter(|item| item.movable).map(|item| item.weight).collect()
    };
    let all = movable(&(0..model.items.len()).collect::<Vec<_>>());
    let by_density = PerResource::from_fn(|resource| sort_by_density(all.clone(), resource));
    let (mut leaves, mut arrives) = (0, 0);
    for (host, range) in ranges.iter().enumerate() {
        let load = home.load[host];
        let here = movable(&home.items_on[host]);
        let leaving = |resource: HostResource| match load[resource] - range.max[resource] {
            ..=0 => 0,
            over if resource == Bytes => min_subset_sum(&here, over),
            over => min_bytes_if_split(&sort_by_density(here.clone(), resource), resource, over),
        };
        let arriving = |resource: HostResource| match range.min[resource] - load[resource] {
            ..=0 => 0,
            under if resource == Bytes => under,
            under => min_bytes_if_split(&by_density[resource], resource, under),
        };
        leaves += HostResource::ALL.into_iter().map(leaving).max().unwrap_or(0);
        arrives += HostResource::ALL.into_iter().map(arriving).max().unwrap_or(0);
    }
    leaves.max(arrives)
}

/// Sorts by units of the resource per byte, the highest first.
fn sort_by_density(mut weights: Vec<Weight>, resource: HostResource) -> Vec<Weight> {
    weights.sort_by(|a, b| {
        let density = |a: &Weight, b: &Weight| i128::from(a[resource]) * i128::from(b[Bytes]);
        density(b, a).cmp(&density(a, b))
    });
    weights
}

/// Returns the fewest bytes that carry `need` units of the resource if items could be split (the relaxed knapsack).
fn min_bytes_if_split(by_density: &[Weight], resource: HostResource, need: i64) -> i64 {
    let (mut left, mut bytes) = (need, 0);
    for weight in by_density {
        if left <= 0 || weight[resource] == 0 {
            break;
        }
        if weight[resource] <= left {
            bytes += weight[Bytes];
        } else {
            bytes += (weight[Bytes] as f64 * (left as f64 / weight[resource] as f64)).floor() as i64;
        }
        left -= weight[resource];
    }
    bytes
}

/// Returns the least sum of a subset of the items that reaches `need`: exact for few items, else `need` itself.
fn min_subset_sum(items: &[Weight], need: i64) -> i64 {
    if need <= 0 {
        return 0;
    }
    if items.len() > MAX_EXHAUSTIVE {
        return need;
    }
    let (first, second) = items.split_at(items.len() / 2);
    let (first, second) = (subset_sums(first), subset_sums(second));
    let mut least = i64::MAX;
    let mut other = second.len();
    for sum in first {
        while other > 0 && sum + second[other - 1] >= need {
            other -= 1;
        }
        if let Some(more) = second.get(other) {
            least = least.min(sum + more);
        }
    }
    if least == i64::MAX { need } else { least }
}

/// Returns the sums of all subsets of the items, ascending.
fn subset_sums(items: &[Weight]) -> Vec<i64> {
    let mut sums = vec![0];
    for item in items {
        let with: Vec<i64> = sums.iter().map(|sum| sum + item[Bytes]).collect();
        let mut merged = Vec::with_capacity(2 * sums.len());
        let (mut a, mut b) = (sums.iter().peekable(), with.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let next = if x <= y { a.next() } else { b.next() };
            merged.extend(next);
        }
        merged.extend(a);
        merged.extend(b);
        sums = merged;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rebalance::plan::resource::HostResource::{Ops, Shards};

    fn weight(bytes: i64, ops: i64) -> Weight {
        PerResource::from_fn(|resource| match resource {
            Bytes => bytes,
            Ops => ops,
            Shards => 1,
        })
    }

    #[test]
    fn the_least_sum_is_the_smallest_set_that_is_enough() {
        let items = [7, 5, 3, 11].map(|bytes| weight(bytes, 0));
        let sums: Vec<i64> = [0, 1, 4, 9, 13, 26, 27].iter().map(|need| min_subset_sum(&items, *need)).collect();
        assert_eq!(sums, [0, 3, 5, 10, 14, 26, 27]);
    }

    #[test]
    fn operations_leave_with_the_densest_bytes_first() {
        let by_density = sort_by_density(vec![weight(20, 40), weight(10, 100)], Ops);
        assert_eq!(min_bytes_if_split(&by_density, Ops, 120), 20);
        assert_eq!(min_bytes_if_split(&by_density, Ops, 0), 0);
    }

    #[test]
    fn shards_above_a_limit_leave_with_the_fewest_bytes() {
        let by_density = sort_by_density([7, 5, 3, 11].map(|bytes| weight(bytes, 0)).to_vec(), Shards);
        assert_eq!([1, 2, 4].map(|need| min_bytes_if_split(&by_density, Shards, need)), [3, 8, 26]);
    }
}
