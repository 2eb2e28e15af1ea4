//! How fast and how much an account may move, through a mount and in all, counted over all its sessions.

mod account;
pub mod bucket;

use std::{
    collections::HashMap,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

pub use self::account::{AccountLimits, AccountUsage, SessionPlace};
use self::bucket::Bucket;
use crate::{
    backend::{BackendError, ErrorKind, Origin},
    path::VirtualPath,
};

/// A quota that seems used up is measured again, since files may have been removed, but no more often than this.
const MEASURED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The limits of one mount, as its administrator set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Allowance {
    /// Bytes a second that are read.
    pub read_rate: Option<NonZeroU64>,
    /// Bytes a second that are written.
    pub write_rate: Option<NonZeroU64>,
    /// Bytes of all files of the mount together.
    pub quota: Option<u64>,
}

impl Allowance {
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// What all sessions have used of each account's limits and each mount's allowance.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Books>);

#[derive(Debug, Default)]
struct Books {
    accounts: Mutex<HashMap<String, Weak<AccountUsage>>>,
    mounts: Mutex<HashMap<Key, Weak<Usage>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    account: String,
    at: VirtualPath,
    // Other limits are another account of what was used: they begin anew.
    allowance: Allowance,
}

impl Ledger {
    /// What the account has used of the mount at `at`, shared with its other sessions while any of them lives.
    pub fn usage(&self, account: &str, at: &VirtualPath, allowance: Allowance) -> Arc<Usage> {
        let key = Key {
            account: account.to_owned(),
            at: at.clone(),
            allowance,
        };
        let mut ledger = self.mounts();
        if let Some(usage) = ledger.get(&key).and_then(Weak::upgrade) {
            return usage;
        }
        ledger.retain(|_, usage| usage.strong_count() > 0);
        let usage = Arc::new(Usage::new(allowance));
        ledger.insert(key, Arc::downgrade(&usage));
        usage
    }

    fn mounts(&self) -> MutexGuard<'_, HashMap<Key, Weak<Usage>>> {
        self.0.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<String, Weak<AccountUsage>>> {
        self.0
            .accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was used of one allowance.
#[derive(Debug)]
pub struct Usage {
    read: Option<Bucket>,
    write: Option<Bucket>,
    quota: Option<Quota>,
}

#[derive(Debug)]
struct Quota {
    most: u64,
    stored: tokio::sync::Mutex<Option<Stored>>,
}

/// What lies on the mount, as far as is known: what was found there and what was written since.
#[derive(Debug, Clone, Copy)]
struct Stored {
    bytes: u64,
    measured: Instant,
}

/// Sums up what lies on the mount.
pub type Measure = Box<dyn Fn() -> BoxFuture<'static, Result<u64, BackendError>> + Send + Sync>;

impl Usage {
    fn new(allowance: Allowance) -> Self {
        Self {
            read: allowance.read_rate.map(Bucket::new),
            write: allowance.write_rate.map(Bucket::new),
            quota: allowance.quota.map(|most| Quota {
                most,
                stored: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Waits until so many bytes may be read.
    pub async fn read(&self, bytes: u64) {
        if let Some(bucket) = &self.read {
            bucket.take(bytes).await;
        }
    }

    /// Of the bytes that [`read`](Self::read) waited for, so many were not there.
    pub fn not_read(&self, bytes: u64) {
        if let Some(bucket) = &self.read {
            bucket.give_back(bytes);
        }
    }

    /// Waits until so many bytes may be written.
    pub async fn write(&self, bytes: u64) {
        if let Some(bucket) = &self.write {
            bucket.take(bytes).await;
        }
    }

    /// Books bytes that are to be stored. The first to ask waits for the mount to be measured, and others for it.
    ///
    /// # Errors
    /// If they would go beyond the quota, or what lies there can't be measured.
    pub async fn store(&self, bytes: u64, measure: &Measure) -> Result<(), BackendError> {
        let Some(Quota { most, stored }) = &self.quota else {
            return Ok(());
        };
        let mut stored = stored.lock().await;
        let mut known = *stored;
        let fits = |stored: &Stored| {
            stored
                .bytes
                .checked_add(bytes)
                .is_some_and(|bytes| bytes <= *most)
        };
        let is_current = known.is_some_and(|stored| {
            fits(&stored) || stored.measured.elapsed() < MEASURED_AGAIN_AFTER
        });
        if !is_current {
            known = Some(Stored {
                bytes: measure().await?,
                measured: Instant::now(),
            });
        }
        let fits = known.filter(fits);
        if let Some(mut booked) = fits {
            booked.bytes += bytes;
            *stored = Some(booked);
            return Ok(());
        }
        *stored = known;
        Err(BackendError::new(
            ErrorKind::NoSpace,
            Origin::Client,
            format!("the mount's quota of {most} bytes is used up"),
        ))
    }

    /// Bytes that were booked were not stored.
    pub async fn not_stored(&self, bytes: u64) {
        if let Some(quota) = &self.quota
            && let Some(stored) = &mut *quota.stored.lock().await
        {
            stored.bytes = stored.bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    fn limited(quota: u64) -> Allowance {
        Allowance {
            quota: Some(quota),
            ..Allowance::default()
        }
    }

    fn measures(found: u64) -> (Measure, Arc<AtomicU64>) {
        let times = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&times);
        let measure: Measure = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok(found)).boxed()
        });
        (measure, times)
    }

    #[tokio::test]
    async fn what_fits_into_the_quota_is_stored_and_one_byte_more_is_not() {
        let usage = Usage::new(limited(100));
        let (measure, times) = measures(40);
        usage.store(50, &measure).await.unwrap();
        usage.store(10, &measure).await.unwrap();
        let refused = usage.store(1, &measure).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NoSpace);
        usage.not_stored(10).await;
        usage.store(10, &measure).await.unwrap();
        assert_eq!(times.load(Ordering::Relaxed), 1, "measured once");
        usage.store(u64::MAX, &measure).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_mount_that_can_not_be_measured_takes_nothing() {
        let usage = Usage::new(limited(100));
        let fails: Measure = Box::new(|| {
            let error = BackendError::new(ErrorKind::Unavailable, Origin::Backend, "gone");
            std::future::ready(Err(error)).boxed()
        });
        assert_eq!(
            usage.store(1, &fails).await.unwrap_err().kind,
            ErrorKind::Unavailable
        );
        let (measure, _) = measures(0);
        usage.store(100, &measure).await.unwrap();
    }

    #[test]
    fn sessions_of_one_account_share_what_they_used_and_others_do_not() {
        let ledger = Ledger::default();
        let at = VirtualPath::root();
        let one = ledger.usage("alice", &at, limited(1));
        assert!(Arc::ptr_eq(&one, &ledger.usage("alice", &at, limited(1))));
        assert!(!Arc::ptr_eq(&one, &ledger.usage("bob", &at, limited(1))));
        assert!(!Arc::ptr_eq(&one, &ledger.usage("alice", &at, limited(2))));
        drop(one);
        ledger.usage("carol", &at, limited(1));
        assert_eq!(ledger.mounts().len(), 1, "what nobody uses is gone");
    }
}
