//! Whether a password is the account's.

use super::{Attempt, Checked, NO_ACCOUNT};
use crate::{
    accounts::PasswordTry,
    auth::{
        Secret,
        flow::{Evidence, Verdict},
        lockout::Lockout,
    },
};

impl Attempt {
    /// `counted`: a wrong password counts against the account, as the second factor.
    pub(in crate::auth::attempt) async fn check_password(
        &self,
        user: &str,
        password: Secret,
        counted: bool,
        evidence: fn(Verdict) -> Evidence,
    ) -> Checked {
        let turn = self.shared.hashes.take(self.source.ip(), counted).await;
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            // Nothing is guessed by leaving it out.
            let counted = counted && !password.is_empty();
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
            } else if password.is_empty() {
                Verdict::Empty
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
}
