//! A plan as text: what will change on each host as a diff, and one line that adds it up.

use std::fmt::Write as _;

use super::Style;
use crate::plan::{Action, Change, Counts, HostPlan, Row};

/// The plan of one host: its pending rows, attribute by attribute, contents as unified diffs. Empty where nothing is.
///
/// `style` also says whether rows with nothing to do are listed.
pub fn plan_text(plan: &HostPlan, style: Style) -> String {
    let mut text = String::new();
    let rows: Vec<&Row> = plan.rows.iter().filter(|row| style.verbose || row.action.is_pending()).collect();
    if rows.is_empty() {
        return text;
    }
    let _ = writeln!(text, "{}", style.bold(&plan.host));
    for row in rows {
        row_text(&mut text, row, style);
    }
    text
}

fn row_text(text: &mut String, row: &Row, style: Style) {
    let head = format!("  {} {:<7} {}", row.action.sign(), row.action.name(), row.resource);
    let head = style.action(row.action, &head);
    let reason = row.reason.as_ref().map(|reason| format!("  ({reason})")).unwrap_or_default();
    let _ = writeln!(text, "{head}{}", style.dim(&reason));
    for change in &row.changes {
        change_text(text, row.action, change, style);
    }
}

fn change_text(text: &mut String, action: Action, change: &Change, style: Style) {
    let line = match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("{}: {from} → {to}", change.what),
        (None, Some(to)) => format!("{}: {to}", change.what),
        (Some(from), None) => format!("{}: {from} → nothing", change.what),
        (None, None) => change.what.clone(),
    };
    let _ = writeln!(text, "      {line}");
    // The whole text of a new file is for -v; what changes in an old one is always shown.
    let shown = style.verbose || action == Action::Change;
    for line in change.diff.iter().filter(|_| shown).flat_map(|diff| diff.lines()) {
        let _ = writeln!(text, "        {}", style.diff_line(line));
    }
}

/// `Plan: 3 to add, 2 to change, 1 to remove, 1 unknown on 2 hosts (redis-01, redis-02)`.
pub fn summary_line(plans: &[HostPlan]) -> String {
    let mut counts = Counts::default();
    let mut hosts = Vec::new();
    for plan in plans {
        counts += plan.counts();
        if plan.pending().next().is_some() {
            hosts.push(plan.host.as_str());
        }
    }
    if counts.is_empty() {
        return format!("Plan: nothing to do on {}", number(plans.len(), "host"));
    }
    let Counts { add, change, remove, unknown } = counts;
    let named = if hosts.len() <= 8 { hosts.join(", ") } else { format!("{}, …", hosts[..8].join(", ")) };
    format!(
        "Plan: {add} to add, {change} to change, {remove} to remove, {unknown} unknown on {} ({named})",
        number(hosts.len(), "host")
    )
}

fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{StepRef, digest_of};

    fn plan(action: Action) -> HostPlan {
        let row = Row {
            at: StepRef { play: 0, step: 0 },
            name: None,
            resource: "file /etc/motd".to_owned(),
            action,
            changes: vec![Change::new("content", "a", "b").with_diff("-old\n+new\n".to_owned())],
            reason: None,
            fingerprint: digest_of(&1),
        };
        HostPlan { host: "redis-01".to_owned(), rows: vec![row] }
    }

    #[test]
    fn a_change_is_shown_as_a_diff() {
        let text = plan_text(&plan(Action::Change), Style::default());
        assert_eq!(text, "redis-01\n  ~ change  file /etc/motd\n      content: a → b\n        -old\n        +new\n");
    }

    #[test]
    fn the_summary_adds_up() {
        let plans = [plan(Action::Change), plan(Action::Add)];
        assert_eq!(
            summary_line(&plans),
            "Plan: 1 to add, 1 to change, 0 to remove, 0 unknown on 2 hosts (redis-01, redis-01)"
        );
        assert_eq!(summary_line(&[plan(Action::None)]), "Plan: nothing to do on 1 host");
    }
}
