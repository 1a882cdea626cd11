//! What a rollout tells, in words and as JSON lines.

use std::collections::BTreeMap;

use serde_json::json;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use crate::deploy::rollout::{Planned, Refused, Told};
use crate::report::Reporter;
use crate::wire::Event;
use crate::wire::deploy::{Outcome, Service, Version};
use crate::wire::lock::Holder;

/// Tells why a host could not be looked at or planned.
pub fn say_refused(host: &str, refused: &Refused, common: &Common) {
    let reporter = common.reporter();
    match refused {
        Refused::Connect(error) => reporter.failed(host, &error.to_string(), Some(&error.hint())),
        Refused::Files(found) => reporter.failed(host, &format!("\n{}", found.render(common.stderr_colour())), None),
        Refused::Refused(why) | Refused::Failed(why) => reporter.failed(host, why, None),
    }
}

/// Who holds a service's lock.
pub fn held(holder: &Holder) -> String {
    format!("{} is deploying this service since {} (process {} there)", holder.by, holder.since, holder.pid)
}

/// Without `--to`, all hosts must return to the same release: after a rollout that stopped half way they would not.
///
/// # Errors
/// Which hosts would go where.
pub fn one_target(planned: &[Planned], service: &Service) -> Result<(), Failure> {
    let mut hosts: BTreeMap<&Version, Vec<&str>> = BTreeMap::new();
    for host in planned {
        hosts.entry(&host.desired.manifest.version).or_default().push(&host.session.host);
    }
    if hosts.len() < 2 {
        return Ok(());
    }
    let lines: Vec<String> =
        hosts.iter().map(|(version, hosts)| format!("\n  to {version}: {}", hosts.join(", "))).collect();
    let text = format!("the hosts would return to different releases; nothing was changed{}", lines.concat());
    Err(Failure::say(Exit::Refused, text).hint(format!("dunlin rollback {service} --to V, or --limit to some hosts")))
}

/// Tells what happens while a rollout runs.
pub fn tell(told: &Told<'_>, reporter: &Reporter) {
    match told {
        Told::Phase(phase) => {
            reporter.line("phase", json!({"phase": phase}));
            reporter.say(phase);
        }
        Told::Event(host, event) => {
            reporter.event(host, event);
            if let Event::Progress { job, phase, .. } = event
                && reporter.style.verbose
                && !reporter.json
            {
                reporter.say(&format!("{host}: {job}: {phase}"));
            }
        }
        Told::Staged(host, (reused, written, bytes)) => {
            reporter.line(
                "staged",
                json!({
                    "host": host, "reused": reused, "written": written, "bytes": bytes,
                }),
            );
            reporter.say(&format!("{host}: staged: {written} files written ({bytes} bytes), {reused} taken over"));
        }
        Told::Once(host, name, ran) => {
            reporter.line("once", json!({"host": host, "name": name, "ran": ran}));
            let how = if *ran { "done" } else { "was done before" };
            reporter.say(&format!("{host}: once {name}: {how}"));
        }
        Told::Switched(host, outcome) => {
            reporter.line("switched", json!({"host": host, "result": outcome}));
            if let Some(text) = switched(outcome) {
                reporter.say(&format!("{host}: {text}"));
            }
        }
        Told::Pruned(_, []) => {}
        Told::Pruned(host, gone) => {
            reporter.line("pruned", json!({"host": host, "releases": gone}));
            // The host has told each of them itself, as a note.
        }
    }
}

/// A switch that ended well; the others are told as failures at the end.
fn switched(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Unchanged => Some("nothing to switch".to_owned()),
        Outcome::Healthy { version, before, gap_ms, hook, .. } => {
            let before = before.as_ref().filter(|before| *before != version);
            let before = before.map(|before| format!(" (was {before})")).unwrap_or_default();
            let hook = hook.as_ref().map(|hook| format!("; {hook}")).unwrap_or_default();
            Some(format!("release {version} serves{before}, healthy after {gap_ms} ms{hook}"))
        }
        Outcome::Returned { .. } | Outcome::Unhealthy { .. } | Outcome::Stopped { .. } => None,
    }
}
