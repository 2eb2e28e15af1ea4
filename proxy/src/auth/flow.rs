//! Which factor comes next, and when it is enough.
//!
//! A [`Flow`] is the authentication state of one connection. It is fed what was *verified* (a signature over this
//! session by a key of the account, a password or code that was checked) and answers what to say to the client.
//! It does no I/O and reads no clock. Only this module makes an [`Authenticated`].
//!
//! What was shown is bound to the user, and to the account's epoch; to the connection, since each has its own flow; and to
//! the service, since the SSH library ends a connection that asks for another than `ssh-connection`.

mod authenticated;
mod factor;
mod profile;
mod window;

pub use authenticated::Authenticated;
pub use factor::{Factor, FactorClass, ShownKey};
pub use profile::{
    FactorPolicy, FlowRules, LoginOptions, MACHINE, Profile, Prompts, UserId, VerdictMode,
};
pub use window::{LENGTHS as WINDOW_LENGTHS, Window};

use chrono::{DateTime, Utc};

use self::authenticated::{Enough, two_classes};
use super::{
    Method,
    enrolment::{Enrolling, EnrolmentId},
};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// The client left the answer empty: "I have none".
    Empty,
}

/// Password and one-time password that came at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Both {
    pub password: Verdict,
    /// Looked at only if the password was right.
    pub code: Verdict,
    /// What the code was taken for.
    pub factor: Factor,
}

/// A request, with what its verification established.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The method `none`.
    None,
    /// A signature over this session was verified; `shown` is the key if the account may log in with it.
    Key { shown: Option<ShownKey> },
    /// The same, and a window was opened with this key from this address.
    KeyInWindow { shown: ShownKey, window: Window },
    /// The method `password`.
    Password(Verdict),
    /// The method `password`, with the code behind the password.
    PasswordWithCode(Both),
    /// The client asks for keyboard-interactive.
    Begin,
    /// The answer to what was asked, checked as [`Flow::pending`] said, and what it was taken for: what is asked as a
    /// one-time password may be answered with one of several factors.
    Answer(Verdict, Factor),
    /// Password and code: the answers to two prompts, or the answer to the first with the code behind the password.
    AnswerBoth(Both),
    /// The answer was an enrolment token; `enrolment` is the one that it begins, if it is the account's and was not used.
    Token { enrolment: Option<EnrolmentId> },
}

/// What the answer to the open question has to be checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The account's password. `second`: another factor of this user was already shown.
    Password { second: bool },
    /// The account's one-time code; accepting it spends it.
    Code,
    /// Two answers: the account's password, and, if that is right, its one-time code.
    Both { second: bool },
    /// Nothing: the answer can't help any more, and must cost the same work.
    Decoy,
}

/// What keyboard-interactive asks in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Password,
    Code,
    Both,
}

/// What follows from a request.
#[derive(Debug)]
pub enum Decision {
    Accepted(Authenticated),
    /// A first factor and the account's enrolment token.
    Enrol(Enrolling),
    Partial {
        methods: Vec<Method>,
    },
    Ask(Question),
    Rejected {
        methods: Vec<Method>,
    },
}

/// The authentication state of one connection. Bound to one user: a request for another name begins anew.
#[derive(Debug, Default)]
pub struct Flow {
    rules: FlowRules,
    user: Option<String>,
    /// The account that the shown factors belong to, and its epoch when they were shown.
    account: Option<(UserId, i64)>,
    shown: Vec<Factor>,
    key: Option<ShownKey>,
    exchange: Option<Exchange>,
}

/// A keyboard-interactive exchange in progress, by what was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchange {
    Password,
    /// `password` waits for the verdict on the code: both are judged at once, so that a wrong password can't be told
    /// from a wrong code. `None` if the exchange did not ask for it.
    Code {
        password: Option<Verdict>,
    },
    Both,
}

