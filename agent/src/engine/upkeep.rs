//! What the engine does by itself: ends, clocks, comparison with the kernel, signs of life.

use std::{path::PathBuf, time::Duration};

use super::{Engine, Terms, change::rule_edits};
use crate::{
    clock::{Moment, Watch},
    control::{Failure, ReadbackStatus, peer::Peer},
    lists::{Delta, ListName, Step},
    metrics,
    state::heartbeat::Life,
};

/// How often the kernel's content is compared with the wish.
const VERIFY: Duration = Duration::from_secs(60);
/// How often the daemon leaves a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// When what is done next.
pub(super) struct Schedule {
    pub(super) watch: Watch,
    pub(super) started: Duration,
    verify_at: Duration,
    heartbeat_at: Duration,
    observe_until: Option<Duration>,
    life: Option<(PathBuf, Life)>,
}

impl Schedule {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            watch: Watch::default(),
            started: now.boot,
            verify_at: now.boot + VERIFY,
            heartbeat_at: now.boot,
            observe_until: None,
            life: None,
        }
    }
}

impl Engine {
    /// Leaves signs of `life` in `directory`.
    pub fn keep_alive(&mut self, directory: PathBuf, life: Life) {
        self.schedule.life = Some((directory, life));
    }

    /// What is due.
    pub(super) async fn tick(&mut self, now: Moment) {
        self.look_at_clock(now).await;
        self.keep_deadline(now).await;
        self.sweep(now).await;
        // A failure is logged where it happens, and the next tick tries again.
        let _ = self.follow();
        self.tend();
        // First all events that the counters know of: the difference is what was left out.
        self.report_events(now);
        self.sample_counters();
        self.parts.store.tend();
        if self
            .schedule
            .observe_until
            .is_some_and(|until| now.boot >= until)
        {
            self.schedule.observe_until = None;
            if let Err(error) = self.parts.datapath.observe(None) {
                tracing::warn!(error = %Failure::kernel(&error), "can't stop observing");
            }
        }
        if now.boot >= self.schedule.verify_at {
            self.verify();
        }
        if now.boot >= self.schedule.heartbeat_at {
            self.schedule.heartbeat_at = now.boot + HEARTBEAT;
            if let Some((directory, life)) = &mut self.schedule.life {
                life.alive = now.wall;
                if let Err(error) = life.keep(directory) {
                    tracing::warn!(%error, "can't leave a sign of life");
                }
            }
        }
    }

    /// Keeps the time that bans have left, when the wall clock was set.
    pub(super) async fn look_at_clock(&mut self, now: Moment) {
        let Some(seconds) = self.schedule.watch.look(now) else {
            return;
        };
        tracing::warn!(
            seconds,
            "the wall clock was set; bans keep the time that they have left"
        );
        self.bans.shift(seconds);
        if let Err(error) = self.parts.store.keep_clock_shift(seconds) {
            tracing::error!(%error, "the jump of the clock can't be kept; after a restart bans end by the wall clock");
        }
    }

    /// Ends what has come to its end.
    pub async fn sweep(&mut self, now: Moment) {
        self.sweep_bans(now).await;
        // What waits for a confirmation is compared with the lists before it: those must stay the same.
        if self.pending.is_none() && self.schedule.watch.is_settled(now) {
            self.sweep_entries(now).await;
        }
    }

    async fn sweep_entries(&mut self, now: Moment) {
        let expired = self.lists.expired(now.wall);
        if expired.is_empty() {
            return;
        }
        let ends = expired.iter().filter(|(_, entry)| !entry.deny).count();
        if ends >= self.lists.allowing() && !self.protects_anyone() && !self.is_monitoring_all() {
            if !self.keeps_expired {
                tracing::error!(
                    "the last entries have come to their end, and nothing is protected: they stay in force, since every packet would be dropped"
                );
            }
            self.keeps_expired = true;
            return;
        }
        let mut delta: Vec<(ListName, Vec<Step>)> = Vec::new();
        for (name, entry) in expired {
            let Some(step) = Step::remove(self.lists.get(&name), &entry.rule()) else {
                continue;
            };
            match delta.last_mut().filter(|(last, _)| *last == name) {
                Some((_, steps)) => steps.push(step),
                None => delta.push((name, vec![step])),
            }
        }
        let delta: Delta = delta.into_iter().collect();
        let by = Peer::agent("expiry");
        // Without a record they stay, and the next sweep tries again.
        if self
            .keep("expire", &delta, &Terms::default(), &by, None, now)
            .await
            .is_err()
        {
            return;
        }
        self.lists.apply(&delta);
        self.keeps_expired = false;
        for (list, step) in delta.steps() {
            tracing::info!(%list, prefix = %step.rule.prefix, "entry expired");
        }
        if self.lists.allowing() == 0 {
            tracing::error!("the last entry has come to its end: only protected sources get in");
        }
        let _ = self.edit(&rule_edits(delta.rule_edits()));
    }

    /// Compares the kernel's content with the wish.
    pub(super) fn verify(&mut self) {
        let Some(now) = self.schedule.watch.last() else {
            return;
        };
        self.schedule.verify_at = now.boot + VERIFY;
        match self.parts.datapath.verify() {
            Ok(readback) => {
                if readback.drifted {
                    tracing::error!(
                        drifts = readback.drifts_total,
                        "the kernel's tables were not what was put there; repaired"
                    );
                }
                metrics::readback(readback.drifts_total);
                self.readback = Some(ReadbackStatus {
                    checked: now.wall,
                    sha256: readback.sha256,
                    drifts: readback.drifts_total,
                });
            }
            Err(error) => {
                let failure = Failure::kernel(&error);
                tracing::error!(
                    error = failure.message,
                    "the kernel's tables can't be read back; they are built anew"
                );
                self.is_synced = false;
            }
        }
    }

    pub(super) fn observe_until(&mut self, until: Duration) {
        let until = self
            .schedule
            .observe_until
            .map_or(until, |earlier| earlier.max(until));
        self.schedule.observe_until = Some(until);
    }
}
