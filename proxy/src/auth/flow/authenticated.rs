//! The proof that somebody may come in.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use portcullis_journal::{AccountKind, Actor};

use super::{
    Factor, FactorClass, Profile, ShownKey, UserId,
    window::{self, Window},
};
use crate::auth::credential::Credential;

/// Proof that a user showed what the account's policy asks for. Only [`Flow::step`](super::Flow::step) makes one.
#[derive(Debug, Clone)]
pub struct Authenticated {
    uid: UserId,
    name: String,
    kind: AccountKind,
    factors: Vec<Factor>,
    policy: &'static str,
    key: Option<ShownKey>,
    epoch: i64,
    window: Option<Box<Window>>,
    opens: Option<Box<Window>>,
    directory_groups: Option<BTreeSet<String>>,
}

/// What was enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Enough {
    /// Two classes, or less under the named policy of the account.
    Policy(&'static str),
    /// A key, and what was shown when this window was opened.
    Window(Window),
}

impl Authenticated {
    pub(super) fn new(
        account: &Profile,
        factors: Vec<Factor>,
        key: Option<ShownKey>,
        enough: Enough,
        now: DateTime<Utc>,
    ) -> Self {
        let (policy, window) = match enough {
            Enough::Policy(policy) => (policy, None),
            Enough::Window(window) => (window::POLICY, Some(Box::new(window))),
        };
        let opens = if window.is_none() && two_classes(&factors) {
            key.as_ref()
                .and_then(|key| Window::open(account, key, &factors, now))
                .map(Box::new)
        } else {
            None
        };
        Self {
            uid: account.uid,
            name: account.name.clone(),
            kind: account.kind,
            factors,
            policy,
            key,
            epoch: account.epoch,
            window,
            opens,
            directory_groups: None,
        }
    }

    /// The same, in these groups by what the directory said when it judged the password of this login.
    #[must_use]
    pub(in crate::auth) fn in_directory_groups(self, groups: BTreeSet<String>) -> Self {
        Self {
            directory_groups: Some(groups),
            ..self
        }
    }

    pub fn uid(&self) -> UserId {
        self.uid
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> AccountKind {
        self.kind
    }

    /// The factors shown in this connection, in the order shown.
    pub fn factors(&self) -> &[Factor] {
        &self.factors
    }

    /// True if the factors shown in this connection are of different classes; false under a named policy that takes less,
    /// and within a window.
    pub fn is_mfa(&self) -> bool {
        two_classes(&self.factors)
    }

    /// The name of the policy that let the user in.
    pub fn policy(&self) -> &'static str {
        self.policy
    }

    /// The fingerprint (`SHA256:...`) of the key whose signature was verified, if one was.
    pub fn key_fingerprint(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.fingerprint.as_str())
    }

    /// What the session rests on, if a signature was verified.
    pub fn credential(&self) -> Option<&Credential> {
        self.key.as_ref().map(|key| key.credential.as_ref())
    }

    /// The window that stood for the second factor, if one did.
    pub fn window(&self) -> Option<&Window> {
        self.window.as_deref()
    }

    /// The window that this login opens for the next ones, if it does.
    pub fn opens(&self) -> Option<&Window> {
        self.opens.as_deref()
    }

    /// The gateway's groups that the directory named, if it judged the password of this login.
    pub fn directory_groups(&self) -> Option<&BTreeSet<String>> {
        self.directory_groups.as_ref()
    }

    /// The user as records name it.
    pub fn actor(&self) -> Actor {
        Actor {
            uid: Some(self.uid.0),
            name: self.name.clone(),
            kind: Some(self.kind),
        }
    }

    /// The account's session epoch at the time of login; see `crate::accounts::Accounts`.
    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// A user for tests of what comes after authentication.
    #[cfg(test)]
    pub(crate) fn for_test(uid: i64, name: &str) -> Self {
        Self {
            uid: UserId(uid),
            name: name.to_owned(),
            kind: AccountKind::Human,
            factors: vec![Factor::Password, Factor::Totp],
            policy: super::FactorPolicy::TwoClass.name(),
            key: None,
            epoch: 0,
            window: None,
            opens: None,
            directory_groups: None,
        }
    }
}

pub(super) fn two_classes(factors: &[Factor]) -> bool {
    let shows = |class: FactorClass| factors.iter().any(|factor| factor.class() == class);
    shows(FactorClass::Know) && shows(FactorClass::Have)
}
