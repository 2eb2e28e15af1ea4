//! The loop of one sink: read, send, be sure, remember.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time};

use super::{
    Begin, Log, Meter, Notice, Phase, Selection, Settings,
    connection::{BadLine, Batch, Connection, Receipt, SendError},
    cursor::{Cursor, Position},
    follow::{Checkpoints, Follower, Found},
};

/// Most records in a batch, where the target has no limit of its own.
const BATCH_RECORDS: usize = 512;
/// Most records that are read for a batch; not all may be chosen.
const PASSED: usize = 10_000;
/// Most bytes of lines in a batch; one line may be longer.
const BATCH_BYTES: usize = 1 << 20;
/// How often a sink that has caught up looks for more.
const LOOK: Duration = Duration::from_millis(200);
/// How often a busy sink writes down how far it is.
const KEEP: Duration = Duration::from_secs(1);
/// First and longest wait before another attempt.
const RETRY_LEAST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// A collector that takes nothing for so long is worth a record.
const DOWN_AFTER: Duration = Duration::from_secs(60);

/// Why the loop is left.
enum Failure {
    Send(SendError),
    /// The log or the cursor.
    Disk {
        what: &'static str,
        source: io::Error,
    },
}

/// Sends until it is told to end. `now` is the first record of a sink that begins with the next.
pub(super) async fn run(
    settings: Settings,
    log: Log,
    now: u64,
    meter: Arc<Meter>,
    mut phase: watch::Receiver<Phase>,
    tell: &(dyn Fn(Notice) + Send),
) {
    let mut sender = Sender {
        cursor: Cursor::at(settings.cursor.clone()),
        follower: Follower::new(&log.directory, 0),
        checkpoints: Checkpoints::in_log(&log.directory),
        has_begun: false,
        is_new: false,
        taken: Position::default(),
        notes_taken: 0,
        on_the_way: VecDeque::new(),
        batch: Batch::default(),
        kept: Instant::now(),
        down: None,
        settings,
        log,
        now,
        meter,
        tell,
    };
    let mut retry = RETRY_LEAST;
    loop {
        let before = sender.taken;
        let mut changes = phase.clone();
        let ended = tokio::select! {
            biased;
            () = end(&mut changes) => None,
            ended = sender.work(phase.clone()) => Some(ended),
        };
        let Some(Err(failure)) = ended else {
            // What is not written down comes again.
            let _ = sender.keep();
            return;
        };
        sender.failed(&failure);
        // Whoever takes something is no dead collector.
        if sender.taken != before {
            retry = RETRY_LEAST;
        }
        let wait = retry.mul_f64(0.5 + fastrand::f64() / 2.0);
        retry = (retry * 2).min(RETRY_MOST);
        tokio::select! {
            biased;
            () = draining(&mut phase) => {
                // The last attempt of a gateway that ends, or none if it was that.
                if *phase.borrow() == Phase::End || sender.is_last_attempt() {
                    return;
                }
            }
            () = time::sleep(wait) => {}
        }
    }
}

/// Resolves when the sink has to end at once.
async fn end(phase: &mut watch::Receiver<Phase>) {
    // Whoever started it is gone: that is an end too.
    let _ = phase.wait_for(|phase| *phase == Phase::End).await;
}

async fn draining(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase != Phase::Run).await;
}

struct Sender<'a> {
    settings: Settings,
    log: Log,
    now: u64,
    meter: Arc<Meter>,
    tell: &'a (dyn Fn(Notice) + Send),
    cursor: Cursor,
    follower: Follower,
    checkpoints: Checkpoints,
    has_begun: bool,
    /// It had no cursor.
    is_new: bool,
    /// What the collector has for sure.
    taken: Position,
    /// How far the file of checkpoints was read when that was so.
    notes_taken: u64,
    /// Sent, and not sure yet.
    on_the_way: VecDeque<OnTheWay>,
    /// Read, and not sent yet.
    batch: Batch,
    kept: Instant,
    down: Option<Down>,
}

/// A batch that was written to a connection.
struct OnTheWay {
    records: u64,
    then: Position,
    notes: u64,
    /// When it counts as taken, if the connection still stands.
    sure: Instant,
    oldest: Option<i64>,
}

struct Down {
    since: Instant,
    /// The text of the last failure.
    error: String,
    is_told: bool,
    attempts_at_end: u32,
}

