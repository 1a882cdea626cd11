//! Deploying: what a host is asked, and what it answers.

use serde::{Deserialize, Serialize};

/// A step of a deploy on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {}

/// Its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {}
