//! Plans units and configuration files.

use std::path::Path;

use similar::TextDiff;

use super::{TextLookup, new_row};
use crate::plan::{Action, AttributeChange, Digest, ResourceChange, digest_json};
use crate::protocol::deploy::{ObservedPath, ObservedText, ObservedUnit, UnitFile};

/// Describes the desired state of a text file on the host.
pub(super) struct DesiredText<'a> {
    pub digest: &'a Digest,
    pub size: u64,
    pub mode: u32,
    pub owner: &'a str,
    pub group: &'a str,
    pub sensitive: bool,
}

pub(super) fn plan_text_file(
    kind: &str,
    path: &Path,
    at: &ObservedText,
    to: &DesiredText<'_>,
    texts: TextLookup<'_>,
) -> Result<ResourceChange, String> {
    let (action, changes) = match &at.state {
        ObservedPath::Other => {
            return Err(format!("{} is neither a file nor a link; remove it or name another path", path.display()));
        }
        ObservedPath::Absent => {
            let owner = format!("{}:{}", to.owner, to.group);
            let changes = vec![
                content_change(None, at, to, texts),
                AttributeChange::from_absent("mode", format!("{:04o}", to.mode)),
                AttributeChange::from_absent("owner", owner),
            ];
            (Action::Add, changes)
        }
        ObservedPath::Link { target } => {
            let link = AttributeChange::new("type", format!("link to {}", target.display()), "file");
            (Action::Change, vec![link, content_change(None, at, to, texts)])
        }
        ObservedPath::File { digest, mode, owner, group } => {
            let mut changes = Vec::new();
            if digest != to.digest {
                changes.push(content_change(Some(digest), at, to, texts));
            }
            if *mode != to.mode {
                changes.push(AttributeChange::new("mode", format!("{mode:04o}"), format!("{:04o}", to.mode)));
            }
            if owner != to.owner {
                changes.push(AttributeChange::new("owner", owner, to.owner));
            }
            if group != to.group {
                changes.push(AttributeChange::new("group", group, to.group));
            }
            (if changes.is_empty() { Action::None } else { Action::Change }, changes)
        }
    };
    Ok(new_row(kind, &path.display().to_string(), action, changes, &at.state))
}

/// Returns the change of a text: a diff if both sides may be shown, else digests and a length.
fn content_change(
    from: Option<&Digest>,
    at: &ObservedText,
    to: &DesiredText<'_>,
    texts: TextLookup<'_>,
) -> AttributeChange {
    let size_text = format!("{}, {} bytes", to.digest.short_hex(), to.size);
    let change = match from {
        Some(from) => AttributeChange::new("content", from.short_hex(), size_text),
        None => AttributeChange::from_absent("content", size_text),
    };
    let old = match from {
        Some(_) => at.text.clone(),
        None => Some(String::new()),
    };
    let new = at.desired_text.clone().or_else(|| texts(to.digest));
    match (to.sensitive, old, new) {
        (false, Some(old), Some(new)) => {
            change.with_diff(TextDiff::from_lines(&old, &new).unified_diff().context_radius(3).to_string())
        }
        _ => change,
    }
}

pub(super) fn plan_unit(
    unit: &UnitFile,
    at: &ObservedUnit,
    (owner, group): &(String, String),
    texts: TextLookup<'_>,
) -> Result<ResourceChange, String> {
    let to = DesiredText { digest: &unit.digest, size: unit.size, mode: 0o644, owner, group, sensitive: false };
    let mut row = plan_text_file("unit", &at.file.path, &at.file, &to, texts)?;
    if unit.template.is_some() {
        return Ok(row);
    }
    if unit.start_at_boot != at.is_enabled {
        row.changes.push(AttributeChange::new("enabled", at.is_enabled, unit.start_at_boot));
        row.action = if row.action == Action::None { Action::Change } else { row.action };
    }
    row.fingerprint = digest_json(&(&at.file.state, at.is_enabled));
    Ok(row)
}

/// Plans whether an instance of a template starts at boot; the template's file has a row of its own.
pub(super) fn plan_instance(unit: &UnitFile, at: &ObservedUnit) -> Option<ResourceChange> {
    unit.template.as_ref()?;
    let mut row = new_row("unit", &unit.name, Action::None, Vec::new(), &at.is_enabled);
    if unit.start_at_boot != at.is_enabled {
        row.action = Action::Change;
        row.changes = vec![AttributeChange::new("enabled", at.is_enabled, unit.start_at_boot)];
    }
    Some(row)
}
