//! The answer of `GET /v1/status`.

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    datapath::{Counters, Description, InterfaceStatus},
    lists::ListName,
    sources::SourceStatus,
};

/// How the agent stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// The generation in the kernel.
    pub generation: u64,
    /// The revision of the lists.
    pub revision: u64,
    /// Fingerprint of the layout of the maps.
    pub layout: String,
    /// Whether drops are counted and not done, on all interfaces or on some.
    pub monitor: bool,
    pub table: Description,
    pub interfaces: Vec<InterfaceStatus>,
    /// Entries of all lists together.
    pub allowed: usize,
    pub lists: Vec<ListStatus>,
    /// How files, feeds and host names are doing.
    pub sources: Vec<SourceStatus>,
    /// Protected sources, of the configuration and of live facts.
    pub protected: usize,
    pub protected_sources: Vec<ProtectedStatus>,
    pub banned: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readback: Option<ReadbackStatus>,
    pub journal_healthy: bool,
    /// Why the kernel does not enforce what is wanted, while it does not.
    pub lag: Option<String>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
    /// The last time that no daemon ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<OutageStatus>,
    pub counters: Counters,
}

/// One list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStatus {
    pub name: ListName,
    pub entries: usize,
    /// Entries with an end.
    pub ending: usize,
}

/// A protected source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectedStatus {
    pub prefix: IpNet,
    /// What makes it so: the configuration, live facts, or both.
    pub origins: Vec<String>,
}

/// A change that waits for its confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingStatus {
    pub revision: u64,
    pub by: String,
    pub confirm_by: DateTime<Utc>,
    pub seconds_left: u64,
}

/// What the last comparison of the kernel with the wish found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadbackStatus {
    pub checked: DateTime<Utc>,
    pub sha256: String,
    /// How often the kernel's content was not what was wanted, since the start; each time it was repaired.
    pub drifts: u64,
}

/// A time without a daemon: the kernel went on, and nobody changed the lists or lifted bans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutageStatus {
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
}
