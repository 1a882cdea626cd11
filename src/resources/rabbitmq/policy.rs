//! `rabbitmq_policy`: a policy of RabbitMQ, which gives settings to queues and exchanges by name.
//!
//! Does not change: other policies; the one with the highest priority applies. A second run is a no-op because the
//! policy is compared by value.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::server;
use crate::plan::AttributeChange;
use crate::resources::mode::Presence;
use crate::resources::{ApplyContext, BlobSource, Diff, HostView, ReadOutcome, Resource, de_string};

/// Kinds of objects that a policy applies to.
const TARGETS: [&str; 6] = ["all", "queues", "classic_queues", "quorum_queues", "streams", "exchanges"];

/// Desired state of a policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RabbitPolicy {
    /// Its name.
    pub name: String,
    /// The virtual host.
    #[serde(default = "default_vhost")]
    pub vhost: String,
    /// Regular expression of the names that it applies to; required unless `state = "absent"`.
    #[serde(default)]
    pub pattern: String,
    /// `all`, `queues`, `classic_queues`, `quorum_queues`, `streams` or `exchanges`.
    #[serde(default = "default_target")]
    pub apply_to: String,
    /// The highest of the policies that match a name applies.
    #[serde(default, deserialize_with = "de_string::required")]
    pub priority: i64,
    /// The settings.
    #[serde(default)]
    pub definition: Map<String, Value>,
    /// `"absent"` removes the policy.
    #[serde(default)]
    pub state: Presence,
}

fn default_vhost() -> String {
    "/".to_owned()
}

fn default_target() -> String {
    "all".to_owned()
}

/// Observed state of the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum ObservedPolicy {
    /// There is no such policy.
    Absent,
    /// A policy.
    Present {
        /// The pattern.
        pattern: String,
        /// Kind of the objects that the policy applies to.
        #[serde(rename = "apply-to")]
        apply_to: String,
        /// The priority.
        priority: i64,
        /// The settings.
        definition: Map<String, Value>,
    },
}

impl Resource for RabbitPolicy {
    const KIND: &'static str = "rabbitmq_policy";
    type Observed = ObservedPolicy;

    fn key(&self) -> String {
        format!("{} on {}", self.name, self.vhost)
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![self.object_name()]
    }

    fn validate(&self) -> Result<(), String> {
        server::check_name("name", &self.name)?;
        server::check_name("vhost", &self.vhost)?;
        if self.state == Presence::Absent {
            return Ok(());
        }
        server::check_name("pattern", &self.pattern)?;
        if !TARGETS.contains(&self.apply_to.as_str()) {
            return Err(format!("apply_to must be one of {}, not \"{}\"", TARGETS.join(", "), self.apply_to));
        }
        if self.definition.is_empty() {
            return Err("a policy needs `definition` with at least one setting".to_owned());
        }
        Ok(())
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedPolicy>> {
        if let Some(predicted) = view.predicted_object(&self.object_name()) {
            let state = predicted.map_or(Ok(ObservedPolicy::Absent), |state| serde_json::from_value(state.clone()));
            return Ok(ReadOutcome::Known(state?));
        }
        let definitions = match server::read_definitions(view)? {
            ReadOutcome::Known(definitions) => definitions,
            ReadOutcome::UnknownUntilApply(reason) => return Ok(ReadOutcome::UnknownUntilApply(reason)),
        };
        if self.state == Presence::Present {
            server::require_vhost(view, &definitions, &self.vhost)?;
        }
        let fields = [("name", self.name.as_str()), ("vhost", self.vhost.as_str())];
        let found = server::find_entries(&definitions, "policies", &fields);
        let Some(policy) = found.first() else { return Ok(ReadOutcome::Known(ObservedPolicy::Absent)) };
        let mut state = (*policy).clone();
        state["is"] = "present".into();
        Ok(ReadOutcome::Known(serde_json::from_value(state)?))
    }

    fn diff(&self, observed: &ObservedPolicy, _blobs: &dyn BlobSource) -> Result<Diff> {
        let ObservedPolicy::Present { pattern, apply_to, priority, definition } = observed else {
            return Ok(match self.state {
                Presence::Absent => Diff::none(),
                Presence::Present => Diff::add(vec![
                    AttributeChange::from_absent("pattern", &self.pattern),
                    AttributeChange::from_absent("apply_to", &self.apply_to),
                    AttributeChange::from_absent("priority", self.priority),
                    AttributeChange::from_absent("definition", to_text(&self.definition)),
                ]),
            });
        };
        if self.state == Presence::Absent {
            return Ok(Diff::remove(vec![AttributeChange::to_absent("definition", to_text(definition))]));
        }
        let attributes = [
            ("pattern", pattern.clone(), self.pattern.clone()),
            ("apply_to", apply_to.clone(), self.apply_to.clone()),
            ("priority", priority.to_string(), self.priority.to_string()),
            ("definition", to_text(definition), to_text(&self.definition)),
        ];
        let changed = attributes.into_iter().filter(|(_, now, wanted)| now != wanted);
        Ok(Diff::change(changed.map(|(name, now, wanted)| AttributeChange::new(name, now, wanted)).collect()))
    }

    fn predict_state(&self, view: &mut HostView) {
        let state = ObservedPolicy::Present {
            pattern: self.pattern.clone(),
            apply_to: self.apply_to.clone(),
            priority: self.priority,
            definition: self.definition.clone(),
        };
        let state = (self.state == Presence::Present).then(|| serde_json::to_value(state).unwrap_or_default());
        view.predict_object(&self.object_name(), state);
    }

    fn apply(&self, _observed: &ObservedPolicy, _context: &mut ApplyContext) -> Result<()> {
        if self.state == Presence::Absent {
            return server::run(&["clear_policy", "-p", &self.vhost, &self.name]);
        }
        let (priority, definition) = (self.priority.to_string(), to_text(&self.definition));
        let options = ["--priority", &priority, "--apply-to", &self.apply_to];
        let mut args = vec!["set_policy", "-p", &self.vhost];
        args.extend(options);
        args.extend([self.name.as_str(), &self.pattern, &definition]);
        server::run(&args)
    }
}

impl RabbitPolicy {
    fn object_name(&self) -> String {
        format!("rabbitmq policy {} on {}", self.name, self.vhost)
    }
}

/// Returns the settings as JSON, in the order of their names.
fn to_text(definition: &Map<String, Value>) -> String {
    let sorted: std::collections::BTreeMap<&String, &Value> = definition.iter().collect();
    serde_json::to_string(&sorted).unwrap_or_default()
}
