//! Work spread over the processors, with the same result on any number of them.

use std::thread;

/// What `work` makes of each task, in the same order.
pub(crate) fn on_all_processors<T: Sync, R: Send>(tasks: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    spread(tasks, thread::available_parallelism().map_or(1, usize::from), work)
}

fn spread<T: Sync, R: Send>(tasks: &[T], workers: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = tasks.len().div_ceil(workers).max(1);
    let of_share = |share: &[T]| share.iter().map(&work).collect::<Vec<R>>();
    thread::scope(|scope| {
        let running: Vec<_> = tasks.chunks(share).map(|share| scope.spawn(|| of_share(share))).collect();
        running.into_iter().flat_map(|worker| worker.join().expect("no search panics")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn results_are_the_same_on_any_number_of_processors() {
        let tasks: Vec<u64> = (0..10).collect();
        for workers in [1, 3, 4, 64] {
            assert_eq!(spread(&tasks, workers, |n| n * n), [0, 1, 4, 9, 16, 25, 36, 49, 64, 81], "{workers} workers");
        }
        assert!(spread(&[], 4, |n: &u64| n * n).is_empty());
    }
}
