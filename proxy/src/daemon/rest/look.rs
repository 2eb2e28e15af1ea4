//! What lies on backends, seen beside what the log says.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::DateTime;
use portcullis_audit::{
    catalogue::{Change, Finding, FindingKind, Found, Judgement, Lost, Reader, State, joined},
    hidden::as_recorded,
    search::SearchError,
};
use portcullis_journal::{Event, EventKind, Verdict};
use serde_json::{Map, Value, json};

use super::run::{Directory, NAMED, Run, RunError};
use crate::{
    backend::{BackendError, ErrorKind, Owner},
    gate::verify::Verified,
    operation::Attributes,
    pace::Pace,
    path::VirtualPath,
    policy::{Mount, PathRules, Permissions, Requester},
    verification::Answer,
};

/// How often whoever asked is told how far it is.
const TOLD: Duration = Duration::from_secs(1);
/// How often a file that changes is looked at.
const ATTEMPTS: usize = 3;

/// What is there at a place.
pub(in crate::daemon) enum Seen {
    Content([u8; 32]),
    /// A file whose content tells nothing.
    NotRead,
    /// An encrypted file that nobody wrote through the gateway as it is.
    NotAuthentic,
    /// Its name is none that the gateway gave.
    Foreign,
    /// One whose keys are destroyed.
    Shredded,
    Link,
    Nothing,
    Unreadable(BackendError),
}

/// Why the look at a directory ended early.
enum Stopped {
    /// Its server does not answer.
    Away(BackendError),
    Failed(RunError),
}

impl From<RunError> for Stopped {
    fn from(error: RunError) -> Self {
        Self::Failed(error)
    }
}

impl From<SearchError> for Stopped {
    fn from(error: SearchError) -> Self {
        Self::Failed(error.into())
    }
}

/// Whether the server answers at all, after an error that may mean that it does not.
async fn still_there(verified: &Verified, error: BackendError) -> Result<(), Stopped> {
    let is_away =
        |error: &BackendError| matches!(error.kind, ErrorKind::Unavailable | ErrorKind::TimedOut);
    if is_away(&error)
        && let Err(again) = verified.stat(&verified.mount.at).await
        && is_away(&again)
    {
        return Err(Stopped::Away(again));
    }
    Ok(())
}

/// What was seen so far.
pub(super) struct Look<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) reader: Reader,
    /// Records that were there before anything was looked at.
    pub(super) start: u64,
    pub(super) begun: Instant,
    pub(super) pace: Pace,
    pub(super) told: Instant,
    pub(super) tell: &'a mut (dyn FnMut(&Answer) + Send),
    pub(super) answer: Answer,
    pub(super) counts: BTreeMap<FindingKind, u64>,
    /// Places of directories.
    pub(super) unreadable: Vec<Vec<u8>>,
    /// Places of directories whose server was away.
    pub(super) unreachable: HashSet<Vec<u8>>,
    /// Files whose keys were destroyed.
    pub(super) lost: u64,
    /// Names of places.
    pub(super) seen: HashSet<Vec<u8>>,
    pub(super) requester: Arc<Requester>,
}

