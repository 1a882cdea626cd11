//! Dry runs of `shards resume`, `shards abort` and `shards move-back`: what each open move would go through.

use clap::Args;

use crate::cli::exit::Exit;

/// The flags of a dry run.
#[derive(Clone, Copy, Debug, Args)]
pub struct DryRunArgs {
    /// Show what would be done without doing it
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run, exit with 2 if there is something to do
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
}

impl DryRunArgs {
    /// Returns the exit code of a dry run.
    pub fn exit(self, has_work: bool) -> Exit {
        if self.detailed_exitcode && has_work { Exit::Pending } else { Exit::Done }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_exits_with_2_only_on_request() {
        let exit = |detailed_exitcode, has_work| DryRunArgs { dry_run: true, detailed_exitcode }.exit(has_work);
        assert_eq!(exit(true, true), Exit::Pending);
        assert_eq!(exit(true, false), Exit::Done);
        assert_eq!(exit(false, true), Exit::Done);
    }
}