impl Sender<'_> {
    /// Connects and sends; `Ok` once it was told to drain and all is taken.
    async fn work(&mut self, phase: watch::Receiver<Phase>) -> Result<(), Failure> {
        self.begin()?;
        self.follower.seek(self.taken.next);
        self.checkpoints.seek(self.notes_taken);
        self.on_the_way.clear();
        self.batch.clear();
        // Before there is a connection, so that the age of what waits is known.
        self.fill()?;
        self.give_up()?;
        if self.batch.is_empty() && *phase.borrow() != Phase::Run {
            return Ok(());
        }
        let mut connection = Connection::open(&self.settings)
            .await
            .map_err(Failure::Send)?;
        self.meter.connected();
        loop {
            // A target that never waits would not hear that it has to end.
            tokio::task::yield_now().await;
            if self.batch.is_empty() {
                self.fill()?;
            }
            if self.batch.is_empty() {
                if *phase.borrow() != Phase::Run {
                    connection.finish().await.map_err(Failure::Send)?;
                    while let Some(sent) = self.on_the_way.pop_front() {
                        self.took(&sent);
                    }
                    return self.keep();
                }
                let mut changes = phase.clone();
                tokio::select! {
                    biased;
                    error = connection.broken() => return Err(Failure::Send(error)),
                    () = draining(&mut changes) => {}
                    () = time::sleep(LOOK) => {}
                }
            } else {
                let receipt = if self.batch.is_hollow() {
                    Receipt::CERTAIN
                } else {
                    connection.send(&self.batch).await.map_err(Failure::Send)?
                };
                self.on_the_way.push_back(self.batch_sent(receipt));
                self.batch.clear();
            }
            connection.check().await.map_err(Failure::Send)?;
            self.take(Instant::now());
            if self.on_the_way.is_empty() || self.kept.elapsed() >= KEEP {
                self.keep()?;
            }
        }
    }

    /// Finds out where to begin, once.
    fn begin(&mut self) -> Result<(), Failure> {
        if self.has_begun {
            return Ok(());
        }
        let kept = self.cursor.load().map_err(|source| Failure::Disk {
            what: "read the cursor",
            source,
        })?;
        self.is_new = kept.is_none();
        self.taken = kept.unwrap_or_else(|| match self.settings.begin {
            Begin::Oldest => Position::default(),
            Begin::Now => Position {
                next: self.now,
                checkpoint: Some(self.now),
            },
        });
        self.has_begun = true;
        self.meter.begin(self.taken.next);
        self.keep()
    }

    /// Reads what has become durable, as far as it fits a batch.
    fn fill(&mut self) -> Result<(), Failure> {
        let read = |source| Failure::Disk {
            what: "read the log",
            source,
        };
        if self.settings.checkpoints {
            let from = self.taken.checkpoint.unwrap_or(0);
            for note in self.checkpoints.look(from).map_err(read)? {
                self.batch.add_note(&self.settings, &self.log.node, &note);
            }
        }
        let durable = (self.log.durable)();
        let most = if self.age_to_give_up_at().is_some() {
            1
        } else {
            self.settings.target.batch().unwrap_or(BATCH_RECORDS)
        };
        let mut line = Vec::new();
        while self.follower.next() < durable
            && self.batch.chosen < most
            && self.batch.records < PASSED
            && self.batch.bytes() < BATCH_BYTES
        {
            let next = self.follower.next();
            match self.follower.read(&mut line).map_err(read)? {
                Found::Line => self
                    .batch
                    .add(&self.settings, &line)
                    .map_err(|error| read(bad_line(next, &error)))?,
                Found::BeginsAt(first) if first > next && self.is_idle() => self.skip(next, first),
                Found::BeginsAt(_) => break,
            }
        }
        self.follower.forget_ahead();
        if self.on_the_way.is_empty() {
            self.meter.waits_since(self.batch.oldest);
        }
        Ok(())
    }

    /// The age at which an alert is given up, after an attempt that failed.
    fn age_to_give_up_at(&self) -> Option<Duration> {
        match self.settings.selection {
            Selection::Alerts { give_up } if self.down.is_some() => Some(give_up),
            Selection::Alerts { .. } | Selection::All => None,
        }
    }

    /// Alerts that wait for too long make room for the next.
    fn give_up(&mut self) -> Result<(), Failure> {
        let Some(limit) = self.age_to_give_up_at() else {
            return Ok(());
        };
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let since = chrono::Utc::now().timestamp_millis().saturating_sub(limit);
        while self.batch.chosen > 0 && self.batch.oldest.is_some_and(|oldest| oldest <= since) {
            // The batch ends with the one that was chosen.
            self.taken.next += self.batch.records as u64;
            let seq = self.taken.next - 1;
            self.meter.lost(1, self.taken.next);
            let error = self.down.as_ref().map(|down| down.error.clone());
            let error = error.unwrap_or_default();
            tracing::error!(
                sink = self.settings.name,
                alert = seq,
                "an alert is given up: {error}"
            );
            (self.tell)(Notice::GivenUp { seq, error });
            self.batch.clear();
            self.fill()?;
        }
        Ok(())
    }

    /// Nothing is read that is not taken.
    fn is_idle(&self) -> bool {
        self.batch.records == 0 && self.on_the_way.is_empty()
    }

    /// Retention was faster than the collector.
    fn skip(&mut self, next: u64, first: u64) {
        // A new sink of an old log begins where the log does.
        let is_new = std::mem::take(&mut self.is_new) && next == 0;
        self.follower.seek(first);
        self.taken.next = first;
        if is_new {
            self.meter.begin(first);
            return;
        }
        self.meter.lost(first - next, first);
        tracing::error!(
            sink = self.settings.name,
            first = next,
            last = first - 1,
            "records were removed from the log before they were sent"
        );
        (self.tell)(Notice::Lost {
            first: next,
            last: first - 1,
        });
    }

    fn batch_sent(&self, receipt: Receipt) -> OnTheWay {
        let records = self.batch.records as u64;
        let last = self.on_the_way.back().map_or(self.taken, |last| last.then);
        OnTheWay {
            records: self.batch.chosen as u64,
            then: Position {
                next: last.next + records,
                checkpoint: self.batch.checkpoint.or(last.checkpoint),
            },
            notes: self.checkpoints.position(),
            sure: Instant::now() + receipt.settles_after,
            oldest: self.batch.oldest,
        }
    }

    /// What was sent long enough before `now` counts as taken.
    fn take(&mut self, now: Instant) {
        while let Some(sent) = self.on_the_way.pop_front_if(|sent| sent.sure <= now) {
            self.took(&sent);
        }
    }

    fn took(&mut self, sent: &OnTheWay) {
        self.taken = sent.then;
        self.notes_taken = sent.notes;
        self.is_new = false;
        let waiting = self.on_the_way.front();
        let oldest = waiting.map_or(self.batch.oldest, |waiting| waiting.oldest);
        self.meter.taken(sent.records, sent.then.next, oldest);
        let Some(down) = self.down.take() else { return };
        let next = self.taken.next;
        tracing::info!(
            sink = self.settings.name,
            next,
            "a collector takes records again"
        );
        if down.is_told {
            (self.tell)(Notice::Up { next });
        }
    }

    /// Does nothing before the position is known: what a damaged cursor said is still to be looked at.
    fn keep(&mut self) -> Result<(), Failure> {
        if !self.has_begun {
            return Ok(());
        }
        self.kept = Instant::now();
        self.cursor
            .keep(self.taken)
            .map_err(|source| Failure::Disk {
                what: "write the cursor",
                source,
            })
    }

    fn failed(&mut self, failure: &Failure) {
        self.meter.disconnected();
        // What is known to be taken need not come again.
        let _ = self.keep();
        let error = match failure {
            Failure::Send(error) => chain(error),
            Failure::Disk { what, source } => {
                format!("{what} ({}): {source}", self.cursor.path().display())
            }
        };
        let next = self.taken.next;
        let down = self.down.get_or_insert_with(|| Down {
            since: Instant::now(),
            error: String::new(),
            is_told: false,
            attempts_at_end: 0,
        });
        if down.error != error {
            tracing::warn!(sink = self.settings.name, next, "records wait: {error}");
            down.error.clone_from(&error);
        }
        if !down.is_told && down.since.elapsed() >= DOWN_AFTER {
            down.is_told = true;
            (self.tell)(Notice::Down { next, error });
        }
    }

    /// Says once no, then yes: a gateway that ends tries a broken connection anew, once.
    fn is_last_attempt(&mut self) -> bool {
        let Some(down) = &mut self.down else {
            return false;
        };
        down.attempts_at_end += 1;
        down.attempts_at_end > 1
    }
}

fn bad_line(seq: u64, error: &BadLine) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("record {seq}: {}", chain(error)),
    )
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
