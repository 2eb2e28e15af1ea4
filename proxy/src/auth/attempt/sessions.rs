//! What happens to sessions when an administrator changes an account.

use std::{net::IpAddr, sync::Arc, time::Duration};

use chrono::{DateTime, NaiveDate, Utc};
use tokio::time::MissedTickBehavior;

use super::{Authenticator, LookupError};
use crate::{
    accounts::{
        admission::{Refusal, Standing, stay},
        audit,
    },
    allowlist::Allowlist,
    auth::{Authenticated, flow::Window},
};

/// How soon a change that another process made is seen.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Why a live session has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// The account was disabled, or something was taken from it.
    Changed,
    /// A rule does not admit it any more.
    Refused(Refusal),
}

impl Authenticator {
    /// How long a session with a transfer under way may go on after its hours have ended.
    pub fn hours_grace(&self) -> Duration {
        self.defaults.hours_grace
    }

    /// Sees changes of accounts, wakes [`Self::until_revoked`] and moves the changes into the journal. The daemon runs
    /// one of these for as long as it lives.
    pub async fn follow_changes(self) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        let mut listed = None;
        loop {
            ticks.tick().await;
            match self.data_version().await {
                Ok(version) if seen != Some(version) => {
                    seen = Some(version);
                    self.shared.changes.send_modify(|changes| *changes += 1);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "changes of accounts can't be seen"
                    );
                }
            }
            // The end of a day ends accounts too.
            let state = (seen, self.shared.clock.now().date_naive());
            if listed != Some(state) && self.list_sources(state.1).await {
                listed = Some(state);
            }
            if let Err(error) = audit::relay(&self.shared.accounts, self.shared.log.as_ref()).await
            {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "changes of accounts wait for the journal"
                );
            }
        }
    }

    /// Resolves once the session of `user` from `source` has to end: the account was disabled or lost a key, a mount, its
    /// password, authenticator or policy exception; the window by which the session is in was forgotten; or it has expired, or is not to be used from there any more. Needs
    /// [`Self::follow_changes`] to run.
    pub async fn until_revoked(&self, user: &Authenticated, source: IpAddr) -> Withdrawal {
        self.until(user, |standing, now| {
            withdrawal(user, standing, source, now)
        })
        .await
    }

    /// Resolves once the hours of the account have ended. Needs [`Self::follow_changes`] to run.
    pub async fn until_hours_end(&self, user: &Authenticated) {
        self.until(user, |standing, now| {
            let hours = standing?.restrictions.hours.as_ref()?;
            (!hours.allow(now)).then_some(())
        })
        .await;
    }

    /// Judges the account until there is a verdict: whenever accounts change, and each second if time counts.
    async fn until<T>(
        &self,
        user: &Authenticated,
        judge: impl Fn(Option<&Standing>, DateTime<Utc>) -> Option<T>,
    ) -> T {
        let mut changes = self.shared.changes.subscribe();
        loop {
            let standing = self.standing(user).await;
            if let Err(error) = &standing {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    user = user.name(),
                    "can't see whether the account is still enabled"
                );
            }
            let is_timed = match &standing {
                Ok(Some(standing)) => {
                    let restrictions = &standing.restrictions;
                    restrictions.expires.is_some() || restrictions.hours.is_some()
                }
                Ok(None) => false,
                Err(_) => true,
            };
            loop {
                if let Ok(standing) = &standing
                    && let Some(verdict) = judge(standing.as_ref(), self.shared.clock.now())
                {
                    return verdict;
                }
                tokio::select! {
                    changed = changes.changed() => match changed {
                        Ok(()) => break,
                        // The sender lives as long as `self`.
                        Err(_) => std::future::pending().await,
                    },
                    () = tokio::time::sleep(POLL_INTERVAL), if is_timed => {
                        if standing.is_err() {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Reads where accounts may be used from. What was read before stays if that fails.
    async fn list_sources(&self, today: NaiveDate) -> bool {
        let accounts = self.shared.accounts.clone();
        let read = tokio::task::spawn_blocking(move || accounts.sources(today)).await;
        let read = read.map_err(LookupError::from).and_then(|read| Ok(read?));
        match read {
            Ok(sources) => {
                let list = Some(Arc::new(Allowlist::new(&sources)));
                self.shared.allowlist.send_if_modified(|before| {
                    let is_new = *before != list;
                    *before = list;
                    is_new
                });
                true
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "can't see where accounts may be used from"
                );
                false
            }
        }
    }

    async fn data_version(&self) -> Result<i64, LookupError> {
        let accounts = self.shared.accounts.clone();
        Ok(tokio::task::spawn_blocking(move || accounts.data_version()).await??)
    }

    async fn standing(&self, user: &Authenticated) -> Result<Option<Standing>, LookupError> {
        let (accounts, uid) = (self.shared.accounts.clone(), user.uid());
        Ok(tokio::task::spawn_blocking(move || accounts.standing(uid)).await??)
    }
}

/// Why the session of `user` has to end, if it has to, where its account is in this standing.
pub(super) fn withdrawal(
    user: &Authenticated,
    standing: Option<&Standing>,
    source: IpAddr,
    now: DateTime<Utc>,
) -> Option<Withdrawal> {
    let is_same = |standing: &&Standing| {
        let era = user.window().map(Window::era);
        standing.epoch == user.epoch() && era.is_none_or(|era| era == standing.window_era)
    };
    match standing.filter(is_same) {
        None => Some(Withdrawal::Changed),
        Some(standing) => stay(standing, source, now).err().map(Withdrawal::Refused),
    }
}
