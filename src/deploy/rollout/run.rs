//! Carrying a plan out, host by host as the batches say.

use super::{Planned, ask};
use crate::deploy::plan::expected;
use crate::deploy::values::rollout;
use crate::fleet::Fleet;
use crate::playbook::BatchSize;
use crate::wire::Event;
use crate::wire::deploy::{Failure, Once, Outcome, Reply, Request, Scope, When};
use crate::wire::lock::Holder;

/// Something that happened, for whoever watches.
#[derive(Debug)]
pub enum Told<'a> {
    /// What is begun now, in words.
    Phase(String),
    /// A host's own report.
    Event(&'a str, &'a Event),
    /// A host has the release beside those that it had: files taken over, files written, bytes written.
    Staged(&'a str, (usize, usize, u64)),
    /// A once-step succeeded there; `false`: it had been done before.
    Once(&'a str, &'a str, bool),
    /// A switch ended.
    Switched(&'a str, &'a Outcome),
    /// Old releases are gone.
    Pruned(&'a str, &'a [String]),
}

/// Where that goes.
pub type Tell<'a> = &'a (dyn Fn(&Told<'_>) + Send + Sync);

/// A rollout of hosts that were planned.
pub struct Rollout<'a> {
    /// The hosts.
    pub fleet: &'a Fleet,
    /// The service.
    pub scope: &'a Scope,
    /// How they are cut.
    pub batches: &'a [BatchSize],
    /// For a release that comes from here; without it the hosts keep the release, and it is only switched to.
    pub fresh: Option<Fresh<'a>>,
    /// Who watches.
    pub tell: Tell<'a>,
}

/// What goes with a release that comes from the controller.
pub struct Fresh<'a> {
    /// The recipe's once-steps; those that the plan has as due are run.
    pub once: &'a [Once],
    /// How many releases stay on a host.
    pub keep: usize,
}

/// Why a host did not get where it should.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// Somebody else deploys there; nothing was done.
    Locked(Holder),
    /// It is not as planned; nothing was done.
    Refused(String),
    /// It failed: what serves now, and why, with the last lines of the journal.
    Failed(String, Vec<String>),
}

/// How a rollout ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ended {
    /// Hosts that serve what they should.
    pub switched: Vec<String>,
    /// Hosts that do not, and why.
    pub failed: Vec<(String, Trouble)>,
    /// Hosts that were not switched because of those, or because the run was stopped.
    pub skipped: Vec<String>,
    /// Was anything begun that is seen from outside: a once-step, a switch?
    pub touched: bool,
}

