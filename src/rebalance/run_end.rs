//! How a run on shards ended, and its counts.

/// How a run ended that has begun to change hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// All of it is done.
    Complete,
    /// Something failed, or remains for a later run.
    Partial,
    /// It was interrupted before all of it was done.
    Interrupted,
}

impl RunEnd {
    /// Returns the end of a run. One that is complete was interrupted too late.
    pub fn new(is_complete: bool, is_interrupted: bool) -> Self {
        match (is_complete, is_interrupted) {
            (true, _) => Self::Complete,
            (false, true) => Self::Interrupted,
            (false, false) => Self::Partial,
        }
    }
}

/// The counts of a run, also of one that ended with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTotals {
    /// Number of planned moves.
    pub moves: usize,
    /// Number of moves that failed.
    pub failed: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_after_the_last_step_is_none() {
        assert_eq!(RunEnd::new(true, true), RunEnd::Complete);
        assert_eq!(RunEnd::new(false, true), RunEnd::Interrupted);
        assert_eq!(RunEnd::new(false, false), RunEnd::Partial);
    }
}
