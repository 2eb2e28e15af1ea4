//! The one thread that writes a log.
//!
//! A batch is all that came while the one before was written: one write, one fdatasync, then everybody is told. When the
//! disk fails, the batch is refused as a whole and the log ends where it ended before, so that no record ever stands
//! behind a hole.

use std::{
    io, mem,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    append::{AppendError, OpenError, Options, Recovery, origin, refuse},
    chain::{Calendar, Chain, Clock},
    disk::Disk,
    keeper::{Closed, Keeper, tidy},
    operations::OpenOperations,
    position::Position,
    queue::{Entry, Shared, Work, bytes_of},
    record::{Event, EventKind, Identity, RecordId, Verdict},
    recover::{Heads, last_checkpoint, scan},
    segment::{Reserve, Segment},
    tree::{
        checkpoint::{CheckpointFile, sign, sign_over},
        key::{SigningKey, public_key_path, read_verifier_keys},
    },
};

/// A checkpoint is signed after that many records,
const SIGN_RECORDS: u64 = 1000;
/// or after that time, whichever comes first.
const SIGN_INTERVAL: Duration = Duration::from_secs(60);
/// A start has to read that much at most, and what came since the checkpoint before.
const POSITION_BYTES: u64 = 32 << 20;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    segment: Segment,
    keeper: Keeper,
    /// Of the operations in the log.
    open: OpenOperations,
    /// Bytes of the segment that need not be read at the next start.
    positioned: u64,
    chain: Chain,
    calendar: Calendar,
    buffer: Vec<u8>,
    /// The journal's own records that go before the next batch.
    own: Vec<Event>,
    reserve: Reserve,
    key: SigningKey,
    key_path: PathBuf,
    checkpoints: CheckpointFile,
    /// Records that the last checkpoint covers, and when it was signed.
    signed: u64,
    signed_at: Instant,
    health: Health,
    max_delay: Duration,
    segment_bytes: u64,
    /// Held until the writer ends.
    _lock: Box<dyn Send>,
}

enum Health {
    Good,
    /// The disk failed; whether the log itself says so already.
    Failed {
        announced: bool,
    },
}

