//! One rotation: every file of the encrypted backends is wrapped to the keys that new files are wrapped to.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use portcullis_at_rest::{Head, kek::KekId};
use portcullis_audit::hidden::as_recorded;
use portcullis_journal::{AppendError, Event, EventKind, Journal, Verdict};
use serde_json::Value;

use super::{Kept, Vaults};
use crate::{
    backend::{BackendError, ErrorKind},
    daemon::backends::pending,
    encryption::{Answer, Failure, Request},
    gate::{
        self,
        verify::{Pace, Verified},
    },
    metrics,
    operation::{Attributes, Care, Entry, Tended},
    path::VirtualPath,
};

/// Failures that an answer names; all are on record.
const NAMED: usize = 1000;
/// How often whoever asked is told how far it is.
const TOLD: Duration = Duration::from_secs(1);
/// How often a file that is replaced meanwhile is tried.
const ATTEMPTS: usize = 3;
/// How often everything is looked at, as long as files are renamed meanwhile: one may have passed the look by.
const LOOKS: usize = 3;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum RotationError {
    #[error("{name} is no backend of the configuration whose files are encrypted")]
    NoSuchBackend { name: String },
    #[error("the files of no backend of the configuration are encrypted")]
    NoBackend,
    #[error("look at backend {name}")]
    Session { name: String, source: BackendError },
    #[error("record what was done")]
    Unrecorded(#[source] AppendError),
}

pub(super) struct Rotation<'a> {
    journal: &'a Journal,
    folder: &'a Path,
    vaults: Vaults,
    request: &'a Request,
    asked_by: u32,
    tell: &'a mut (dyn FnMut(&Answer) + Send),
    begun: Instant,
    told: Instant,
    pace: Pace,
    answer: Answer,
}

impl<'a> Rotation<'a> {
    pub(super) fn of(
        journal: &'a Journal,
        folder: &'a Path,
        vaults: Vaults,
        request: &'a Request,
        asked_by: u32,
        tell: &'a mut (dyn FnMut(&Answer) + Send),
    ) -> Self {
        let now = Instant::now();
        Self {
            journal,
            folder,
            vaults,
            request,
            asked_by,
            tell,
            begun: now,
            told: now,
            pace: Pace::of(request.rate),
            answer: Answer::default(),
        }
    }

    pub(super) async fn carry_out(mut self) -> Result<Answer, RotationError> {
        let mut wanted = self.vaults.by_name.clone();
        if let Some(name) = &self.request.backend {
            wanted.retain(|other, _| other == name);
            if wanted.is_empty() {
                let name = name.clone();
                return Err(RotationError::NoSuchBackend { name });
            }
        }
        if wanted.is_empty() {
            return Err(RotationError::NoBackend);
        }
        for look in 1..=LOOKS {
            let renames = gate::renames();
            let before = self.answer.rewrapped;
            for (name, kept) in &wanted {
                self.backend(name, kept, look == 1).await?;
            }
            let is_settled = gate::renames() == renames || self.answer.rewrapped == before;
            if is_settled || self.answer.failed > 0 {
                break;
            }
        }
        self.judge_keys();
        self.answer.bytes = self.pace.moved();
        self.answer.seconds = self.begun.elapsed().as_secs();
        self.record(wanted.keys()).await?;
        Ok(self.answer)
    }

    /// `counts` unless the files are counted already.
    async fn backend(
        &mut self,
        name: &str,
        kept: &Kept,
        counts: bool,
    ) -> Result<(), RotationError> {
        if !kept.is_local {
            if counts {
                let reason = "the heads of its files can't be exchanged where they lie: a file is wrapped to the new key when it is uploaded again, so keep the old one in retired_key_files";
                self.fail(format!("/{name}"), reason.to_owned());
            }
            return Ok(());
        }
        let session = |source| RotationError::Session {
            name: name.to_owned(),
            source,
        };
        let verified =
            Verified::whole(self.journal.clone(), name, &*kept.service).map_err(session)?;
        self.tree(&verified, counts).await;
        verified.backend.end().await;
        let _ = pending(self.folder, name).clear();
        Ok(())
    }

