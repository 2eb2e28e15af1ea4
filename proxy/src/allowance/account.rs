//! What the sessions of one account share, whichever mounts they use: places, and rates.

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Ledger, bucket::Bucket};

/// The limits of an account, as its administrator set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccountLimits {
    /// Authenticated connections at a time.
    pub sessions: Option<NonZeroU32>,
    /// Bytes a second that are read, over all mounts.
    pub read_rate: Option<NonZeroU64>,
    /// Bytes a second that are written, over all mounts.
    pub write_rate: Option<NonZeroU64>,
}

impl AccountLimits {
    /// True if these take nothing away that `before` gave.
    pub fn allow_all_of(&self, before: &Self) -> bool {
        fn is_wider<T: Ord>(after: Option<T>, before: Option<T>) -> bool {
            match (after, before) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(after), Some(before)) => after >= before,
            }
        }
        is_wider(self.sessions, before.sessions)
            && is_wider(self.read_rate, before.read_rate)
            && is_wider(self.write_rate, before.write_rate)
    }
}

/// What the sessions of one account have used.
#[derive(Debug)]
pub struct AccountUsage {
    read: Bucket,
    write: Bucket,
    sessions: Mutex<u32>,
    /// Bytes that nobody has taken note of yet.
    moved: AtomicU64,
}

/// A session's place among those of its account; given back when dropped.
#[derive(Debug)]
pub struct SessionPlace(Arc<AccountUsage>);

impl Ledger {
    /// A place among the account's sessions, or `None` if it has as many as it may. The limits hold from here on for all its
    /// sessions.
    pub fn admit(&self, account: &str, limits: AccountLimits) -> Option<SessionPlace> {
        let usage = self.account(account);
        usage.read.set_rate(limits.read_rate);
        usage.write.set_rate(limits.write_rate);
        let mut sessions = usage.sessions();
        let is_full = limits.sessions.is_some_and(|most| *sessions >= most.get());
        if is_full {
            return None;
        }
        *sessions += 1;
        drop(sessions);
        Some(SessionPlace(usage))
    }

    fn account(&self, account: &str) -> Arc<AccountUsage> {
        let mut accounts = self.accounts();
        if let Some(usage) = accounts.get(account).and_then(std::sync::Weak::upgrade) {
            return usage;
        }
        accounts.retain(|_, usage| usage.strong_count() > 0);
        let usage = Arc::new(AccountUsage {
            read: Bucket::new(None),
            write: Bucket::new(None),
            sessions: Mutex::default(),
            moved: AtomicU64::new(0),
        });
        accounts.insert(account.to_owned(), Arc::downgrade(&usage));
        usage
    }
}

impl SessionPlace {
    /// What the account has used.
    pub fn usage(&self) -> &Arc<AccountUsage> {
        &self.0
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let mut sessions = self.0.sessions();
        *sessions = sessions.saturating_sub(1);
    }
}

impl AccountUsage {
    /// True if a rate holds.
    pub fn has_rates(&self) -> bool {
        self.read.has_rate() || self.write.has_rate()
    }

    /// Waits until so many bytes may be read.
    pub async fn read(&self, bytes: u64) {
        self.read.take(bytes).await;
    }

    /// Of the bytes that [`read`](Self::read) waited for, so many were not there.
    pub fn not_read(&self, bytes: u64) {
        self.read.give_back(bytes);
    }

    /// Waits until so many bytes may be written.
    pub async fn write(&self, bytes: u64) {
        self.write.take(bytes).await;
    }

    /// So many bytes were read or written.
    pub fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was moved since this was asked last.
    pub fn take_moved(&self) -> u64 {
        self.moved.swap(0, Ordering::Relaxed)
    }

    fn sessions(&self) -> MutexGuard<'_, u32> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most(sessions: u32) -> AccountLimits {
        AccountLimits {
            sessions: NonZeroU32::new(sessions),
            ..AccountLimits::default()
        }
    }

    #[test]
    fn an_account_has_so_many_sessions_and_the_next_one_when_another_ended() {
        let ledger = Ledger::default();
        let first = ledger.admit("alice", at_most(2)).unwrap();
        let _second = ledger.admit("alice", at_most(2)).unwrap();
        assert!(ledger.admit("alice", at_most(2)).is_none());
        let _other = ledger.admit("bob", at_most(2)).unwrap();
        drop(first);
        let _third = ledger.admit("alice", at_most(2)).unwrap();
        assert!(ledger.admit("alice", at_most(2)).is_none());
        let _raised = ledger.admit("alice", at_most(3)).unwrap();
        let _unlimited = ledger.admit("alice", AccountLimits::default()).unwrap();
    }

    #[test]
    fn limits_are_wider_if_none_of_them_is_narrower() {
        let rate = |bytes| AccountLimits {
            read_rate: NonZeroU64::new(bytes),
            ..AccountLimits::default()
        };
        assert!(rate(2).allow_all_of(&rate(1)));
        assert!(rate(0).allow_all_of(&rate(1)));
        assert!(rate(1).allow_all_of(&rate(1)));
        assert!(!rate(1).allow_all_of(&rate(2)));
        assert!(!rate(1).allow_all_of(&AccountLimits::default()));
        assert!(!at_most(1).allow_all_of(&rate(1)));
    }
}
