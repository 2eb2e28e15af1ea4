//! Whether the answer to the prompt for a one-time password is right, and what it was taken for.

use super::{Attempt, Checked, NO_ACCOUNT};
use crate::{
    accounts::CodeVerdict,
    auth::{
        Factor, Secret,
        flow::{Evidence, Verdict},
        lockout::Lockout,
        totp::{self, Code},
    },
};

impl Attempt {
    /// `genuine`: the code can count; otherwise only the work is done.
    pub(in crate::auth::attempt) async fn check_code(
        &self,
        user: &str,
        response: Secret,
        genuine: bool,
    ) -> Checked {
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
                let evidence = Evidence::Answer(Verdict::Wrong, Factor::Totp);
                return Ok(Checked::new(account, evidence, Some(reason)).guess());
            };
            if response.is_empty() {
                let evidence = Evidence::Answer(Verdict::Empty, Factor::Totp);
                return Ok(Checked::new(account, evidence, Some("no_code")));
            }
            let verdict = shared.accounts.redeem_code(uid, code, now)?;
            let right = if verdict == CodeVerdict::Right {
                Verdict::Right
            } else {
                Verdict::Wrong
            };
            let evidence = Evidence::Answer(right, Factor::Totp);
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
}
