//! One look at stored files.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::DateTime;
use portcullis_audit::{
    catalogue::{
        Catalogue, Change, Finding, FindingKind, Found, Judgement, Reader, State, clean, joined,
    },
    hidden::{HiddenKeyError, PathKey, as_recorded},
    search::SearchError,
};
use portcullis_journal::{AppendError, Event, EventKind, Journal, Verdict};
use serde_json::{Map, Value, json};

use super::Stored;
use crate::{
    accounts::{Accounts, AccountsError},
    backend::{BackendError, ErrorKind, Owner},
    config::JournalConfig,
    gate::verify::{Pace, Verified},
    metrics,
    operation::Attributes,
    path::VirtualPath,
    policy::{Mount, PathRules, Permissions, Requester},
    verification::{Answer, Request},
};

/// Findings that an answer names; all are on record.
const NAMED: usize = 10_000;
/// How often whoever asked is told how far it is.
const TOLD: Duration = Duration::from_secs(1);
/// How often a file that changes is looked at.
const ATTEMPTS: usize = 3;

/// Why there is no look.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum RunError {
    #[error("read the accounts' mounts")]
    Accounts(#[from] AccountsError),
    #[error("read the journal")]
    Journal(#[from] SearchError),
    #[error("open the key of hidden paths, journal.path_key_file")]
    PathKey(#[from] HiddenKeyError),
    #[error("{name} is no backend of the configuration")]
    NoSuchBackend { name: String },
    #[error(
        "no account has a mount at {at} of a backend that is looked at; name the backend with --backend, or in verification.backends"
    )]
    NoSuchMount { at: String },
    #[error("no randomness from the operating system: {0}")]
    Random(getrandom::Error),
    #[error("record what was found")]
    Unrecorded(#[source] AppendError),
}

pub(super) struct Ended {
    pub(super) answer: Answer,
    pub(super) is_sound: bool,
}

pub(super) struct Run<'a> {
    pub(super) journal: &'a Journal,
    pub(super) config: &'a JournalConfig,
    pub(super) accounts: &'a Accounts,
    pub(super) stored: &'a Stored,
    pub(super) request: &'a Request,
    pub(super) asked_by: Option<u32>,
    pub(super) rate: Option<NonZeroU64>,
}

