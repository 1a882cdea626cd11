//! Starts, enables and stops the process of an instance; with systemd if it has a unit.

use anyhow::Result;

use super::{RedisShard, process};
use crate::process::Program;
use crate::resources::HostView;
use crate::resources::service::JOB_TIMEOUT;

impl RedisShard {
    /// Starts the instance where it does not run.
    ///
    /// # Errors
    /// Returns the error of systemd or of the server program.
    pub fn start_instance(&self) -> Result<()> {
        match &self.unit {
            // An instance reads all of its data when it starts, and the unit may have no limit.
            Some(unit) => run_job(&["start"], unit),
            None => process::start_daemon(&self.server, &self.conf_path(), &self.data_dir, &self.user),
        }
    }

    /// Starts the instance, and has it start with the host where it has a unit.
    ///
    /// # Errors
    /// Returns the error of systemd or of the server program.
    pub fn enable_and_start(&self) -> Result<()> {
        if let Some(unit) = &self.unit {
            // Without a reload of systemd, which would take longer than all the rest; see World's units.
            Program::short("systemctl").args(["enable", "--no-reload", "--quiet", "--", unit]).run()?;
        }
        self.start_instance()
    }

    /// Stops the instance, and has it not start again with the host.
    ///
    /// # Errors
    /// Returns the error of systemd, or an error if the process does not exit in time.
    pub fn stop_and_disable(&self) -> Result<()> {
        match &self.unit {
            Some(unit) => run_job(&["disable", "--no-reload", "--now"], unit),
            None => process::stop_daemon(&self.data_dir),
        }
    }

    /// Returns whether the process exists.
    ///
    /// # Errors
    /// Returns an error if systemd does not answer.
    pub fn is_running(&self) -> Result<bool> {
        match &self.unit {
            Some(unit) => Ok(HostView::current().unit_state(unit)?.active == "active"),
            None => Ok(process::is_running(&self.data_dir)),
        }
    }
}

/// Runs a job of systemd to its end.
fn run_job(verb: &[&str], unit: &str) -> Result<()> {
    let hint = "systemd goes on with the job: see systemctl list-jobs and the journal of the unit";
    let job = Program::new("systemctl").args(verb).args(["--quiet", "--", unit]).timeout(JOB_TIMEOUT);
    job.explain_timeout(hint).run().map(drop)
}
