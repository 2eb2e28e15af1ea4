//! One walk over encrypted backends: keys are wrapped to others, or files that are not encrypted are.

mod migrate;
mod roots;
mod rotate;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_audit::{catalogue::Reader, hidden::as_recorded, search::SearchError};
use portcullis_journal::{AppendError, Event, EventKind, Journal, Verdict};
use serde_json::Value;

use self::roots::Root;
pub(super) use self::rotate::settled;
use super::{Kept, Vaults};
use crate::{
    accounts::{Accounts, AccountsError},
    backend::{BackendError, ErrorKind, encrypted::Pending},
    config::JournalConfig,
    daemon::{
        backends::pending,
        rest::{RunError, reader},
    },
    encryption::{Answer, Failure, Request, Walk as Walks},
    gate::{self, verify::Verified},
    metrics,
    operation::{Attributes, Entry},
    pace::Pace,
    path::VirtualPath,
};

/// Failures that an answer names; all are on record.
const NAMED: usize = 1000;
/// How often whoever asked is told how far it is.
const TOLD: Duration = Duration::from_secs(1);
/// How often a file that is replaced meanwhile is tried.
const ATTEMPTS: usize = 3;
/// Before a server that was lost is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often everything is looked at, as long as files are renamed meanwhile: one may have passed the look by.
const LOOKS: usize = 3;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    #[error("{name} is no backend of the configuration whose files are encrypted")]
    NoSuchBackend { name: String },
    #[error("the files of backend {name} can't be decrypted any more: {record}")]
    Destroyed { name: String, record: Arc<str> },
    #[error("the files of no backend of the configuration are encrypted")]
    NoBackend,
    #[error("{name} does not say encryption = \"migrating\"")]
    NotMigrating { name: String },
    #[error("no backend of the configuration says encryption = \"migrating\"")]
    NoneMigrating,
    #[error("look at backend {name}")]
    Session { name: String, source: BackendError },
    #[error("prepare the comparison with the journal")]
    Prepare(#[from] RunError),
    #[error("read the journal")]
    Journal(#[from] SearchError),
    #[error("read the accounts' mounts")]
    Accounts(#[from] AccountsError),
    #[error("record what was done")]
    Unrecorded(#[from] AppendError),
}

pub(super) struct Walk<'a> {
    pub(super) journal: &'a Journal,
    pub(super) config: &'a JournalConfig,
    pub(super) accounts: &'a Accounts,
    pub(super) vaults: Vaults,
    pub(super) task: Walks,
    pub(super) request: &'a Request,
    pub(super) asked_by: u32,
}

impl Walk<'_> {
    pub(super) async fn carry_out(
        &self,
        tell: &mut (dyn FnMut(&Answer) + Send),
    ) -> Result<Answer, WalkError> {
        let wanted = self.wanted()?;
        let has_server = wanted.values().any(|kept| kept.is_server);
        let reader = match self.task {
            Walks::Rotate if !has_server => None,
            Walks::Rotate | Walks::Migrate => Some(reader(self.config, &self.vaults.stored)?),
        };
        let now = Instant::now();
        let mut look = Look {
            walk: self,
            reader,
            tell,
            begun: now,
            told: now,
            pace: Pace::of(self.request.rate),
            answer: Answer::default(),
            failed_on: BTreeSet::new(),
            hidden_on: BTreeSet::new(),
            is_first: true,
            is_stopped: false,
            is_settled: false,
        };
        for _ in 0..LOOKS {
            let renames = gate::renames();
            let before = look.changed();
            for (name, kept) in &wanted {
                let before = look.answer.failed;
                look.backend(name, kept).await?;
                if look.answer.failed > before {
                    look.failed_on.insert(name.clone());
                }
            }
            look.is_settled = look.changed() == before
                // Of what another gateway renames nothing is known.
                || gate::renames() == renames && !self.has_others(&wanted);
            if look.is_settled || look.answer.failed > 0 {
                break;
            }
            look.is_first = false;
        }
        let coverage = Coverage {
            failed_on: look.failed_on,
            hidden_on: look.hidden_on,
            is_settled: look.is_settled,
        };
        let mut answer = look.answer;
        answer.bytes = look.pace.moved();
        answer.seconds = now.elapsed().as_secs();
        match self.task {
            Walks::Rotate => self.judge_keys(&coverage, &mut answer),
            Walks::Migrate => self.judge_backends(wanted.keys(), &coverage, &mut answer),
        }
        self.record(&answer, wanted.keys()).await?;
        Ok(answer)
    }

    /// True if other gateways may serve one of them too.
    fn has_others(&self, wanted: &BTreeMap<String, Kept>) -> bool {
        wanted.values().any(|kept| !kept.keys.check_names)
    }

    fn wanted(&self) -> Result<BTreeMap<String, Kept>, WalkError> {
        let mut wanted = self.vaults.by_name.clone();
        let asked = self.request.backend.as_ref();
        if let Some(asked) = asked {
            wanted.retain(|name, _| name == asked);
        }
        if let Some(name) = asked
            && let Some(record) = wanted.get(name).and_then(|kept| kept.keys.ring.record())
        {
            let name = name.clone();
            return Err(WalkError::Destroyed { name, record });
        }
        wanted.retain(|_, kept| !kept.keys.ring.is_destroyed());
        let named = asked.cloned();
        if wanted.is_empty() {
            return Err(
                named.map_or(WalkError::NoBackend, |name| WalkError::NoSuchBackend {
                    name,
                }),
            );
        }
        match self.task {
            Walks::Rotate => {}
            Walks::Migrate => wanted.retain(|_, kept| kept.is_migrating),
        }
        if wanted.is_empty() {
            return Err(
                named.map_or(WalkError::NoneMigrating, |name| WalkError::NotMigrating {
                    name,
                }),
            );
        }
        Ok(wanted)
    }

    async fn record(
        &self,
        answer: &Answer,
        backends: impl Iterator<Item = &String>,
    ) -> Result<(), WalkError> {
        let Answer {
            current,
            rewrapped,
            plain,
            encrypted,
            failed,
            ..
        } = *answer;
        let (kind, files) = match self.task {
            Walks::Rotate => (
                EventKind::RestRotation,
                vec![
                    ("current", current),
                    ("rewrapped", rewrapped),
                    ("plain", plain),
                    ("failed", failed),
                ],
            ),
            Walks::Migrate => (
                EventKind::RestMigration,
                vec![
                    ("current", current),
                    ("encrypted", encrypted),
                    ("failed", failed),
                ],
            ),
        };
        let mut event = Event::new(kind);
        event.outcome = Some(if failed == 0 {
            Verdict::Success
        } else {
            Verdict::Failure
        });
        event.reason = (failed > 0).then(|| "failures".to_owned());
        let mut put = |field: &str, value: Value| event.body.insert(field.to_owned(), value);
        put("backends", backends.cloned().collect());
        put("files", answer.files.into());
        for (result, files) in &files {
            put(result, (*files).into());
        }
        put("bytes", answer.bytes.into());
        put("seconds", answer.seconds.into());
        let sets = answer.sets.values();
        let unneeded = sets
            .chain([&answer.retired])
            .flat_map(|set| &set.unneeded_keys);
        put("unneeded_keys", unneeded.cloned().collect());
        put("asked_by_uid", self.asked_by.into());
        match self.task {
            Walks::Rotate => metrics::at_rest_rotation(files),
            Walks::Migrate => metrics::at_rest_migration(files),
        }
        tracing::info!(
            task = kind.name(),
            files = answer.files,
            done = rewrapped + encrypted,
            failed,
            "work on stored files has ended"
        );
        self.journal.append(event).await?;
        Ok(())
    }
}

/// What was seen so far.
struct Look<'a> {
    walk: &'a Walk<'a>,
    /// Of the log, where content is compared with it.
    reader: Option<Reader>,
    tell: &'a mut (dyn FnMut(&Answer) + Send),
    begun: Instant,
    told: Instant,
    pace: Pace,
    answer: Answer,
    /// Backends with files that could not be done.
    failed_on: BTreeSet<String>,
    /// Backends with directories that sessions had, and that nobody knows where.
    hidden_on: BTreeSet<String>,
    /// Files are not counted yet.
    is_first: bool,
    /// It makes no sense to go on with the backend.
    is_stopped: bool,
    /// No file has passed the look by.
    is_settled: bool,
}

