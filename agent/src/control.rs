//! The control interface's vocabulary, version 1: what goes over the wire, in both directions.

pub mod client;
mod failure;
pub mod peer;
pub mod server;
mod status;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    entry::{Entry, parse_expiry},
    guard::Preview,
    lists::{Counts, ListName},
    prefix,
    state::HistoryEntry,
};

pub use self::{
    failure::{Code, Failure, FailureReply},
    status::{
        ListStatus, OutageStatus, PendingStatus, ProtectedStatus, ReadbackStatus, StatusReply,
    },
};

/// Body of `POST /v1/bans`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// An address or a prefix.
    pub source: String,
    pub lifetime_seconds: u64,
    #[serde(default)]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Also if it cuts live sessions.
    #[serde(default)]
    pub force: bool,
}

/// Body of `DELETE /v1/bans`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnbanRequest {
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// How a change is to be made. For `PUT /v1/allow?format=FORMAT` the same are query parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeOptions {
    /// For the journal and the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Also if it cuts live sessions.
    #[serde(default)]
    pub force: bool,
    /// Only say what it would do.
    #[serde(default)]
    pub dry_run: bool,
    /// Take it back unless it is confirmed within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_seconds: Option<u64>,
    /// Look at passing traffic for so long first, to name the sources that would be cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe_seconds: Option<u64>,
}

/// Body of `PUT /v1/offers/NAME`: the whole list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferRequest {
    /// Without `deny` and `scope`: whom they let in to what is the agent's business.
    pub entries: Vec<AllowEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of `POST /v1/allow` (entries to put in) and `PUT /v1/allow` (the whole manual list).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRequest {
    pub entries: Vec<AllowEntry>,
    #[serde(default)]
    pub options: ChangeOptions,
}

/// One entry as it is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowEntry {
    /// An address or a prefix.
    pub prefix: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny: bool,
    /// Protocols and ports, such as `tcp/22,udp/5000-5010`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// A date, a time of RFC 3339, or a duration from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl AllowEntry {
    /// The entry that is meant.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn entry(self, now: DateTime<Utc>) -> Result<Entry, Failure> {
        let invalid = |error: &dyn std::error::Error| Failure::invalid(error.to_string());
        let prefix = prefix::parse(&self.prefix).map_err(|error| invalid(&error))?;
        let on = |error: &dyn std::error::Error| Failure::invalid(format!("{prefix}: {error}"));
        let scope = self.scope.as_deref().map(str::parse).transpose();
        let expires = self
            .expires
            .map(|text| parse_expiry(&text, now))
            .transpose();
        Entry {
            prefix,
            deny: self.deny,
            scope: scope.map_err(|error| on(&error))?,
            owner: self.owner,
            ticket: self.ticket,
            comment: self.comment,
            expires: expires.map_err(|error| on(&error))?,
        }
        .check()
        .map_err(|error| invalid(&error))
    }
}

/// Body of `DELETE /v1/allow`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisallowRequest {
    /// Every entry of the manual list with one of these very prefixes goes.
    pub prefixes: Vec<String>,
    #[serde(default)]
    pub options: ChangeOptions,
}

/// Body of `POST /v1/allow/rollback`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision whose lists are wanted back.
    pub revision: u64,
    #[serde(default)]
    pub options: ChangeOptions,
}

/// Body of `POST /v1/allow/confirm` and `POST /v1/allow/revert`; an empty one will do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// What a change of the lists did. When it is answered, every packet to come meets the new lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReply {
    /// False for a dry run, and when there was nothing to change.
    pub applied: bool,
    /// The revision of the lists, for `If-Match`, `diff` and `rollback`.
    pub revision: u64,
    /// The generation in the kernel, as in events.
    pub generation: u64,
    #[serde(flatten)]
    pub counts: Counts,
    /// Entries of all lists together.
    pub entries: usize,
    /// Until when it waits for its confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_by: Option<DateTime<Utc>>,
    /// For dry runs and changes that wait for a confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
}

/// Answer of `GET /v1/allow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    pub revision: u64,
    pub entries: Vec<ListedEntry>,
}

/// An entry and the list that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedEntry {
    pub list: ListName,
    #[serde(flatten)]
    pub entry: Entry,
}

/// Answer of `GET /v1/allow/history`, the newest last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReply {
    pub revisions: Vec<HistoryEntry>,
}

/// Answer of `GET /v1/allow/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReply {
    pub from: u64,
    pub to: u64,
    pub added: Vec<ListedEntry>,
    pub removed: Vec<ListedEntry>,
    pub changed: Vec<ChangedEntry>,
}

/// An entry that says something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedEntry {
    pub list: ListName,
    pub before: Entry,
    pub after: Entry,
}

/// Answer of `GET /v1/bans`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BansReply {
    pub bans: Vec<crate::bans::Ban>,
}
