//! What the flow has to know of an account.

use std::time::Duration;

use chrono::{DateTime, Utc};
use portcullis_journal::AccountKind;

/// An account's number. Never reused, also when the name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub i64);

use crate::exception::Exception;

/// The name of the policy under which a machine account logs in with a key alone; see [`crate::accounts::machine`].
pub const MACHINE: &str = "machine";

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
    /// Under the policy [`MACHINE`], with every compensating control in place: a key is enough.
    pub key_alone: bool,
    pub login: LoginOptions,
}

/// What an account's client needs to get both factors across. None of it changes how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoginOptions {
    /// `None`: as the server has it.
    pub prompts: Option<Prompts>,
    /// The one-time password may stand behind the password, in one text.
    pub appended_code: bool,
    /// How long a login with a key and another class lets the same key in again from the same address, alone.
    pub window: Option<Duration>,
    /// Grows when the windows that are open are to be forgotten.
    pub window_era: i64,
}

/// How keyboard-interactive asks for password and one-time password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prompts {
    /// One after the other, a prompt each.
    #[default]
    TwoRounds,
    /// Both in one INFO_REQUEST (RFC 4256 section 3.2).
    OneRound,
}

/// What a client is told before it has shown all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerdictMode {
    /// A right first factor is acknowledged by partial success (RFC 4252 section 5.1).
    #[default]
    Stepwise,
    /// There is success and failure: a failure does not tell what was right.
    Single,
}

/// How the server talks, to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowRules {
    pub verdict: VerdictMode,
    /// Of accounts that have no setting of their own, and of names that have no account.
    pub prompts: Prompts,
    /// The method `password` is listed from the start, for clients that look for it. It is answered in any case.
    pub list_password: bool,
}
