//! The loop of one witness: look for a head, show how the log grew to it, keep the answer.

use std::{
    io,
    sync::PoisonError,
    time::{Duration, Instant},
};

use portcullis_journal::{
    cosigned::CosignedFile,
    growth::{GrowthError, grow, tree_at},
    tree::{Tree, cosignature::with_answer},
    witness::Request,
};
use tokio::{sync::watch, time};

use super::{
    Log, NICENESS, Phase,
    client::{Caller, Reply},
    heads::{Heads, Signed},
    standing::{Notice, Reason, Standing},
};
use crate::{
    causes::chain,
    config::WitnessPeer,
    metrics::{self, WitnessReading},
};

/// How often a witness that has cosigned everything is looked for more.
const LOOK: Duration = Duration::from_secs(1);
/// First and longest wait before another attempt.
const RETRY_LEAST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// A witness says where it is once, or twice if another asks at the same time.
const MOST_CONFLICTS: u32 = 3;

/// Sends heads until it is told to end.
pub(super) fn run(
    peer: WitnessPeer,
    log: Log,
    phase: watch::Receiver<Phase>,
    tell: &dyn Fn(&Notice),
) {
    // Sessions come first; without the right to it, all are equal.
    let _ = rustix::process::nice(NICENESS);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let name = peer.key.name().to_owned();
    match runtime {
        Ok(runtime) => runtime.block_on(Runner::new(peer, log, tell).run(phase)),
        Err(error) => tracing::error!(witness = name, %error, "a witness has no runtime"),
    }
}

struct Runner<'a> {
    peer: WitnessPeer,
    log: Log,
    tell: &'a dyn Fn(&Notice),
    heads: Heads,
    caller: Option<Caller>,
    /// Records that the witness has cosigned; `None` before that was looked up.
    cosigned: Option<u64>,
    /// The tree over as many records, if it is known already.
    tree: Option<Tree>,
    /// Whether the witness has answered in this run. It is asked at the start, since it may know more of the log than is here.
    has_answered: bool,
    standing: Standing,
    /// Since when a head waits.
    waiting: Option<Instant>,
}

/// Why a head was not cosigned.
struct Trouble {
    reason: Reason,
    error: String,
}

impl Trouble {
    fn new(reason: Reason, error: impl Into<String>) -> Self {
        let error = error.into();
        Self { reason, error }
    }

    fn of_disk(what: &str, source: &io::Error) -> Self {
        Self::new(Reason::Down, format!("{what}: {source}"))
    }
}

impl From<GrowthError> for Trouble {
    fn from(error: GrowthError) -> Self {
        let reason = match &error {
            GrowthError::Altered { .. } => Reason::Altered,
            GrowthError::Missing { .. } => Reason::Deleted,
            // A log that can't be read now, or that is being sealed, may be readable soon.
            GrowthError::Read(_) | GrowthError::Shrinks { .. } => Reason::Down,
        };
        Self::new(reason, chain(&error))
    }
}

/// What an attempt came to.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    /// There is nothing that waits.
    Nothing,
    Cosigned,
}

impl<'a> Runner<'a> {
    fn new(peer: WitnessPeer, log: Log, tell: &'a dyn Fn(&Notice)) -> Self {
        Self {
            heads: Heads::of(&log.directory),
            peer,
            log,
            tell,
            caller: None,
            cosigned: None,
            tree: None,
            has_answered: false,
            standing: Standing::default(),
            waiting: None,
        }
    }

