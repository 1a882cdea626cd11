//! Formats plans: the changes of each host as a diff, and a summary line.

use std::fmt::Write as _;

use super::Style;
use super::escape::{escape_line, escape_text};
use crate::plan::{Action, AttributeChange, ChangeCounts, HostPlan, ResourceChange, format_count};

/// Formats the plan of a host: one row per changed resource, contents as unified diffs. With `style.verbose`, unchanged
/// resources too. Returns an empty text if there are no rows.
pub fn format_plan(plan: &HostPlan, style: Style) -> String {
    let mut text = String::new();
    let rows: Vec<&ResourceChange> = plan.rows.iter().filter(|row| style.verbose || row.action.is_shown()).collect();
    if rows.is_empty() {
        return text;
    }
    let _ = writeln!(text, "{}", style.bold(&escape_line(&plan.host)));
    for row in rows {
        write_row(&mut text, row, style);
    }
    text
}

fn write_row(text: &mut String, row: &ResourceChange, style: Style) {
    let head = format!("  {} {:<7} {}", row.action.symbol_char(), row.action.as_str(), escape_line(&row.resource));
    let head = style.paint_action(row.action, &head);
    let reason = row.reason.as_ref().map(|reason| format!("  ({})", escape_line(reason))).unwrap_or_default();
    let _ = writeln!(text, "{head}{}", style.dim(&reason));
    for change in &row.changes {
        write_change(text, row.action, change, style);
    }
}

fn write_change(text: &mut String, action: Action, change: &AttributeChange, style: Style) {
    let line = match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("{}: {from} → {to}", change.attribute),
        (None, Some(to)) => format!("{}: {to}", change.attribute),
        (Some(from), None) => format!("{}: {from} → (none)", change.attribute),
        (None, None) => change.attribute.clone(),
    };
    // The values are those of the host: a line end in one must not begin a line of the plan.
    let _ = writeln!(text, "      {}", escape_line(&line));
    // The contents of new files are shown with -v only; changes of existing files always.
    let shown = style.verbose || action == Action::Change;
    for line in change.diff.iter().filter(|_| shown).flat_map(|diff| diff.lines()) {
        let _ = writeln!(text, "        {}", style.paint_diff_line(&escape_text(line)));
    }
}

/// Formats the summary of plans: `Plan: 3 to add, 2 to change, 1 to remove, 1 unknown on 2 hosts (redis-01, redis-02)`.
pub fn format_summary<'p>(plans: impl IntoIterator<Item = &'p HostPlan>) -> String {
    let mut counts = ChangeCounts::default();
    let (mut planned_count, mut restart_count, mut hosts) = (0, 0, Vec::new());
    for plan in plans {
        planned_count += 1;
        counts += plan.count_changes();
        restart_count += plan.rows.iter().filter(|row| row.action == Action::RestartRequired).count();
        if plan.pending_rows().next().is_some() {
            hosts.push(plan.host.as_str());
        }
    }
    let restarts = match restart_count {
        0 => String::new(),
        1 => "; 1 instance needs a restart: run dunlin shards restart HOST".to_owned(),
        count => format!("; {count} instances need a restart: run dunlin shards restart HOST"),
    };
    if counts.is_empty() {
        return format!("Plan: nothing to do on {}{restarts}", format_count(planned_count, "host"));
    }
    let ChangeCounts { add, change, remove, unknown } = counts;
    let named = if hosts.len() <= 8 { hosts.join(", ") } else { format!("{}, …", hosts[..8].join(", ")) };
    format!(
        "Plan: {add} to add, {change} to change, {remove} to remove, {unknown} unknown on {} ({named}){restarts}",
        format_count(hosts.len(), "host")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{StepRef, digest_json};

    fn plan(action: Action) -> HostPlan {
        let row = ResourceChange {
            step: StepRef { play: 0, step: 0 },
            name: None,
            resource: "file /etc/motd".to_owned(),
            action,
            changes: vec![AttributeChange::new("content", "a", "b").with_diff("-old\n+new\n".to_owned())],
            reason: None,
            fingerprint: digest_json(&1),
        };
        HostPlan { host: "redis-01".to_owned(), rows: vec![row] }
    }

    #[test]
    fn a_change_is_shown_as_a_diff() {
        let text = format_plan(&plan(Action::Change), Style::default());
        assert_eq!(text, "redis-01\n  ~ change  file /etc/motd\n      content: a → b\n        -old\n        +new\n");
    }

    #[test]
    fn values_of_a_host_neither_hide_nor_forge_lines() {
        let mut plan = plan(Action::Change);
        plan.rows[0].resource = "link /x\nPlan: nothing to do".to_owned();
        plan.rows[0].reason = Some("a\nb".to_owned());
        plan.rows[0].changes = vec![
            AttributeChange::new("target", "x\n\nPlan: nothing to do", "y")
                .with_diff("-\u{1b}[97mold\n+new\n".to_owned()),
        ];
        let style = Style { color: true, ..Style::default() };
        let text = format_plan(&plan, style);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(!text.contains("\u{1b}[97m") && text.contains("x\\n\\nPlan: nothing to do → y"), "{text}");
    }

    #[test]
    fn the_summary_adds_up() {
        let plans = [plan(Action::Change), plan(Action::Add)];
        assert_eq!(
            format_summary(&plans),
            "Plan: 1 to add, 1 to change, 0 to remove, 0 unknown on 2 hosts (redis-01, redis-01)"
        );
        assert_eq!(format_summary(&[plan(Action::None)]), "Plan: nothing to do on 1 host");
        assert_eq!(
            format_summary(&[plan(Action::RestartRequired)]),
            "Plan: nothing to do on 1 host; 1 instance needs a restart: run dunlin shards restart HOST"
        );
    }
}
