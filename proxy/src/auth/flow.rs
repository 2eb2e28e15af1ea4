//! Which factor comes next, and when it is enough.
//!
//! A [`Flow`] is the authentication state of one connection. It is fed what was *verified* (a signature over this
//! session by a key of the account, a password or code that was checked) and answers what to say to the client.
//! It does no I/O and reads no clock. Only this file makes an [`Authenticated`].

mod factor;
mod profile;

pub use factor::{Factor, FactorClass, ShownKey};
pub use profile::{Exception, FactorPolicy, Profile, UserId};

use chrono::{DateTime, Utc};
use portcullis_journal::{AccountKind, Actor};

use super::Method;

/// Proof that a user showed what the account's policy asks for. Only [`Flow::step`] makes one.
#[derive(Debug, Clone)]
pub struct Authenticated {
    uid: UserId,
    name: String,
    kind: AccountKind,
    factors: Vec<Factor>,
    policy: &'static str,
    key: Option<ShownKey>,
    epoch: i64,
}

impl Authenticated {
    pub fn uid(&self) -> UserId {
        self.uid
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> AccountKind {
        self.kind
    }

    /// The factors shown, in the order shown; at least two.
    pub fn factors(&self) -> &[Factor] {
        &self.factors
    }

    /// True if the factors are of different classes; false only under `possession-pair`.
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

    /// The user as records name it.
    pub fn actor(&self) -> Actor {
        Actor {
            uid: Some(self.uid.0),
            name: self.name.clone(),
            kind: Some(self.kind),
        }
    }

    /// The account's session epoch at the time of login; see [`crate::accounts::admission::Standing::epoch`].
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
            policy: FactorPolicy::TwoClass.name(),
            key: None,
            epoch: 0,
        }
    }
}

fn two_classes(factors: &[Factor]) -> bool {
    factors
        .iter()
        .any(|factor| factor.class() == FactorClass::Know)
        && factors
            .iter()
            .any(|factor| factor.class() == FactorClass::Have)
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// The client left the answer empty: wrong for a password, "I have none" for a code.
    Empty,
}

/// A request, with what its verification established.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The method `none`.
    None,
    /// A signature over this session was verified; `shown` is the key if the account may log in with it.
    Key { shown: Option<ShownKey> },
    /// The method `password`.
    Password(Verdict),
    /// The client asks for keyboard-interactive.
    Begin,
    /// The answer to what was asked, checked as [`Flow::pending`] said, and what it was taken for: what is asked as a
    /// one-time password may be answered with one of several factors.
    Answer(Verdict, Factor),
}

/// What the answer to the open question has to be checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The account's password. `second`: another factor of this user was already shown.
    Password { second: bool },
    /// The account's one-time code; accepting it spends it.
    Code,
    /// Nothing: the answer can't help any more, and must cost the same work.
    Decoy,
}

/// What keyboard-interactive asks; one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Password,
    Code,
}

/// What follows from a request.
#[derive(Debug)]
pub enum Decision {
    Accepted(Authenticated),
    Partial { methods: Vec<Method> },
    Ask(Question),
    Rejected { methods: Vec<Method> },
}

/// The authentication state of one connection. Bound to one user: a request for another name begins anew.
#[derive(Debug, Default)]
pub struct Flow {
    user: Option<String>,
    /// The account that the shown factors belong to, and its epoch when they were shown.
    account: Option<(UserId, i64)>,
    shown: Vec<Factor>,
    key: Option<ShownKey>,
    exchange: Option<Exchange>,
}

/// A keyboard-interactive exchange in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchange {
    AskedPassword,
    /// `password` waits for the verdict on the code: both are judged at once, so that a wrong password can't be told
    /// from a wrong code. `None` if the exchange did not ask for it.
    AskedCode {
        password: Option<Verdict>,
    },
}

impl Flow {
    /// What the client's answer has to be checked against; `None` if `user` was not asked anything.
    pub fn pending(&self, user: &str) -> Option<Check> {
        if self.user.as_deref() != Some(user) {
            return None;
        }
        Some(match self.exchange? {
            Exchange::AskedPassword => Check::Password {
                second: !self.shown.is_empty(),
            },
            Exchange::AskedCode {
                password: None | Some(Verdict::Right),
            } => Check::Code,
            Exchange::AskedCode {
                password: Some(Verdict::Wrong | Verdict::Empty),
            } => Check::Decoy,
        })
    }

    /// True if a password from `user` would be the second factor, after a verified key.
    pub fn has_verified_key(&self, user: &str) -> bool {
        self.user.as_deref() == Some(user) && self.has_shown(Factor::is_key)
    }

    /// Takes in a request for `user`. `account` is the enabled account of that name, as it is at `now`.
    pub fn step(
        &mut self,
        user: &str,
        account: Option<&Profile>,
        evidence: Evidence,
        now: DateTime<Utc>,
    ) -> Decision {
        self.bind(user, account);
        let exchange = self.exchange.take();
        match (evidence, exchange) {
            (Evidence::None, _) | (Evidence::Answer(..), None) => self.rejected(),
            (Evidence::Key { shown }, _) => self.key_verified(account, shown, now),
            (Evidence::Password(verdict), _) => self.password_checked(account, verdict, now),
            (Evidence::Begin, _) => self.begin(account, now),
            (Evidence::Answer(verdict, Factor::Password), Some(Exchange::AskedPassword)) => {
                self.password_answered(account, verdict, now)
            }
            (Evidence::Answer(verdict, factor), Some(Exchange::AskedCode { password }))
                if factor.is_code() =>
            {
                self.code_answered(account, password, (verdict, factor), now)
            }
            // An answer to another question than the open one.
            (Evidence::Answer(..), Some(_)) => self.rejected(),
        }
    }

