//! Groups and their children: order from the root, depth, cycles.

/// A cycle in an order, as the path that closes it (first and last are the same).
pub(super) type Cycle = Vec<usize>;

/// Walks a graph without recursion and gives its nodes with every node before its successors, and the cycles found. An
/// edge that closes a cycle is left out, so the order is usable in any case.
pub(super) fn topological_order(successors: &[Vec<usize>]) -> (Vec<usize>, Vec<Cycle>) {
    const NEW: u8 = 0;
    const OPEN: u8 = 1;
    const DONE: u8 = 2;
    let mut state = vec![NEW; successors.len()];
    let (mut finished, mut cycles) = (Vec::with_capacity(successors.len()), Vec::new());
    for root in 0..successors.len() {
        if state[root] != NEW {
            continue;
        }
        // Each entry: a node and how many of its successors were visited.
        let mut path: Vec<(usize, usize)> = vec![(root, 0)];
        state[root] = OPEN;
        while let Some((node, visited)) = path.last_mut() {
            let Some(next) = successors[*node].get(*visited).copied() else {
                state[*node] = DONE;
                finished.push(*node);
                path.pop();
                continue;
            };
            *visited += 1;
            match state[next] {
                NEW => {
                    state[next] = OPEN;
                    path.push((next, 0));
                }
                OPEN => {
                    let start = path.iter().position(|(node, _)| *node == next).unwrap_or(0);
                    cycles.push(path[start..].iter().map(|(node, _)| *node).chain([next]).collect());
                }
                _ => {}
            }
        }
    }
    finished.reverse();
    (finished, cycles)
}

/// Returns the depth of each node: 1 without predecessors, else one more than the deepest of them. `order` is that of
/// [`topological_order`]; edges that point backwards in it are ignored.
pub(super) fn node_depths(successors: &[Vec<usize>], order: &[usize]) -> Vec<usize> {
    let mut position = vec![0; successors.len()];
    order.iter().enumerate().for_each(|(at, node)| position[*node] = at);
    let mut depth = vec![1; successors.len()];
    for node in order {
        for next in &successors[*node] {
            if position[*next] > position[*node] {
                depth[*next] = depth[*next].max(depth[*node] + 1);
            }
        }
    }
    depth
}

#[cfg(test)]
mod tests {
    use super::{node_depths, topological_order};

    #[test]
    fn parents_come_first_and_the_longest_path_sets_the_depth() {
        // 2 → 1 → 0 and 2 → 0
        let graph = [vec![], vec![0], vec![0, 1]];
        let (sorted, cycles) = topological_order(&graph);
        assert_eq!(sorted, [2, 1, 0]);
        assert!(cycles.is_empty());
        assert_eq!(node_depths(&graph, &sorted), [3, 2, 1]);
    }

    #[test]
    fn cycles_are_reported_and_left_out() {
        let graph = [vec![1], vec![2], vec![0], vec![3]];
        let (sorted, cycles) = topological_order(&graph);
        assert_eq!(cycles, [vec![0, 1, 2, 0], vec![3, 3]]);
        assert_eq!(sorted.len(), 4);
        assert_eq!(node_depths(&graph, &sorted), [1, 2, 3, 1]);
    }

    #[test]
    fn long_chains_do_not_recurse() {
        let graph: Vec<Vec<usize>> = (0..100_000).map(|n| if n < 99_999 { vec![n + 1] } else { vec![] }).collect();
        let (sorted, _) = topological_order(&graph);
        assert_eq!(node_depths(&graph, &sorted)[99_999], 100_000);
    }
}