impl Writer {
    /// Opens the log, writes its first record of this run, and starts the thread.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        options: Options,
        clock: Clock,
    ) -> Result<(Arc<Shared>, Recovery), OpenError> {
        let directory = options.directory.clone();
        let lock = disk.lock().map_err(|source| {
            let directory = directory.clone();
            if source.kind() == io::ErrorKind::WouldBlock {
                OpenError::Locked { directory }
            } else {
                OpenError::Directory { directory, source }
            }
        })?;
        let key = SigningKey::open(&options.signing_key, &origin(&options.node, &directory))?;
        let prepare = |source| OpenError::Prepare {
            directory: directory.clone(),
            source,
        };
        let recover = |source| OpenError::Recover {
            directory: directory.clone(),
            source,
        };

        let (mut checkpoints, text) = CheckpointFile::open(disk.as_ref()).map_err(prepare)?;
        let (head, sound) = last_checkpoint(&text, &key).map_err(recover)?;
        checkpoints.keep(sound as u64);
        tidy(disk.as_ref()).map_err(prepare)?;
        let mut keys = vec![key.verifier()];
        // Those that it took over from.
        keys.extend(read_verifier_keys(&public_key_path(&options.signing_key)).unwrap_or_default());
        let heads = Heads {
            text: text.get(..sound).unwrap_or_default(),
            keys,
            last: head,
        };
        let found = scan(disk.as_ref(), &heads).map_err(recover)?;
        let reserve = Reserve::open(disk.as_ref(), options.reserve_bytes).map_err(prepare)?;
        let segment = match found.last {
            Some((name, length)) => Segment::resume(disk.as_ref(), name, length),
            None => Segment::create(disk.as_ref(), found.chain.next()),
        };
        let recovery = Recovery {
            records: found.chain.next(),
            torn_bytes: found.torn_bytes,
            unknown: found.open.list(),
        };
        let shared = Arc::new(Shared::new(
            Identity {
                node: options.node,
                boot_id: boot_id(),
            },
            clock,
        ));
        let keeper = Keeper::start(
            disk.clone(),
            shared.clone(),
            options.compression_level,
            options.retention,
            found.closed,
        );
        let mut writer = Self {
            shared: shared.clone(),
            segment: segment.map_err(prepare)?,
            keeper: keeper.map_err(prepare)?,
            open: found.open,
            positioned: 0,
            disk,
            chain: found.chain,
            calendar: Calendar::default(),
            buffer: Vec::new(),
            own: first_records(&recovery, &key),
            reserve,
            key,
            key_path: options.signing_key,
            checkpoints,
            signed: head.map_or(0, |head| head.size),
            signed_at: Instant::now(),
            health: Health::Good,
            max_delay: options.max_delay,
            segment_bytes: options.segment_bytes,
            _lock: lock,
        };
        writer.commit(&[]).map_err(|error| OpenError::Start {
            directory: directory.clone(),
            source: write_error(&error),
        })?;
        writer.sign(true).map_err(prepare)?;
        writer.change_key().map_err(prepare)?;
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(prepare)?;
        Ok((shared, recovery))
    }

    fn run(mut self) {
        let _told = TellOnEnd(self.shared.clone());
        let closers = loop {
            let sign_at = (self.chain.next() > self.signed).then(|| self.signed_at + SIGN_INTERVAL);
            match self.shared.next(self.max_delay, sign_at) {
                Work::Write(entries) => {
                    let bytes = bytes_of(&entries);
                    self.write(entries);
                    self.shared.finished(bytes);
                }
                Work::Sign => {
                    // Tried again after the next interval; what is on record stays chained meanwhile.
                    let _ = self.sign(true);
                    self.signed_at = Instant::now();
                }
                Work::SignFor(askers) => {
                    let signed = self.sign(true).map_err(|error| write_error(&error));
                    for done in askers {
                        // Nobody may be waiting for it.
                        let _ = done.send(signed.clone());
                    }
                }
                Work::ChangeKey(done) => {
                    let changed = self.change_key().map_err(|error| write_error(&error));
                    // Nobody may be waiting for it.
                    let _ = done.send(changed);
                }
                Work::End(closers) => break closers,
            }
        };
        let ended = if closers.is_empty() {
            self.sign(true)
        } else {
            self.own.push(Event::new(EventKind::LogStop));
            self.commit(&[]).and_then(|_| self.sign(true))
        };
        let ended = ended.map_err(|error| write_error(&error));
        // Whoever waited for the end may open the log again.
        drop(self);
        for closer in closers {
            let _ = closer.send(ended.clone());
        }
    }

    fn write(&mut self, entries: Vec<Entry>) {
        match self.commit(&entries) {
            Ok(first) => {
                for (id, entry) in (first..).zip(entries) {
                    // Nobody may be waiting for it.
                    let _ = entry.done.send(Ok(RecordId(id)));
                }
                if self.segment.length() - self.positioned >= POSITION_BYTES {
                    let _ = self.sign(true).and_then(|()| self.note_position());
                } else if self.chain.next() - self.signed >= SIGN_RECORDS {
                    // Tried again with the next batch.
                    let _ = self.sign(false);
                }
            }
            Err(error) => {
                self.fail();
                refuse(entries, &write_error(&error));
            }
        }
    }

    /// Makes the journal's own records and `entries` durable, or none of them. Returns the number of the first entry.
    fn commit(&mut self, entries: &[Entry]) -> io::Result<u64> {
        self.return_to_service()?;
        self.rotate()?;
        self.notice_clock();
        self.buffer.clear();
        let mut chain = self.chain.clone();
        for event in &self.own {
            let draft = self.shared.draft(event);
            chain.extend(
                &draft,
                self.shared.now(),
                &mut self.calendar,
                &mut self.buffer,
            );
        }
        let first = chain.next();
        for entry in entries {
            chain.extend(
                &entry.draft,
                entry.moment,
                &mut self.calendar,
                &mut self.buffer,
            );
        }
        self.segment.append(&self.buffer)?;
        self.chain = chain;
        for step in entries.iter().filter_map(|entry| entry.step) {
            self.open.take(step);
        }
        self.own.clear();
        self.health = Health::Good;
        self.shared.set_durable(self.chain.next(), true);
        Ok(first)
    }

    /// Says in the log that the clock was set, since times of records on both sides can't be compared any more.
    fn notice_clock(&mut self) {
        let is_told = |event: &Event| event.kind == EventKind::LogClock;
        if let Some(step) = self.chain.clock_step(self.shared.now())
            && !self.own.iter().any(is_told)
        {
            let mut event = Event::new(EventKind::LogClock);
            event
                .body
                .insert("step_ms".to_owned(), (step / 1000).into());
            self.own.push(event);
        }
    }

    /// After a failure: nothing is written before the end of the log is sound and the reserve is back, because the
    /// little room that the reserve left must not be taken for a disk that has room again.
    fn return_to_service(&mut self) -> io::Result<()> {
        let Health::Failed { announced } = self.health else {
            return Ok(());
        };
        self.segment.repair()?;
        self.reserve.fill()?;
        if announced
            && !self
                .own
                .iter()
                .any(|event| event.kind == EventKind::LogDisk)
        {
            let mut event = Event::new(EventKind::LogDisk);
            event.outcome = Some(Verdict::Success);
            self.own.push(event);
        }
        Ok(())
    }

    /// Says in the log, with the space of the reserve, that the log can't be written.
    fn fail(&mut self) {
        let announced = matches!(self.health, Health::Failed { announced: true });
        self.shared.set_durable(self.chain.next(), false);
        self.health = Health::Failed {
            announced: announced || self.announce().is_ok(),
        };
        self.shared.set_durable(self.chain.next(), false);
    }

    fn announce(&mut self) -> io::Result<()> {
        self.segment.repair()?;
        self.reserve.release()?;
        let mut event = Event::new(EventKind::LogDisk);
        event.outcome = Some(Verdict::Failure);
        event.reason = Some("write_failed".to_owned());
        let mut chain = self.chain.clone();
        self.buffer.clear();
        chain.extend(
            &self.shared.draft(&event),
            self.shared.now(),
            &mut self.calendar,
            &mut self.buffer,
        );
        self.segment.append(&self.buffer)?;
        self.chain = chain;
        Ok(())
    }

    /// Closes a segment that is long enough, and begins the next.
    fn rotate(&mut self) -> io::Result<()> {
        if self.segment.length() <= self.segment_bytes {
            return Ok(());
        }
        self.sign(true)?;
        let next = Segment::create(self.disk.as_ref(), self.chain.next())?;
        let mut event = Event::new(EventKind::LogRotate);
        event
            .body
            .insert("closed".to_owned(), self.segment.name().into());
        event
            .body
            .insert("records".to_owned(), self.chain.next().into());
        event.body.insert(
            "root".to_owned(),
            self.chain.tree().root().to_string().into(),
        );
        self.own.insert(0, event);
        let closed = mem::replace(&mut self.segment, next);
        self.keeper.hand_over(Closed {
            name: closed.name().to_owned(),
            end: self.chain.end(&self.open),
        });
        // It spares the next start some reading; without it the start reads more.
        let _ = self.note_position();
        Ok(())
    }

    /// Says how far the next start can trust what is signed.
    fn note_position(&mut self) -> io::Result<()> {
        self.positioned = self.segment.length();
        let position = Position {
            closed: self.keeper.unsealed(),
            segment: self.segment.name().to_owned(),
            length: self.positioned,
            end: self.chain.end(&self.open),
        };
        position.write(self.disk.as_ref())
    }

    /// Lets the key that was prepared take over, if there is one: on record first, and then with both signatures.
    fn change_key(&mut self) -> io::Result<bool> {
        let Some(next) = self.key.next(&self.key_path).map_err(io::Error::other)? else {
            return Ok(false);
        };
        let mut event = Event::new(EventKind::LogKey);
        event
            .body
            .insert("old".to_owned(), self.key.public_text().into());
        event
            .body
            .insert("new".to_owned(), next.public_text().into());
        self.own.push(event);
        self.commit(&[])?;
        self.checkpoints
            .append(&sign_over(self.chain.tree(), &self.key, &next), true)?;
        self.signed = self.chain.next();
        self.signed_at = Instant::now();
        self.shared.set_signed(self.signed);
        next.replace(&self.key_path).map_err(io::Error::other)?;
        self.key = next;
        // The next start knows the old key by its public half only.
        let _ = self.note_position();
        Ok(true)
    }

    /// Signs the log as it is, unless the last checkpoint covers all of it.
    fn sign(&mut self, durable: bool) -> io::Result<()> {
        if self.chain.next() > self.signed {
            self.checkpoints
                .append(&sign(self.chain.tree(), &self.key), durable)?;
            self.signed = self.chain.next();
            self.signed_at = Instant::now();
            self.shared.set_signed(self.signed);
        }
        Ok(())
    }
}

/// Tells all who wait that the writer has ended, also after a panic.
struct TellOnEnd(Arc<Shared>);

impl Drop for TellOnEnd {
    fn drop(&mut self) {
        self.0.writer_ended();
    }
}

fn write_error(error: &io::Error) -> AppendError {
    AppendError::Write {
        message: error.to_string(),
    }
}

fn first_records(recovery: &Recovery, key: &SigningKey) -> Vec<Event> {
    let mut start = Event::new(EventKind::LogStart);
    start.body.insert("origin".to_owned(), key.name().into());
    start
        .body
        .insert("records".to_owned(), recovery.records.into());
    start
        .body
        .insert("unknown".to_owned(), recovery.unknown.len().into());
    start
        .body
        .insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    let mut events = vec![start];
    if recovery.torn_bytes > 0 {
        let mut gap = Event::new(EventKind::LogGap);
        gap.body
            .insert("bytes".to_owned(), recovery.torn_bytes.into());
        events.insert(0, gap);
    }
    events
}

fn boot_id() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(text) => text.trim().to_owned(),
        Err(_) => "unknown".to_owned(),
    }
}
