//! Factors that a server elsewhere judges.
//!
//! A name that has no account is treated as one of the accounts would be, always the same one for the same name: it costs
//! the same servers the same exchange, with a made-up user and secret. So does a try that a delay or a wrong password
//! before has made vain.

use std::hash::BuildHasher as _;

use super::{Attempt, Checked, LookupError, NO_ACCOUNT};
use crate::{
    accounts::{
        admission::Refusal,
        remote::{RemoteFactor, RemoteFactors, RemoteTry},
    },
    auth::{
        Factor, Secret,
        flow::{Evidence, Profile, Verdict},
        ldap::DirectoryVerdict,
        lockout::{self, Lockout},
        password,
        radius::RadiusVerdict,
    },
};

/// A try that has begun, and is counted where it has to be.
struct Begun {
    account: Option<Profile>,
    tried: RemoteTry,
    /// Why an account that there is counts as none.
    refusal: Option<Refusal>,
}

/// How a judged factor ended.
struct Judged {
    is_right: bool,
    reason: Option<&'static str>,
    /// Nobody judged it: it was no try.
    without_verdict: bool,
}

impl Judged {
    const RIGHT: Self = Self {
        is_right: true,
        reason: None,
        without_verdict: false,
    };

    fn wrong(reason: &'static str) -> Self {
        Self {
            is_right: false,
            reason: Some(reason),
            without_verdict: false,
        }
    }

    fn unjudged(reason: &'static str) -> Self {
        Self {
            without_verdict: true,
            ..Self::wrong(reason)
        }
    }
}

impl Attempt {
    /// Which factors of `user` are judged elsewhere.
    pub(super) async fn remote_factors(&self, user: &str) -> Result<RemoteFactors, LookupError> {
        let draw = self.shared.strangers.hash_one(user);
        let looked_up = self.looked_up(user, move |shared, claim| {
            let stranger = shared.accounts.remote_factors_of_a_stranger(draw)?;
            match shared.profile(claim)? {
                Some(account) => shared.accounts.remote_factors(account.uid),
                None => Ok(stranger),
            }
        });
        Ok(looked_up.await?.0)
    }

    /// `counted`: a wrong password counts against the account, as the second factor.
    pub(super) async fn check_directory(
        &mut self,
        user: &str,
        password: Secret,
        counted: bool,
        evidence: fn(Verdict) -> Evidence,
    ) -> Checked {
        // Nothing is guessed by leaving it out.
        let is_empty = password.is_empty();
        let counted = counted && !is_empty;
        let begun = match self.begin(user, RemoteFactor::Directory, counted).await {
            Ok(begun) => begun,
            Err(error) => return Checked::unavailable(&error),
        };
        let is_sendable = !matches!(password.expose(), [] | [0, ..])
            && password.expose().len() <= password::MAX_BYTES;
        let mut groups = None;
        let judged = match (&self.judges.directory, &begun.account, &begun.tried) {
            (None, _, _) => Judged::unjudged("directory_not_configured"),
            (Some(directory), Some(account), RemoteTry::Open { login, .. }) if is_sendable => {
                let login = login.as_ref().unwrap_or(&account.name);
                match directory.check(login, &password).await {
                    DirectoryVerdict::Right { groups: found } => {
                        groups = Some((account.uid, found));
                        Judged::RIGHT
                    }
                    DirectoryVerdict::Wrong(refusal) => Judged::wrong(refusal.reason()),
                    DirectoryVerdict::Unavailable => Judged::unjudged("directory_unavailable"),
                }
            }
            (Some(directory), account, tried) => {
                if is_sendable {
                    directory.decoy().await;
                }
                Judged::wrong(match (account, tried) {
                    (None, _) => NO_ACCOUNT,
                    (Some(_), RemoteTry::Open { .. }) => "bad_password",
                    (Some(_), RemoteTry::Delayed) => "password_delayed",
                    (Some(_), RemoteTry::Disabled) => "password_locked",
                    (Some(_), RemoteTry::NotSet) => "password_not_set",
                })
            }
        };
        let mut checked = self
            .end(
                begun,
                RemoteFactor::Directory,
                counted,
                judged,
                evidence,
                None,
            )
            .await;
        if checked.reason.is_none() {
            self.groups = groups;
        } else if is_empty {
            checked.evidence = evidence(Verdict::Empty);
        }
        checked
    }

