//! The windows that are open, in memory: a restart closes them all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use super::{Attempt, Checked, Shared};
use crate::auth::{
    Authenticated,
    flow::{ShownKey, UserId, Window},
};

/// Windows of all accounts. Where that many are open, a login opens none: both factors are asked for, as without.
const WINDOWS_MAX: usize = 4096;

/// One for each account, key and address: the login that came last counts.
#[derive(Debug, Default)]
pub(super) struct Windows(HashMap<Place, Open>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Place {
    uid: UserId,
    fingerprint: String,
    source: IpAddr,
}

#[derive(Debug)]
struct Open {
    window: Window,
    /// By a clock that nobody can set.
    until: Instant,
}

impl Windows {
    /// Keeps `window`, for connections from `source`. False if there is no room.
    pub(super) fn open(
        &mut self,
        window: Window,
        source: IpAddr,
        (now, at): (DateTime<Utc>, Instant),
    ) -> bool {
        let length = (window.until() - now).to_std().unwrap_or(Duration::ZERO);
        let Some(until) = at.checked_add(length) else {
            return false;
        };
        let place = Place::of(window.uid(), window.fingerprint(), source);
        if self.0.len() >= WINDOWS_MAX && !self.0.contains_key(&place) {
            self.0
                .retain(|_, open| at < open.until && now < open.window.until());
        }
        let fits = self.0.len() < WINDOWS_MAX || self.0.contains_key(&place);
        if fits {
            self.0.insert(place, Open { window, until });
        }
        fits
    }

    /// The window of that account, key and address, if it was opened and its time is not over.
    pub(super) fn find(
        &mut self,
        uid: UserId,
        fingerprint: &str,
        source: IpAddr,
        at: Instant,
    ) -> Option<Window> {
        let place = Place::of(uid, fingerprint, source);
        let open = self.0.get(&place)?;
        if at >= open.until {
            self.0.remove(&place);
            return None;
        }
        Some(open.window.clone())
    }
}

impl Attempt {
    /// The window that may stand for the second factor beside `key`.
    pub(super) fn window(&self, checked: &Checked, key: &ShownKey) -> Option<Window> {
        let account = checked.account.as_ref()?;
        let source = self.source.ip();
        self.shared
            .windows()
            .find(account.uid, &key.fingerprint, source, Instant::now())
    }

    /// Only now: what is not on record opens nothing.
    pub(super) fn open_window(&self, user: &Authenticated, now: DateTime<Utc>) {
        let Some(window) = user.opens() else {
            return;
        };
        let source = self.source.ip();
        let times = (now, Instant::now());
        if !self.shared.windows().open(window.clone(), source, times) {
            tracing::warn!(user = user.name(), "too many windows are open for one more");
        }
    }
}

impl Shared {
    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn of(uid: UserId, fingerprint: &str, source: IpAddr) -> Self {
        Self {
            uid,
            fingerprint: fingerprint.to_owned(),
            source: source.to_canonical(),
        }
    }
}
