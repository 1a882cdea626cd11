//! `rabbitmq_vhost`: a virtual host of RabbitMQ.
//!
//! Does not change: what is in it. A second run is a no-op because the step does nothing for a virtual host that is
//! there.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::server;
use crate::resources::mode::Presence;
use crate::resources::{ApplyContext, BlobSource, Diff, HostView, ReadOutcome, Resource};

/// Desired state of a virtual host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RabbitVhost {
    /// Its name.
    pub name: String,
    /// `"absent"` removes it with all its queues and messages.
    #[serde(default)]
    pub state: Presence,
}

/// Observed state of the virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedVhost {
    exists: bool,
}

impl Resource for RabbitVhost {
    const KIND: &'static str = "rabbitmq_vhost";
    type Observed = ObservedVhost;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        vec![server::vhost_object(&self.name)]
    }

    fn validate(&self) -> Result<(), String> {
        server::check_name("name", &self.name)
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedVhost>> {
        if let Some(predicted) = view.predicted_object(&server::vhost_object(&self.name)) {
            return Ok(ReadOutcome::Known(ObservedVhost { exists: predicted.is_some() }));
        }
        Ok(match server::read_definitions(view)? {
            ReadOutcome::Known(definitions) => {
                let found = server::find_entries(&definitions, "vhosts", &[("name", &self.name)]);
                ReadOutcome::Known(ObservedVhost { exists: !found.is_empty() })
            }
            ReadOutcome::UnknownUntilApply(reason) => ReadOutcome::UnknownUntilApply(reason),
        })
    }

    fn diff(&self, observed: &ObservedVhost, _blobs: &dyn BlobSource) -> Result<Diff> {
        Ok(match (self.state, observed.exists) {
            (Presence::Present, false) => Diff::add(Vec::new()),
            (Presence::Absent, true) => Diff::remove(Vec::new()),
            _ => Diff::none(),
        })
    }

    fn predict_state(&self, view: &mut HostView) {
        let state = (self.state == Presence::Present).then(|| json!({}));
        view.predict_object(&server::vhost_object(&self.name), state);
    }

    fn apply(&self, _observed: &ObservedVhost, _context: &mut ApplyContext) -> Result<()> {
        match self.state {
            Presence::Present => server::run(&["add_vhost", &self.name]),
            Presence::Absent => server::run(&["delete_vhost", &self.name]),
        }
    }
}
