//! The one task that owns the state: it takes requests one after the other, records, keeps, and makes the kernel follow.
//!
//! The order for every change is: admitted, on record and kept (both durable), in the kernel, answered. What fails before the
//! kernel's turn changes nothing; what fails there is retried until the kernel follows.

mod bans;
mod change;
mod confirm;
mod refresh;
mod report;
mod request;
mod source;
mod upkeep;
mod why;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use portcullis_journal::Event;
use tokio::sync::{broadcast, mpsc};

use self::{confirm::Pending, upkeep::Schedule};
pub use self::{
    refresh::{Asks, Refresh},
    request::{Change, LiveFacts, Observation, Reply, Request, Terms},
    source::SourceSink,
};
use crate::{
    answers::feed::{Feed, Reporter},
    bans::{Ban, BanBook},
    clock::Moment,
    control::{Failure, OutageStatus, ReadbackStatus},
    datapath::{self, Datapath, EVENT_WINDOW, Edit, InterfaceStatus},
    lists::{ListName, Lists},
    record::{self, Recorder},
    rule::{Action, Rule},
    sources::Board,
    state::{Content, Kept, StateError, Store},
    traffic::Traffic,
};

/// Requests that may wait.
pub const REQUESTS: usize = 64;
/// Passing sources that who observes may fall behind before it misses some.
const PASSES: usize = 4096;
/// How often ends are looked for, interfaces looked at and a lagging kernel retried.
const TICK: Duration = Duration::from_millis(500);
/// What protects a source that the configuration names.
const CONFIGURED: &str = "`protected` of the configuration";
/// Edits beyond which all rules are built anew.
const MAX_EDITS: usize = 4096;

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub protected: Vec<IpNet>,
    pub datapath: datapath::Settings,
    /// Live connections that a change may cut without being forced.
    pub max_cut_flows: usize,
}

/// What the engine acts on.
pub struct Parts {
    pub datapath: Box<dyn Datapath>,
    pub recorder: Box<dyn Recorder>,
    pub traffic: Box<dyn Traffic>,
    pub store: Store,
    /// How files, feeds and host names are doing.
    pub sources: Board,
    /// The time without a daemon before this one.
    pub outage: Option<OutageStatus>,
}

/// The state, and all that it acts on.
pub struct Engine {
    settings: Settings,
    parts: Parts,
    lists: Lists,
    revision: u64,
    bans: BanBook,
    /// Bans that are kept on the disk and don't hold any more.
    left_out: Vec<Ban>,
    /// Sources that live facts protect, beside those of the configuration.
    facts: LiveFacts,
    pending: Option<Pending>,
    /// Whether the log has a change that waits for a confirmation and whose daemon is gone.
    is_orphaned: bool,
    /// Whether the kernel has the rules that are wanted.
    is_synced: bool,
    /// Why the kernel does not follow, while it does not.
    lag: Option<String>,
    /// Whether entries are kept beyond their end, since nobody else would get in.
    keeps_expired: bool,
    schedule: Schedule,
    readback: Option<ReadbackStatus>,
    interfaces: Vec<InterfaceStatus>,
    reporter: Reporter,
    passes: broadcast::Sender<IpAddr>,
}

impl Engine {
    /// An engine over what was kept before. Nothing is put into the kernel until [`Engine::start`].
    pub fn new(
        settings: Settings,
        mut bans: BanBook,
        content: Content,
        parts: Parts,
        now: Moment,
    ) -> Self {
        let (passes, _) = broadcast::channel(PASSES);
        let revision = content.number();
        let left_out = bans.restore(content.bans.into_values(), now.wall);
        Self {
            lists: content.lists,
            revision,
            bans,
            left_out,
            settings,
            parts,
            facts: LiveFacts::default(),
            pending: None,
            is_orphaned: content.is_pending,
            is_synced: false,
            lag: None,
            keeps_expired: false,
            schedule: Schedule::new(now),
            readback: None,
            interfaces: Vec::new(),
            reporter: Reporter::new(Instant::now()),
            passes,
        }
    }

    /// The lists of files, feeds and host names, with their sizes.
    pub fn source_lists(&self) -> BTreeMap<ListName, usize> {
        self.lists
            .iter()
            .filter(|(name, _)| **name != ListName::manual())
            .map(|(name, list)| (name.clone(), list.len()))
            .collect()
    }

