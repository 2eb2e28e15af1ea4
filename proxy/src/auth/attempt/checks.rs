//! Verifies what a request claims: on blocking threads, with the same work whether or not there is such an account.

use std::sync::Arc;

use ssh_key::{Algorithm, PublicKey};

use super::{Attempt, LookupError, Shared};
use crate::{
    accounts::{AccountName, AccountsError, CodeVerdict, PasswordTry},
    auth::{
        Secret,
        flow::{Evidence, Profile, Verdict},
        lockout::Lockout,
        public_key::{self, KeyError},
        totp::{self, Code},
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
        }
    }

    fn guess(self) -> Self {
        Self {
            guess: self.reason.is_some(),
            ..self
        }
    }
}

const NO_ACCOUNT: &str = "no_enabled_account";

/// True type, size and signature algorithm.
pub(super) fn acceptable_key(algorithm: &Algorithm, key: &PublicKey) -> Result<(), KeyError> {
    public_key::check(key)?;
    public_key::check_signature(algorithm, key)
}

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

    pub(super) async fn look_up_key(
        &self,
        user: &str,
        algorithm: &Algorithm,
        key: &PublicKey,
    ) -> Checked {
        let fingerprint = public_key::fingerprint(key);
        let acceptable = acceptable_key(algorithm, key);
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            // No account has the number -1: the same query is made in vain.
            let uid = account
                .as_ref()
                .map_or(crate::auth::flow::UserId(-1), |account| account.uid);
            let belongs = shared.accounts.has_key(uid, &fingerprint)?;
            let reason = match (&acceptable, &account, belongs) {
                (Ok(()), Some(_), true) => None,
                (Ok(()), Some(_), false) => Some("unknown_key"),
                (Ok(()), None, _) => Some(NO_ACCOUNT),
                (Err(error), _, _) => Some(key_reason(error)),
            };
            let fingerprint = reason.is_none().then_some(fingerprint);
            Ok(Checked::new(account, Evidence::Key { fingerprint }, reason))
        })
        .await
    }

    /// `counted`: a wrong password counts against the account, as the second factor.
    pub(super) async fn check_password(
        &self,
        user: &str,
        password: Secret,
        counted: bool,
        evidence: fn(Verdict) -> Evidence,
    ) -> Checked {
        let turn = self.shared.hashes.take(self.source.ip(), counted).await;
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            let now = shared.clock.now();
            let found = match &account {
                Some(account) => shared.accounts.try_password(account.uid, counted, now)?,
                None => PasswordTry::NotSet,
            };
            let (phc, mut failures, reason) = match (&found, &account) {
                (PasswordTry::Open { phc, failures }, _) => {
                    (Some(phc.as_str()), Some(*failures), "bad_password")
                }
                (PasswordTry::Delayed, _) => (None, None, "password_delayed"),
                (PasswordTry::Disabled, _) => (None, None, "password_locked"),
                (PasswordTry::NotSet, Some(_)) => (None, None, "password_not_set"),
                (PasswordTry::NotSet, None) => (None, None, NO_ACCOUNT),
            };
            let right = shared.hasher.verify(phc, &password);
            drop(turn);
            if let (true, true, Some(account)) = (right, counted, &account) {
                shared.accounts.password_was_right(account.uid)?;
                failures = Some(0);
            }
            let verdict = if right {
                Verdict::Right
            } else {
                Verdict::Wrong
            };
            let reason = (!right).then_some(reason);
            let locked = counted
                && !right
                && failures.is_some_and(|failures| Lockout::after(failures) == Lockout::Disable);
            Ok(Checked {
                factor_failures: failures.filter(|_| counted),
                locked,
                ..Checked::new(account, evidence(verdict), reason).guess()
            })
        })
        .await
    }

    /// `genuine`: the code can count; otherwise only the work is done.
    pub(super) async fn check_code(&self, user: &str, response: Secret, genuine: bool) -> Checked {
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            let now = shared.clock.now();
            let code = Code::parse(response.expose());
            let Some(uid) = account
                .as_ref()
                .filter(|_| genuine)
                .map(|account| account.uid)
            else {
                let nothing = Secret::from(vec![0; totp::SECRET_BYTES]);
                let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
                let _ = totp::matching_step(&nothing, code, seconds);
                let reason = if account.is_some() {
                    "after_bad_password"
                } else {
                    NO_ACCOUNT
                };
                let evidence = Evidence::Answer(Verdict::Wrong);
                return Ok(Checked::new(account, evidence, Some(reason)).guess());
            };
            if response.is_empty() {
                let evidence = Evidence::Answer(Verdict::Empty);
                return Ok(Checked::new(account, evidence, Some("no_code")));
            }
            let verdict = shared.accounts.redeem_code(uid, code, now)?;
            let evidence = Evidence::Answer(if verdict == CodeVerdict::Right {
                Verdict::Right
            } else {
                Verdict::Wrong
            });
            let checked = |account, reason| Checked::new(account, evidence.clone(), reason);
            Ok(match verdict {
                CodeVerdict::Right => checked(account, None),
                CodeVerdict::Wrong { failures, lockout } => Checked {
                    factor_failures: Some(failures),
                    locked: lockout == Lockout::Disable,
                    ..checked(account, Some("bad_code")).guess()
                },
                // No guess: parallel connections of one client send the same code.
                CodeVerdict::Replayed => checked(account, Some("code_replayed")),
                CodeVerdict::Delayed => checked(account, Some("code_delayed")).guess(),
                CodeVerdict::Disabled => checked(account, Some("code_locked")).guess(),
                CodeVerdict::NotEnrolled => checked(account, Some("code_not_enrolled")).guess(),
            })
        })
        .await
    }

    /// A lookup that fails is a failure of the request, and says so in the record.
    async fn blocking(
        &self,
        user: &str,
        work: impl FnOnce(&Shared, &str) -> Result<Checked, AccountsError> + Send + 'static,
    ) -> Checked {
        let shared = Arc::clone(&self.shared);
        let user = user.to_owned();
        let done = tokio::task::spawn_blocking(move || work(&shared, &user))
            .await
            .map_err(LookupError::from)
            .and_then(|checked| checked.map_err(LookupError::from));
        done.unwrap_or_else(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "authentication step refused"
            );
            Checked::new(None, Evidence::None, Some("accounts_unavailable"))
        })
    }
}

impl Shared {
    /// A text that is no account name is looked up all the same: it takes as long, and there is none.
    fn profile(&self, user: &str) -> Result<Option<Profile>, AccountsError> {
        let name = user.parse::<AccountName>();
        let profile = self
            .accounts
            .profile(name.as_ref().map_or("", AccountName::as_str))?;
        Ok(profile.filter(|_| name.is_ok()))
    }
}

fn key_reason(error: &KeyError) -> &'static str {
    match error {
        KeyError::RsaSize { .. } => "rsa_size",
        KeyError::Signature { .. } => "weak_signature",
        KeyError::Certificate => "certificate",
        KeyError::Type { .. } => "key_type",
        KeyError::Unreadable { .. } | KeyError::Options { .. } => "unreadable_key",
    }
}
