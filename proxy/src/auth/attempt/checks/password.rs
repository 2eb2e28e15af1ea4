//! Whether a password is the account's.

use super::{Attempt, Checked, NO_ACCOUNT, Shared};
use crate::{
    accounts::PasswordTry,
    auth::{
        Secret,
        flow::{Evidence, UserId, Verdict},
    },
};

impl Attempt {
    /// `counted`: a wrong password counts against the account, as the second factor.
    pub(in crate::auth::attempt) async fn check_password(
        &mut self,
        user: &str,
        password: Secret,
        counted: bool,
        evidence: fn(Verdict) -> Evidence,
    ) -> Checked {
        match self.remote_factors(user).await {
            Ok(remote) if remote.directory => {
                return self
                    .check_directory(user, password, counted, evidence)
                    .await;
            }
            Ok(_) => {}
            Err(error) => return Checked::unavailable(&error),
        }
        let turn = self.shared.hashes.take(self.source.ip(), counted).await;
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            // Nothing is guessed by leaving it out.
            let counted = counted && !password.is_empty();
            let now = shared.clock.now();
            let max_age = shared.passwords.max_age;
            let found = match &account {
                Some(account) => {
                    shared
                        .accounts
                        .try_password(account.uid, counted, now, max_age)?
                }
                None => PasswordTry::NotSet,
            };
            let (phc, mut failures, reason) = match (&found, &account) {
                (PasswordTry::Open { phc, failures }, _) => {
                    (Some(phc.as_str()), Some(*failures), "bad_password")
                }
                (PasswordTry::Delayed, _) => (None, None, "password_delayed"),
                (PasswordTry::Disabled, _) => (None, None, "password_locked"),
                (PasswordTry::Expired, _) => (None, None, "password_expired"),
                (PasswordTry::NotSet, Some(_)) => (None, None, "password_not_set"),
                (PasswordTry::NotSet, None) => (None, None, NO_ACCOUNT),
            };
            let right = shared.hasher.verify(phc, &password);
            if let (true, Some(account), Some(phc)) = (right, &account, phc) {
                shared.upgrade_password(account.uid, phc, &password);
            }
            drop(turn);
            if let (true, true, Some(account)) = (right, counted, &account) {
                shared.accounts.password_was_right(account.uid)?;
                failures = Some(0);
            }
            let verdict = if right {
                Verdict::Right
            } else if password.is_empty() {
                Verdict::Empty
            } else {
                Verdict::Wrong
            };
            let reason = (!right).then_some(reason);
            let checked = Checked::new(account, evidence(verdict), reason).guess();
            Ok(match failures.filter(|_| counted) {
                Some(failures) => checked.counted(failures),
                None => checked,
            })
        })
        .await
    }
}

impl Shared {
    /// Hashes a right password anew if its hash was made for less than what is asked for. Where that fails the password
    /// is right all the same.
    fn upgrade_password(&self, uid: UserId, phc: &str, password: &Secret) {
        if !self.hasher.is_outdated(phc) {
            return;
        }
        let hash = match self.hasher.hash(password) {
            Ok(hash) => hash,
            Err(error) => {
                tracing::warn!(account = uid.0, %error, "password hash not upgraded");
                return;
            }
        };
        match self.accounts.upgrade_password(uid, phc, &hash) {
            Ok(_) => tracing::info!(account = uid.0, "password hash upgraded"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(account = uid.0, error, "password hash not upgraded");
            }
        }
    }
}
