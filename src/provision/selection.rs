//! The hosts and steps that a run is for.

use std::collections::BTreeSet;

use super::SavedProvisionPlan;
use crate::inventory::{InventoryHost, nearest_words};
use crate::playbook::{Compiler, Playbook};

/// A tag that no step of the playbook has. It would select nothing, which looks like success.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no step has the tag `{tag}`")]
pub struct UnknownTagError {
    /// The tag.
    pub tag: String,
    /// The tags of the playbook, or the nearest one.
    pub hint: String,
}

/// Checks that the playbook has each of the tags.
///
/// # Errors
/// It does not have one.
pub fn ensure_tags_exist(playbook: &Playbook, tags: &[String]) -> Result<(), UnknownTagError> {
    let steps = playbook.plays.iter().flat_map(|play| play.steps.iter().flat_map(|step| &step.tags));
    let known: BTreeSet<&str> =
        playbook.plays.iter().flat_map(|play| &play.tags).chain(steps).map(String::as_str).collect();
    let Some(unknown) = tags.iter().find(|tag| !known.contains(tag.as_str())) else { return Ok(()) };
    let hint = match nearest_words(unknown, known.iter().copied()).first() {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "the playbook has no tags".to_owned(),
        None => format!("known tags: {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Err(UnknownTagError { tag: unknown.clone(), hint })
}

/// Limits the selected hosts to those that a play applies to and that a saved plan has.
pub fn keep_planned_hosts(
    hosts: &mut Vec<&InventoryHost>,
    saved: Option<&SavedProvisionPlan>,
    compiler: &Compiler<'_>,
) {
    if let Some(saved) = saved {
        hosts.retain(|host| saved.hosts.iter().any(|plan| plan.host == host.name));
    }
    hosts.retain(|host| compiler.applies_to(&host.name));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Diagnostics, SourceFile};

    #[test]
    fn an_unknown_tag_is_refused_and_the_nearest_one_named() {
        let hint = |text: &str, tag: &str| {
            let mut found = Diagnostics::new();
            let playbook = Playbook::parse_text(&SourceFile::new("site.toml", text), &mut found);
            ensure_tags_exist(&playbook, &[tag.to_owned()]).map_err(|unknown| unknown.hint)
        };
        let tagged = "[[play]]\nname = \"web\"\nhosts = \"all\"\ntags = [\"config\"]\n";
        assert_eq!(hint(tagged, "config"), Ok(()));
        assert_eq!(hint(tagged, "confg"), Err("did you mean `config`?".to_owned()));
        assert_eq!(hint(tagged, "redis"), Err("known tags: config".to_owned()));
        assert_eq!(hint("", "redis"), Err("the playbook has no tags".to_owned()));
    }
}