    async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        let mut retry = RETRY_LEAST;
        loop {
            let is_last = *phase.borrow_and_update() != Phase::Run;
            let mut ending = phase.clone();
            let done = tokio::select! {
                biased;
                // Whoever started it is gone: that is an end too.
                _ = ending.wait_for(|phase| *phase == Phase::End) => return,
                done = self.attempt() => done,
            };
            let wait = match done {
                Ok(Done::Nothing) if is_last => return,
                Ok(Done::Nothing) => LOOK,
                Ok(Done::Cosigned) => {
                    retry = RETRY_LEAST;
                    // A change of the key is followed at once.
                    if is_last || self.heads_wait() {
                        Duration::ZERO
                    } else {
                        self.peer.interval
                    }
                }
                Err(trouble) => {
                    self.failed(&trouble);
                    if is_last {
                        return;
                    }
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_MOST);
                    wait
                }
            };
            self.rest(wait, &mut phase).await;
        }
    }

    /// Waits, and keeps the gauges true meanwhile. A change of the phase ends it.
    async fn rest(&mut self, wait: Duration, phase: &mut watch::Receiver<Phase>) {
        let until = Instant::now() + wait;
        loop {
            self.measure();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                _ = phase.changed() => return,
                () = time::sleep(left.min(LOOK)) => {}
            }
        }
    }

    /// Lets the witness cosign the next head, if there is one.
    async fn attempt(&mut self) -> Result<Done, Trouble> {
        self.heads
            .look()
            .map_err(|error| Trouble::of_disk("read the checkpoints", &error))?;
        let mut cosigned = match self.cosigned {
            Some(cosigned) => cosigned,
            None => self.begin()?,
        };
        self.is_as_long_as(cosigned)?;
        for _ in 0..=MOST_CONFLICTS {
            let next = self.heads.after(cosigned);
            let again = || self.heads.newest(cosigned).filter(|_| !self.has_answered);
            let Some(target) = next.or_else(again).cloned() else {
                self.waiting = None;
                return Ok(Done::Nothing);
            };
            self.waiting.get_or_insert_with(Instant::now);
            match self.send(cosigned, &target).await? {
                Sent::Cosigned => return Ok(Done::Cosigned),
                Sent::Conflict(size) => cosigned = self.learn(cosigned, size)?,
            }
        }
        let error = "it said again and again that it has cosigned another number of records";
        Err(Trouble::new(Reason::Down, error))
    }

    /// Looks up what the witness has cosigned; it knows better.
    fn begin(&mut self) -> Result<u64, Trouble> {
        let last = CosignedFile::open(&self.log.directory)
            .and_then(|file| file.last(&self.peer.key))
            .map_err(|error| Trouble::of_disk("read what was cosigned", &error))?;
        let cosigned = last.map_or(0, |head| head.size);
        self.cosigned = Some(cosigned);
        Ok(cosigned)
    }

    async fn send(&mut self, cosigned: u64, target: &Signed) -> Result<Sent, Trouble> {
        let directory = &self.log.directory;
        let from = match self.tree.take() {
            Some(tree) if tree.size() == cosigned => tree,
            Some(_) | None if cosigned == 0 => Tree::default(),
            Some(_) | None => tree_at(directory, cosigned)?,
        };
        let grown = grow(directory, &from, &target.head)?;
        self.tree = Some(from);
        let request = Request {
            old: cosigned,
            proof: grown.proof,
            note: &target.note,
        };
        let caller = match self.caller.take() {
            Some(caller) => caller,
            // A file of certificates may have been put right.
            None => Caller::new(&self.peer)
                .map_err(|error| Trouble::new(Reason::Refused, chain(&error)))?,
        };
        let reply = caller.add(request.to_bytes()).await;
        self.caller = Some(caller);
        match reply.map_err(|error| Trouble::new(Reason::Down, chain(&error)))? {
            Reply::Cosigned(answer) => {
                let note = with_answer(&target.note, &answer, &self.peer.key);
                let (note, _) = note.ok_or_else(|| {
                    let error = format!("its answer is not signed with the key {}", self.peer.key);
                    Trouble::new(Reason::Refused, error)
                })?;
                self.keep(&note)
                    .map_err(|error| Trouble::of_disk("keep what was cosigned", &error))?;
                self.tree = Some(grown.tree);
                self.succeeded(target.head.size);
                Ok(Sent::Cosigned)
            }
            Reply::Conflict(size) => Ok(Sent::Conflict(size)),
            Reply::Inconsistent(text) => Err(Trouble::new(
                Reason::Inconsistent,
                format!(
                    "the witness has cosigned another log of this name up to record {cosigned}: {text}"
                ),
            )),
            Reply::Refused(text) => Err(Trouble::new(Reason::Refused, text)),
        }
    }

    fn is_as_long_as(&self, cosigned: u64) -> Result<(), Trouble> {
        let durable = (self.log.durable)();
        if cosigned <= durable {
            return Ok(());
        }
        let error = format!(
            "the witness has cosigned {cosigned} records, and the log has {durable}: it was cut, or put back to an \
             earlier copy"
        );
        Err(Trouble::new(Reason::Shorter, error))
    }

    /// The witness says where it is.
    fn learn(&mut self, cosigned: u64, size: u64) -> Result<u64, Trouble> {
        self.is_as_long_as(size)?;
        if size < cosigned {
            let error =
                format!("it had cosigned {cosigned} records, and says that it has cosigned {size}");
            self.report(&Trouble::new(Reason::Forgot, error));
        }
        self.cosigned = Some(size);
        Ok(size)
    }

    fn keep(&self, note: &[u8]) -> io::Result<()> {
        let _one = self
            .log
            .cosigned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        CosignedFile::open(&self.log.directory)?.append(note)
    }

    fn succeeded(&mut self, records: u64) {
        self.cosigned = Some(records);
        self.has_answered = true;
        self.waiting = None;
        if let Some(notice) = self.standing.succeeded(records) {
            tracing::info!(
                witness = self.peer.key.name(),
                records,
                "a witness cosigns the journal"
            );
            (self.tell)(&notice);
        }
    }

    fn failed(&mut self, trouble: &Trouble) {
        // A connection that failed is not used again.
        self.caller = None;
        self.report(trouble);
    }

    fn report(&mut self, trouble: &Trouble) {
        let (witness, error) = (self.peer.key.name(), trouble.error.as_str());
        let is_new = self.standing.trouble() != Some(trouble.reason);
        if is_new && trouble.reason.is_alarm() {
            tracing::error!(
                witness,
                error,
                "the journal is not the one that was cosigned: change nothing, and compare it with copies (docs/witness.md)"
            );
        } else if is_new {
            tracing::warn!(
                witness,
                reason = trouble.reason.code(),
                error,
                "a witness does not cosign the journal"
            );
        }
        let records = self.cosigned.unwrap_or(0);
        let notice = self
            .standing
            .failed(trouble.reason, error, records, Instant::now());
        if let Some(notice) = notice {
            (self.tell)(&notice);
        }
    }

    fn heads_wait(&self) -> bool {
        let newest = self.heads.after(self.cosigned.unwrap_or(0));
        newest.is_some()
    }

    fn measure(&self) {
        let records = self.cosigned.unwrap_or(0);
        metrics::witness(
            self.peer.key.name(),
            WitnessReading {
                records,
                lag_records: (self.log.durable)().saturating_sub(records),
                lag: self.waiting.map_or(Duration::ZERO, |since| since.elapsed()),
                is_healthy: self.standing.trouble().is_none(),
                is_alarm: self.standing.trouble().is_some_and(Reason::is_alarm),
            },
        );
    }
}

/// What became of a head that was sent.
enum Sent {
    Cosigned,
    /// The witness has cosigned so many records.
    Conflict(u64),
}

#[cfg(test)]
mod tests;
