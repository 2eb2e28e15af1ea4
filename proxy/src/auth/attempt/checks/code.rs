//! Whether the answer to the prompt for a one-time password is right, and what it was taken for.

use super::{Attempt, Checked, NO_ACCOUNT};
use crate::{
    accounts::CodeVerdict,
    auth::{
        Factor, Secret,
        flow::{Evidence, Profile, Verdict},
        recovery::RecoveryCode,
        totp::{self, Authenticator, Code, Drift},
    },
};

/// What a record says when a recovery code was used.
const RECOVERY_CODE_USED: &str = "recovery_code_used";

impl Attempt {
    /// What has the form of a recovery code is one; everything else is a one-time code. `genuine`: the answer can count;
    /// otherwise only the work is done.
    pub(in crate::auth::attempt) async fn check_code(
        &self,
        user: &str,
        response: Secret,
        genuine: bool,
    ) -> Checked {
        match self.remote_factors(user).await {
            Ok(remote) if remote.radius => return self.check_radius(user, response, genuine).await,
            Ok(_) => {}
            Err(error) => return Checked::unavailable(&error),
        }
        match RecoveryCode::parse(response.expose()) {
            Some(code) => self.check_recovery_code(user, code, genuine).await,
            None => self.check_one_time_code(user, response, genuine).await,
        }
    }

    async fn check_one_time_code(&self, user: &str, response: Secret, genuine: bool) -> Checked {
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            let now = shared.clock.now();
            let code = Code::parse(response.expose());
            let Some(uid) = account
                .as_ref()
                .filter(|_| genuine)
                .map(|account| account.uid)
            else {
                let present = totp::step_at(u64::try_from(now.timestamp()).unwrap_or(0));
                let _ = Authenticator::decoy().matching_step(code, present, Drift::default());
                return Ok(in_vain(account, Factor::Totp));
            };
            if response.is_empty() {
                let evidence = Evidence::Answer(Verdict::Empty, Factor::Totp);
                return Ok(Checked::new(account, evidence, Some("no_code")));
            }
            let verdict = shared.accounts.redeem_code(uid, code, now)?;
            Ok(judged(account, Factor::Totp, verdict))
        })
        .await
    }

    /// One hash is compared, as for a password, whether or not there is such an account or code.
    async fn check_recovery_code(&self, user: &str, code: RecoveryCode, genuine: bool) -> Checked {
        let turn = self.shared.hashes.take(self.source.ip(), genuine).await;
        self.blocking(user, move |shared, user| {
            let account = shared.profile(user)?;
            let uid = account
                .as_ref()
                .filter(|_| genuine)
                .map(|account| account.uid);
            let number = code.number();
            let stored = match uid {
                Some(uid) => shared.accounts.recovery_code(uid, number)?,
                None => None,
            };
            let right = shared.hasher.verify(stored.as_deref(), &code.secret());
            drop(turn);
            let Some(uid) = uid else {
                return Ok(in_vain(account, Factor::RecoveryCode));
            };
            let right = stored.as_deref().filter(|_| right);
            let now = shared.clock.now();
            let verdict = shared
                .accounts
                .redeem_recovery_code(uid, number, right, now)?;
            if verdict == CodeVerdict::Right {
                tracing::warn!(
                    account = uid.0,
                    "a recovery code was used; the authenticator counts as lost until another is enrolled"
                );
            }
            Ok(judged(account, Factor::RecoveryCode, verdict))
        })
        .await
    }
}

/// An answer that could not count.
fn in_vain(account: Option<Profile>, factor: Factor) -> Checked {
    let reason = if account.is_some() {
        "after_bad_password"
    } else {
        NO_ACCOUNT
    };
    let evidence = Evidence::Answer(Verdict::Wrong, factor);
    Checked::new(account, evidence, Some(reason)).guess()
}

fn judged(account: Option<Profile>, factor: Factor, verdict: CodeVerdict) -> Checked {
    let recovery = factor == Factor::RecoveryCode;
    let right = if verdict == CodeVerdict::Right {
        Verdict::Right
    } else {
        Verdict::Wrong
    };
    let checked = |reason| Checked::new(account, Evidence::Answer(right, factor), reason);
    match verdict {
        CodeVerdict::Right => Checked {
            alert: recovery.then_some(RECOVERY_CODE_USED),
            ..checked(None)
        },
        CodeVerdict::Wrong { failures, .. } => {
            let reason = if recovery {
                "bad_recovery_code"
            } else {
                "bad_code"
            };
            checked(Some(reason)).guess().counted(failures)
        }
        // No guess: parallel connections of one client send the same code.
        CodeVerdict::Replayed if recovery => checked(Some("recovery_code_replayed")),
        CodeVerdict::Replayed => checked(Some("code_replayed")),
        CodeVerdict::Delayed => checked(Some("code_delayed")).guess(),
        CodeVerdict::Disabled => checked(Some("code_locked")).guess(),
        CodeVerdict::Lost => checked(Some("authenticator_lost")).guess(),
        CodeVerdict::NotEnrolled => checked(Some("code_not_enrolled")).guess(),
    }
}