    async fn tree(&mut self, verified: &Verified, counts: bool) {
        let mut left = vec![verified.mount.at.clone()];
        while let Some(directory) = left.pop() {
            let entries = match verified.entries(&directory).await {
                Ok(entries) => entries,
                Err(error) if error.kind == ErrorKind::NotFound => {
                    if directory == verified.mount.at {
                        self.failed(&directory, &error);
                    }
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
                    self.file(verified, &path, counts).await;
                }
            }
        }
    }

    async fn file(&mut self, verified: &Verified, path: &VirtualPath, counts: bool) {
        let length = Head::LENGTH as u64;
        self.pace.take(length).await;
        let mut tended = verified.tend(path, Care::Rewrap).await;
        for _ in 1..ATTEMPTS {
            // Somebody has just put another one there.
            if !matches!(&tended, Err(error) if error.kind == ErrorKind::Failure) {
                break;
            }
            tended = verified.tend(path, Care::Rewrap).await;
        }
        let state = match tended {
            Err(error) if error.kind == ErrorKind::NotFound => return,
            Err(error) => {
                self.answer.files += u64::from(counts);
                self.failed(path, &error);
                return self.tell();
            }
            Ok(state) => state,
        };
        self.answer.files += u64::from(counts);
        match state {
            Tended::Rewrapped => {
                self.pace.take(length).await;
                self.answer.rewrapped += 1;
            }
            Tended::Current => self.answer.current += u64::from(counts),
            Tended::Plain => self.answer.plain += u64::from(counts),
        }
        self.tell();
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

    /// Which retired keys nobody needs.
    fn judge_keys(&mut self) {
        let rings = || self.vaults.by_name.values().map(|kept| &kept.keys.ring);
        let active: BTreeSet<KekId> = rings().map(|ring| ring.active().id()).collect();
        let retired: BTreeSet<KekId> = rings()
            .flat_map(|ring| ring.retired().collect::<Vec<_>>())
            .filter(|key| !active.contains(key))
            .collect();
        if retired.is_empty() {
            return;
        }
        let because = if self.answer.failed > 0 {
            "not all files could be looked at"
        } else if self.request.backend.is_some() && self.vaults.by_name.len() > 1 {
            "other backends were not looked at"
        } else if retired.iter().any(|key| self.vaults.is_written_to(*key)) {
            "sessions that began before the keys were changed are still open; ask again when they have ended"
        } else {
            self.answer.unneeded_keys = retired.iter().map(KekId::to_string).collect();
            return;
        };
        self.answer.keys_unknown = Some(because.to_owned());
    }

    async fn record(&self, backends: impl Iterator<Item = &String>) -> Result<(), RotationError> {
        let answer = &self.answer;
        let mut event = Event::new(EventKind::RestRotation);
        let is_whole = answer.failed == 0;
        event.outcome = Some(if is_whole {
            Verdict::Success
        } else {
            Verdict::Failure
        });
        event.reason = (!is_whole).then(|| "failures".to_owned());
        let mut put = |field: &str, value: Value| event.body.insert(field.to_owned(), value);
        put("backends", backends.cloned().collect());
        put("files", answer.files.into());
        put("current", answer.current.into());
        put("rewrapped", answer.rewrapped.into());
        put("plain", answer.plain.into());
        put("failed", answer.failed.into());
        put("bytes", answer.bytes.into());
        put("seconds", answer.seconds.into());
        put("unneeded_keys", answer.unneeded_keys.clone().into());
        put("asked_by_uid", self.asked_by.into());
        metrics::at_rest_rotation(
            answer.current,
            answer.rewrapped,
            answer.plain,
            answer.failed,
        );
        tracing::info!(
            files = answer.files,
            rewrapped = answer.rewrapped,
            failed = answer.failed,
            "keys of stored files were rotated"
        );
        let appended = self.journal.append(event).await;
        appended.map(drop).map_err(RotationError::Unrecorded)
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

fn shown(path: &[u8]) -> String {
    as_recorded(path).as_str().unwrap_or_default().to_owned()
}