impl Flow {
    pub fn new(rules: FlowRules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Forgets all that was shown and asked.
    pub fn forget(&mut self) {
        *self = Self::new(self.rules);
    }

    /// What the client's answer has to be checked against; `None` if `user` was not asked anything.
    pub fn pending(&self, user: &str) -> Option<Check> {
        if self.user.as_deref() != Some(user) {
            return None;
        }
        let second = !self.shown.is_empty();
        Some(match self.exchange? {
            Exchange::Password => Check::Password { second },
            Exchange::Both => Check::Both { second },
            Exchange::Code {
                password: None | Some(Verdict::Right),
            } => Check::Code,
            // Beside a key a code may be enough, by the account's policy.
            Exchange::Code {
                password: Some(Verdict::Empty),
            } if self.has_shown(Factor::is_key) => Check::Code,
            Exchange::Code {
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
        let Some(account) = account else {
            return self.step_of_nobody(&evidence, exchange);
        };
        match (evidence, exchange) {
            (Evidence::None, _) | (Evidence::Answer(..) | Evidence::AnswerBoth(_), None) => {
                self.rejected()
            }
            (Evidence::Key { shown }, _) => self.key_verified(account, shown, None, now),
            (Evidence::KeyInWindow { shown, window }, _) => {
                self.key_verified(account, Some(shown), Some(window), now)
            }
            (Evidence::Password(verdict), _) => self.password_checked(account, verdict, now),
            (Evidence::PasswordWithCode(both), _) if !is_right(account, both) => self.rejected(),
            (Evidence::PasswordWithCode(both), _) => {
                self.judge(account, Some(both.password), (both.code, both.factor), now)
            }
            (Evidence::Begin, _) => self.begin(account, now),
            (Evidence::Token { enrolment }, _) => self.token_shown(account, enrolment, exchange),
            (Evidence::Answer(verdict, Factor::Password), Some(Exchange::Password)) => {
                self.password_answered(account, verdict, now)
            }
            // As any wrong password: told from a wrong code by nothing.
            (Evidence::AnswerBoth(both), Some(Exchange::Password)) if !is_right(account, both) => {
                self.ask_code(Some(Verdict::Wrong))
            }
            (Evidence::AnswerBoth(both), Some(Exchange::Password | Exchange::Both)) => {
                self.judge(account, Some(both.password), (both.code, both.factor), now)
            }
            (Evidence::Answer(verdict, factor), Some(Exchange::Code { password })) => {
                self.judge(account, password, (verdict, factor), now)
            }
            // An answer to another question than the open one.
            (Evidence::Answer(..) | Evidence::AnswerBoth(_), Some(_)) => self.rejected(),
        }
    }

    /// What an account hears whose factors are all wrong.
    fn step_of_nobody(&mut self, evidence: &Evidence, exchange: Option<Exchange>) -> Decision {
        match (evidence, exchange) {
            (Evidence::Begin, _) => self.ask_first(self.rules.prompts),
            (Evidence::Answer(_, Factor::Password), Some(Exchange::Password))
            | (Evidence::AnswerBoth(_), Some(Exchange::Password)) => {
                self.ask_code(Some(Verdict::Wrong))
            }
            (
                Evidence::None
                | Evidence::Key { .. }
                | Evidence::KeyInWindow { .. }
                | Evidence::Password(_)
                | Evidence::PasswordWithCode(_)
                | Evidence::Answer(..)
                | Evidence::AnswerBoth(_)
                | Evidence::Token { .. },
                _,
            ) => self.rejected(),
        }
    }

    /// Forgets everything unless user, account and epoch are those of the request before.
    fn bind(&mut self, user: &str, account: Option<&Profile>) {
        let identity = account.map(|account| (account.uid, account.epoch));
        if self.user.as_deref() != Some(user) || self.account != identity {
            self.forget();
            self.user = Some(user.to_owned());
            self.account = identity;
        }
    }

    fn key_verified(
        &mut self,
        account: &Profile,
        shown: Option<ShownKey>,
        window: Option<Window>,
        now: DateTime<Utc>,
    ) -> Decision {
        let Some(key) = shown.filter(|key| key.factor.is_key()) else {
            return self.rejected();
        };
        self.show(key.factor);
        let window = window.filter(|window| window.admits(account, &key, now));
        self.key = Some(key);
        let enough = self.policy_met(account, now).map(Enough::Policy);
        match enough.or(window.map(Enough::Window)) {
            Some(enough) => self.accept(account, enough, now),
            None => self.not_yet(),
        }
    }

    fn password_checked(
        &mut self,
        account: &Profile,
        verdict: Verdict,
        now: DateTime<Utc>,
    ) -> Decision {
        match verdict {
            // A password alone is acknowledged only where a key can follow it.
            Verdict::Right if self.has_shown(Factor::is_key) || account.has_key => {
                self.show(Factor::Password);
                self.accept_or_continue(account, now)
            }
            Verdict::Right | Verdict::Wrong | Verdict::Empty => self.rejected(),
        }
    }

    fn begin(&mut self, account: &Profile, now: DateTime<Utc>) -> Decision {
        let stepwise = self.rules.verdict == VerdictMode::Stepwise;
        let has_key = self.has_shown(Factor::is_key);
        let pair = has_key && account.has_code && account.policy.allows_pair(now);
        if stepwise && (self.has_shown(Factor::is_password) || pair) {
            self.ask_code(None)
        } else if stepwise && has_key {
            self.ask_first(Prompts::TwoRounds)
        } else {
            self.ask_first(account.login.prompts.unwrap_or(self.rules.prompts))
        }
    }

    fn password_answered(
        &mut self,
        account: &Profile,
        verdict: Verdict,
        now: DateTime<Utc>,
    ) -> Decision {
        match self.rules.verdict {
            VerdictMode::Single => self.ask_code(Some(verdict)),
            VerdictMode::Stepwise if self.has_shown(Factor::is_key) => {
                self.password_checked(account, verdict, now)
            }
            // Without a code to ask for, the key is what is left.
            VerdictMode::Stepwise
                if verdict == Verdict::Right && !account.has_code && account.has_key =>
            {
                self.show(Factor::Password);
                self.partial()
            }
            VerdictMode::Stepwise => self.ask_code(Some(verdict)),
        }
    }

    /// The one verdict on what was asked: all that was answered has to be right. `password` is `None` if it was not asked.
    fn judge(
        &mut self,
        account: &Profile,
        password: Option<Verdict>,
        (code, factor): (Verdict, Factor),
        now: DateTime<Utc>,
    ) -> Decision {
        let has_key = self.has_shown(Factor::is_key);
        let key_helps = has_key || account.has_key;
        if !factor.is_code() {
            return self.rejected();
        }
        match (password, code) {
            (None, Verdict::Right) => self.show(factor),
            (Some(Verdict::Right), Verdict::Right) => {
                self.show(Factor::Password);
                self.show(factor);
            }
            (Some(Verdict::Right), Verdict::Empty) if key_helps => self.show(Factor::Password),
            (Some(Verdict::Empty), Verdict::Right) if has_key => self.show(factor),
            (Some(Verdict::Wrong | Verdict::Empty), _)
            | (None | Some(Verdict::Right), Verdict::Wrong | Verdict::Empty) => {
                return self.rejected();
            }
        }
        self.accept_or_continue(account, now)
    }

    /// The name of the policy by which what was shown is enough.
    fn policy_met(&self, account: &Profile, now: DateTime<Utc>) -> Option<&'static str> {
        if account.key_alone && self.has_shown(Factor::is_key) {
            return Some(MACHINE);
        }
        if two_classes(&self.shown) {
            return Some(FactorPolicy::TwoClass.name());
        }
        let pair = self.has_shown(Factor::is_key) && self.has_shown(Factor::is_code);
        (pair && account.policy.allows_pair(now)).then(|| account.policy.name())
    }

    /// A token takes the place of the second factor, and leads to its enrolment alone.
    fn token_shown(
        &mut self,
        account: &Profile,
        enrolment: Option<EnrolmentId>,
        exchange: Option<Exchange>,
    ) -> Decision {
        let Some(enrolment) = enrolment else {
            return self.rejected();
        };
        match exchange {
            Some(Exchange::Code {
                password: Some(Verdict::Right),
            }) => self.show(Factor::Password),
            Some(Exchange::Code { password: None } | Exchange::Password) => {}
            None
            | Some(
                Exchange::Both
                | Exchange::Code {
                    password: Some(Verdict::Wrong | Verdict::Empty),
                },
            ) => return self.rejected(),
        }
        if self.shown.is_empty() {
            return self.rejected();
        }
        let key = self.key.take();
        let enrolling = Enrolling {
            uid: account.uid,
            name: account.name.clone(),
            kind: account.kind,
            epoch: account.epoch,
            factors: std::mem::take(&mut self.shown),
            key: key.map(|key| key.fingerprint),
            enrolment,
        };
        self.forget();
        Decision::Enrol(enrolling)
    }

    fn accept_or_continue(&mut self, account: &Profile, now: DateTime<Utc>) -> Decision {
        match self.policy_met(account, now) {
            Some(policy) => self.accept(account, Enough::Policy(policy), now),
            None => self.not_yet(),
        }
    }

    /// Success is said once: what led to it is used up.
    fn accept(&mut self, account: &Profile, enough: Enough, now: DateTime<Utc>) -> Decision {
        let (factors, key) = (std::mem::take(&mut self.shown), self.key.take());
        self.forget();
        Decision::Accepted(Authenticated::new(account, factors, key, enough, now))
    }

    /// What was shown is right and not enough. With a single verdict only a key outlasts its request, unseen.
    fn not_yet(&mut self) -> Decision {
        match self.rules.verdict {
            VerdictMode::Stepwise => self.partial(),
            VerdictMode::Single => {
                self.shown.retain(|factor| factor.is_key());
                self.rejected()
            }
        }
    }

    fn ask_first(&mut self, prompts: Prompts) -> Decision {
        let (exchange, question) = match prompts {
            Prompts::TwoRounds => (Exchange::Password, Question::Password),
            Prompts::OneRound => (Exchange::Both, Question::Both),
        };
        self.exchange = Some(exchange);
        Decision::Ask(question)
    }

    fn ask_code(&mut self, password: Option<Verdict>) -> Decision {
        self.exchange = Some(Exchange::Code { password });
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

    /// The methods that can still lead on. keyboard-interactive is there from the start: curl never looks again. With a
    /// single verdict the list tells nothing: it never changes.
    pub fn methods(&self) -> Vec<Method> {
        let FlowRules {
            verdict,
            list_password,
            ..
        } = self.rules;
        if verdict == VerdictMode::Single || (list_password && !self.has_shown(Factor::is_key)) {
            vec![
                Method::PublicKey,
                Method::KeyboardInteractive,
                Method::Password,
            ]
        } else if self.has_shown(Factor::is_key) {
            vec![Method::KeyboardInteractive, Method::Password]
        } else {
            vec![Method::PublicKey, Method::KeyboardInteractive]
        }
    }
}

/// True if a password with the code behind it counts: both right, or nothing.
fn is_right(account: &Profile, both: Both) -> bool {
    let right = (Verdict::Right, Verdict::Right);
    account.login.appended_code && (both.password, both.code) == right
}

#[cfg(test)]
mod tests;
