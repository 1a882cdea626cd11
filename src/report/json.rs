//! Plans and events as JSON lines: each has `event`, `host`, `at`.

use serde_json::{Value, json};

use crate::plan::HostPlan;
use crate::wire::Event;

/// One line for each row of a host's plan.
pub fn plan_lines(plan: &HostPlan, at: &str) -> Vec<Value> {
    let line = |row: &crate::plan::Row| {
        json!({
            "event": "plan", "host": plan.host, "at": at, "action": row.action, "resource": row.resource,
            "name": row.name, "from": row.from_text(), "to": row.to_text(), "reason": row.reason,
            "changes": row.changes,
        })
    };
    plan.rows.iter().map(line).collect()
}

/// An event of a host.
pub fn event_line(host: &str, event: &Event, at: &str) -> Value {
    let mut line =
        serde_json::to_value(event).unwrap_or_else(|error| json!({"event": "unknown", "error": error.to_string()}));
    if let Some(fields) = line.as_object_mut() {
        // A step's place within the catalogue and the time would have the same name.
        if let Some(step) = fields.remove("at") {
            fields.insert("step".to_owned(), step);
        }
        fields.insert("host".to_owned(), json!(host));
        fields.insert("at".to_owned(), json!(at));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::StepRef;

    #[test]
    fn an_event_has_its_host_and_time() {
        let line = event_line("a", &Event::StepStarted { at: StepRef { play: 0, step: 3 } }, "now");
        assert_eq!(line, json!({"event": "step_started", "step": {"play": 0, "step": 3}, "host": "a", "at": "now"}));
    }
}
