//! Brings configuration, units, link and processes of a host to one state. Every step may be done again.

use std::path::Path;

use anyhow::{Context, Result};

use super::layout::{Layout, folder, remove};
use super::observe::account;
use super::releases::Kept;
use super::services::Services;
use crate::deploy::plan::{is_due, keeps_running};
use crate::plan::Row;
use crate::resources::{Meta, World, place};
use crate::wire::deploy::{Desired, Leftover, Observation, Seen, UnitSeen, Version};
use crate::wire::{Event, Sink};

/// Says which step is taken, before it is.
pub(super) struct Steps<'a> {
    sink: &'a dyn Sink,
    job: String,
}

impl<'a> Steps<'a> {
    pub fn new(sink: &'a dyn Sink, version: &Version) -> Self {
        Self { sink, job: format!("release {version}") }
    }

    pub fn at(&self, phase: &str) {
        self.sink.emit(Event::Progress { job: self.job.clone(), phase: phase.to_owned(), done: 0, total: 0 });
    }
}

/// What is to be done to reach a state.
#[derive(Debug)]
pub(super) struct Activation {
    /// Units that are restarted, or started, in this order.
    pub restart: Vec<String>,
    /// Units that must be stopped first: a socket cannot be replaced under its service.
    stop: Vec<String>,
    leftover: Vec<Leftover>,
}

/// A step's name and what went wrong in it.
type Failed = (&'static str, anyhow::Error);

impl Activation {
    /// What the rows of the plan ask for.
    pub fn due(desired: &Desired, seen: &Observation, rows: &[Row]) -> Self {
        Self::of(desired, seen, |unit| is_due(rows, unit))
    }

    /// Everything is restarted, whatever it looks like.
    pub fn whole(desired: &Desired, seen: &Observation) -> Self {
        let restarts = |unit: &str| desired.setup.units.iter().any(|own| own.name == unit && keeps_running(own));
        Self::of(desired, seen, restarts)
    }

    fn of(desired: &Desired, seen: &Observation, is_due: impl Fn(&str) -> bool) -> Self {
        let units = &desired.setup.units;
        let due: Vec<String> = units.iter().filter(|unit| is_due(&unit.name)).map(|unit| unit.name.clone()).collect();
        // Sockets, timers and paths before the services that they start.
        let (services, mut restart): (Vec<String>, Vec<String>) =
            due.into_iter().partition(|name| name.ends_with(".service"));
        // A socket, a timer that runs and did not change is left alone also where all services restart.
        restart.retain(|name| {
            units.iter().zip(&seen.units).any(|(unit, at)| unit.name == *name && !settled(unit.restart, unit, at))
        });
        let sockets = restart.iter().any(|name| name.ends_with(".socket"));
        let stop = if sockets { services.clone() } else { Vec::new() };
        restart.extend(services);
        Self { restart, stop, leftover: seen.leftover.clone() }
    }

    /// Does it: configuration, units, link, restarts.
    pub fn apply(
        &self,
        layout: &Layout,
        services: &dyn Services,
        desired: &Desired,
        steps: &Steps<'_>,
    ) -> Result<(), Failed> {
        let version = &desired.manifest.version;
        let kept = Kept::read(layout, version).and_then(|kept| kept.with_context(|| format!("{version} is gone")));
        let kept = kept.map_err(|error| ("configuration", error))?;
        put_configs(&kept, desired, steps).map_err(|error| ("configuration", error))?;
        self.put_units(&kept, services, desired, steps).map_err(|error| ("units", error))?;
        steps.at("link");
        layout.point_to(Some(version)).map_err(|error| ("link", error))?;
        for unit in &self.stop {
            steps.at("stop");
            services.stop(unit).map_err(|error| ("restart", error))?;
        }
        for unit in &self.restart {
            steps.at("restart");
            services.restart(unit).map_err(|error| ("restart", error))?;
        }
        Ok(())
    }

    fn put_units(&self, kept: &Kept, services: &dyn Services, desired: &Desired, steps: &Steps<'_>) -> Result<()> {
        let (owner, group) = account(&mut World::now())?;
        let own = Meta { mode: 0o644, owner, group };
        for left in &self.leftover {
            steps.at("remove");
            if let Some(unit) = &left.unit {
                services.stop(unit)?;
                services.enable(unit, false)?;
            }
            remove(&left.path)?;
        }
        for unit in &desired.setup.units {
            steps.at("unit");
            put(&services.unit_folder().join(&unit.name), &kept.text(&unit.digest)?, &own)?;
        }
        steps.at("reload");
        services.reload()?;
        let names: Vec<&str> = desired.setup.units.iter().map(|unit| unit.name.as_str()).collect();
        for (unit, state) in desired.setup.units.iter().zip(services.states(&names)?) {
            if unit.enable != state.enabled {
                steps.at("enable");
                services.enable(&unit.name, unit.enable)?;
            }
        }
        Ok(())
    }
}

/// Does a unit that a change of release does not restart run, from the file that it is to have?
fn settled(restart: bool, unit: &crate::wire::deploy::Unit, at: &UnitSeen) -> bool {
    let same = matches!(&at.file.state, Seen::File { digest, .. } if *digest == unit.digest);
    !restart && same && at.is_running()
}

fn put_configs(kept: &Kept, desired: &Desired, steps: &Steps<'_>) -> Result<()> {
    for config in &desired.setup.configs {
        steps.at("configuration");
        let meta = Meta { mode: config.mode, owner: config.owner.clone(), group: config.group.clone() };
        if let Some(parent) = config.dest.parent() {
            folder(parent, 0o755)?;
        }
        put(&config.dest, &kept.text(&config.digest)?, &meta)?;
    }
    Ok(())
}

/// Writes a file, unless it has these bytes already; then only owner and mode are set.
fn put(path: &Path, bytes: &[u8], meta: &Meta) -> Result<()> {
    let same =
        path.symlink_metadata().is_ok_and(|stat| stat.is_file()) && std::fs::read(path).is_ok_and(|now| now == bytes);
    if same { place::own(path, meta) } else { place::write(path, bytes, meta) }
}
