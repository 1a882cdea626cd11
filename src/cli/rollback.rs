//! `dunlin rollback`.

use clap::Args;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment};
use super::recipe::Loaded;
use super::rollout::{How, Service};
use crate::deploy::rollout::Goal;
use crate::wire::deploy::Version;

/// Switch back to a release that the hosts keep; nothing is sent
#[derive(Debug, Args)]
pub struct Rollback {
    /// The service
    service: String,
    /// To which release (default: the one that served before)
    #[arg(long, value_name = "V")]
    to: Option<String>,
    #[command(flatten)]
    how: How,
}

impl Rollback {
    /// observe → plan → show → confirm → switch.
    ///
    /// # Errors
    /// Broken files, a host that does not keep the release, hosts that would go to different ones, not confirmed.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        let project = find_project(common)?;
        let loaded = Loaded::of(&self.service, &project, common)?;
        let to = self.to.map(Version::new).transpose().map_err(|error| Failure::say(Exit::Usage, error))?;
        let environment = load_environment(&project, common)?;
        let service = Service::new(&loaded, &environment.inventory, &self.how, common)?;
        service.run("rollback", &Goal::Kept(to), None).await
    }
}