    /// `genuine`: the code can count; otherwise only the work is done.
    pub(super) async fn check_radius(
        &self,
        user: &str,
        response: Secret,
        genuine: bool,
    ) -> Checked {
        let evidence = |verdict| Evidence::Answer(verdict, Factor::Radius);
        let begun = match self
            .begin(user, RemoteFactor::Radius, genuine && !response.is_empty())
            .await
        {
            Ok(begun) => begun,
            Err(error) => return Checked::unavailable(&error),
        };
        if response.is_empty() && genuine && begun.account.is_some() {
            return Checked::new(begun.account, evidence(Verdict::Empty), Some("no_code"));
        }
        let judged = match (&self.judges.radius, &begun.account, &begun.tried) {
            (None, _, _) => Judged::unjudged("radius_not_configured"),
            (Some(radius), Some(account), RemoteTry::Open { login, .. }) if genuine => {
                let settings = radius.settings();
                let login = login
                    .clone()
                    .unwrap_or_else(|| settings.user_name.fill(&account.name));
                match radius.check(&login, &response, self.source.ip()).await {
                    RadiusVerdict::Accepted => Judged::RIGHT,
                    RadiusVerdict::Rejected => Judged::wrong("bad_code"),
                    RadiusVerdict::Challenged => Judged::wrong("radius_challenge"),
                    RadiusVerdict::Unsendable => Judged::wrong("bad_code"),
                    RadiusVerdict::Unavailable => Judged::unjudged("radius_unavailable"),
                }
            }
            (Some(radius), account, tried) => {
                if !response.is_empty() {
                    radius.decoy(self.source.ip()).await;
                }
                Judged::wrong(match (account, tried) {
                    (None, _) => NO_ACCOUNT,
                    (Some(_), _) if !genuine => "after_bad_password",
                    (Some(_), RemoteTry::Open { .. }) => "bad_code",
                    (Some(_), RemoteTry::Delayed) => "code_delayed",
                    (Some(_), RemoteTry::Disabled) => "code_locked",
                    (Some(_), RemoteTry::NotSet) => "code_not_enrolled",
                })
            }
        };
        let radius = RemoteFactor::Radius;
        self.end(begun, radius, genuine, judged, evidence, Some(response))
            .await
    }

    async fn begin(
        &self,
        user: &str,
        factor: RemoteFactor,
        counted: bool,
    ) -> Result<Begun, LookupError> {
        let looked_up = self.looked_up(user, move |shared, claim| {
            let account = shared.profile(claim)?;
            let tried = match &account {
                Some(account) => {
                    shared
                        .accounts
                        .try_remote(account.uid, factor, counted, claim.now)?
                }
                None => RemoteTry::NotSet,
            };
            Ok((account, tried))
        });
        let ((account, tried), refusal) = looked_up.await?;
        Ok(Begun {
            account,
            tried,
            refusal,
        })
    }

    /// `code`: what RADIUS judged, which a right verdict spends.
    async fn end(
        &self,
        begun: Begun,
        factor: RemoteFactor,
        counted: bool,
        mut judged: Judged,
        evidence: fn(Verdict) -> Evidence,
        code: Option<Secret>,
    ) -> Checked {
        let Begun {
            account,
            tried,
            refusal,
        } = begun;
        let failures = match tried {
            RemoteTry::Open { failures, .. } if counted => Some(failures),
            RemoteTry::Open { .. }
            | RemoteTry::Delayed
            | RemoteTry::Disabled
            | RemoteTry::NotSet => None,
        };
        let uid = account.as_ref().map(|account| account.uid);
        let (is_right, without_verdict) = (judged.is_right, judged.without_verdict);
        let kept = self
            .looked_up("", move |shared, claim| {
                let Some(uid) = uid.filter(|_| failures.is_some()) else {
                    return Ok(true);
                };
                let accounts = &shared.accounts;
                match code {
                    Some(code) if is_right => {
                        return accounts.spend_radius_code(uid, &code, claim.now);
                    }
                    Some(_) | None if is_right => accounts.remote_was_right(uid, factor)?,
                    Some(_) | None if without_verdict => {
                        accounts.remote_gave_no_verdict(uid, factor)?;
                    }
                    Some(_) | None => {}
                }
                Ok(true)
            })
            .await;
        match kept {
            Ok((true, _)) => {}
            Ok((false, _)) => judged = Judged::unjudged("code_replayed"),
            Err(error) => return Checked::unavailable(&error),
        }
        let failures = failures.filter(|_| !judged.without_verdict);
        let locked = !judged.is_right
            && failures.is_some_and(|failures| Lockout::after(failures) == Lockout::Disable);
        let verdict = if judged.is_right {
            Verdict::Right
        } else {
            Verdict::Wrong
        };
        let checked = Checked {
            guess: !judged.is_right && !judged.without_verdict,
            factor_failures: if judged.is_right {
                failures.map(|_| 0)
            } else {
                failures
            },
            locked,
            alert: failures
                .filter(|&failures| !judged.is_right && lockout::alerts(failures))
                .map(|_| "repeated_failures"),
            ..Checked::new(account, evidence(verdict), judged.reason)
        };
        checked.said(refusal)
    }
}