impl Run<'_> {
    pub(super) async fn carry_out(
        &self,
        tell: &mut (dyn FnMut(&Answer) + Send),
    ) -> Result<Ended, RunError> {
        let begun = Instant::now();
        if let Some(name) = &self.request.backend
            && !self.stored.services.contains_key(name)
        {
            let name = name.clone();
            return Err(RunError::NoSuchBackend { name });
        }
        let start = self.journal.status().durable;
        let mut reader = reader(self.config, self.stored)?;
        reader.advance()?;
        let directories = self.directories(&reader.catalogue)?;
        let requester = Arc::new(Requester::gateway().map_err(RunError::Random)?);
        let mut look = Look {
            run: self,
            reader,
            start,
            begun,
            pace: Pace::of(self.rate),
            told: begun,
            tell,
            answer: Answer::default(),
            counts: BTreeMap::new(),
            unreadable: Vec::new(),
            unreachable: HashSet::new(),
            seen: HashSet::new(),
            requester: Arc::clone(&requester),
        };
        for (backend, mounted) in &directories {
            look.backend(backend, mounted).await?;
        }
        let Look {
            mut answer,
            counts,
            pace,
            reader,
            ..
        } = look;
        answer.bytes = pace.moved();
        answer.seconds = begun.elapsed().as_secs();
        answer.shredded = self.shredded(&reader.catalogue);
        let is_sound = counts.values().all(|count| *count == 0);
        let mut event = requester.event(EventKind::RestVerify);
        event.outcome = Some(if is_sound {
            Verdict::Success
        } else {
            Verdict::Failure
        });
        event.reason = (!is_sound).then(|| "findings".to_owned());
        let mut put = |field: &str, value: Value| event.body.insert(field.to_owned(), value);
        put("backends", directories.keys().cloned().collect());
        put("files", answer.files.into());
        put("unverified", answer.unverified.into());
        put("bytes", answer.bytes.into());
        put("seconds", answer.seconds.into());
        put("whole_log", (!reader.catalogue.is_cut()).into());
        let is_all = self.request.mount.is_none() && self.request.since.is_none();
        put("whole_backends", is_all.into());
        put("asked_by_uid", self.asked_by.into());
        put("shredded", answer.shredded.len().into());
        for kind in FindingKind::ALL {
            let count = counts.get(&kind).copied().unwrap_or_default();
            put(kind.name(), count.into());
            metrics::at_rest_findings(kind.name(), count);
        }
        metrics::at_rest_verified(is_sound, answer.files, answer.unverified, answer.bytes);
        self.journal
            .append(event)
            .await
            .map_err(RunError::Unrecorded)?;
        Ok(Ended { answer, is_sound })
    }

    /// What is not there since it was destroyed on record; of one backend as far as names are in clear.
    fn shredded(&self, catalogue: &Catalogue) -> Vec<Value> {
        let asked = self.request.backend.as_deref();
        let root = asked.map(|name| catalogue.place(name, b"/"));
        let shredded = catalogue
            .shredded()
            .filter(|(place, _)| root.as_ref().is_none_or(|root| is_below(place, root)));
        let said = shredded.take(NAMED).map(
            |(place, by)| json!({ "path": as_recorded(place), "user": by.user, "time": by.time }),
        );
        said.collect()
    }

    /// The directories that are mounted, by backend: none lies in another.
    fn directories(
        &self,
        catalogue: &Catalogue,
    ) -> Result<BTreeMap<String, Vec<Directory>>, RunError> {
        let mut mounts = Vec::new();
        for account in self.accounts.list()? {
            mounts.extend(self.accounts.mounts_by_directory(account.uid)?);
        }
        for group in self.accounts.groups()? {
            mounts.extend(group.mounts);
        }
        let mut wanted: BTreeSet<(String, Vec<u8>)> = BTreeSet::new();
        let asked = self.request.mount.as_deref();
        for mount in &mounts {
            if asked.is_none_or(|at| clean(at.as_bytes()) == mount.at.as_bytes()) {
                wanted.insert((mount.backend.clone(), mount.directory.clone()));
            }
        }
        if asked.is_none() {
            let known = catalogue.directories();
            wanted.extend(known.map(|(backend, path)| (backend.to_owned(), path.to_vec())));
        }
        wanted.retain(|(backend, _)| self.is_asked(backend));
        if let Some(at) = asked.filter(|_| wanted.is_empty()) {
            let at = at.to_owned();
            return Err(RunError::NoSuchMount { at });
        }
        let mut found: BTreeMap<(bool, Vec<u8>), (String, Directory)> = BTreeMap::new();
        for (backend, path) in wanted {
            let directory = Directory {
                place: catalogue.place(&backend, &path),
                is_absolute: path.starts_with(b"/") && self.stored.servers.contains(&backend),
                path,
            };
            let key = (directory.is_absolute, directory.place.clone());
            found.entry(key).or_insert((backend, directory));
        }
        let outermost = found.values().filter(|(_, directory)| {
            let mut others = found.values().map(|(_, other)| other);
            !others.any(|other| directory.is_in(other))
        });
        let mut directories: BTreeMap<String, Vec<Directory>> = BTreeMap::new();
        for (backend, directory) in outermost {
            let known = directories.entry(backend.clone()).or_default();
            known.push(directory.clone());
        }
        Ok(directories)
    }

    fn is_asked(&self, backend: &str) -> bool {
        match &self.request.backend {
            Some(name) => name == backend,
            None => {
                self.stored.usual.contains(backend) && self.stored.services.contains_key(backend)
            }
        }
    }
}

/// A mounted directory.
#[derive(Debug, Clone)]
struct Directory {
    place: Vec<u8>,
    /// As its mount has it.
    path: Vec<u8>,
    /// On its server; otherwise it counts from the backend's root, which is the login directory.
    is_absolute: bool,
}

impl Directory {
    /// Where the login directory is, nobody knows.
    fn is_in(&self, other: &Self) -> bool {
        self.is_absolute == other.is_absolute && is_below(&self.place, &other.place)
    }

