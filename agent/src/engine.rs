//! The one task that owns the state: it takes requests one after the other, records, keeps, and makes the kernel follow.
//!
//! The order for every change is: admitted, on record (durable), kept (durable), in the kernel, answered. What fails before the
//! record changes nothing; what fails behind it is retried until the kernel follows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agent_ebpf::{layout::PacketEvent, verdict::Verdict};
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use portcullis_journal::Event;
use tokio::sync::{mpsc, oneshot};

use crate::{
    allowlist::{Allowlist, Entry, diff},
    answers::{
        feed::{Feed, Reporter},
        recent::TopReply,
        report::DropReport,
    },
    bans::{Ban, BanBook},
    control::{AllowSummary, Failure, StatusReply, peer::Peer},
    datapath::{self, Datapath, EVENT_WINDOW, InterfaceState, InterfaceStatus, MonitoredSet},
    metrics,
    record::{self, Recorder},
    rule::{Action, Rule},
    state::StateDir,
};

/// Requests that may wait.
pub const REQUESTS: usize = 64;
/// Events read at a time, so that a flood of them does not hold up requests.
const EVENTS_AT_ONCE: usize = 512;
/// How often bans are looked through, interfaces looked at and a lagging kernel retried.
const TICK: Duration = Duration::from_millis(500);

/// What can be asked of the engine.
#[derive(Debug)]
pub enum Request {
    Ban {
        source: IpNet,
        lifetime: Duration,
        reason: String,
        by: Peer,
        reply: Reply<Ban>,
    },
    Unban {
        source: IpNet,
        by: Peer,
        reply: Reply<Ban>,
    },
    Bans {
        reply: Reply<Vec<Ban>>,
    },
    Allow {
        change: AllowChange,
        by: Peer,
        reply: Reply<AllowSummary>,
    },
    Allowed {
        reply: Reply<Vec<Entry>>,
    },
    Status {
        reply: Reply<StatusReply>,
    },
    Top {
        reply: Reply<TopReply>,
    },
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// A change of the allowlist.
#[derive(Debug)]
pub enum AllowChange {
    Add(Vec<Entry>),
    Remove(Vec<IpNet>),
    Replace(Allowlist),
}

impl AllowChange {
    fn action(&self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::Remove(_) => "remove",
            Self::Replace(_) => "replace",
        }
    }
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub protected: Vec<IpNet>,
    pub datapath: datapath::Settings,
}

/// The state, and all that it acts on.
pub struct Engine {
    settings: Settings,
    allowlist: Allowlist,
    bans: BanBook,
    /// The rules in the kernel; `None` when it is not known, as after a start.
    applied: Option<Arc<[Rule]>>,
    datapath: Box<dyn Datapath>,
    recorder: Box<dyn Recorder>,
    state: StateDir,
    interfaces: Vec<InterfaceStatus>,
    reporter: Reporter,
    started: Instant,
    /// Why the kernel does not follow, while it does not.
    lag: Option<String>,
}

impl Engine {
    /// An engine over what was kept before. Nothing is put into the kernel until [`Engine::follow`].
    pub fn new(
        settings: Settings,
        allowlist: Allowlist,
        bans: BanBook,
        datapath: Box<dyn Datapath>,
        recorder: Box<dyn Recorder>,
        state: StateDir,
        started: Instant,
    ) -> Self {
        Self {
            settings,
            allowlist,
            bans,
            applied: None,
            datapath,
            recorder,
            state,
            interfaces: Vec::new(),
            reporter: Reporter::new(started),
            started,
            lag: None,
        }
    }

    /// Where reports of drops can be had.
    pub fn reports(&self) -> Feed {
        self.reporter.feed()
    }

    /// Makes the kernel do what is wanted.
    ///
    /// # Errors
    /// If the kernel refuses a step; the steps before it hold, and a later call goes on from there.
    pub fn follow(&mut self) -> Result<(), Failure> {
        let wanted = self.wanted();
        if self.applied.as_ref() != Some(&wanted) {
            if let Err(error) = self
                .datapath
                .switch(Arc::clone(&wanted), &self.settings.datapath)
            {
                let failure = Failure::kernel(&error);
                tracing::error!(
                    error = failure.message,
                    "the kernel does not follow; this is retried"
                );
                self.lag = Some(failure.message.clone());
                return Err(failure);
            }
            self.applied = Some(wanted);
        }
        self.lag = None;
        Ok(())
    }

