//! What `portcullis-proxy encryption` and the daemon tell each other.

use std::{collections::BTreeMap, num::NonZeroU64};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tombs::Key;

/// How the name of a request's file ends.
pub const REQUEST: &str = "encryption";

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub task: Task,
    /// Only this backend.
    pub backend: Option<String>,
    /// Bytes a second.
    pub rate: Option<NonZeroU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// To all files.
    Walk(Walk),
    /// Destroys the key of one file, and removes it.
    Shred {
        backend: String,
        /// Below the backend's root.
        path: String,
        reason: String,
        approver: String,
    },
    /// Destroys all keys of a set.
    ShredKeys {
        set: String,
        reason: String,
        approver: String,
    },
}

/// What is done to all files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Walk {
    /// Wraps the keys of stored files as those of new files are.
    Rotate,
    /// Encrypts files that are not.
    Migrate,
}

/// How far it is, or what was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Files that were looked at.
    pub files: u64,
    /// Of those, the ones that nothing had to be done to.
    pub current: u64,
    /// That were wrapped to other keys.
    pub rewrapped: u64,
    /// That are not encrypted.
    pub plain: u64,
    /// That were encrypted.
    pub encrypted: u64,
    pub failed: u64,
    /// The first of those that failed.
    pub failures: Vec<Failure>,
    /// Read and written.
    pub bytes: u64,
    pub seconds: u64,
    /// Of `[encryption]`.
    #[serde(flatten)]
    pub retired: RetiredKeys,
    /// Of each `[encryption.NAME]` that has any.
    #[serde(default)]
    pub sets: BTreeMap<String, RetiredKeys>,
    /// Backends on which every file is encrypted.
    pub migrated: Vec<String>,
    /// Why nothing is said of backends, if so.
    pub migrated_unknown: Option<String>,
    /// The body of the record of a file that was destroyed.
    pub shredded: Option<Value>,
    /// A set of keys that was destroyed.
    #[serde(default)]
    pub keys: Option<DestroyedKeys>,
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

/// What is known of the retired keys of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredKeys {
    /// Those that no file needs any more.
    pub unneeded_keys: Vec<String>,
    /// Why nothing is said of them, if so.
    pub keys_unknown: Option<String>,
}

/// A set of keys that nobody can use any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyedKeys {
    pub set: String,
    /// Number of the record of it.
    pub record: u64,
    /// Files of its backends as far as the journal knows, if it was done by this.
    pub files: Option<u64>,
    /// Id of the escrow key, whose shares open copies.
    pub escrow: String,
    /// That are gone.
    pub destroyed: Vec<Key>,
    pub left: Vec<Left>,
}

/// A key that is still where it was, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub key: Key,
    pub because: String,
}

/// What was not done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Of a file, or a backend.
    pub path: String,
    pub reason: String,
}
