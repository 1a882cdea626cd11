//! Loads the files of shard commands, and connects to the hosts that they name.

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::host_locks::operator_id;
use super::project::{find_project, load_environment, load_plays};
use super::runtime::build_fleet;
use crate::fleet::Fleet;
use crate::plan::format_count;
use crate::rebalance::RebalanceContext;
use crate::rebalance::cluster_files::{ClusterFiles, UnreachableHost};
use crate::report::report_missing_hosts;

/// The files of shard commands, and the flags of their connections.
pub struct ShardFiles {
    /// The files.
    pub cluster: ClusterFiles,
    connect: ConnectArgs,
}

impl ShardFiles {
    /// Loads the files.
    ///
    /// # Errors
    /// Files have mistakes, or there is no shard map.
    pub fn load(connect: &ConnectArgs, common: &CommonArgs) -> Result<Self, CommandError> {
        let project = find_project(&connect.inventory, common)?;
        let loaded = load_environment(&project, common)?;
        let plays = load_plays(&project, None, common)?;
        Ok(Self { cluster: ClusterFiles::new(project, loaded, plays)?, connect: connect.clone() })
    }

    /// Builds the fleet of the hosts that the files name.
    ///
    /// # Errors
    /// See [`Fleet::new`].
    pub fn build_fleet(&self, common: &CommonArgs) -> Result<Fleet, CommandError> {
        build_fleet(&self.cluster.inventory, &self.cluster.involved_hosts()?, &self.connect, common)
    }

    /// Connects to all hosts.
    ///
    /// # Errors
    /// Hosts cannot be reached; all of them are reported.
    pub async fn connect_all<'a>(
        &'a self,
        fleet: &'a Fleet,
        common: &CommonArgs,
    ) -> Result<RebalanceContext<'a>, CommandError> {
        let (context, missing) = self.connect_reachable(fleet).await?;
        report_missing_hosts(&missing, &common.new_reporter());
        if !missing.is_empty() {
            let text = format!("{} cannot be reached; no changes were made", format_count(missing.len(), "host"));
            return Err(CommandError::with_message(Exit::Refused, text));
        }
        Ok(context)
    }

    /// Connects to the hosts that can be reached. Returns the others with their errors.
    ///
    /// # Errors
    /// Returns an error if the inventory has no credentials of the instances.
    pub async fn connect_reachable<'a>(
        &'a self,
        fleet: &'a Fleet,
    ) -> Result<(RebalanceContext<'a>, Vec<UnreachableHost>), CommandError> {
        Ok(self.cluster.connect_reachable(fleet, operator_id()).await?)
    }
}
