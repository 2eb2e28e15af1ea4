//! Lists by HTTPS: fetched at intervals, authenticated, compared with what is in force, and kept on disk.
//!
//! A feed decides who reaches this host, so its content is believed only if a signature or the server's key proves it, and it is taken
//! without an operator only if it changes little.

mod delta;
mod fetch;
mod signature;
mod store;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    hash::BuildHasher as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use hyper::Uri;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::{
    delta::{Delta, DeltaLimit},
    signature::{PublicKey, PublicKeyError},
    tls::{Pin, PinError, Trust, TrustError},
};
use self::{
    fetch::{Fetched, Fetcher},
    store::{Copy, Store},
};
use super::{
    Board, Sink, SourceState, SourceUpdate,
    format::{self, Limits},
};
use crate::entry::Entry;

/// What begins the name of a list from a feed.
pub const PREFIX: &str = "feed:";
/// After a failure a feed is asked again after its interval, or sooner after so long.
const RETRY: Duration = Duration::from_secs(60);
/// Intervals vary by so many percent, so that a thousand hosts don't ask in the same second.
const JITTER_PERCENT: u64 = 10;

/// A feed, and how far it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Part of the list's name and of file names: letters, digits, `-` and `_`.
    pub name: String,
    pub url: Uri,
    pub interval: Duration,
    /// For one fetch as a whole, the signature included.
    pub timeout: Duration,
    pub limits: Limits,
    pub delta: DeltaLimit,
    /// Whose signature the content must have.
    pub signed_by: Option<PublicKey>,
    pub trust: Trust,
}

