//! Plans and events as JSON. Every event has `event`, `at` (RFC 3339, UTC) and `run`, which are added here.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::run_id::RunId;
use crate::plan::{HostPlan, ResourceChange};
use crate::protocol::Event;

/// The keys that [`event_to_json`] sets.
const RESERVED: [&str; 3] = ["event", "at", "run"];

/// A JSON event, in the order of its fields.
#[derive(Serialize)]
struct Line<'a> {
    event: &'a str,
    at: String,
    run: RunId,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// Returns an event as one line of JSON. `fields` is an object without the keys `event`, `at` and `run`.
pub fn event_to_json(event: &str, run: RunId, fields: Value) -> String {
    let mut fields = match fields {
        Value::Object(fields) => fields,
        Value::Null => Map::new(),
        other => Map::from_iter([("value".to_owned(), other)]),
    };
    for key in RESERVED {
        let duplicate = fields.remove(key);
        debug_assert!(duplicate.is_none(), "the event `{event}` has a field `{key}` of its own");
    }
    let at = format!("{:.3}", jiff::Timestamp::now());
    serde_json::to_string(&Line { event, at, run, fields }).unwrap_or_else(|error| json!(error.to_string()).to_string())
}

/// Returns the fields of the event `plan` for each row of a host's plan.
pub fn plan_fields(plan: &HostPlan) -> Vec<Value> {
    let fields = |row: &ResourceChange| {
        json!({
            "host": plan.host, "action": row.action, "resource": row.resource, "name": row.name,
            "from": row.describe_from(), "to": row.describe_to(), "reason": row.reason, "changes": row.changes,
        })
    };
    plan.rows.iter().map(fields).collect()
}

/// Returns the name and the fields of a host's event.
pub fn host_event(host: &str, event: &Event) -> (String, Value) {
    let fields = serde_json::to_value(event).unwrap_or_else(|error| json!({"error": error.to_string()}));
    let Value::Object(mut fields) = fields else { return ("unknown".to_owned(), json!({"host": host})) };
    let name = match fields.remove("event") {
        Some(Value::String(name)) => name,
        _ => "unknown".to_owned(),
    };
    // In events of agents, `at` is the position of the step; here it is the time.
    if let Some(step) = fields.remove("at") {
        fields.insert("step".to_owned(), step);
    }
    fields.insert("host".to_owned(), json!(host));
    (name, Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::StepRef;

    #[test]
    fn a_line_begins_with_its_event_time_and_run() {
        let run = RunId::new();
        let text = event_to_json("host", run, json!({"address": "192.0.2.1"}));
        assert!(text.starts_with("{\"event\":\"host\",\"at\":\""), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        let at: jiff::Timestamp = line["at"].as_str().unwrap().parse().unwrap();
        assert!((jiff::Timestamp::now() - at).get_seconds().abs() < 60, "{text}");
        assert_eq!((&line["run"], &line["address"]), (&json!(run.to_string()), &json!("192.0.2.1")));
    }

    #[test]
    fn an_event_has_its_host_and_step() {
        let (name, fields) = host_event("a", &Event::StepStarted { step: StepRef { play: 0, step: 3 } });
        assert_eq!(name, "step_started");
        assert_eq!(fields, json!({"step": {"play": 0, "step": 3}, "host": "a"}));
    }
}
