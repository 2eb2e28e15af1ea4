//! Writes down what each session delivered, once it is over: a signed manifest, and a record of it.
//!
//! One thread of the lowest priority follows the journal. What it can't write it tries again, and nobody waits for it.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use chrono::Utc;
use portcullis_journal::{
    AppendError, Event, EventKind, Journal, Verdict,
    manifest::{Deliveries, Manifest, ManifestError, Mark},
    record::untrusted,
    retention::holds,
    tree::key::{KeyError, SigningKey, public_key_path, read_verifier_keys},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::quiet::Quiet;
use crate::{
    causes::chain,
    config::{JournalConfig, ManifestsConfig},
    manifests::{Folder, file_name},
    metrics,
};

/// How often it is looked whether the journal has grown.
const LOOK: Duration = Duration::from_millis(500);
/// A delivery does not wait for the next checkpoint, which comes within a minute; but the journal is not signed more often for it.
const ASK: Duration = Duration::from_secs(10);
/// After something that went wrong.
const RETRY: Duration = Duration::from_secs(5);
/// How often the place in the journal is written down.
const KEEP: Duration = Duration::from_secs(10);
/// How often old ones are removed.
const TIDY: Duration = Duration::from_secs(3600);
/// How long the end of the gateway waits for the last ones; the next start makes those that are missing.
const LAST: Duration = Duration::from_secs(10);
/// Bytes of a problem that are recorded.
const LONGEST_PROBLEM: usize = 512;

/// The thread.
pub(super) struct Manifests {
    thread: Quiet,
    last: mpsc::Sender<oneshot::Sender<()>>,
}

impl Manifests {
    /// Begins. Sessions of earlier runs that lack theirs come first.
    ///
    /// # Errors
    /// If the folder can't be made or written to, or there can't be another thread.
    pub(super) fn start(
        config: &ManifestsConfig,
        journal_config: &JournalConfig,
        journal: Journal,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let folder = Folder::at(&config.directory);
        folder.make()?;
        let mark = folder.mark()?;
        if let Some(mark) = &mark {
            // Whether it can be written to is known before it is needed.
            folder.keep_mark(mark)?;
        }
        let is_known = mark.is_some();
        let (last, asked) = mpsc::channel(1);
        let mut writer = Writer {
            told: journal.status().durable,
            config: config.clone(),
            journal_config: journal_config.clone(),
            journal,
            mark: mark.and_then(|mark| Mark::from_bytes(&mark)),
            folder,
            deliveries: None,
            waiting: VecDeque::new(),
            seen: None,
            kept: None,
            asked: None,
            tidied: None,
            not_before: None,
            is_failing: false,
        };
        if writer.mark.is_none() {
            if is_known {
                tracing::warn!(
                    "where manifests are gone on with can't be read: those of earlier sessions may be missing"
                );
            }
            tracing::info!("manifests are written of sessions that begin from now on");
            let mark = writer.follow().map_err(io::Error::other)?.mark();
            writer.folder.keep_mark(&mark.to_bytes())?;
            writer.mark = Some(mark);
        }
        let thread = Quiet::start("manifests", "manifests are not written", stop, || {
            writer.work(asked)
        })?;
        Ok(Self { thread, last })
    }

    /// Writes what ended so far, before the journal is closed.
    pub(super) async fn finish(&self) {
        let (done, is_done) = oneshot::channel();
        if self.last.send(done).await.is_ok() && tokio::time::timeout(LAST, is_done).await.is_err()
        {
            tracing::warn!("the last manifests are written at the next start");
        }
    }

    /// Waits for the thread, once it has been told to stop.
    pub(super) async fn end(self) {
        self.thread.end().await;
    }
}

/// Why a manifest is not written.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("read what was delivered")]
    Journal(#[from] ManifestError),
    #[error("read the key that signs")]
    Key(#[from] KeyError),
    #[error("write to manifests.directory")]
    Folder(#[from] io::Error),
    #[error("record what was written")]
    Unrecorded(#[from] AppendError),
}

impl Problem {
    /// The code in records.
    fn code(&self) -> &'static str {
        match self {
            Self::Journal(_) => "log_not_readable",
            Self::Key(_) => "key_not_readable",
            Self::Folder(_) => "not_written",
            Self::Unrecorded(_) => "unrecorded",
        }
    }
}

struct Writer {
    config: ManifestsConfig,
    journal_config: JournalConfig,
    journal: Journal,
    folder: Folder,
    mark: Option<Mark>,
    /// Records that earlier runs may have told of.
    told: u64,
    /// Absent until the first look, and after a failure.
    deliveries: Option<Deliveries>,
    /// Those that could not be written so far.
    waiting: VecDeque<Manifest>,
    /// Records that were durable, and signed, at the last look.
    seen: Option<(u64, u64)>,
    kept: Option<Instant>,
    asked: Option<Instant>,
    tidied: Option<Instant>,
    not_before: Option<Instant>,
    is_failing: bool,
}

impl Writer {
    async fn work(mut self, mut last: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut interval = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = interval.tick() => {
                    if self.not_before.is_none_or(|not_before| Instant::now() >= not_before) {
                        self.look(false).await;
                    }
                    self.tidy();
                }
                Some(done) = last.recv() => {
                    self.look(true).await;
                    // Whoever asked may have lost patience.
                    let _ = done.send(());
                }
            }
        }
    }

    /// One round. At the last one nothing is put off.
    async fn look(&mut self, is_last: bool) {
        let result = self.try_look(is_last).await;
        #[expect(clippy::cast_precision_loss, reason = "a number of files in memory")]
        metrics::manifests_waiting(self.waiting.len() as f64);
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("manifests are written again");
                }
                self.not_before = None;
            }
            Err(problem) => {
                self.not_before = Some(Instant::now() + RETRY);
                metrics::manifest(false);
                self.tell(&problem).await;
            }
        }
    }

    /// Of a problem that goes on, the first time counts.
    async fn tell(&mut self, problem: &Problem) {
        if std::mem::replace(&mut self.is_failing, true) {
            return;
        }
        let error = chain(problem);
        tracing::error!(
            error,
            "a manifest is not written; it is tried again every {} s",
            RETRY.as_secs()
        );
        let mut event = Event::new(EventKind::ManifestWritten);
        event.outcome = Some(Verdict::Failure);
        event.reason = Some(problem.code().to_owned());
        let shown = error.as_bytes();
        let shown = untrusted(shown.get(..LONGEST_PROBLEM).unwrap_or(shown));
        event.body.insert("error".to_owned(), shown);
        if let Some(manifest) = self.waiting.front() {
            let session = manifest.session.clone().into();
            event.body.insert("session".to_owned(), session);
        }
        // A journal that can't be written says so itself.
        let _ = self.journal.append(event).await;
    }

    async fn try_look(&mut self, is_last: bool) -> Result<(), Problem> {
        self.write_waiting().await?;
        if is_last {
            self.journal.checkpoint().await?;
        }
        let status = self.journal.status();
        let seen = Some((status.durable, status.signed));
        if self.seen != seen || is_last {
            self.read_on(status.durable).await?;
            self.seen = seen;
        }
        let Some(deliveries) = &mut self.deliveries else {
            return Ok(());
        };
        let is_due = |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every);
        if deliveries.wait_for_a_head() && is_due(self.asked, ASK) {
            self.asked = Some(Instant::now());
            self.journal.checkpoint().await?;
        }
        if is_last || is_due(self.kept, KEEP) {
            let mark = deliveries.mark();
            if self.mark.as_ref() != Some(&mark) {
                self.folder.keep_mark(&mark.to_bytes())?;
                self.mark = Some(mark);
            }
            self.kept = Some(Instant::now());
        }
        Ok(())
    }

    async fn read_on(&mut self, durable: u64) -> Result<(), Problem> {
        loop {
            // One that failed is not gone on with.
            let mut deliveries = match self.deliveries.take() {
                Some(deliveries) => deliveries,
                None => self.follow()?,
            };
            // Where it began stays, also if it has to begin anew.
            self.mark.get_or_insert_with(|| deliveries.mark());
            let has_more = match deliveries.advance(durable) {
                Ok(has_more) => has_more,
                Err(error) => {
                    if matches!(error, ManifestError::Deleted { .. }) {
                        tracing::error!(
                            "the records behind the last manifest are deleted: the next ones are of sessions that begin from now on"
                        );
                        self.mark = None;
                    }
                    return Err(error.into());
                }
            };
            while let Some(manifest) = deliveries.pop() {
                self.waiting.push_back(manifest);
            }
            self.deliveries = Some(deliveries);
            self.write_waiting().await?;
            if !has_more {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    fn follow(&self) -> Result<Deliveries, Problem> {
        let keys = read_verifier_keys(&public_key_path(&self.journal_config.signing_key))?;
        let directory = &self.journal_config.directory;
        let told = if self.mark.is_some() {
            self.told
        } else {
            self.journal.status().durable
        };
        Ok(Deliveries::of(directory, keys, self.mark.as_ref(), told)?)
    }

    async fn write_waiting(&mut self) -> Result<(), Problem> {
        while let Some(manifest) = self.waiting.front() {
            let event = write(manifest, &self.folder, &self.journal_config)?;
            self.journal.append(event).await?;
            metrics::manifest(true);
            if let Some(deliveries) = &mut self.deliveries {
                deliveries.recorded(&manifest.session);
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Removes those that are too old, unless a legal hold keeps records.
    fn tidy(&mut self) {
        let Some(keep) = self.config.keep else { return };
        if self.tidied.is_some_and(|tidied| tidied.elapsed() < TIDY) {
            return;
        }
        self.tidied = Some(Instant::now());
        if !holds(&self.journal_config.holds()).is_ok_and(|holds| holds.is_empty()) {
            return;
        }
        match self.folder.remove_before((Utc::now() - keep).date_naive()) {
            Ok(0) => {}
            Ok(days) => tracing::info!(days, "old manifests are removed"),
            Err(error) => tracing::error!(%error, "old manifests can't be removed"),
        }
    }
}

/// The record of what is written when this returns.
fn write(manifest: &Manifest, folder: &Folder, config: &JournalConfig) -> Result<Event, Problem> {
    let key = SigningKey::read(&config.signing_key)?;
    let signed = manifest.sign(&key)?;
    // What can't be checked is of no use to anybody.
    let keys = read_verifier_keys(&public_key_path(&config.signing_key))?;
    Manifest::check(signed.as_bytes(), &keys)?;
    let name = file_name(manifest);
    folder.put(&name, signed.as_bytes())?;
    let mut event = Event::new(EventKind::ManifestWritten);
    event.outcome = Some(Verdict::Success);
    for (field, value) in [
        ("session", manifest.session.clone().into()),
        ("user", untrusted(manifest.user.as_bytes())),
        ("file", untrusted(name.as_bytes())),
        ("sha256", hex::encode(Sha256::digest(&signed)).into()),
        ("files", manifest.entries.len().into()),
        ("records", manifest.head.size.into()),
    ] {
        event.body.insert(field.to_owned(), value);
    }
    Ok(event)
}

#[cfg(test)]
mod tests;
