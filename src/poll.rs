//! Polling: asks again at a fixed interval until there is an answer or the deadline has passed.

use std::time::{Duration, Instant};

/// Calls `check` until it returns a value or the deadline has passed; `None` means the latter.
///
/// `check` runs at least once, and again after the last wait, so that an answer that arrives during it counts.
///
/// # Errors
/// Returns the error of `check` at once.
pub fn poll_until<T, E>(
    deadline: Instant,
    interval: Duration,
    mut check: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    retry_until(deadline, interval, &mut check, |result| !matches!(result, Ok(None)))
}

/// Calls `attempt` until its result is final or the deadline has passed; returns the last result.
///
/// `attempt` runs at least once, and again after the last wait.
pub fn retry_until<R>(
    deadline: Instant,
    interval: Duration,
    mut attempt: impl FnMut() -> R,
    is_final: impl Fn(&R) -> bool,
) -> R {
    loop {
        let is_last = Instant::now() >= deadline;
        let result = attempt();
        if is_last || is_final(&result) {
            return result;
        }
        std::thread::sleep(interval.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// Polls like [`poll_until`], without blocking the thread.
///
/// # Errors
/// Returns the error of `check` at once.
pub async fn poll_until_async<T, E>(
    deadline: Instant,
    interval: Duration,
    mut check: impl AsyncFnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    retry_until_async(deadline, interval, &mut check, |result| !matches!(result, Ok(None))).await
}

/// Retries like [`retry_until`], without blocking the thread.
pub async fn retry_until_async<R>(
    deadline: Instant,
    interval: Duration,
    mut attempt: impl AsyncFnMut() -> R,
    is_final: impl Fn(&R) -> bool,
) -> R {
    loop {
        let is_last = Instant::now() >= deadline;
        let result = attempt().await;
        if is_last || is_final(&result) {
            return result;
        }
        tokio::time::sleep(interval.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(1);

    #[test]
    fn a_deadline_in_the_past_allows_one_check() {
        let mut checks = 0;
        let found = poll_until(Instant::now(), INTERVAL, || {
            checks += 1;
            Ok::<_, ()>(None::<()>)
        });
        assert_eq!((found, checks), (Ok(None), 1));
        assert_eq!(poll_until(Instant::now(), INTERVAL, || Ok::<_, ()>(Some(7))), Ok(Some(7)));
    }

    #[test]
    fn the_first_value_or_error_ends_the_polling() {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut left = 3;
        let mut count_down = || {
            left -= 1;
            left
        };
        assert_eq!(
            poll_until(deadline, INTERVAL, || Ok::<_, ()>((count_down() == 0).then_some("done"))),
            Ok(Some("done"))
        );
        assert_eq!(poll_until(deadline, INTERVAL, || Err::<Option<()>, _>("broken")), Err("broken"));
    }

    #[test]
    fn the_last_result_is_returned_when_none_is_final() {
        let mut attempts = 0;
        let mut attempt = || {
            attempts += 1;
            attempts
        };
        assert_eq!(
            retry_until(Instant::now() + Duration::from_secs(60), INTERVAL, &mut attempt, |count| *count == 3),
            3
        );
        assert_eq!(retry_until(Instant::now(), INTERVAL, &mut attempt, |_| false), 4);
    }

    #[tokio::test]
    async fn the_asynchronous_form_behaves_the_same() {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut left = 3;
        let found = poll_until_async(deadline, INTERVAL, async || {
            left -= 1;
            Ok::<_, ()>((left == 0).then_some("done"))
        });
        assert_eq!(found.await, Ok(Some("done")));
        assert_eq!(poll_until_async(Instant::now(), INTERVAL, async || Ok::<_, ()>(None::<()>)).await, Ok(None));
    }
}
