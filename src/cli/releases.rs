//! `dunlin releases`.

use clap::Args;
use serde_json::json;

use super::Common;
use super::failure::Failure;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment};
use super::recipe::Loaded;
use super::run::fleet;
use super::told::say_refused;
use crate::deploy::rollout::look;
use crate::report::Reporter;
use crate::wire::deploy::{Observation, Release};

/// List the releases that the hosts of a service keep, and which one serves
#[derive(Debug, Args)]
pub struct Releases {
    /// The service
    service: String,
    /// Only these of its hosts
    #[arg(long, value_name = "SELECTOR")]
    limit: Option<String>,
}

impl Releases {
    /// One line a release and host, oldest first.
    ///
    /// # Errors
    /// Broken files, no such host.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        let project = find_project(common)?;
        let loaded = Loaded::of(&self.service, &project, common)?;
        let environment = load_environment(&project, common)?;
        let (hosts, _) = loaded.hosts(&environment.inventory, self.limit.as_deref(), common)?;
        let fleet = fleet(&environment.inventory, &hosts, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let (reporter, scope) = (common.reporter(), loaded.scope());
        let results = fleet.each(&names, |host| look(&fleet, host, &scope)).await;
        let (width, mut failed) = (names.iter().map(String::len).max().unwrap_or(0), 0);
        for (host, result) in names.iter().zip(results) {
            match result {
                Ok(seen) => show((host, width), &seen, &reporter),
                Err(refused) => {
                    say_refused(host, &refused, common);
                    failed += 1;
                }
            }
        }
        Ok(CommandOutcome::of_hosts(failed, fleet.stop.is_cancelled()))
    }
}

fn show((host, width): (&str, usize), seen: &Observation, reporter: &Reporter) {
    if seen.releases.is_empty() {
        reporter.data(&format!("{host:width$}  no release"));
    }
    for release in &seen.releases {
        let state = state(release, seen);
        let staged = i64::try_from(release.staged_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        let staged = staged.map(|at| at.to_string()).unwrap_or_default();
        reporter.line(
            "release",
            json!({
                "host": host, "version": release.version, "state": state,
                "staged_at": staged, "bytes": release.bytes, "damage": release.damage, "failed": release.failed,
            }),
        );
        let mut notes = Vec::new();
        notes.extend(state.map(str::to_owned));
        notes.extend(release.failed.as_ref().map(|why| format!("failed: {}", why.lines().next().unwrap_or_default())));
        notes.extend((!release.damage.is_empty()).then(|| format!("damaged: {}", release.damage.join(", "))));
        let text = format!("{host:width$}  {:<24}  {staged}  {}", release.version, notes.join("; "));
        reporter.data(text.trim_end());
    }
    for version in &seen.partial {
        reporter.say(&format!("{host}: {version} was not staged whole; the next deploy removes it"));
    }
    if let Some(holder) = &seen.locked {
        reporter.say(&format!("{host}: {} is deploying", holder.by));
    }
}

fn state(release: &Release, seen: &Observation) -> Option<&'static str> {
    let is = |target: &Option<crate::wire::deploy::Target>| {
        target.as_ref().is_some_and(|target| target.version == release.version)
    };
    if is(&seen.unfinished) {
        Some("unfinished switch")
    } else if is(&seen.confirmed) {
        Some("serves")
    } else if is(&seen.previous) {
        Some("previous")
    } else {
        None
    }
}
