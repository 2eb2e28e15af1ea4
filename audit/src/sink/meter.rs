//! What a sink counts.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Counters of one sink, read from other threads.
#[derive(Debug, Default)]
pub struct Meter {
    next: AtomicU64,
    has_begun: AtomicBool,
    sent: AtomicU64,
    lost: AtomicU64,
    reconnects: AtomicU64,
    is_connected: AtomicBool,
    /// Time of the oldest record that waits, in milliseconds since 1970; 0 if none does.
    oldest: AtomicI64,
}

/// What a sink has done, and how far it is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Durable records that the collector has not.
    pub lag_records: u64,
    /// Age of the oldest of them.
    pub lag_seconds: u64,
    /// Records that the collector took.
    pub sent: u64,
    /// Records that were gone before they were sent.
    pub lost: u64,
    /// Connections that broke or could not be made.
    pub reconnects: u64,
    pub is_connected: bool,
}

impl Meter {
    /// `durable` is the length of the log, `now` in milliseconds since 1970.
    pub fn read(&self, durable: u64, now: i64) -> Reading {
        let next = self.next.load(Ordering::Relaxed);
        let lag_records = if self.has_begun.load(Ordering::Relaxed) {
            durable.saturating_sub(next)
        } else {
            0
        };
        let oldest = self.oldest.load(Ordering::Relaxed);
        let age = if lag_records == 0 || oldest == 0 {
            0
        } else {
            now.saturating_sub(oldest).max(0) / 1000
        };
        Reading {
            lag_records,
            lag_seconds: u64::try_from(age).unwrap_or(0),
            sent: self.sent.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            is_connected: self.is_connected.load(Ordering::Relaxed),
        }
    }

    /// What a sink that is gone leaves: counts, and nothing that waits.
    pub fn last(&self) -> Reading {
        Reading {
            lag_records: 0,
            lag_seconds: 0,
            is_connected: false,
            ..self.read(0, 0)
        }
    }

    pub(super) fn begin(&self, next: u64) {
        self.next.store(next, Ordering::Relaxed);
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// The collector has the records before `next`; `oldest` is the time of the first that waits.
    pub(super) fn taken(&self, records: u64, next: u64, oldest: Option<i64>) {
        self.sent.fetch_add(records, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
        self.waits_since(oldest);
    }

    pub(super) fn waits_since(&self, oldest: Option<i64>) {
        self.oldest.store(oldest.unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn lost(&self, records: u64, next: u64) {
        self.lost.fetch_add(records, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
    }

    pub(super) fn connected(&self) {
        self.is_connected.store(true, Ordering::Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
        self.is_connected.store(false, Ordering::Relaxed);
    }
}