    /// Forgets everything unless user, account and epoch are those of the request before.
    fn bind(&mut self, user: &str, account: Option<&Profile>) {
        let identity = account.map(|account| (account.uid, account.epoch));
        if self.user.as_deref() != Some(user) || self.account != identity {
            *self = Self {
                user: Some(user.to_owned()),
                account: identity,
                ..Self::default()
            };
        }
    }

    fn key_verified(
        &mut self,
        account: Option<&Profile>,
        shown: Option<ShownKey>,
        now: DateTime<Utc>,
    ) -> Decision {
        let (Some(account), Some(key)) = (account, shown.filter(|key| key.factor.is_key())) else {
            return self.rejected();
        };
        self.show(key.factor);
        self.key = Some(key);
        self.accept_or_continue(account, now)
    }

    fn password_checked(
        &mut self,
        account: Option<&Profile>,
        verdict: Verdict,
        now: DateTime<Utc>,
    ) -> Decision {
        match (account, verdict) {
            // A password alone is acknowledged only where a key can follow it.
            (Some(account), Verdict::Right)
                if self.has_shown(Factor::is_key) || account.has_key =>
            {
                self.show(Factor::Password);
                self.accept_or_continue(account, now)
            }
            (_, Verdict::Right | Verdict::Wrong | Verdict::Empty) => self.rejected(),
        }
    }

    fn begin(&mut self, account: Option<&Profile>, now: DateTime<Utc>) -> Decision {
        let code_next = self.has_shown(Factor::is_password)
            || (self.has_shown(Factor::is_key)
                && account
                    .is_some_and(|account| account.has_code && account.policy.allows_pair(now)));
        if code_next {
            self.ask_code(None)
        } else {
            self.exchange = Some(Exchange::AskedPassword);
            Decision::Ask(Question::Password)
        }
    }

    fn password_answered(
        &mut self,
        account: Option<&Profile>,
        verdict: Verdict,
        now: DateTime<Utc>,
    ) -> Decision {
        if self.has_shown(Factor::is_key) {
            return self.password_checked(account, verdict, now);
        }
        match account {
            // Without a code to ask for, the key is what is left.
            Some(account) if verdict == Verdict::Right && !account.has_code && account.has_key => {
                self.show(Factor::Password);
                self.partial()
            }
            Some(_) | None => self.ask_code(Some(verdict)),
        }
    }

    fn code_answered(
        &mut self,
        account: Option<&Profile>,
        password: Option<Verdict>,
        (code, factor): (Verdict, Factor),
        now: DateTime<Utc>,
    ) -> Decision {
        let Some(account) = account else {
            return self.rejected();
        };
        match (password, code) {
            (None, Verdict::Right) => {
                self.show(factor);
                self.accept_or_continue(account, now)
            }
            (Some(Verdict::Right), Verdict::Right) => {
                self.show(Factor::Password);
                self.show(factor);
                self.accept_or_continue(account, now)
            }
            (Some(Verdict::Right), Verdict::Empty) if account.has_key => {
                self.show(Factor::Password);
                self.partial()
            }
            (Some(Verdict::Wrong | Verdict::Empty), _)
            | (None | Some(Verdict::Right), Verdict::Wrong | Verdict::Empty) => self.rejected(),
        }
    }

    fn accept_or_continue(&mut self, account: &Profile, now: DateTime<Utc>) -> Decision {
        let policy = if two_classes(&self.shown) {
            FactorPolicy::TwoClass.name()
        } else if self.has_shown(Factor::is_key)
            && self.has_shown(Factor::is_code)
            && account.policy.allows_pair(now)
        {
            account.policy.name()
        } else {
            return self.partial();
        };
        let accepted = Authenticated {
            uid: account.uid,
            name: account.name.clone(),
            kind: account.kind,
            factors: std::mem::take(&mut self.shown),
            policy,
            key: self.key.take(),
            epoch: account.epoch,
        };
        *self = Self::default();
        Decision::Accepted(accepted)
    }

    fn ask_code(&mut self, password: Option<Verdict>) -> Decision {
        self.exchange = Some(Exchange::AskedCode { password });
        Decision::Ask(Question::Code)
    }

    fn show(&mut self, factor: Factor) {
        if !self.shown.contains(&factor) {
            self.shown.push(factor);
        }
    }

    fn has_shown(&self, kind: fn(Factor) -> bool) -> bool {
        self.shown.iter().copied().any(kind)
    }

    fn partial(&self) -> Decision {
        Decision::Partial {
            methods: self.methods(),
        }
    }

    fn rejected(&self) -> Decision {
        Decision::Rejected {
            methods: self.methods(),
        }
    }

    /// The methods that can still lead on. keyboard-interactive is there from the start: curl never looks again.
    fn methods(&self) -> Vec<Method> {
        if self.has_shown(Factor::is_key) {
            vec![Method::KeyboardInteractive, Method::Password]
        } else {
            vec![Method::PublicKey, Method::KeyboardInteractive]
        }
    }
}

#[cfg(test)]
mod tests;