impl Settings {
    fn list(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

/// Feeds whose content waits for an operator, shared by the feeds and those who accept.
#[derive(Debug, Clone, Default)]
pub struct Acceptance {
    accepted: Arc<Mutex<BTreeSet<String>>>,
    changed: Arc<Notify>,
}

impl Acceptance {
    /// Takes what the feed called `name` holds back. Content that it fetches later is compared with that.
    pub fn accept(&self, name: &str) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.insert(name.to_owned());
        self.changed.notify_waiters();
    }

    fn take(&self, name: &str) -> bool {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.remove(name)
    }
}

/// What became of a fetch.
enum Outcome {
    /// Fetched, and nothing new.
    Unchanged,
    Taken,
    /// It changes too much; why, and for how long it will wait for an operator.
    Held(String),
}

struct Feed {
    settings: Settings,
    fetcher: Fetcher,
    store: Store,
    /// What is in force, as far as it is known here.
    entries: Vec<Entry>,
    copy: Option<Copy>,
    /// What waits for an operator.
    held: Option<(Vec<Entry>, Copy)>,
}

/// Follows one feed until `stop`. `directory` keeps the last good copy.
///
/// # Errors
/// If the trust settings can't be used, such as an authority that can't be read.
pub fn follow(
    settings: Settings,
    directory: PathBuf,
    sink: impl Sink,
    board: Board,
    acceptance: Acceptance,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, TrustError> {
    let fetcher = Fetcher::new(&settings)?;
    let store = Store::new(directory, &settings.name);
    let feed = Feed {
        settings,
        fetcher,
        store,
        entries: Vec::new(),
        copy: None,
        held: None,
    };
    Ok(feed.run(sink, board, acceptance, stop))
}

impl Feed {
    async fn run(
        mut self,
        sink: impl Sink,
        board: Board,
        acceptance: Acceptance,
        stop: CancellationToken,
    ) {
        self.restore(&sink, &board).await;
        let mut due = Instant::now();
        loop {
            // Made before the look, so that nothing accepted meanwhile is missed.
            let accepted = acceptance.changed.notified();
            if acceptance.take(&self.settings.name)
                && let Some((entries, copy)) = self.held.take()
            {
                let outcome = self
                    .take(entries, copy, "accepted by an operator", &sink)
                    .await;
                self.report(&board, outcome.map(|()| Outcome::Taken), due);
            }
            if due <= Instant::now() {
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    outcome = self.fetch(&sink) => outcome,
                };
                due = Instant::now() + self.wait(outcome.is_ok());
                self.report(&board, outcome, due);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
                () = accepted => {}
            }
        }
    }

    /// Puts the last good copy in force: the engine may have lost what the disk has.
    async fn restore(&mut self, sink: &impl Sink, board: &Board) {
        let restored = match self.store.load() {
            Ok(Some(copy)) => self.read(&copy).map(|entries| (entries, copy)),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let outcome = match restored {
            Ok((entries, copy)) => self
                .take(entries, copy, "last good copy, after a start", sink)
                .await
                .map(|()| Outcome::Taken),
            Err(error) => Err(format!("the last good copy on disk is not used: {error}")),
        };
        self.report(board, outcome, Instant::now());
    }

    async fn fetch(&mut self, sink: &impl Sink) -> Result<Outcome, String> {
        let fetched = tokio::time::timeout(
            self.settings.timeout,
            self.fetcher.fetch(self.copy.as_ref()),
        )
        .await;
        let copy = match fetched {
            Err(_) => {
                return Err(format!(
                    "no whole answer within {} seconds",
                    self.settings.timeout.as_secs()
                ));
            }
            Ok(Err(error)) => return Err(chain(&error)),
            Ok(Ok(Fetched::Unchanged)) => return Ok(Outcome::Unchanged),
            Ok(Ok(Fetched::Content(copy))) => copy,
        };
        let entries = self.read(&copy)?;
        if let (Some(old), Some(new)) = (&self.copy, &copy.signed_at)
            && old.signed_at.as_ref().is_some_and(|old| new < old)
        {
            return Err(
                "it was signed before the content in force: an old copy is being served".to_owned(),
            );
        }
        if self.copy.is_some() {
            let delta = Delta::between(&self.entries, &entries);
            if let Some(reason) = self.settings.delta.refuses(delta, self.entries.len()) {
                let is_new = self
                    .held
                    .as_ref()
                    .is_none_or(|(_, held)| held.bytes != copy.bytes);
                self.held = Some((entries, copy));
                if is_new {
                    tracing::error!(feed = %self.settings.name, %reason, "the feed changes too much and waits for an operator");
                }
                return Ok(Outcome::Held(reason));
            }
        }
        self.held = None;
        self.take(entries, copy, "fetched", sink).await?;
        Ok(Outcome::Taken)
    }

    /// The copy's entries, if its signature holds and all of it can be read.
    fn read(&self, copy: &Copy) -> Result<Vec<Entry>, String> {
        if let Some(key) = &self.settings.signed_by {
            let signature = copy.signature.as_deref().unwrap_or_default();
            key.verify(&copy.bytes, signature)
                .map_err(|error| error.to_string())?;
        }
        let path = self.settings.url.path();
        let file = path
            .rsplit('/')
            .next()
            .filter(|file| !file.is_empty())
            .unwrap_or("feed");
        format::parse(file, &copy.bytes, &self.settings.limits)
            .map(|parsed| parsed.entries)
            .map_err(|error| error.to_string())
    }

    async fn take(
        &mut self,
        entries: Vec<Entry>,
        copy: Copy,
        why: &str,
        sink: &impl Sink,
    ) -> Result<(), String> {
        let delta = Delta::between(&self.entries, &entries);
        let update = SourceUpdate {
            lists: BTreeMap::from([(self.settings.list(), Some(entries.clone()))]),
            reason: format!(
                "feed {} ({why}): {} entries, {} added, {} removed",
                self.settings.name,
                entries.len(),
                delta.added,
                delta.removed
            ),
        };
        sink.apply(update).await?;
        if let Err(error) = self.store.save(&copy) {
            tracing::error!(feed = %self.settings.name, %error, "the feed's last good copy is not on disk");
        }
        self.entries = entries;
        self.copy = Some(copy);
        Ok(())
    }

    fn wait(&self, is_good: bool) -> Duration {
        let base = if is_good {
            self.settings.interval
        } else {
            self.settings.interval.min(RETRY)
        };
        // Enough chance for this: the keys of a hash table.
        let chance = RandomState::new().hash_one(&self.settings.name) % (2 * JITTER_PERCENT + 1);
        let percent = u32::try_from(100 - JITTER_PERCENT + chance).unwrap_or(100);
        base * percent / 100
    }

    fn report(&self, board: &Board, outcome: Result<Outcome, String>, due: Instant) {
        let wait = due.saturating_duration_since(Instant::now());
        let next = TimeDelta::from_std(wait)
            .ok()
            .and_then(|wait| Utc::now().checked_add_signed(wait));
        board.update(&self.settings.list(), |status| {
            status.entries = self.entries.len();
            status.next_try = next;
            match outcome {
                Ok(Outcome::Unchanged | Outcome::Taken) => {
                    status.state = SourceState::Good;
                    status.last_good = Some(Utc::now());
                    status.last_error = None;
                }
                Ok(Outcome::Held(reason)) => {
                    status.state = SourceState::Held;
                    status.last_error = Some(reason);
                }
                Err(error) => {
                    if status.last_error.as_ref() != Some(&error) {
                        tracing::error!(feed = %self.settings.name, %error, "the feed failed; its last good content stays in force");
                    }
                    status.state = SourceState::Failing;
                    status.last_error = Some(error);
                }
            }
        });
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