    /// Looks at the interfaces and says what changed.
    pub fn tend(&mut self) -> &[InterfaceStatus] {
        let now = self.datapath.tend();
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

    /// Serves until every sender of requests is gone. `changes` resolves when interfaces may have changed.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut changes: impl AsyncFnMut(),
    ) -> Box<dyn Recorder> {
        let mut tick = tokio::time::interval(TICK);
        let mut window = tokio::time::interval(EVENT_WINDOW);
        for interval in [&mut tick, &mut window] {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.answer(request, Utc::now()).await,
                    None => return self.recorder,
                },
                _ = tick.tick() => {
                    self.sweep(Utc::now()).await;
                    // A failure is logged where it happens, and the next tick tries again.
                    let _ = self.follow();
                    self.tend();
                    self.sample_counters();
                }
                _ = window.tick() => self.report_drops(Utc::now()),
                () = changes() => drop(self.tend()),
            }
        }
    }

    async fn answer(&mut self, request: Request, now: DateTime<Utc>) {
        // A caller that went away does not want the answer.
        match request {
            Request::Ban {
                source,
                lifetime,
                reason,
                by,
                reply,
            } => {
                let _ = reply.send(self.ban(source, lifetime, &reason, &by, now).await);
            }
            Request::Unban { source, by, reply } => {
                let _ = reply.send(self.unban(&source, &by).await);
            }
            Request::Bans { reply } => {
                let _ = reply.send(Ok(self.bans.bans().cloned().collect()));
            }
            Request::Allow { change, by, reply } => {
                let _ = reply.send(self.allow(change, &by).await);
            }
            Request::Allowed { reply } => {
                let _ = reply.send(Ok(self.allowlist.entries().collect()));
            }
            Request::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Request::Top { reply } => {
                let _ = reply.send(Ok(self.reporter.top(Instant::now())));
            }
        }
    }

    /// Bans `source`, if that may be.
    ///
    /// # Errors
    /// If it may not be, can't be recorded or kept (then nothing is done), or the kernel does not follow (then it is retried).
    pub async fn ban(
        &mut self,
        source: IpNet,
        lifetime: Duration,
        reason: &str,
        by: &Peer,
        now: DateTime<Utc>,
    ) -> Result<Ban, Failure> {
        let ban = self
            .bans
            .admit(source, lifetime, reason, &by.name, now)
            .map_err(|error| Failure::ban(&error))?;
        self.record(record::ban_change("ban", &ban, Some(by)))
            .await?;
        let mut bans = self.bans.clone();
        bans.insert(ban.clone());
        self.state
            .keep_bans(bans.bans())
            .map_err(|error| Failure::state(&error))?;
        self.bans = bans;
        self.follow()?;
        tracing::info!(source = %ban.source, expires = %ban.expires, reason = ban.reason, by = ban.by, "banned");
        Ok(ban)
    }

    /// Lifts the ban of exactly this source.
    ///
    /// # Errors
    /// As for [`Engine::ban`], and if there is no such ban.
    pub async fn unban(&mut self, source: &IpNet, by: &Peer) -> Result<Ban, Failure> {
        let Some(ban) = self.bans.get(source).cloned() else {
            return Err(Failure::not_found(format!("{source} is not banned")));
        };
        self.record(record::ban_change("unban", &ban, Some(by)))
            .await?;
        self.forget(std::slice::from_ref(&ban))?;
        tracing::info!(source = %ban.source, by = by.name, "ban lifted");
        Ok(ban)
    }

    /// Ends the bans whose time has come. Without a record they stay.
    pub async fn sweep(&mut self, now: DateTime<Utc>) {
        let mut ended = Vec::new();
        for ban in self.bans.expired(now) {
            if self
                .record(record::ban_change("expire", &ban, None))
                .await
                .is_err()
            {
                break;
            }
            tracing::info!(source = %ban.source, "ban expired");
            ended.push(ban);
        }
        if !ended.is_empty() {
            // Logged where it happens; the bans are still there for the next sweep.
            let _ = self.forget(&ended);
        }
    }

    fn forget(&mut self, ended: &[Ban]) -> Result<(), Failure> {
        let mut bans = self.bans.clone();
        for ban in ended {
            bans.remove(&ban.source);
        }
        self.state
            .keep_bans(bans.bans())
            .map_err(|error| Failure::state(&error))?;
        self.bans = bans;
        self.follow()
    }

    /// Changes the allowlist, as a whole or not at all.
    ///
    /// # Errors
    /// As for [`Engine::ban`], and if something to be removed is not there.
    pub async fn allow(&mut self, change: AllowChange, by: &Peer) -> Result<AllowSummary, Failure> {
        let action = change.action();
        let mut wanted = self.allowlist.clone();
        match change {
            AllowChange::Add(entries) => {
                for entry in entries {
                    wanted.insert(entry);
                }
            }
            AllowChange::Remove(prefixes) => {
                for prefix in prefixes {
                    if !wanted.remove(&prefix) {
                        return Err(Failure::not_found(format!(
                            "{prefix} is not on the allowlist"
                        )));
                    }
                }
            }
            AllowChange::Replace(list) => wanted = list,
        }
        let changes = diff(&self.allowlist, &wanted);
        if !changes.is_empty() {
            self.record(record::allow_change(action, &changes, &wanted, by))
                .await?;
            self.state
                .keep_allowlist(&wanted)
                .map_err(|error| Failure::state(&error))?;
            self.allowlist = wanted;
            self.follow()?;
            tracing::info!(
                action,
                put = changes.put.len(),
                removed = changes.removed.len(),
                entries = self.allowlist.len(),
                by = by.name,
                "allowlist changed"
            );
        }
        Ok(AllowSummary {
            put: changes.put.len(),
            removed: changes.removed.len(),
            entries: self.allowlist.len(),
            generation: self.datapath.generation(),
        })
    }

    fn wanted(&self) -> Arc<[Rule]> {
        let rule = |action: Action| {
            move |prefix| Rule {
                prefix,
                action: action.clone(),
            }
        };
        let protected = self.settings.protected.iter().copied();
        let banned = self.bans.bans().map(|ban| ban.source);
        protected
            .map(rule(Action::Protect))
            .chain(banned.map(rule(Action::Ban)))
            .chain(self.allowlist.prefixes().map(rule(Action::Allow(None))))
            .collect()
    }

    async fn record(&self, event: Event) -> Result<(), Failure> {
        self.recorder.record(event).await.map_err(|error| {
            tracing::error!(%error, "no record, so nothing is changed");
            Failure::journal(&error)
        })
    }

    fn status(&self) -> Result<StatusReply, Failure> {
        let counters = self
            .datapath
            .counters()
            .map_err(|error| Failure::kernel(&error))?;
        metrics::state(
            &counters,
            self.allowlist.len(),
            self.bans.len(),
            self.datapath.generation(),
            self.recorder.is_healthy(),
        );
        Ok(StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.datapath.generation(),
            layout: format!("{:016x}", agent_ebpf::layout::FINGERPRINT),
            monitor: self.settings.datapath.monitored != MonitoredSet::None,
            interfaces: self.interfaces.clone(),
            allowed: self.allowlist.len(),
            protected: self.settings.protected.len(),
            banned: self.bans.len(),
            journal_healthy: self.recorder.is_healthy(),
            lag: self.lag.clone(),
            counters,
        })
    }

    fn sample_counters(&mut self) {
        match self.datapath.counters() {
            Ok(counters) => self.reporter.sample(counters, Instant::now()),
            Err(error) => {
                tracing::debug!(error = Failure::kernel(&error).message, "no counters");
            }
        }
    }

    fn report_drops(&mut self, now: DateTime<Utc>) {
        if let Err(error) = self.datapath.open_event_window() {
            tracing::debug!(error = Failure::kernel(&error).message, "no event window");
        }
        for event in self.datapath.events(EVENTS_AT_ONCE) {
            if let Some(Verdict::Drop(_)) = event.verdict() {
                let report = self.describe(&event, now);
                self.reporter.report(report, Instant::now());
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

#[cfg(test)]
mod tests;
