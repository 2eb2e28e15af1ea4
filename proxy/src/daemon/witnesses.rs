//! The witnesses of the configuration: each has a thread that sends it the journal's heads and keeps what it cosigned.
//!
//! They read the log as any reader would and hold up no operation.

mod client;
mod heads;
mod runner;
mod standing;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use portcullis_journal::{Event, EventKind, Journal, Verdict, record::untrusted};
use tokio::{sync::watch, time};

use self::standing::Notice;
use crate::config::{JournalConfig, WitnessPeer};

/// How long the journal's last head may take to its witnesses.
const DRAIN: Duration = Duration::from_secs(3);
/// Below sessions and sinks.
const NICENESS: i32 = 15;
/// Longest part of an error that goes into a record, in bytes.
const LONGEST_ERROR: usize = 512;

/// How a thread is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Run,
    /// Send the last head, then end.
    Drain,
    End,
}

/// The log that is witnessed.
#[derive(Clone)]
struct Log {
    directory: PathBuf,
    /// How many records are durable.
    durable: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// One writer at a time adds to the heads that were cosigned.
    cosigned: Arc<Mutex<()>>,
}

/// The witnesses at work.
pub(super) struct Witnesses {
    log: Log,
    journal: Journal,
    running: Mutex<Vec<Running>>,
}

struct Running {
    phase: watch::Sender<Phase>,
    thread: JoinHandle<()>,
}

impl Witnesses {
    pub(super) fn start(peers: &[WitnessPeer], config: &JournalConfig, journal: &Journal) -> Self {
        let status = journal.clone();
        let witnesses = Self {
            log: Log {
                directory: config.directory.clone(),
                durable: Arc::new(move || status.status().durable),
                cosigned: Arc::default(),
            },
            journal: journal.clone(),
            running: Mutex::default(),
        };
        witnesses.begin(peers);
        witnesses
    }

    /// Goes on with the witnesses of another configuration.
    pub(super) fn change(&self, before: &[WitnessPeer], after: &[WitnessPeer]) {
        if before == after {
            return;
        }
        for gone in self.running().drain(..) {
            gone.phase.send_replace(Phase::End);
        }
        self.begin(after);
    }

    /// Lets the witnesses cosign the last head, if they answer soon.
    pub(super) async fn drain(&self) {
        for running in self.running().iter() {
            running.phase.send_replace(Phase::Drain);
        }
        let deadline = Instant::now() + DRAIN;
        while !self.running().iter().all(|one| one.thread.is_finished()) {
            if Instant::now() >= deadline {
                tracing::warn!("a witness has not cosigned the end of the journal");
                return;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn begin(&self, peers: &[WitnessPeer]) {
        for peer in peers {
            let (phase, watched) = watch::channel(Phase::Run);
            let (peer, log, journal) = (peer.clone(), self.log.clone(), self.journal.clone());
            let name = peer.key.name().to_owned();
            let told = name.clone();
            let tell = move |notice: &Notice| {
                // The append goes on by itself.
                drop(journal.append_soon(event(&told, notice)));
            };
            let spawned = thread::Builder::new()
                .name("witness".to_owned())
                .spawn(move || runner::run(peer, log, watched, &tell));
            match spawned {
                Ok(thread) => self.running().push(Running { phase, thread }),
                Err(error) => tracing::error!(witness = name, %error, "a witness has no thread"),
            }
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `log.witness`
fn event(witness: &str, notice: &Notice) -> Event {
    let mut event = Event::new(EventKind::LogWitness);
    let mut put = |key: &str, value: serde_json::Value| event.body.insert(key.to_owned(), value);
    put("witness", untrusted(witness.as_bytes()));
    let (outcome, reason) = match notice {
        Notice::Cosigns { records } => {
            put("records", (*records).into());
            (Verdict::Success, "cosigned")
        }
        Notice::Trouble {
            reason,
            records,
            error,
        } => {
            put("records", (*records).into());
            let bytes = error.as_bytes();
            let shown = bytes.get(..LONGEST_ERROR).unwrap_or(bytes);
            put("error", untrusted(shown));
            (Verdict::Failure, reason.code())
        }
    };
    event.outcome = Some(outcome);
    event.reason = Some(reason.to_owned());
    event
}
