//! One look at stored files: where, and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    num::NonZeroU64,
    sync::Arc,
    time::Instant,
};

use portcullis_audit::{
    catalogue::{Catalogue, FindingKind, Reader, clean, joined},
    hidden::{HiddenKeyError, as_recorded},
    search::SearchError,
};
use portcullis_journal::{AppendError, EventKind, Journal, Verdict};
use serde_json::{Value, json};

use super::{Stored, look::Look};
use crate::{
    accounts::{Accounts, AccountsError},
    config::JournalConfig,
    metrics,
    pace::Pace,
    policy::{Mount, Requester},
    verification::{Answer, Request},
};

/// Findings that an answer names; all are on record.
pub(super) const NAMED: usize = 10_000;

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
            lost: 0,
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
            lost,
            ..
        } = look;
        answer.bytes = pace.moved();
        answer.seconds = begun.elapsed().as_secs();
        let alone = self.shredded(&reader.catalogue);
        let shredded = alone.len() as u64 + lost;
        answer.shredded.extend(alone);
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
        put("shredded", shredded.into());
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
        let mounts = mounts(self.accounts)?;
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

/// All mounts of accounts and groups.
pub(in crate::daemon) fn mounts(accounts: &Accounts) -> Result<Vec<Mount>, AccountsError> {
    let mut mounts = Vec::new();
    for account in accounts.list()? {
        mounts.extend(accounts.mounts_by_directory(account.uid)?);
    }
    for group in accounts.groups()? {
        mounts.extend(group.mounts);
    }
    Ok(mounts)
}

/// A mounted directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) place: Vec<u8>,
    /// As its mount has it.
    path: Vec<u8>,
    /// On its server; otherwise it counts from the backend's root, which is the login directory.
    pub(super) is_absolute: bool,
}

impl Directory {
    /// Where the login directory is, nobody knows.
    fn is_in(&self, other: &Self) -> bool {
        self.is_absolute == other.is_absolute && is_below(&self.place, &other.place)
    }

    /// As a session of its backend takes it.
    pub(super) fn base(&self) -> Vec<u8> {
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
    let catalogue = stored.places().catalogue(&config.path_key)?;
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
