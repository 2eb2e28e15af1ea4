//! What the engine tells: status, interfaces, drops.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use agent_ebpf::verdict::Verdict;
use chrono::{DateTime, Utc};
use ipnet::IpNet;

use super::{Engine, Observation};
use crate::{
    answers::report::DropReport,
    clock::Moment,
    control::{Failure, ListStatus, PendingStatus, ProtectedStatus, StatusReply},
    datapath::{InterfaceState, InterfaceStatus, MonitoredSet, PacketEvent},
    metrics,
};

/// Events read at a time, so that a flood of them does not hold up requests.
const EVENTS_AT_ONCE: usize = 512;
/// While traffic is observed, one in so many passing packets is reported.
const OBSERVE_ONE_IN: u32 = 16;

impl Engine {
    /// Looks at the interfaces and says what changed.
    pub fn tend(&mut self) -> &[InterfaceStatus] {
        let now = self.parts.datapath.tend();
        for status in &now {
            let before = self
                .interfaces
                .iter()
                .find(|before| before.name == status.name);
            if before.is_none_or(|before| before.state != status.state) {
                report_interface(status);
            }
        }
        metrics::interfaces(&now);
        self.interfaces = now;
        &self.interfaces
    }

    pub(super) fn status(&self, now: Moment) -> Result<StatusReply, Failure> {
        let counters = self
            .parts
            .datapath
            .counters()
            .map_err(|error| Failure::kernel(&error))?;
        let lists: Vec<ListStatus> = self
            .lists
            .iter()
            .map(|(name, list)| ListStatus {
                name: name.clone(),
                entries: list.len(),
                ending: list.ending(),
            })
            .collect();
        let protected = self.protected();
        let table = self.parts.datapath.describe();
        metrics::state(
            &counters,
            &metrics::State {
                allowed: self.lists.len(),
                bans: self.bans.len(),
                protected: protected.len(),
                generation: self.parts.datapath.generation(),
                revision: self.revision,
                memory_bytes: table.memory_bytes,
                is_journal_healthy: self.parts.recorder.is_healthy(),
                is_pending: self.pending.is_some(),
            },
        );
        Ok(StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: now.boot.saturating_sub(self.schedule.started).as_secs(),
            generation: self.parts.datapath.generation(),
            revision: self.revision,
            layout: format!("{:016x}", agent_ebpf::layout::FINGERPRINT),
            monitor: self.settings.datapath.monitored != MonitoredSet::None,
            table,
            interfaces: self.interfaces.clone(),
            allowed: self.lists.len(),
            lists,
            sources: self.parts.sources.all(),
            protected: protected.len(),
            protected_sources: self.protected_sources(),
            banned: self.bans.len(),
            pending: self.pending.as_ref().map(|pending| PendingStatus {
                revision: pending.revision,
                by: pending.by.clone(),
                confirm_by: pending.confirm_by,
                seconds_left: pending.deadline.saturating_sub(now.boot).as_secs(),
            }),
            readback: self.readback.clone(),
            journal_healthy: self.parts.recorder.is_healthy(),
            lag: self.lag.clone(),
            warnings: self.warnings(now),
            outage: self.parts.outage.clone(),
            counters,
        })
    }

    fn protected_sources(&self) -> Vec<ProtectedStatus> {
        let mut origins: BTreeMap<IpNet, Vec<String>> = BTreeMap::new();
        for (prefix, origin) in self.protections() {
            origins.entry(prefix).or_default().push(origin.to_owned());
        }
        origins
            .into_iter()
            .map(|(prefix, origins)| ProtectedStatus { prefix, origins })
            .collect()
    }

    fn warnings(&self, now: Moment) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.keeps_expired {
            warnings.push("entries beyond their end are kept in force: nothing else would pass. Add an entry, or set `protected`".to_owned());
        } else if self.lists.allowing() == 0 && !self.is_monitoring_all() {
            warnings.push("no list lets anyone in: only protected sources pass".to_owned());
        }
        if !self.schedule.watch.is_settled(now) {
            warnings.push(
                "the wall clock was set by a lot: entries end once it has gone evenly for a minute"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Has passing packets sampled for so long.
    pub(super) fn observe(
        &mut self,
        window: Duration,
        now: Moment,
    ) -> Result<Observation, Failure> {
        let passes = self.passes.subscribe();
        self.parts
            .datapath
            .observe(Some(OBSERVE_ONE_IN))
            .map_err(|error| Failure::kernel(&error))?;
        self.observe_until(now.boot + window);
        Ok(Observation { passes })
    }

    pub(super) fn report_events(&mut self, now: Moment) {
        if let Err(error) = self.parts.datapath.open_event_window() {
            tracing::debug!(error = Failure::kernel(&error).message, "no event window");
        }
        for event in self.parts.datapath.events(EVENTS_AT_ONCE) {
            match (event.verdict(), event.source_address()) {
                (Some(Verdict::Pass(_)), Some(source)) => {
                    // Without somebody who observes there is nobody to tell.
                    let _ = self.passes.send(source);
                }
                (Some(Verdict::Drop(_)), _) => {
                    let report = self.describe(&event, now.wall);
                    self.reporter.report(report, Instant::now());
                }
                (Some(Verdict::Pass(_)) | None, _) => {}
            }
        }
    }

    pub(super) fn sample_counters(&mut self) {
        match self.parts.datapath.counters() {
            Ok(counters) => self.reporter.sample(counters, Instant::now()),
            Err(error) => {
                tracing::debug!(error = Failure::kernel(&error).message, "no counters");
            }
        }
    }

    fn describe(&self, event: &PacketEvent, now: DateTime<Utc>) -> DropReport {
        let interface = self
            .interfaces
            .iter()
            .find_map(|status| match &status.state {
                InterfaceState::Enforcing { index, .. } if *index == event.interface => {
                    Some(status.name.clone())
                }
                InterfaceState::Enforcing { .. }
                | InterfaceState::Gone
                | InterfaceState::Occupied { .. }
                | InterfaceState::Failed { .. } => None,
            });
        DropReport::new(event, interface, now)
    }
}

fn report_interface(status: &InterfaceStatus) {
    let interface = &status.name;
    match &status.state {
        InterfaceState::Enforcing { mode, program, .. } => {
            tracing::info!(interface, ?mode, program, "enforcing")
        }
        InterfaceState::Gone => tracing::error!(
            interface,
            "there is no such interface; it is taken when it comes"
        ),
        InterfaceState::Occupied {
            program,
            program_name,
            ..
        } => {
            tracing::error!(
                interface,
                program,
                program_name,
                "another XDP program is on the hook and is left alone: nothing is dropped here"
            );
        }
        InterfaceState::Failed { error, .. } => {
            tracing::error!(interface, error, "can't enforce: nothing is dropped here")
        }
    }
}
