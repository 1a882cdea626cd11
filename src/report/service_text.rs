//! The releases of a service on its hosts, their switches and their health, as text and as JSON.

use serde_json::json;

use super::rollout_text::{describe_holder, describe_maintenance};
use super::{Reporter, escape_line};
use crate::deploy::rollout::{HostStatus, ServiceHealth};
use crate::protocol::deploy::{ObservedRelease, ReleaseTarget, ServiceObservation, SwitchRecord};

/// Prints one line per release, oldest first, and the state of the host that a deploy would change.
pub fn report_releases(host: &str, width: usize, observation: &ServiceObservation, reporter: &Reporter) {
    if observation.releases.is_empty() {
        reporter.print_data(&format!("{host:width$}  no releases"));
    }
    for release in &observation.releases {
        let state = describe_release(release, observation);
        let staged = i64::try_from(release.staged_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        let staged = staged.map(|at| at.to_string()).unwrap_or_default();
        reporter.print_json(
            "release",
            json!({
                "host": host, "version": release.version, "state": state,
                "staged_at": staged, "bytes": release.bytes, "damaged_files": release.damaged_files,
                "last_failure": release.last_failure,
            }),
        );
        let mut notes = Vec::new();
        notes.extend(state.map(str::to_owned));
        notes.extend(
            release
                .last_failure
                .as_ref()
                .map(|reason| format!("failed: {}", reason.lines().next().unwrap_or_default())),
        );
        notes.extend(
            (!release.damaged_files.is_empty()).then(|| format!("damaged: {}", release.damaged_files.join(", "))),
        );
        let text = format!("{host:width$}  {:<24}  {staged}  {}", release.version, notes.join("; "));
        reporter.print_data(&escape_line(text.trim_end()));
    }
    for version in &observation.incomplete_releases {
        reporter.print_status(&format!("{host}: {version} is staged incompletely; the next deploy removes it"));
    }
    if let Some(record) = &observation.maintenance {
        reporter.print_json(
            "maintenance",
            json!({"host": host, "operator": record.operator, "since": record.since, "is_drained": record.is_drained}),
        );
        reporter.print_status(&format!("{host}: {}", describe_maintenance(record)));
    } else if observation.out_of_rotation {
        reporter.print_json("out_of_rotation", json!({"host": host}));
        reporter
            .print_status(&format!("{host}: out of rotation; the next deploy runs the hooks after the switch again"));
    }
    if let Some(holder) = &observation.lock_holder {
        reporter.print_status(&format!("{host}: {}", describe_holder(holder)));
    }
}

fn describe_release(release: &ObservedRelease, observation: &ServiceObservation) -> Option<&'static str> {
    let is_release =
        |target: &Option<ReleaseTarget>| target.as_ref().is_some_and(|target| target.version == release.version);
    if is_release(&observation.unfinished_switch) {
        Some("switch unfinished")
    } else if is_release(&observation.confirmed) {
        Some("active")
    } else if is_release(&observation.previous) {
        Some("previous")
    } else {
        None
    }
}

/// Prints one line per switch, oldest first.
pub fn report_history(status: &HostStatus, width: usize, reporter: &Reporter) {
    let records = &status.observation.switch_records;
    if records.is_empty() {
        reporter.print_data(&format!("{:width$}  no switches", status.name));
    }
    records.iter().for_each(|record| report_switch_record(&status.name, width, record, reporter));
}

fn report_switch_record(host: &str, width: usize, record: &SwitchRecord, reporter: &Reporter) {
    let started = i64::try_from(record.started_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let started = started.map(|at| at.to_string()).unwrap_or_default();
    reporter.print_json(
        "switch_record",
        json!({
            "host": host, "started_at": started, "from": record.from, "to": record.to, "result": record.result,
            "duration_ms": record.duration_ms, "operator": record.operator, "failure": record.failure,
            "revision": record.revision, "switch_run": record.run,
        }),
    );
    let from = record.from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let releases = format!("{from} → {}", record.to);
    let revision: String = record.revision.as_deref().unwrap_or("-").chars().take(12).collect();
    let mut text = format!(
        "{host:width$}  {started}  {releases:<32}  {revision:<12}  {:<15}  {}.{} s  by {}",
        record.result,
        record.duration_ms / 1000,
        record.duration_ms % 1000 / 100,
        record.operator
    );
    if !record.run.is_empty() {
        text.push_str(&format!("  run {}", record.run));
    }
    if let Some(failure) = &record.failure {
        text.push_str(&format!("  {failure}"));
    }
    reporter.print_data(&escape_line(&text));
}

/// Prints the health of the active release, if there is one.
pub fn report_health(status: &HostStatus, reporter: &Reporter) {
    let failure = match &status.health {
        ServiceHealth::Inactive => return,
        ServiceHealth::Healthy => None,
        ServiceHealth::Unhealthy(failure) => Some(&failure.detail),
    };
    let host = &status.name;
    reporter.print_json("health", json!({"host": host, "healthy": failure.is_none(), "failure": failure}));
    match failure {
        None => reporter.print_data(&format!("{host}: healthy")),
        Some(detail) => reporter.print_data(&escape_line(&format!("{host}: not healthy: {detail}"))),
    }
}

/// Prints the active release with its health in one line.
pub fn report_active_release(status: &HostStatus, width: usize, reporter: &Reporter) {
    let (host, observation) = (&status.name, &status.observation);
    let version = observation.confirmed.as_ref().map(|active| &active.version);
    let failure = match &status.health {
        ServiceHealth::Unhealthy(failure) => Some(&failure.detail),
        ServiceHealth::Inactive | ServiceHealth::Healthy => None,
    };
    let is_healthy = matches!(status.health, ServiceHealth::Healthy);
    let fields = json!({
        "host": host, "version": version, "healthy": is_healthy, "failure": failure,
        "in_rotation": !observation.out_of_rotation, "in_maintenance": observation.maintenance.is_some(),
        "unfinished_switch": observation.unfinished_switch,
    });
    reporter.print_json("active_release", fields);
    let mut notes = Vec::new();
    match (version, failure) {
        (None, _) => notes.push("no active release".to_owned()),
        (Some(_), None) => notes.push("healthy".to_owned()),
        (Some(_), Some(detail)) => notes.push(format!("not healthy: {detail}")),
    }
    notes.extend(observation.unfinished_switch.as_ref().map(|to| format!("switch to {} unfinished", to.version)));
    notes.extend(observation.out_of_rotation.then(|| "out of rotation".to_owned()));
    notes.extend(observation.maintenance.as_ref().map(describe_maintenance));
    let version = version.map_or_else(|| "-".to_owned(), ToString::to_string);
    reporter.print_data(&escape_line(&format!("{host:width$}  {version:<24}  {}", notes.join("; "))));
}