/// How far a walk can be believed.
struct Coverage {
    /// Backends, as those below.
    failed_on: BTreeSet<String>,
    hidden_on: BTreeSet<String>,
    is_settled: bool,
}

impl Coverage {
    /// Why nothing can be said of the backends that `is_one` is true of.
    fn doubt(&self, is_one: impl Fn(&str) -> bool) -> Option<&'static str> {
        if self.hidden_on.iter().any(|name| is_one(name)) {
            Some(HIDDEN)
        } else if self.is_settled {
            None
        } else {
            Some(UNSETTLED)
        }
    }
}

const HIDDEN: &str = "a directory that was mounted once is not mounted any more, and the journal hides which one it was: mount it again for the time of this, and ask again";
const UNSETTLED: &str = "files were changed and renamed while they were looked at, and one may have been passed by: ask again";

impl Look<'_> {
    fn changed(&self) -> u64 {
        self.answer.rewrapped + self.answer.encrypted
    }

    async fn backend(&mut self, name: &str, kept: &Kept) -> Result<(), WalkError> {
        let session = |source| WalkError::Session {
            name: name.to_owned(),
            source,
        };
        self.is_stopped = false;
        let pending = pending(&self.walk.config.verification(), name);
        if !self.settle((name, kept), &pending).await {
            return Ok(());
        }
        for root in self.roots(name, kept)? {
            let (journal, service) = (self.walk.journal.clone(), &*kept.service);
            let verified = Verified::below(journal, name, service, root.directory, &self.pace);
            let mut verified = verified.map_err(session)?;
            let walked = self
                .tree(&mut verified, (name, kept), &root, &pending)
                .await;
            verified.backend.end().await;
            if !walked? {
                break;
            }
        }
        Ok(())
    }

    /// False if nothing more can be done on this backend.
    async fn tree(
        &mut self,
        verified: &mut Verified,
        (name, kept): (&str, &Kept),
        root: &Root,
        pending: &Pending,
    ) -> Result<bool, WalkError> {
        let mut left = vec![root.at.clone()];
        while let Some(directory) = left.pop() {
            let entries = match verified.entries(&directory).await {
                Ok(entries) => entries,
                Err(error)
                    if error.kind == ErrorKind::NotFound
                        && (kept.is_server || directory != root.at) =>
                {
                    continue;
                }
                Err(error) => {
                    self.failed(&directory, &error);
                    continue;
                }
            };
            for entry in entries {
                let below = [directory.as_bytes(), b"/", &entry.name[..]].concat();
                let Ok(path) = VirtualPath::clean(&below) else {
                    let reason = "its name or path is too long".to_owned();
                    self.fail(shown(&below), reason);
                    continue;
                };
                if entry.attributes.is_directory() {
                    left.push(path);
                } else if is_file(&entry) {
                    let goes_on = match self.walk.task {
                        Walks::Rotate => self.rewrap(verified, &path, pending).await,
                        Walks::Migrate => self.encrypt(verified, (name, kept), &path).await?,
                    };
                    self.tell();
                    if !goes_on {
                        return Ok(false);
                    }
                }
                if self.is_stopped {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Stops where there is no room: each other file that is copied would fail, too.
    fn not_written_anew(&mut self, path: &VirtualPath, error: &BackendError) {
        let mut reason = error.message.clone();
        if error.kind == ErrorKind::NoSpace {
            self.is_stopped = true;
            reason.push_str(
                "; the rest of the backend was not begun: free as much as the largest file needs, and ask again",
            );
        }
        self.fail(shown(path.as_bytes()), reason);
    }

    fn failed(&mut self, path: &VirtualPath, error: &BackendError) {
        self.fail(shown(path.as_bytes()), error.message.clone());
    }

    fn fail(&mut self, path: String, reason: String) {
        self.answer.failed += 1;
        if self.answer.failures.len() < NAMED {
            self.answer.failures.push(Failure { path, reason });
        }
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= TOLD {
            self.told = Instant::now();
            let now = Answer {
                bytes: self.pace.moved(),
                seconds: self.begun.elapsed().as_secs(),
                failures: Vec::new(),
                ..self.answer.clone()
            };
            (self.tell)(&now);
        }
    }
}

fn is_file(entry: &Entry) -> bool {
    let kind = entry
        .attributes
        .permissions
        .map(|mode| mode & Attributes::TYPE_MASK);
    matches!(kind, None | Some(0 | Attributes::REGULAR))
}

/// True if the server may be back a moment later, and all other files would fail until then.
fn is_lost(error: &BackendError) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::TimedOut)
}

fn shown(path: &[u8]) -> String {
    as_recorded(path).as_str().unwrap_or_default().to_owned()
}
