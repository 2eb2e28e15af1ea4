//! What `portcullis-proxy verify` and the daemon tell each other about stored files.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the name of a request's file ends.
pub const REQUEST: &str = "request";

/// Which files are wanted; all of them by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A mount's place: the directories that accounts see there.
    pub mount: Option<String>,
    pub backend: Option<String>,
    /// As records write times: files that were put there since.
    pub since: Option<String>,
    /// Bytes a second.
    pub rate: Option<NonZeroU64>,
}

/// How far it is, or what was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Files that were looked at.
    pub files: u64,
    /// Of those, the ones nothing can be said of.
    pub unverified: u64,
    /// That were read.
    pub bytes: u64,
    pub seconds: u64,
    /// The bodies of their records.
    pub findings: Vec<Value>,
    /// Findings that are only on record.
    pub further: u64,
    /// Places whose files were destroyed on record, with whose word and when.
    #[serde(default)]
    pub shredded: Vec<Value>,
    /// Why it was not done.
    pub error: Option<String>,
}

impl From<String> for Answer {
    /// That it was not done, and why.
    fn from(problem: String) -> Self {
        Self {
            error: Some(problem),
            ..Self::default()
        }
    }
}
