//! A plan in a file: what was shown, bound to what was found and wanted then, and sealed under the inventory's key.

use serde::{Deserialize, Serialize};

use super::diff_plans;
use crate::plan::{Digest, DigestKey, HostPlan};

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
    /// Where the inventory has secrets: proof that the file is as dunlin wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seal: Option<Seal>,
}

/// Proof that a plan was not changed after it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    /// Tells keys apart without telling them.
    key_id: Digest,
    /// HMAC of everything else.
    authenticator: Digest,
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
    /// The file was changed after it was saved.
    #[error("the saved plan was changed after it was saved; no changes were made")]
    Changed,
    /// The plan was saved under another key.
    #[error(
        "the plan was saved on a machine with another digest key; copy .dunlin/digest-INVENTORY.key from there to \
         digest.key in the inventory's folder on both"
    )]
    OtherKey,
}

impl SavedProvisionPlan {
    /// Makes a plan to be saved, and seals it if the inventory has a key.
    pub fn new(tags: Vec<String>, hosts: Vec<HostPlan>, key: Option<&DigestKey>) -> Self {
        let mut plan = Self { format_version: FORMAT_VERSION, kind: KIND.to_owned(), tags, hosts, seal: None };
        plan.seal = key.map(|key| Seal { key_id: key_id(key), authenticator: key.authenticate_json(&plan) });
        plan
    }

    /// Reads a plan that was saved.
    ///
    /// # Errors
    /// The text is not such a plan.
    pub fn parse(text: &[u8]) -> Result<Self, SavedPlanError> {
        let plan: Self = serde_json::from_slice(text)?;
        if plan.kind != KIND || plan.format_version != FORMAT_VERSION {
            return Err(SavedPlanError::OtherKind);
        }
        Ok(plan)
    }

    /// Checks that the plan is as it was saved. Without a key there are no secrets to guess, and every row is compared
    /// with a new plan anyway.
    ///
    /// # Errors
    /// The plan was changed, or saved under another key.
    pub fn check_seal(&self, key: Option<&DigestKey>) -> Result<(), SavedPlanError> {
        let Some(key) = key else { return Ok(()) };
        let seal = self.seal.as_ref().ok_or(SavedPlanError::Changed)?;
        if seal.key_id != key_id(key) {
            return Err(SavedPlanError::OtherKey);
        }
        let unsealed = Self { seal: None, ..self.clone() };
        if key.authenticate_json(&unsealed) == seal.authenticator { Ok(()) } else { Err(SavedPlanError::Changed) }
    }

    /// Compares the plan with new plans of the hosts, with one line per row that differs.
    pub fn differences(&self, current: &[&HostPlan]) -> Vec<String> {
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

fn key_id(key: &DigestKey) -> Digest {
    key.authenticate(b"id of this key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_plan_is_refused() {
        let (key, other) = (DigestKey::from_random(b"1"), DigestKey::from_random(b"2"));
        let hosts = vec![HostPlan { host: "a".to_owned(), rows: Vec::new() }];
        let saved = SavedProvisionPlan::new(vec!["redis".to_owned()], hosts, Some(&key));
        let text = serde_json::to_string(&saved).unwrap();
        let check = |text: &str, key| SavedProvisionPlan::parse(text.as_bytes()).unwrap().check_seal(key);
        check(&text, Some(&key)).unwrap();
        check(&text, None).unwrap();
        assert!(matches!(check(&text.replace("redis", "all"), Some(&key)), Err(SavedPlanError::Changed)));
        assert!(matches!(check(&text, Some(&other)), Err(SavedPlanError::OtherKey)));
        let unsealed = serde_json::to_string(&SavedProvisionPlan { seal: None, ..saved }).unwrap();
        assert!(matches!(check(&unsealed, Some(&key)), Err(SavedPlanError::Changed)));
        assert!(matches!(SavedProvisionPlan::parse(b"{}"), Err(SavedPlanError::Malformed(_))));
    }
}
