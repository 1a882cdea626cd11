//! Work spread over the processors, with the same result on any number of them.

use std::sync::Mutex;
use std::thread;

/// What `work` makes of each, in the same order.
pub(crate) fn on_all_processors<T: Send, R: Send>(tasks: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(tasks.len());
    let queue = Mutex::new(tasks.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some((n, task)) = queue.lock().expect("no holder panics").next() else { break };
                    let result = work(task);
                    done.lock().expect("no holder panics").push((n, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no holder panics");
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::on_all_processors;

    #[test]
    fn results_come_in_the_order_of_their_tasks() {
        let slow_first = |n: u64| {
            std::thread::sleep(std::time::Duration::from_millis(20 - 2 * n));
            n * n
        };
        assert_eq!(on_all_processors((0..10).collect(), slow_first), [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
        assert!(on_all_processors(Vec::new(), slow_first).is_empty());
    }
}
