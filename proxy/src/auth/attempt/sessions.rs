//! What happens to sessions when an administrator changes an account.

use std::{net::IpAddr, sync::Arc, time::Duration};

use chrono::{DateTime, NaiveDate, Utc};
use tokio::time::MissedTickBehavior;

use super::{Authenticator, LookupError};
use crate::{
    accounts::{
        AccountsError,
        admission::{Refusal, Standing, stay},
        audit,
        machine::Control,
    },
    allowance::AccountUsage,
    allowlist::Allowlist,
    auth::{
        Authenticated,
        enrolment::Enrolling,
        flow::{MACHINE, UserId, Window},
        ldap::Presence,
    },
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
            self.seal_expired().await;
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

    async fn seal_expired(&self) {
        let (accounts, now) = (self.shared.accounts.clone(), self.shared.clock.now());
        let sealed = tokio::task::spawn_blocking(move || accounts.seal_expired(now))
            .await
            .map_err(LookupError::from)
            .and_then(|sealed| sealed.map_err(LookupError::from));
        match sealed {
            Ok(sealed) if sealed.is_empty() => {}
            // Changes of this process are not seen by themselves.
            Ok(_) => self.shared.changes.send_modify(|changes| *changes += 1),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the end of a break-glass opening can't be noted; nobody gets in all the same"
            ),
        }
    }

    /// Resolves once the session of `user` from `source` has to end: the account was disabled or lost a key, a mount, its
    /// password, authenticator or policy exception; the window by which the session is in was forgotten; it has expired, or
    /// is not to be used from there any more; or the directory does not know the user any more. Needs
    /// [`Self::follow_changes`] to run.
    pub async fn until_revoked(&self, user: &Authenticated, source: IpAddr) -> Withdrawal {
        let withdrawn = self.until(user.uid(), |standing, now| {
            withdrawal(user, standing, source, now)
        });
        tokio::select! {
            withdrawal = withdrawn => withdrawal,
            () = self.until_gone(user) => Withdrawal::Changed,
        }
    }

    /// Resolves once the directory that judges the account's password does not know the user any more. A directory that
    /// says nothing ends no session.
    async fn until_gone(&self, user: &Authenticated) {
        let rechecked = self.judges.directory.as_ref();
        let Some((directory, every)) =
            rechecked.and_then(|directory| Some((directory, directory.settings().recheck?)))
        else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(every).await;
            let (accounts, uid) = (self.shared.accounts.clone(), user.uid());
            let login = tokio::task::spawn_blocking(move || accounts.directory_login(uid));
            // Without an answer there is a next time; a password that is judged here again has ended the session already.
            if let Ok(Ok(Some(login))) = login.await
                && directory.presence(&login).await == Presence::Gone
            {
                tracing::info!(
                    user = user.name(),
                    "the directory does not know the user any more: the session ends"
                );
                return;
            }
        }
    }

    /// Resolves once the hours of the account have ended. Needs [`Self::follow_changes`] to run.
    pub async fn until_hours_end(&self, user: &Authenticated) {
        self.until(user.uid(), |standing, now| {
            let hours = standing?.restrictions.hours.as_ref()?;
            (!hours.allow(now)).then_some(())
        })
        .await;
    }

    /// Resolves once the account of `user` is disabled or not to be used from `source` any more. Other changes keep the
    /// enrolment from its success, which is such a change itself. Needs [`Self::follow_changes`] to run.
    pub async fn until_disabled(&self, user: &Enrolling, source: IpAddr) {
        self.until(user.uid(), |standing, now| match standing {
            None => Some(()),
            Some(standing) => stay(standing, source, now).is_err().then_some(()),
        })
        .await;
    }

    /// Counts what sessions under the policy `machine` move, each second, and resolves once a control is not in place any
    /// more, which may be the day's volume. For others it never resolves.
    pub async fn until_control_missing(
        &self,
        user: &Authenticated,
        usage: &AccountUsage,
    ) -> Refusal {
        if user.policy() != MACHINE {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            if let Some(control) = self.count_volume(user, usage).await {
                return Refusal::Machine(control);
            }
        }
    }

    /// Puts what was moved since the last count on disk, if the user is under the policy `machine`; returns the first control that is missing.
    pub async fn count_volume(
        &self,
        user: &Authenticated,
        usage: &AccountUsage,
    ) -> Option<Control> {
        if user.policy() != MACHINE {
            return None;
        }
        let (accounts, uid) = (self.shared.accounts.clone(), user.uid());
        let (now, bytes) = (self.shared.clock.now(), usage.take_moved());
        // Goes on if this is dropped: what was taken is counted.
        let counted = tokio::task::spawn_blocking(move || -> Result<_, AccountsError> {
            if bytes > 0 {
                accounts.add_volume(uid, bytes, now)?;
            }
            let machine = accounts.machine(uid, now)?;
            Ok(machine.and_then(|machine| machine.missing(now).first().copied()))
        });
        match counted
            .await
            .map_err(LookupError::from)
            .and_then(|counted| counted.map_err(LookupError::from))
        {
            Ok(missing) => missing,
            Err(error) => {
                usage.moved(bytes);
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    user = user.name(),
                    "what a machine moved can't be counted"
                );
                None
            }
        }
    }

    /// Judges the account until there is a verdict: whenever accounts change, and each second if time counts.
    async fn until<T>(
        &self,
        uid: UserId,
        judge: impl Fn(Option<&Standing>, DateTime<Utc>) -> Option<T>,
    ) -> T {
        let mut changes = self.shared.changes.subscribe();
        loop {
            let standing = self.standing(uid).await;
            if let Err(error) = &standing {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    uid = uid.0,
                    "can't see whether the account is still enabled"
                );
            }
            let is_timed = match &standing {
                Ok(Some(standing)) => {
                    let restrictions = &standing.restrictions;
                    restrictions.expires.is_some()
                        || restrictions.hours.is_some()
                        || standing.open.is_some()
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

    async fn standing(&self, uid: UserId) -> Result<Option<Standing>, LookupError> {
        let accounts = self.shared.accounts.clone();
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
