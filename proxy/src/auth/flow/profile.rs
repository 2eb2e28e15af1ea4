//! What the flow has to know of an account.

use chrono::{DateTime, NaiveDate, Utc};
use portcullis_journal::AccountKind;

/// An account's number. Never reused, also when the name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub i64);

/// A dated relaxation: who allowed it, why, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    pub reason: String,
    pub approver: String,
    /// The last day, UTC.
    pub expires: NaiveDate,
}

/// Which factors are enough for an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactorPolicy {
    /// Two different classes.
    TwoClass,
    /// Also key and one-time code, which are both possession. An exception that ran out counts as [`Self::TwoClass`].
    PossessionPair(Exception),
}

impl FactorPolicy {
    /// The name in records and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TwoClass => "two-class",
            Self::PossessionPair(_) => "possession-pair",
        }
    }

    /// True if key and code are enough at `now`.
    pub fn allows_pair(&self, now: DateTime<Utc>) -> bool {
        match self {
            Self::TwoClass => false,
            Self::PossessionPair(exception) => now.date_naive() <= exception.expires,
        }
    }
}

/// An enabled account, as it is at the time of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub uid: UserId,
    pub name: String,
    pub kind: AccountKind,
    pub policy: FactorPolicy,
    /// Grows whenever something is taken from the account; what was shown before counts no longer.
    pub epoch: i64,
    /// To ask for a one-time password makes sense: the account has an authenticator, or another way to answer.
    pub has_code: bool,
    /// A key can follow a password.
    pub has_key: bool,
}
