//! Switches the hosts batch by batch, and returns the whole fleet where a batch fails.

use std::collections::BTreeMap;

use super::run::{describe_failure, format_names};
use super::{CallFailure, HostFailure, PlannedDeploy, Rollout, RolloutEvent, RolloutOutcome};
use crate::deploy::batches::split_into_batches;
use crate::deploy::plan::planned_rows;
use crate::protocol::deploy::{
    CheckHealth, DeactivateRelease, ReleaseVersion, RollBack, SwitchOutcome, SwitchPurpose, SwitchRelease,
};

/// Main processes of the hosts that a rollout switched, as they were after the switch.
type SwitchedProcesses = BTreeMap<String, Vec<u32>>;

impl Rollout<'_> {
    /// Switches the hosts; before each batch, and after the last of several, the switched ones are checked again.
    /// Returns `false` if a host failed in a way after which the fleet returns: a host that is only out of rotation
    /// serves the release and is finished by the next run.
    pub(super) async fn switch_batches(
        &self,
        pending_hosts: &[&PlannedDeploy],
        rollout_outcome: &mut RolloutOutcome,
    ) -> bool {
        let batches = split_into_batches(pending_hosts, self.batches);
        let batch_count = batches.len();
        let (mut processes, mut ended_well) = (SwitchedProcesses::new(), true);
        for (number, batch) in batches.iter().enumerate() {
            if !self.should_stop(rollout_outcome) && !processes.is_empty() {
                ended_well &= self.check_switched_hosts(pending_hosts, &processes, rollout_outcome).await;
            }
            if self.should_stop(rollout_outcome) {
                rollout_outcome.skipped.extend(batch.iter().map(|host| host.session.host.clone()));
                continue;
            }
            (self.event_sink)(&RolloutEvent::Phase(format!(
                "switching batch {} of {batch_count}: {}",
                number + 1,
                format_names(batch)
            )));
            ended_well &= self.switch_batch(batch, &mut processes, rollout_outcome).await;
        }
        // A release that crashes on the first host while the last one is switched is not done.
        if batch_count > 1 && !self.should_stop(rollout_outcome) {
            ended_well &= self.check_switched_hosts(pending_hosts, &processes, rollout_outcome).await;
        }
        ended_well
    }

    async fn switch_batch(
        &self,
        batch: &[&PlannedDeploy],
        processes: &mut SwitchedProcesses,
        rollout_outcome: &mut RolloutOutcome,
    ) -> bool {
        // Reported at once, since a slow host must not hide the results of the others.
        let replies = self
            .fleet
            .map_parallel(batch, |host| async {
                let reply = self.switch_host(host).await;
                if let Ok(outcome) = &reply {
                    (self.event_sink)(&RolloutEvent::Switched(&host.session.host, outcome));
                }
                reply
            })
            .await;
        let mut ended_well = true;
        for (host, reply) in batch.iter().zip(replies) {
            let name = &host.session.host;
            match reply {
                Ok(outcome) => {
                    if let SwitchOutcome::Healthy { main_pids, .. } = &outcome {
                        rollout_outcome.activated.push(name.clone());
                        processes.insert(name.clone(), main_pids.clone());
                    }
                    ended_well &= matches!(outcome, SwitchOutcome::Unchanged | SwitchOutcome::Healthy { .. });
                    rollout_outcome.switched(name, &outcome);
                }
                Err(failure) => {
                    ended_well = false;
                    rollout_outcome.record_call_failure(name, failure);
                }
            }
        }
        ended_well
    }

    async fn switch_host(&self, host: &PlannedDeploy) -> Result<SwitchOutcome, CallFailure> {
        let (scope, expected_current) = (self.scope.clone(), host.observation.confirmed.clone());
        let target = host.desired.to_release_target();
        let purpose = SwitchPurpose::Plan { expected_changes: planned_rows(&host.plan) };
        if self.new_release.is_some() {
            self.send_request(host, SwitchRelease { scope, target, expected_current, purpose }).await
        } else {
            self.send_request(host, RollBack { scope, version: Some(target.version), expected_current, purpose }).await
        }
    }

    /// Checks the switched hosts again; returns `false` if one is not healthy any more.
    async fn check_switched_hosts(
        &self,
        pending_hosts: &[&PlannedDeploy],
        processes: &SwitchedProcesses,
        outcome: &mut RolloutOutcome,
    ) -> bool {
        let hosts: Vec<&PlannedDeploy> =
            pending_hosts.iter().filter(|host| processes.contains_key(&host.session.host)).copied().collect();
        let request = |host: &PlannedDeploy| CheckHealth {
            scope: self.scope.clone(),
            expected_pids: processes.get(&host.session.host).cloned(),
        };
        let replies = self.fleet.map_parallel(&hosts, |host| self.send_request(host, request(host))).await;
        let mut is_healthy = true;
        for (host, reply) in hosts.iter().zip(replies) {
            let name = &host.session.host;
            match reply {
                Ok(None) => continue,
                Ok(Some(failure)) => {
                    let text =
                        format!("release {} is no longer healthy: {}", host.desired.manifest.version, failure.detail);
                    outcome.record_failure(name, HostFailure::Failed(text, failure.journal_lines));
                }
                Err(failure) => outcome.record_call_failure(name, failure),
            }
            is_healthy = false;
        }
        is_healthy
    }

    /// Returns the hosts that this rollout switched to what they served before, the last batch first, also those that
    /// are only out of rotation. A host that served nothing before is stopped; one whose service was adopted returns to
    /// that.
    pub(super) async fn return_fleet(&self, pending_hosts: &[&PlannedDeploy], outcome: &mut RolloutOutcome) {
        let is_switched = |host: &&PlannedDeploy| {
            let before = host.observation.confirmed.as_ref();
            outcome.activated.contains(&host.session.host)
                && (is_adopted(host) || before.is_none_or(|before| *before != host.desired.to_release_target()))
        };
        let switched: Vec<Vec<&PlannedDeploy>> = split_into_batches(pending_hosts, self.batches)
            .into_iter()
            .rev()
            .map(|batch| batch.into_iter().filter(is_switched).collect())
            .collect();
        for batch in switched.iter().filter(|batch| !batch.is_empty()) {
            let phase = format!("the rollout failed; returning {} to the previous release", format_names(batch));
            (self.event_sink)(&RolloutEvent::Phase(phase));
            let replies = self.fleet.map_parallel(batch, |host| self.return_host(host)).await;
            for (host, reply) in batch.iter().zip(replies) {
                self.record_return(host, reply, outcome);
            }
        }
    }

    async fn return_host(&self, host: &PlannedDeploy) -> Result<SwitchOutcome, CallFailure> {
        let expected_current = Some(host.desired.to_release_target());
        let (scope, purpose) = (self.scope.clone(), SwitchPurpose::Return);
        if is_adopted(host) {
            let before = host.observation.confirmed.as_ref().map(|confirmed| confirmed.version.clone());
            // With what was kept of the host, which the observation from before does not have.
            let version = Some(before.unwrap_or_else(ReleaseVersion::adopted));
            return self.send_request(host, RollBack { scope, version, expected_current, purpose }).await;
        }
        let Some(target) = host.observation.confirmed.clone() else {
            let target = host.desired.to_release_target();
            return self.send_request(host, DeactivateRelease { scope, target }).await;
        };
        self.send_request(host, SwitchRelease { scope, target, expected_current, purpose }).await
    }

    fn record_return(
        &self,
        host: &PlannedDeploy,
        reply: Result<SwitchOutcome, CallFailure>,
        outcome: &mut RolloutOutcome,
    ) {
        let name = &host.session.host;
        match reply {
            Ok(switch) => {
                (self.event_sink)(&RolloutEvent::Switched(name, &switch));
                outcome.switched.retain(|switched| switched != name);
                if is_deactivated(host, &switch) {
                    return outcome.stopped.push(name.clone());
                }
                let before = host.observation.confirmed.as_ref().map(|before| before.version.clone());
                match describe_failure(&switch) {
                    None => outcome.record_return(name, before.unwrap_or_else(ReleaseVersion::adopted)),
                    Some((text, log)) => outcome.record_failure(name, HostFailure::Failed(text, log)),
                }
            }
            Err(failure) => outcome.record_call_failure(name, failure),
        }
    }
}

/// Returns whether a host that served nothing before serves nothing again.
fn is_deactivated(host: &PlannedDeploy, switch: &SwitchOutcome) -> bool {
    host.observation.confirmed.is_none() && !is_adopted(host) && matches!(switch, SwitchOutcome::Stopped { .. })
}

/// Returns whether this rollout kept a service or units on the host that dunlin did not deploy.
fn is_adopted(host: &PlannedDeploy) -> bool {
    !host.observation.unmanaged_paths.is_empty()
}
