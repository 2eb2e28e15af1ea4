//! The rules beside a log that grows. One thread; whoever writes the log does not notice it.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
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
/// How often time alone is looked at.
const TICK: Duration = Duration::from_secs(60);
/// How often the place is written down. What a crash lets be judged again is on record.
const KEEP: Duration = Duration::from_secs(1);
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
                ticked: None,
                kept: None,
                record,
            };
            let mut wait = LOOK;
            let mut problem = String::new();
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = LOOK;
                match watcher.look() {
                    Ok(Seen::Everything) => {}
                    Ok(Seen::Some) => wait = Duration::ZERO,
                    Err(error) => {
                        let text = error.to_string();
                        if text != problem {
                            tracing::warn!("alerts wait: {text}");
                            problem = text;
                        }
                    }
                }
            }
            // What is not written down is judged again.
            let _ = watcher.keep_place();
        })?;
    Ok(Watching {
        run: Some(run),
        thread: Some(thread),
    })
}

/// How far a look has come.
enum Seen {
    Everything,
    Some,
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
    ticked: Option<Instant>,
    kept: Option<Instant>,
    record: Recorder,
}

impl Watcher {
    fn look(&mut self) -> io::Result<Seen> {
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
        let has_all = self.follower.next() >= durable;
        if has_all && is_due(self.ticked, TICK) {
            self.ticked = Some(Instant::now());
            let alerts = self.engine.tick(Utc::now());
            self.put(alerts);
        }
        while let Some(alert) = self.waiting.front() {
            if !(self.record)(alert) {
                return Err(io::Error::other("they can't be put on record"));
            }
            self.waiting.pop_front();
        }
        if is_due(self.kept, KEEP) {
            self.keep_place()?;
            self.kept = Some(Instant::now());
        }
        Ok(if has_all {
            Seen::Everything
        } else {
            Seen::Some
        })
    }

    /// All alerts of the records before are on record.
    fn keep_place(&mut self) -> io::Result<()> {
        match self.next {
            Some(next) if self.waiting.is_empty() && self.follower.next() >= next => {
                self.keep(self.follower.next())
            }
            Some(_) | None => Ok(()),
        }
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
        // Of the first record that is judged: it may have waited for long.
        let now = self.time_of(next, durable)?.unwrap_or_else(Utc::now);
        let from = now.min(Utc::now()) - self.engine.horizon();
        self.follower
            .seek(self.first_since(from)?.unwrap_or(next).min(next));
        self.next = Some(next);
        Ok(next)
    }

    fn time_of(&self, seq: u64, durable: u64) -> io::Result<Option<DateTime<Utc>>> {
        if seq >= durable {
            return Ok(None);
        }
        let mut line = Vec::new();
        Follower::new(&self.log.directory, seq).read(&mut line)?;
        let time = raw::TIME
            .of(&line)
            .and_then(|time| str::from_utf8(time).ok());
        let time = time.and_then(|time| DateTime::parse_from_rfc3339(time).ok());
        Ok(time.map(|time| time.to_utc()))
    }

    fn first_since(&self, from: DateTime<Utc>) -> io::Result<Option<u64>> {
        let since = crate::time::as_recorded(from);
        let part = Part {
            since: Some(since.clone()),
            ..Part::default()
        };
        let mut lines = lines(&self.log.directory, part).map_err(io::Error::other)?;
        while let Some(line) = lines.next(&mut |_| true).map_err(io::Error::other)? {
            if raw::TIME
                .of(line)
                .is_some_and(|time| time >= since.as_bytes())
            {
                return Ok(raw::seq(line));
            }
        }
        Ok(None)
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

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= every)
}