    /// Where reports of drops can be had.
    pub fn reports(&self) -> Feed {
        self.reporter.feed()
    }

    /// Whether anybody at all would get in with these live facts: someone is allowed or protected, or nothing is dropped.
    pub fn lets_anyone_in(&self, facts: &LiveFacts) -> bool {
        self.lists.allowing() > 0
            || self.protects_anyone()
            || facts.has_session
            || self.is_monitoring_all()
    }

    /// Takes up what an earlier daemon left, and makes the kernel do what is wanted. A change that still waits for its
    /// confirmation is reverted: nobody can say any more over which connection it was asked for.
    ///
    /// # Errors
    /// If that can't be recorded or kept, or the kernel refuses.
    pub async fn start(&mut self, facts: LiveFacts, now: Moment) -> Result<(), Failure> {
        self.facts = facts;
        self.protect_book();
        self.schedule.watch.look(now);
        if self.is_orphaned {
            self.revert_orphan(now).await?;
        }
        let left_out = std::mem::take(&mut self.left_out);
        self.end_bans(left_out).await;
        self.sweep(now).await;
        self.follow()
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
                    Some(request) => self.answer(request, Moment::now()).await,
                    None => return self.parts.recorder,
                },
                _ = tick.tick() => self.tick(Moment::now()).await,
                _ = window.tick() => self.report_events(Moment::now()),
                () = changes() => drop(self.tend()),
            }
        }
    }

    async fn answer(&mut self, request: Request, now: Moment) {
        self.look_at_clock(now).await;
        // A caller that went away does not want the answer.
        match request {
            Request::Ban {
                source,
                lifetime,
                reason,
                terms,
                by,
                reply,
            } => {
                let _ = reply.send(self.ban(source, lifetime, &reason, &terms, &by, now).await);
            }
            Request::Unban {
                source,
                terms,
                by,
                reply,
            } => {
                let _ = reply.send(self.unban(&source, &terms, &by).await);
            }
            Request::Bans { reply } => {
                let _ = reply.send(Ok(self.bans.bans().cloned().collect()));
            }
            Request::Change {
                change,
                terms,
                by,
                reply,
            } => {
                let _ = reply.send(self.change(change, &terms, &by, now).await);
            }
            Request::Confirm { terms, by, reply } => {
                let _ = reply.send(self.confirm(&terms, &by, now).await);
            }
            Request::Revert { terms, by, reply } => {
                let _ = reply.send(self.revert(&terms, &by, now).await);
            }
            Request::Entries { list, reply } => {
                let _ = reply.send(Ok((self.revision, self.entries(list.as_ref()))));
            }
            Request::History { reply } => {
                let _ = reply.send(Ok(self.parts.store.history().cloned().collect()));
            }
            Request::Diff { from, to, reply } => {
                let _ = reply.send(self.diff(from, to));
            }
            Request::Observe { window, reply } => {
                let _ = reply.send(self.observe(window, now));
            }
            Request::Protect { facts, reply } => {
                let _ = reply.send(self.protect(facts));
            }
            Request::Status { reply } => {
                let _ = reply.send(self.status(now));
            }
            Request::Why { question, reply } => {
                let _ = reply.send(self.why(&question).map(Box::new));
            }
            Request::Top { reply } => {
                let _ = reply.send(Ok(self.reporter.top(Instant::now())));
            }
        }
    }

    /// Makes the kernel do what is wanted, if it does not.
    ///
    /// # Errors
    /// If the kernel refuses; what it enforced before it still enforces.
    pub fn follow(&mut self) -> Result<(), Failure> {
        if self.is_synced {
            return Ok(());
        }
        let rules = self.rules();
        let done = self.parts.datapath.switch(rules, &self.settings.datapath);
        self.note(done)?;
        self.verify();
        Ok(())
    }

    /// Makes single changes in the kernel, or all of them anew if that fails.
    fn edit(&mut self, edits: &[Edit]) -> Result<(), Failure> {
        if edits.is_empty() && self.is_synced {
            return Ok(());
        }
        if self.is_synced && edits.len() <= MAX_EDITS {
            match self.parts.datapath.edit(edits) {
                Ok(generation) => return self.note(Ok(generation)).map(drop),
                Err(error) => {
                    tracing::warn!(error = %Failure::kernel(&error), "an edit is refused; all rules are built anew");
                }
            }
        }
        self.is_synced = false;
        self.follow()
    }

    fn note(&mut self, done: Result<u64, datapath::DatapathError>) -> Result<u64, Failure> {
        match done {
            Ok(generation) => {
                self.is_synced = true;
                self.lag = None;
                Ok(generation)
            }
            Err(error) => {
                let failure = Failure::kernel(&error);
                tracing::error!(
                    error = failure.message,
                    "the kernel does not follow; this is retried"
                );
                self.is_synced = false;
                self.lag = Some(failure.message.clone());
                Err(failure)
            }
        }
    }

    /// All rules as they are wanted.
    fn rules(&self) -> Arc<[Rule]> {
        let entries = self.lists.rules().cloned();
        self.other_rules().into_iter().chain(entries).collect()
    }

    /// The rules that come from no list.
    fn other_rules(&self) -> Vec<Rule> {
        let rule = |action: Action| {
            move |prefix| Rule {
                prefix,
                action: action.clone(),
            }
        };
        let protected = self.protected().into_iter().map(rule(Action::Protect));
        let banned = self.bans.bans().map(|ban| ban.source);
        protected.chain(banned.map(rule(Action::Ban))).collect()
    }

    fn protected(&self) -> BTreeSet<IpNet> {
        self.protections().map(|(prefix, _)| prefix).collect()
    }

    /// The protected sources, each with what makes it so; one that has two reasons comes twice.
    fn protections(&self) -> impl Iterator<Item = (IpNet, &str)> {
        let configured = self.settings.protected.iter();
        let facts = self.facts.protected.iter();
        configured
            .map(|prefix| (*prefix, CONFIGURED))
            .chain(facts.map(|(prefix, origin)| (*prefix, origin.as_str())))
    }

    /// Whether an administrator would get in with empty lists. A gateway or a name server is of no help there.
    fn protects_anyone(&self) -> bool {
        !self.settings.protected.is_empty() || self.facts.has_session
    }

    fn is_monitoring_all(&self) -> bool {
        self.settings.datapath.monitored == datapath::MonitoredSet::All
    }

    fn protect_book(&mut self) {
        let protected: Vec<IpNet> = self.protected().into_iter().collect();
        self.bans.protect(&protected);
    }

    /// Makes these the sources that live facts protect.
    fn protect(&mut self, facts: LiveFacts) -> Result<(), Failure> {
        let before = self.protected();
        self.facts = facts;
        let after = self.protected();
        self.protect_book();
        let rule = |prefix: &IpNet| Rule {
            prefix: *prefix,
            action: Action::Protect,
        };
        // What is added comes first: at no time is somebody cut who is protected before and after.
        let added = after
            .difference(&before)
            .map(|prefix| Edit::Add(rule(prefix)));
        let removed = before
            .difference(&after)
            .map(|prefix| Edit::Remove(rule(prefix)));
        let edits: Vec<Edit> = added.chain(removed).collect();
        if let Some(pending) = self.pending.as_mut().filter(|_| !edits.is_empty()) {
            pending.is_edited = true;
        }
        self.edit(&edits)
    }

    /// Puts `event` on record and does `keep`, both durable when this returns, or neither counts.
    ///
    /// The journal syncs on its own thread while the log of changes is synced here: the wait is for the slower of the two.
    async fn record_and_keep<T>(
        &mut self,
        event: Event,
        keep: impl FnOnce(&mut Store) -> Result<(T, Kept), StateError>,
    ) -> Result<T, Failure> {
        let Parts {
            recorder, store, ..
        } = &mut self.parts;
        let kind = event.kind;
        let recording = recorder.record(event);
        let kept = keep(store);
        match (recording.await, kept) {
            (Ok(()), Ok((value, _))) => Ok(value),
            (Err(error), kept) => {
                tracing::error!(%error, "no record, so nothing is changed");
                if let Ok((_, kept)) = kept
                    && let Err(error) = store.undo(kept)
                {
                    tracing::error!(%error, "a change without a record can't be taken out of the state; the next start puts it on record");
                }
                Err(Failure::journal(&error))
            }
            (Ok(()), Err(error)) => {
                let failure = Failure::state(&error);
                tracing::error!(
                    error = failure.message,
                    "the change can't be kept, so it is not made"
                );
                // The record above stands alone if this one fails too; the caller hears the failure in any case.
                let _ = recorder
                    .record(record::not_made(kind, "not kept", &failure.message))
                    .await;
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests;
