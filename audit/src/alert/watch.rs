//! The rules beside a log that grows. One thread; whoever writes the log does not notice it.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread::{self, JoinHandle},
    time::Duration,
};

use chrono::{DateTime, Utc};
use portcullis_journal::{
    EventKind,
    read::{Part, Record, lines},
};

use super::{Alert, Engine, Rule};
use crate::{
    operations::{integer, text},
    raw,
    sink::{
        Log, NICENESS,
        cursor::{Cursor, Position},
        follow::{Follower, Found},
    },
};

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often time alone is looked at, in looks.
const TICK: u32 = 300;
/// Alerts that wait for the log to take them.
const WAITING: usize = 1000;
/// Records between two looks at whether to end.
const AT_ONCE: usize = 10_000;

/// Puts an alert on record; true once that is durable.
pub type Recorder = Box<dyn Fn(&Alert) -> bool + Send>;

/// Rules at work. Dropping it ends them soon.
#[derive(Debug)]
pub struct Watching {
    run: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Asks it to end.
    pub fn end(&mut self) {
        self.run = None;
    }

    /// Waits until it has ended.
    pub fn join(mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // Its panic was its own.
            let _ = thread.join();
        }
    }
}

/// Begins to follow a log with rules, where the cursor says. Earlier records are looked at once more, so that what was counted
/// before a restart counts. Without a cursor it begins with record `new`. `before` is waited for.
///
/// # Errors
/// If there can't be another thread.
pub fn watch(
    rules: Vec<Rule>,
    log: Log,
    cursor: PathBuf,
    new: u64,
    before: Option<Watching>,
    record: Recorder,
) -> io::Result<Watching> {
    let (run, ended) = mpsc::sync_channel(0);
    let thread = thread::Builder::new()
        .name("alerts".to_owned())
        .spawn(move || {
            if let Some(before) = before {
                before.join();
            }
            // Sessions come first; without the right to it, all are equal.
            let _ = rustix::process::nice(NICENESS);
            let mut watcher = Watcher {
                engine: Engine::new(rules),
                follower: Follower::new(&log.directory, 0),
                log,
                cursor: Cursor::at(cursor),
                new,
                next: None,
                on_record: BTreeSet::new(),
                waiting: VecDeque::new(),
                record,
            };
            let mut looks: u32 = 0;
            let mut problem = String::new();
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = watcher.look(looks.is_multiple_of(TICK)) {
                    let text = error.to_string();
                    if text != problem {
                        tracing::warn!("alerts wait: {text}");
                        problem = text;
                    }
                }
                looks = looks.wrapping_add(1);
            }
        })?;
    Ok(Watching {
        run: Some(run),
        thread: Some(thread),
    })
}

struct Watcher {
    engine: Engine,
    log: Log,
    follower: Follower,
    cursor: Cursor,
    new: u64,
    /// Records before this one were judged when the cursor was kept; `None` before it was read.
    next: Option<u64>,
    /// Alerts that were recorded after the cursor was kept: rule, subject, last record.
    on_record: BTreeSet<(String, String, u64)>,
    waiting: VecDeque<Alert>,
    record: Recorder,
}

impl Watcher {
    fn look(&mut self, ticks: bool) -> io::Result<()> {
        let next = self.begin()?;
        let durable = (self.log.durable)();
        let mut line = Vec::new();
        for _ in 0..AT_ONCE {
            let seq = self.follower.next();
            if seq >= durable || self.waiting.len() >= WAITING {
                break;
            }
            match self.follower.read(&mut line)? {
                Found::Line => {}
                Found::BeginsAt(first) => {
                    self.follower.seek(first);
                    continue;
                }
            }
            if !Engine::hears(raw::EVENT.of(&line).unwrap_or_default()) {
                continue;
            }
            let Ok(record) = serde_json::from_slice::<Record>(&line) else {
                continue;
            };
            if seq >= next {
                let alerts = self.engine.hear(&record);
                self.put(alerts);
            } else {
                self.engine.remember(&record);
            }
        }
        self.follower.forget_ahead();
        if ticks && self.follower.next() >= durable {
            let alerts = self.engine.tick(Utc::now());
            self.put(alerts);
        }
        while let Some(alert) = self.waiting.front() {
            if !(self.record)(alert) {
                return Err(io::Error::other("they can't be put on record"));
            }
            self.waiting.pop_front();
        }
        if self.follower.next() >= next {
            self.keep(self.follower.next())?;
        }
        Ok(())
    }

    fn put(&mut self, alerts: Vec<Alert>) {
        for alert in alerts {
            let known = (alert.rule.clone(), alert.subject.clone(), alert.last);
            if !self.on_record.remove(&known) {
                self.waiting.push_back(alert);
            }
        }
    }

    fn keep(&mut self, next: u64) -> io::Result<()> {
        self.cursor.keep(Position {
            next,
            checkpoint: None,
        })
    }

    /// Finds out where to go on, once.
    fn begin(&mut self) -> io::Result<u64> {
        if let Some(next) = self.next {
            return Ok(next);
        }
        let durable = (self.log.durable)();
        let next = self.cursor.load()?.map_or(self.new, |kept| kept.next);
        let next = next.min(durable);
        self.keep(next)?;
        self.on_record = self.recorded(next, durable)?;
        let from = Utc::now() - self.engine.horizon();
        self.follower
            .seek(self.first_since(from)?.unwrap_or(next).min(next));
        self.next = Some(next);
        Ok(next)
    }

    fn first_since(&self, from: DateTime<Utc>) -> io::Result<Option<u64>> {
        let part = Part {
            since: Some(crate::time::as_recorded(from)),
            ..Part::default()
        };
        let mut lines = lines(&self.log.directory, part).map_err(io::Error::other)?;
        let found = lines.next(&mut |_| true).map_err(io::Error::other)?;
        Ok(found.and_then(raw::seq))
    }

    /// The alerts that a run before this one recorded from `next` on.
    fn recorded(&self, next: u64, durable: u64) -> io::Result<BTreeSet<(String, String, u64)>> {
        let mut follower = Follower::new(&self.log.directory, next);
        let mut line = Vec::new();
        let mut found = BTreeSet::new();
        while follower.next() < durable {
            match follower.read(&mut line)? {
                Found::Line => {}
                Found::BeginsAt(first) => {
                    follower.seek(first);
                    continue;
                }
            }
            if raw::EVENT.of(&line) != Some(EventKind::LogAlert.name().as_bytes()) {
                continue;
            }
            let Ok(record) = serde_json::from_slice::<Record>(&line) else {
                continue;
            };
            let body = &record.body;
            if let (Some(rule), Some(subject), Some(last)) = (
                text(body, "rule"),
                text(body, "subject"),
                integer(body.get("last")),
            ) {
                found.insert((rule.to_owned(), subject.to_owned(), last));
            }
        }
        Ok(found)
    }
}
