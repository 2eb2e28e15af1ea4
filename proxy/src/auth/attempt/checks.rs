//! Verifies what a request claims: on blocking threads, with the same work whether or not there is such an account.

mod both;
mod code;
mod key;
mod password;
mod remote;
mod token;

pub(super) use both::Pair;

use std::{cell::Cell, net::IpAddr, sync::Arc};

use chrono::{DateTime, Utc};

use super::{Attempt, LookupError, Shared};
use crate::{
    accounts::{
        AccountName, AccountsError,
        admission::{AccountDefaults, Refusal, admission},
        machine::Control,
    },
    auth::{
        flow::{Both, Evidence, Profile, UserId, Verdict},
        lockout::{self, Lockout},
    },
};

/// A verified request.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) account: Option<Profile>,
    pub(super) evidence: Evidence,
    /// Why the evidence is wrong, for the record.
    pub(super) reason: Option<&'static str>,
    /// Counts against the source.
    pub(super) guess: bool,
    /// Wrong tries of the factor in a row.
    pub(super) factor_failures: Option<u32>,
    /// This try locked the factor.
    pub(super) locked: bool,
    /// What an administrator should look at.
    pub(super) alert: Option<&'static str>,
}

impl Checked {
    fn new(account: Option<Profile>, evidence: Evidence, reason: Option<&'static str>) -> Self {
        Self {
            account,
            evidence,
            reason,
            guess: false,
            factor_failures: None,
            locked: false,
            alert: None,
        }
    }

    /// For a machine under the policy `machine` nothing that is typed is right, or begins an enrolment.
    pub(super) fn without_prompts(self) -> Self {
        let is_machine = self
            .account
            .as_ref()
            .is_some_and(|account| account.key_alone);
        let evidence = match &self.evidence {
            Evidence::Password(_) => Evidence::Password(Verdict::Wrong),
            Evidence::Answer(_, factor) => Evidence::Answer(Verdict::Wrong, *factor),
            Evidence::Token { .. } => Evidence::Token { enrolment: None },
            Evidence::PasswordWithCode(both) => Evidence::PasswordWithCode(Both {
                password: Verdict::Wrong,
                ..*both
            }),
            Evidence::AnswerBoth(both) => Evidence::AnswerBoth(Both {
                password: Verdict::Wrong,
                ..*both
            }),
            Evidence::None
            | Evidence::Key { .. }
            | Evidence::KeyInWindow { .. }
            | Evidence::Begin => return self,
        };
        if !is_machine {
            return self;
        }
        Self {
            evidence,
            reason: Some(Control::NoPrompts.code()),
            guess: true,
            ..self
        }
    }

    /// The accounts can't be asked, and so nothing counts.
    fn unavailable(error: &LookupError) -> Self {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "authentication step refused"
        );
        let reason = match error {
            LookupError::Accounts(error) => error.code(),
            LookupError::Interrupted(_) => "accounts_unavailable",
        };
        Self::new(None, Evidence::None, Some(reason))
    }

    /// With the reason for which an account that there is counts as none.
    fn said(self, refusal: Option<Refusal>) -> Self {
        match (refusal, self.reason) {
            (Some(refusal), Some(NO_ACCOUNT)) => Self {
                reason: Some(refusal.code()),
                ..self
            },
            (_, _) => self,
        }
    }

    fn guess(self) -> Self {
        Self {
            guess: self.reason.is_some(),
            ..self
        }
    }

    /// `failures`: wrong tries of the factor in a row, this one included.
    fn counted(self, failures: u32) -> Self {
        let wrong = self.reason.is_some();
        Self {
            factor_failures: Some(failures),
            locked: wrong && Lockout::after(failures) == Lockout::Disable,
            alert: (wrong && lockout::alerts(failures)).then_some("repeated_failures"),
            ..self
        }
    }
}

const NO_ACCOUNT: &str = "no_enabled_account";

impl Attempt {
    /// Only looks up the account.
    pub(super) async fn look_up(
        &self,
        user: &str,
        evidence: Evidence,
        reason: Option<&'static str>,
    ) -> Checked {
        let guess = reason.is_some();
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            Ok(Checked {
                guess,
                ..Checked::new(account, evidence, reason)
            })
        })
        .await
    }

    /// A lookup that fails is a failure of the request, and says so in the record.
    async fn blocking(
        &self,
        user: &str,
        work: impl FnOnce(&Shared, &Claim<'_>) -> Result<Checked, AccountsError> + Send + 'static,
    ) -> Checked {
        match self.looked_up(user, work).await {
            Ok((checked, refusal)) => checked.said(refusal),
            Err(error) => Checked::unavailable(&error),
        }
    }

    async fn looked_up<T: Send + 'static>(
        &self,
        user: &str,
        work: impl FnOnce(&Shared, &Claim<'_>) -> Result<T, AccountsError> + Send + 'static,
    ) -> Result<(T, Option<Refusal>), LookupError> {
        let shared = Arc::clone(&self.shared);
        let user = user.to_owned();
        let (source, defaults) = (self.source.ip(), self.defaults);
        let work = move || {
            let claim = Claim {
                user: &user,
                source,
                defaults,
                now: shared.clock.now(),
                refusal: Cell::new(None),
            };
            let found = work(&shared, &claim)?;
            Ok::<_, AccountsError>((found, claim.refusal.get()))
        };
        Ok(tokio::task::spawn_blocking(work).await??)
    }
}

/// Who a request says it comes from.
struct Claim<'a> {
    user: &'a str,
    source: IpAddr,
    defaults: AccountDefaults,
    now: DateTime<Utc>,
    /// The rule that keeps the account out, once it was looked up. The client sees no account then.
    refusal: Cell<Option<Refusal>>,
}

impl Shared {
    /// The account, if it may log in. A text that is no account name is looked up all the same: it takes as long, and
    /// there is none.
    fn profile(&self, claim: &Claim<'_>) -> Result<Option<Profile>, AccountsError> {
        let name = claim.user.parse::<AccountName>();
        let profile = self
            .accounts
            .profile(name.as_ref().map_or("", AccountName::as_str))?
            .filter(|_| name.is_ok());
        // No account has the number -1: the same query is made in vain.
        let uid = profile.as_ref().map_or(UserId(-1), |profile| profile.uid);
        let Some(standing) = self.accounts.standing(uid)? else {
            return Ok(None);
        };
        match admission(&standing, &claim.defaults, claim.source, claim.now) {
            Ok(()) if profile.as_ref().is_some_and(|profile| profile.key_alone) => {
                let machine = self.accounts.machine(uid, claim.now)?;
                let missing = machine.map_or_else(
                    || Control::ALL.to_vec(),
                    |machine| machine.missing(claim.now),
                );
                match missing.first() {
                    None => Ok(profile),
                    Some(&control) => {
                        claim.refusal.set(Some(Refusal::Machine(control)));
                        Ok(None)
                    }
                }
            }
            Ok(()) => Ok(profile),
            Err(refusal) => {
                claim.refusal.set(Some(refusal));
                Ok(None)
            }
        }
    }
}
