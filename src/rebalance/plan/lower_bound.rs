//! A lower bound on moved bytes by counting: each host is considered as if all others could help it without limit.
//!
//! A host over its range gives away at least some set of its items; a host below its range takes at least some set of the
//! others'. A moved item leaves one host and reaches one, so the least such sets of all hosts may be added up, once for
//! what leaves and once for what arrives.

use super::assignment::Assignment;
use super::model::{BYTES, LoadRange, Model, OPS, Weight};

/// Maximum number of items whose subsets are searched exhaustively.
const MAX_EXHAUSTIVE: usize = 22;

/// Returns the bytes that have to move, by counting.
pub(crate) fn counting_bound(model: &Model, ranges: &[LoadRange]) -> i64 {
    let home = Assignment::new(model);
    let movable = |item: &usize| model.items[*item].movable;
    let mut everything: Vec<Weight> =
        (0..model.items.len()).filter(movable).map(|item| model.items[item].weight).collect();
    sort_by_ops_density(&mut everything);
    let (mut leaves, mut arrives) = (0, 0);
    for (host, range) in ranges.iter().enumerate() {
        let load = home.load[host];
        let mut here: Vec<Weight> =
            home.items_on[host].iter().filter(|item| movable(item)).map(|item| model.items[*item].weight).collect();
        sort_by_ops_density(&mut here);
        let over = load[BYTES] - range.max[BYTES];
        leaves += min_subset_sum(&here, over).max(min_bytes_for_ops(&here, load[OPS] - range.max[OPS]));
        arrives +=
            (range.min[BYTES] - load[BYTES]).max(0).max(min_bytes_for_ops(&everything, range.min[OPS] - load[OPS]));
    }
    leaves.max(arrives)
}

/// Sorts by operations per byte, the highest first.
fn sort_by_ops_density(weights: &mut [Weight]) {
    weights.sort_by(|a, b| {
        let (a, b) = (i128::from(a[OPS]) * i128::from(b[BYTES]), i128::from(b[OPS]) * i128::from(a[BYTES]));
        b.cmp(&a)
    });
}

/// Returns the fewest bytes that carry the given operations if items could be split (the relaxed knapsack).
fn min_bytes_for_ops(by_density: &[Weight], ops: i64) -> i64 {
    let (mut left, mut bytes) = (ops, 0);
    for weight in by_density {
        if left <= 0 || weight[OPS] == 0 {
            break;
        }
        if weight[OPS] <= left {
            bytes += weight[BYTES];
        } else {
            bytes += (weight[BYTES] as f64 * (left as f64 / weight[OPS] as f64)).floor() as i64;
        }
        left -= weight[OPS];
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
        let with: Vec<i64> = sums.iter().map(|sum| sum + item[BYTES]).collect();
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
    use super::{min_bytes_for_ops, min_subset_sum};

    #[test]
    fn the_least_sum_is_the_smallest_set_that_is_enough() {
        let items = [[7, 0], [5, 0], [3, 0], [11, 0]];
        let sums: Vec<i64> = [0, 1, 4, 9, 13, 26, 27].iter().map(|need| min_subset_sum(&items, *need)).collect();
        assert_eq!(sums, [0, 3, 5, 10, 14, 26, 27]);
    }

    #[test]
    fn operations_leave_with_the_densest_bytes_first() {
        assert_eq!(min_bytes_for_ops(&[[10, 100], [20, 40]], 120), 20);
        assert_eq!(min_bytes_for_ops(&[[10, 100], [20, 40]], 0), 0);
    }
}
