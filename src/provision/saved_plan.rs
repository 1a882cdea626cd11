//! A plan in a file: what was shown, bound to what was found and wanted then, and sealed under the inventory's key.

use serde::{Deserialize, Serialize};

use super::{OutdatedPlanError, PlannedHost, diff_plans};
use crate::plan::{DigestKey, HostPlan, SealError, open_sealed_json, to_sealed_json};

const FORMAT_VERSION: u32 = 1;
const KIND: &str = "provision";

/// A saved plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedProvisionPlan {
    format_version: u32,
    kind: String,
    /// The tags that the steps were selected by.
    pub tags: Vec<String>,
    /// The plans of the hosts.
    pub hosts: Vec<HostPlan>,
}

/// Describes why a saved plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedPlanError {
    /// The text is not a plan.
    #[error("not a saved plan: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The plan is one of another command or version.
    #[error("not a plan of this version of dunlin provision")]
    OtherKind,
    /// The file is not as dunlin wrote it.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl SavedProvisionPlan {
    /// Makes a plan to be saved.
    pub fn new(tags: Vec<String>, hosts: Vec<HostPlan>) -> Self {
        Self { format_version: FORMAT_VERSION, kind: KIND.to_owned(), tags, hosts }
    }

    /// Returns the text of the file, sealed under the inventory's key.
    ///
    /// # Errors
    /// Returns an error if the plan cannot be written as JSON.
    pub fn to_sealed_text(&self, key: &DigestKey) -> serde_json::Result<String> {
        to_sealed_json(self, key)
    }

    /// Reads a plan that was saved, and checks that it is as it was saved.
    ///
    /// # Errors
    /// Returns an error if the text is not such a plan, or was changed, or was saved under another key.
    pub fn parse(text: &str, key: &DigestKey) -> Result<Self, SavedPlanError> {
        // Another file gets the message that it is no plan.
        let unchecked: Self = serde_json::from_str(text)?;
        if unchecked.kind != KIND || unchecked.format_version != FORMAT_VERSION {
            return Err(SavedPlanError::OtherKind);
        }
        Ok(serde_json::from_str(&open_sealed_json(text, key)?)?)
    }

    /// Checks that the hosts need what the plan has.
    ///
    /// # Errors
    /// Returns an error if a row differs, or a host could not be planned.
    pub fn ensure_current(&self, planned: &[PlannedHost]) -> Result<(), OutdatedPlanError> {
        let current: Vec<&HostPlan> = planned.iter().map(|host| &host.plan).collect();
        OutdatedPlanError::check(self.differences(&current))
    }

    /// Compares the plan with new plans of the hosts, with one line per row that differs.
    fn differences(&self, current: &[&HostPlan]) -> Vec<String> {
        let mut lines = Vec::new();
        for shown in &self.hosts {
            match current.iter().find(|plan| plan.host == shown.host) {
                Some(plan) => lines.extend(diff_plans(shown, plan)),
                None => lines.push(format!("{}: cannot be planned now", shown.host)),
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_plan_is_refused() {
        let (key, other) = (DigestKey::from_random(b"1"), DigestKey::from_random(b"2"));
        let hosts = vec![HostPlan { host: "a".to_owned(), rows: Vec::new() }];
        let saved = SavedProvisionPlan::new(vec!["redis".to_owned()], hosts);
        let text = saved.to_sealed_text(&key).unwrap();
        assert_eq!(SavedProvisionPlan::parse(&text, &key).unwrap(), saved);
        let refusal = |text: &str, key| match SavedProvisionPlan::parse(text, key) {
            Err(SavedPlanError::Seal(error)) => error,
            other => panic!("not refused: {other:?}"),
        };
        assert_eq!(refusal(&text.replace("redis", "all"), &key), SealError::Changed);
        assert_eq!(refusal(&text, &other), SealError::OtherKey);
        assert_eq!(refusal(&serde_json::to_string(&saved).unwrap(), &key), SealError::Missing);
        assert!(matches!(SavedProvisionPlan::parse("{}", &key), Err(SavedPlanError::Malformed(_))));
    }
}