impl Look<'_> {
    pub(super) async fn backend(
        &mut self,
        name: &str,
        directories: &[Directory],
    ) -> Result<(), RunError> {
        let Some(service) = self.run.stored.services.get(name).map(Arc::clone) else {
            return Ok(());
        };
        for directory in directories {
            let Ok(at) = VirtualPath::clean(&directory.place) else {
                continue;
            };
            let mount = Mount {
                at,
                backend: name.to_owned(),
                directory: directory.base(),
                permissions: Permissions::default(),
                rules: PathRules::default(),
                group: None,
                allowance: crate::allowance::Allowance::default(),
                extensions: None,
                resume: Some(false),
            };
            let owner = Owner::new(b"verification".as_slice()).resuming(Some(false));
            let backend = service.session(&mount.directory, &owner);
            let verified = Verified {
                journal: self.run.journal.clone(),
                requester: Arc::clone(&self.requester),
                mount,
                backend,
            };
            let result = self.tree(&verified, name, &directory.place).await;
            verified.backend.end().await;
            match result {
                Ok(()) => {}
                Err(Stopped::Away(error)) => self.away(name, &directory.place, error).await?,
                Err(Stopped::Failed(error)) => return Err(error),
            }
        }
        // A file may be there by a relative directory and by an absolute one.
        for directory in directories {
            if !self.unreachable.contains(&directory.place) {
                self.missing(name, &directory.place).await?;
            }
        }
        Ok(())
    }

    async fn tree(
        &mut self,
        verified: &Verified,
        backend: &str,
        place: &[u8],
    ) -> Result<(), Stopped> {
        let mut left: Vec<Vec<u8>> = vec![place.to_vec()];
        while let Some(directory) = left.pop() {
            let entries = match VirtualPath::clean(&directory) {
                Ok(path) => verified.entries(&path).await,
                Err(_) => continue,
            };
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => {
                    still_there(verified, error).await?;
                    self.unreadable.push(directory);
                    continue;
                }
            };
            for entry in entries {
                let below = joined(&directory, &entry.name);
                if entry.attributes.is_foreign {
                    self.foreign(backend, &below, &entry.attributes).await?;
                } else if entry.attributes.is_directory() {
                    left.push(below);
                } else {
                    self.file(verified, backend, &below, &entry.attributes)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Whatever it is, nobody put it there through the gateway under this name. A directory is not looked into.
    async fn foreign(
        &mut self,
        backend: &str,
        place: &[u8],
        listed: &Attributes,
    ) -> Result<(), RunError> {
        if !self.is_wanted(place, Some(listed)) {
            return Ok(());
        }
        self.answer.files += 1;
        let finding = Finding {
            kind: FindingKind::Unknown,
            last: None,
            expected: None,
            earlier: None,
        };
        self.found(backend, place, &finding, &Seen::Foreign).await
    }

    /// The server does not answer: one finding, and not one for each file.
    async fn away(
        &mut self,
        backend: &str,
        place: &[u8],
        error: BackendError,
    ) -> Result<(), RunError> {
        let known = self.reader.catalogue.known_below(place);
        let unseen = known.iter().filter(|(at, _)| !self.seen.contains(*at));
        let unseen = unseen.count();
        self.answer.unverified += unseen as u64;
        self.unreachable.insert(place.to_vec());
        let finding = Finding {
            kind: FindingKind::Unreadable,
            last: None,
            expected: None,
            earlier: None,
        };
        self.found(backend, place, &finding, &Seen::Unreadable(error))
            .await
    }

    async fn file(
        &mut self,
        verified: &Verified,
        backend: &str,
        place: &[u8],
        listed: &Attributes,
    ) -> Result<(), Stopped> {
        let is_new = self.seen.insert(self.reader.catalogue.name(place));
        if !is_new || !self.is_wanted(place, Some(listed)) {
            return Ok(());
        }
        self.answer.files += 1;
        self.tell();
        let Ok(path) = VirtualPath::clean(place) else {
            self.answer.unverified += 1;
            return Ok(());
        };
        let is_link = |attributes: &Attributes| {
            attributes
                .permissions
                .is_some_and(|mode| mode & Attributes::TYPE_MASK == Attributes::SYMLINK)
        };
        let mut attributes = listed.clone();
        for _ in 0..ATTEMPTS {
            let placed = self.reader.catalogue.placed(place);
            let seen = if is_link(&attributes) {
                Seen::Link
            } else if self.needs_content(place) {
                match verified.sha256(&path, attributes.size, &self.pace).await {
                    Ok(sha256) => Seen::Content(sha256),
                    Err(error) if error.kind == ErrorKind::NotFound => Seen::Nothing,
                    Err(error) if error.kind == ErrorKind::NotAuthentic => Seen::NotAuthentic,
                    Err(error) if error.kind == ErrorKind::Shredded => {
                        if self.is_lost(place) {
                            return Ok(());
                        }
                        Seen::Shredded
                    }
                    Err(error) => {
                        still_there(verified, error.clone()).await?;
                        Seen::Unreadable(error)
                    }
                }
            } else {
                Seen::NotRead
            };
            let judgement = self.judge(place, &seen);
            if judgement == Judgement::Sound {
                return Ok(());
            }
            // What the gateway did meanwhile was on record before it was done.
            self.reader.advance()?;
            let is_same = self.reader.catalogue.placed(place) == placed;
            match (self.judge(place, &seen), is_same) {
                (Judgement::Finding(finding), true) => {
                    // It may just have been removed by who put it there.
                    if !matches!(seen, Seen::Nothing)
                        && matches!(verified.stat(&path).await, Err(error) if error.kind == ErrorKind::NotFound)
                    {
                        self.reader.advance()?;
                        if self.judge(place, &Seen::Nothing) == Judgement::Sound {
                            return Ok(());
                        }
                    }
                    return Ok(self.found(backend, place, &finding, &seen).await?);
                }
                (Judgement::Unverified(because), true) if because != "changing" => break,
                (Judgement::Sound | Judgement::Finding(_) | Judgement::Unverified(_), _) => {}
            }
            match verified.stat(&path).await {
                Ok(now) => attributes = now,
                Err(_) => break,
            }
        }
        self.answer.unverified += 1;
        Ok(())
    }

    /// What should be in a directory and was not.
    async fn missing(&mut self, backend: &str, place: &[u8]) -> Result<(), RunError> {
        self.reader.advance()?;
        let absent: Vec<Vec<u8>> = self
            .reader
            .catalogue
            .known_below(place)
            .into_iter()
            .map(|(at, _)| at.to_vec())
            .filter(|at| !self.seen.contains(at))
            .collect();
        for at in absent {
            // One that came later, or another way, may have been passed by.
            let placed = self.reader.catalogue.placed(&at);
            if placed.is_none_or(|placed| placed >= self.start) || !self.is_wanted(&at, None) {
                continue;
            }
            self.answer.files += 1;
            if self.is_lost(&at) {
                continue;
            }
            let catalogue = &self.reader.catalogue;
            let is_unreadable = self
                .unreadable
                .iter()
                .map(|directory| catalogue.name(directory))
                .any(|directory| portcullis_audit::pattern::is_at_or_below(&at, &directory));
            let judgement = if is_unreadable {
                catalogue.judge_unreadable(&at)
            } else {
                catalogue.judge(&at, Found::Nothing)
            };
            match judgement {
                Judgement::Finding(finding) => {
                    self.found(backend, &at, &finding, &Seen::Nothing).await?;
                }
                Judgement::Unverified(_) => self.answer.unverified += 1,
                Judgement::Sound => {}
            }
        }
        Ok(())
    }

    /// Counts it if its keys were destroyed since it was put there.
    fn is_lost(&mut self, place: &[u8]) -> bool {
        let Some(Lost { set, by }) = self.reader.catalogue.lost(place) else {
            return false;
        };
        self.lost += 1;
        if self.answer.shredded.len() < NAMED {
            let said = json!({
                "path": as_recorded(place), "user": by.user, "time": by.time, "keys": set,
            });
            self.answer.shredded.push(said);
        }
        true
    }

    fn judge(&self, place: &[u8], seen: &Seen) -> Judgement {
        let catalogue = &self.reader.catalogue;
        match seen {
            Seen::Content(sha256) => catalogue.judge(place, Found::Content(sha256)),
            // No digest in the log is like this one; where there is none, it does not count.
            Seen::NotRead | Seen::NotAuthentic | Seen::Shredded | Seen::Foreign => {
                catalogue.judge(place, Found::Content(&[0; 32]))
            }
            Seen::Link => catalogue.judge(place, Found::Link),
            Seen::Nothing => catalogue.judge(place, Found::Nothing),
            Seen::Unreadable(_) => catalogue.judge_unreadable(place),
        }
    }

    /// A file of which the log has no digest is not read.
    fn needs_content(&self, place: &[u8]) -> bool {
        match self.reader.catalogue.state(place) {
            Some(State::Known(_) | State::Gone(_)) => true,
            Some(State::Link(_) | State::Unknown { .. }) | None => false,
        }
    }

    fn is_wanted(&self, place: &[u8], listed: Option<&Attributes>) -> bool {
        let Some(since) = &self.run.request.since else {
            return true;
        };
        if let Some(State::Known(content)) = self.reader.catalogue.state(place) {
            return content.by.time >= *since;
        }
        let since = DateTime::parse_from_rfc3339(since).map(|since| since.timestamp());
        let modified = listed.and_then(|listed| listed.times).map(|(_, time)| time);
        match (since, modified) {
            (Ok(since), Some(modified)) => i64::from(modified) >= since,
            _ => true,
        }
    }

    async fn found(
        &mut self,
        backend: &str,
        place: &[u8],
        finding: &Finding,
        seen: &Seen,
    ) -> Result<(), RunError> {
        *self.counts.entry(finding.kind).or_default() += 1;
        let body = described(backend, place, finding, seen);
        let mut event: Event = self.requester.event(EventKind::RestFinding);
        event.outcome = Some(Verdict::Failure);
        event.reason = Some(finding.kind.name().to_owned());
        event.body.extend(body.clone());
        self.run
            .journal
            .append(event)
            .await
            .map_err(RunError::Unrecorded)?;
        if self.answer.findings.len() < NAMED {
            self.answer.findings.push(body.into());
        } else {
            self.answer.further += 1;
        }
        Ok(())
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= TOLD {
            self.told = Instant::now();
            let now = Answer {
                bytes: self.pace.moved(),
                seconds: self.begun.elapsed().as_secs(),
                further: self.answer.findings.len() as u64 + self.answer.further,
                findings: Vec::new(),
                shredded: Vec::new(),
                ..self.answer.clone()
            };
            (self.tell)(&now);
        }
    }
}

/// The body of a finding's record.
pub(in crate::daemon) fn described(
    backend: &str,
    place: &[u8],
    finding: &Finding,
    seen: &Seen,
) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |field: &str, value: Value| {
        if !value.is_null() {
            body.insert(field.to_owned(), value);
        }
    };
    put("finding", finding.kind.name().into());
    put("backend", backend.into());
    put("path", as_recorded(place));
    let text = |text: &Option<String>| text.clone().into();
    if let Some(Change {
        user,
        session,
        time,
        seq,
    }) = &finding.last
    {
        put("last_user", text(user));
        put("last_session", text(session));
        put("last_time", time.as_str().into());
        put("last_record", (*seq).into());
    }
    if let Some(earlier) = &finding.earlier {
        put("earlier_user", text(&earlier.user));
        put("earlier_time", earlier.time.as_str().into());
        put("earlier_record", earlier.seq.into());
    }
    put("expected_sha256", finding.expected.map(hex::encode).into());
    match seen {
        Seen::Content(sha256) => put("sha256", hex::encode(sha256).into()),
        Seen::Link => put("look", "link".into()),
        Seen::NotAuthentic => put("look", ErrorKind::NotAuthentic.code().into()),
        Seen::Foreign => put("look", "foreign_name".into()),
        Seen::Shredded => put("look", ErrorKind::Shredded.code().into()),
        Seen::NotRead | Seen::Nothing => {}
        Seen::Unreadable(error) => put("look", error.kind.code().into()),
    }
    body
}
