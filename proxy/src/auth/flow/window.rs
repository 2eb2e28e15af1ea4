//! A time in which a key alone continues a login with two classes, for clients that open many connections.
//!
//! Only a key can: its signature is made anew for each connection. A password that is typed again is the same as one that
//! was stolen, and the address that it comes from is no factor.

use std::{ops::RangeInclusive, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::{Factor, Profile, ShownKey, UserId};

/// The name of the policy in records.
pub(super) const POLICY: &str = "mfa-window";

/// How long a window may be set to stay open.
pub const LENGTHS: RangeInclusive<Duration> =
    Duration::from_secs(15 * 60)..=Duration::from_secs(8 * 3600);

/// What a login with a key and another class left behind. It is bound to the connection's address by who keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    uid: UserId,
    epoch: i64,
    era: i64,
    fingerprint: String,
    remembered: Vec<Factor>,
    began: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Window {
    /// The window that a login with `factors`, which are of two classes, opens; `None` if the account has none.
    pub(super) fn open(
        account: &Profile,
        key: &ShownKey,
        factors: &[Factor],
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let length = account
            .login
            .window
            .filter(|length| LENGTHS.contains(length))?;
        Some(Self {
            uid: account.uid,
            epoch: account.epoch,
            era: account.login.window_era,
            fingerprint: key.fingerprint.clone(),
            remembered: factors
                .iter()
                .copied()
                .filter(|factor| !factor.is_key())
                .collect(),
            began: now,
            until: now.checked_add_signed(chrono::Duration::from_std(length).ok()?)?,
        })
    }

    /// True if a signature of `key` for `account`, as it is at `now`, continues the login that opened the window. A clock
    /// that was set back closes it.
    pub fn admits(&self, account: &Profile, key: &ShownKey, now: DateTime<Utc>) -> bool {
        account.login.window.is_some()
            && (self.uid, self.epoch, self.era)
                == (account.uid, account.epoch, account.login.window_era)
            && self.fingerprint == key.fingerprint
            && (self.began..self.until).contains(&now)
    }

    pub fn uid(&self) -> UserId {
        self.uid
    }

    /// Of the key that is shown again.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The account's [`window_era`](super::LoginOptions::window_era) when the window was opened.
    pub(crate) fn era(&self) -> i64 {
        self.era
    }

    /// What is not asked for again.
    pub fn remembered(&self) -> &[Factor] {
        &self.remembered
    }

    /// When the two classes were shown.
    pub fn began(&self) -> DateTime<Utc> {
        self.began
    }

    /// [`Self::began`], as each record of a session has it that is in by the window.
    pub fn began_in_records(&self) -> Value {
        in_records(self.began)
    }

    /// [`Self::until`], in the same form.
    pub fn until_in_records(&self) -> Value {
        in_records(self.until)
    }

    /// The first instant at which both are asked for again.
    pub fn until(&self) -> DateTime<Utc> {
        self.until
    }
}

fn in_records(at: DateTime<Utc>) -> Value {
    at.to_rfc3339_opts(SecondsFormat::Secs, true).into()
}
