//! `dunlin shards status`.

use std::path::PathBuf;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::exit::Exit;
use crate::cli::output_file::write_output_file;
use crate::rebalance::cluster_status::read_status;
use crate::report::{report_missing_hosts, report_status_details, report_status_hosts};

impl ShardsContext<'_> {
    /// Prints placements, replica health, and moves in progress; if hosts do not answer, what is known without them.
    ///
    /// # Errors
    /// Returns an error if a primary does not answer.
    pub async fn show_status(&self, out: Option<PathBuf>) -> Result<Exit, CommandError> {
        let (cluster, reporter) = (&self.files.cluster, &self.reporter);
        let pending = cluster.state.load_pending_moves()?;
        let fleet = self.files.build_fleet(self.common)?;
        let (context, unreachable) = self.files.connect_reachable(&fleet).await?;
        report_missing_hosts(&unreachable, reporter);
        let status = read_status(cluster, &context, &pending).await?;
        report_status_hosts(&status, reporter);
        if let Some(file) = out
            && let Some(observation) = status.to_observation(cluster, &context)?
        {
            write_output_file(&file, observation.to_json().as_bytes())?;
        }
        report_status_details(&status, reporter);
        let next = status.step_for_missing(&unreachable);
        match status.primaries.into_complete() {
            Ok(_) if unreachable.is_empty() => Ok(Exit::Done),
            Ok(_) => {
                reporter.print_status(&format!("next: {next}"));
                Ok(Exit::Partial)
            }
            Err(error) => Err(CommandError::new(Exit::Partial, error).with_hint(next)),
        }
    }
}