    /// As a session of its backend takes it.
    fn base(&self) -> Vec<u8> {
        let path = clean(&self.path);
        match path.strip_prefix(b"/") {
            _ if self.is_absolute => path,
            Some(b"") | None => b".".to_vec(),
            Some(below) => below.to_vec(),
        }
    }
}

/// A catalogue of the stored files that has read nothing yet.
pub(in crate::daemon) fn reader(
    config: &JournalConfig,
    stored: &Stored,
) -> Result<Reader, RunError> {
    let key = if config.path_key.exists() {
        Some(PathKey::read(&config.path_key)?)
    } else {
        None
    };
    let catalogue = Catalogue::new(key, roots(stored), stored.direct.clone());
    Ok(Reader::of(&config.directory, catalogue)?)
}

fn is_below(place: &[u8], above: &[u8]) -> bool {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    place
        .strip_prefix(above)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// Places of local backends that lie in the directory of another.
pub(super) fn roots(stored: &Stored) -> Vec<(String, Vec<u8>)> {
    let mut local: Vec<_> = stored
        .local
        .iter()
        .filter(|(name, _)| !stored.named.contains(name))
        .map(|(name, directory)| {
            let whole = directory.canonicalize();
            (name.clone(), whole.unwrap_or_else(|_| directory.clone()))
        })
        .collect();
    local.sort();
    let mut found = Vec::new();
    for (name, directory) in &local {
        let outer = local
            .iter()
            .filter(|(other, above)| {
                directory.starts_with(above) && (above, other) < (directory, name)
            })
            .min_by_key(|(other, above)| (above.components().count(), other.clone()));
        if let Some((other, above)) = outer
            && let Ok(below) = directory.strip_prefix(above)
        {
            use std::os::unix::ffi::OsStrExt as _;
            let place = joined(
                &joined(b"/", other.as_bytes()),
                below.as_os_str().as_bytes(),
            );
            found.push((name.clone(), place));
        }
    }
    found
}

/// What is there at a place.
pub(in crate::daemon) enum Seen {
    Content([u8; 32]),
    /// A file whose content tells nothing.
    NotRead,
    /// An encrypted file that nobody wrote through the gateway as it is.
    NotAuthentic,
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

struct Look<'a> {
    run: &'a Run<'a>,
    reader: Reader,
    /// Records that were there before anything was looked at.
    start: u64,
    begun: Instant,
    pace: Pace,
    told: Instant,
    tell: &'a mut (dyn FnMut(&Answer) + Send),
    answer: Answer,
    counts: BTreeMap<FindingKind, u64>,
    /// Places of directories.
    unreadable: Vec<Vec<u8>>,
    /// Places of directories whose server was away.
    unreachable: HashSet<Vec<u8>>,
    /// Names of places.
    seen: HashSet<Vec<u8>>,
    requester: Arc<Requester>,
}

impl Look<'_> {
    async fn backend(&mut self, name: &str, directories: &[Directory]) -> Result<(), RunError> {
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
                if entry.attributes.is_directory() {
                    left.push(below);
                } else {
                    self.file(verified, backend, &below, &entry.attributes)
                        .await?;
                }
            }
        }
        Ok(())
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
                match verified
                    .sha256(&path, attributes.size, &mut self.pace)
                    .await
                {
                    Ok(sha256) => Seen::Content(sha256),
                    Err(error) if error.kind == ErrorKind::NotFound => Seen::Nothing,
                    Err(error) if error.kind == ErrorKind::NotAuthentic => Seen::NotAuthentic,
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

    fn judge(&self, place: &[u8], seen: &Seen) -> Judgement {
        let catalogue = &self.reader.catalogue;
        match seen {
            Seen::Content(sha256) => catalogue.judge(place, Found::Content(sha256)),
            // No digest in the log is like this one; where there is none, it does not count.
            Seen::NotRead | Seen::NotAuthentic => catalogue.judge(place, Found::Content(&[0; 32])),
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
        Seen::NotRead | Seen::Nothing => {}
        Seen::Unreadable(error) => put("look", error.kind.code().into()),
    }
    body
}