impl Rollout<'_> {
    /// Carries the plans out.
    pub async fn run(&self, planned: &[Planned]) -> Ended {
        let due: Vec<&Planned> = planned.iter().filter(|host| host.plan.pending().next().is_some()).collect();
        let mut ended = Ended::default();
        if let Some(fresh) = &self.fresh {
            self.stage(&due, &mut ended).await;
            self.once(fresh, When::Before, &due, &mut ended).await;
        }
        self.switch(&due, &mut ended).await;
        if let Some(fresh) = &self.fresh {
            self.once(fresh, When::After, &due, &mut ended).await;
            self.prune(fresh.keep, &due, &mut ended).await;
        }
        ended
    }

    fn stops(&self, ended: &Ended) -> bool {
        !ended.failed.is_empty() || self.fleet.stop.is_cancelled()
    }

    async fn stage(&self, due: &[&Planned], ended: &mut Ended) {
        (self.tell)(&Told::Phase(format!("staging on {}", names(due))));
        let request = |host: &Planned| Request::Stage {
            scope: self.scope.clone(),
            desired: Box::new(host.desired.clone()),
            expected: expected(&host.plan),
        };
        let replies = self.fleet.each(due, |host| self.ask(host, request(host))).await;
        for (host, reply) in due.iter().zip(replies) {
            let name = &host.session.host;
            match reply {
                Ok(Reply::Staged { reused, written, bytes }) => {
                    (self.tell)(&Told::Staged(name, (reused, written, bytes)));
                }
                reply => ended.trouble(name, reply),
            }
        }
    }

    /// Runs the once-steps of one side of the switch, where the plan has them.
    async fn once(&self, fresh: &Fresh<'_>, when: When, due: &[&Planned], ended: &mut Ended) {
        for step in fresh.once.iter().filter(|step| step.when == when) {
            let resource = format!("once {}", step.name);
            let planned = |host: &&&Planned| host.plan.pending().any(|row| row.resource == resource);
            let Some(host) = due.iter().find(planned) else { continue };
            if self.stops(ended) {
                return;
            }
            let name = &host.session.host;
            (self.tell)(&Told::Phase(format!("running {resource} on {name}")));
            let (scope, target) = (self.scope.clone(), host.desired.target());
            match self.ask(host, Request::Once { scope, target, step: step.clone() }).await {
                Ok(Reply::Once { ran, failed: None }) => {
                    ended.touched |= ran;
                    (self.tell)(&Told::Once(name, &step.name, ran));
                }
                Ok(Reply::Once { failed: Some(error), .. }) => {
                    ended.fail(name, Trouble::Failed(format!("once {} failed: {error}", step.name), Vec::new()));
                }
                reply => ended.trouble(name, reply),
            }
        }
    }

    async fn switch(&self, due: &[&Planned], ended: &mut Ended) {
        let batches = rollout(due, self.batches);
        let of = batches.len();
        for (number, batch) in batches.iter().enumerate() {
            if self.stops(ended) {
                ended.skipped.extend(batch.iter().map(|host| host.session.host.clone()));
                continue;
            }
            (self.tell)(&Told::Phase(format!("switching batch {} of {of}: {}", number + 1, names(batch))));
            let request = |host: &Planned| Request::Switch {
                scope: self.scope.clone(),
                target: host.desired.target(),
                from: host.seen.confirmed.clone(),
            };
            // Told at once, since a slow host must not hide how the others fare.
            let replies = self
                .fleet
                .each(batch, |host| async {
                    let reply = self.ask(host, request(host)).await;
                    if let Ok(Reply::Switched(outcome)) = &reply {
                        (self.tell)(&Told::Switched(&host.session.host, outcome));
                    }
                    reply
                })
                .await;
            for (host, reply) in batch.iter().zip(replies) {
                let name = &host.session.host;
                match reply {
                    Ok(Reply::Switched(outcome)) => ended.switched(name, &outcome),
                    reply => ended.trouble(name, reply),
                }
            }
        }
    }

    async fn prune(&self, keep: usize, due: &[&Planned], ended: &mut Ended) {
        if self.stops(ended) {
            return;
        }
        let request = || Request::Prune { scope: self.scope.clone(), keep };
        let replies = self.fleet.each(due, |host| self.ask(host, request())).await;
        for (host, reply) in due.iter().zip(replies) {
            let name = &host.session.host;
            match reply {
                Ok(Reply::Pruned(gone)) => (self.tell)(&Told::Pruned(name, &gone)),
                Err(error) => {
                    let said = format!("it serves as it should, but old releases could not be removed: {error}");
                    ended.fail(name, Trouble::Failed(said, Vec::new()));
                }
                reply => ended.trouble(name, reply),
            }
        }
    }

    async fn ask(&self, host: &Planned, request: Request) -> Result<Reply, String> {
        let name = host.session.host.as_str();
        ask(self.fleet, &host.session, request, &|event| (self.tell)(&Told::Event(name, &event))).await
    }
}

impl Ended {
    fn fail(&mut self, host: &str, trouble: Trouble) {
        self.touched |= matches!(trouble, Trouble::Failed(..));
        self.failed.push((host.to_owned(), trouble));
    }

    fn switched(&mut self, host: &str, outcome: &Outcome) {
        match failure(outcome) {
            None => {
                self.touched |= *outcome != Outcome::Unchanged;
                self.switched.push(host.to_owned());
            }
            Some((text, log)) => self.fail(host, Trouble::Failed(text, log)),
        }
    }

    /// Any answer but the one that was hoped for.
    fn trouble(&mut self, host: &str, reply: Result<Reply, String>) {
        let trouble = match reply {
            Ok(Reply::Locked(holder)) => Trouble::Locked(holder),
            Ok(Reply::Refused(why)) => Trouble::Refused(why),
            Ok(Reply::Stale(lines)) => Trouble::Refused(lines.join("\n  ")),
            Ok(Reply::Cancelled) => return self.skipped.push(host.to_owned()),
            Ok(_) => Trouble::Failed("an answer that does not fit".to_owned(), Vec::new()),
            Err(error) => Trouble::Failed(error, Vec::new()),
        };
        self.fail(host, trouble);
    }
}

/// What went wrong in a switch, in words, with the last lines of the journal.
fn failure(outcome: &Outcome) -> Option<(String, Vec<String>)> {
    let why = |failed: &Failure| format!("{}: {}", failed.step, failed.detail);
    let (text, failed) = match outcome {
        Outcome::Unchanged | Outcome::Healthy { .. } => return None,
        Outcome::Returned { version, failed, to, unhealthy } => {
            let now = match unhealthy {
                None => format!("release {to} serves again"),
                Some(also) => format!("release {to} was put back and is not healthy either ({})", why(also)),
            };
            (format!("release {version} failed ({}); {now}", why(failed)), failed)
        }
        Outcome::Unhealthy { version, failed } => (
            format!("release {version} was applied again and is not healthy ({}); it was left so", why(failed)),
            failed,
        ),
        Outcome::Stopped { version, failed } => (
            format!(
                "release {version} failed ({}); there is none to return to, and its units were stopped",
                why(failed)
            ),
            failed,
        ),
    };
    Some((text, failed.log.clone()))
}

fn names(hosts: &[&Planned]) -> String {
    let names: Vec<&str> = hosts.iter().take(8).map(|host| host.session.host.as_str()).collect();
    let more = hosts.len().saturating_sub(names.len());
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}
