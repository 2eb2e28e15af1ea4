//! Manifests and the log that they speak of.

use std::{fs, path::Path};

use memchr::memmem::Finder;
use signed_note::StandardVerifier;
use tlog_tiles::Hash;

use super::{Entry, Manifest, ManifestError, delivery::Delivery};
use crate::{
    EventKind,
    passage::{PassageError, Visitor, pass},
    proof::{ProofError, good_notes},
    read::{Part, Record, lines},
    retention::Tombstone,
    token::{beginning, is_token},
    tree::{
        Tree,
        checkpoint::{CHECKPOINTS, Head},
        key::origin,
    },
};

/// Which of the files are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    At(Wish),
}

/// What lies at a path or below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub path: Vec<u8>,
    /// The same as a log says it that hides paths.
    pub token: Option<Vec<u8>>,
    /// It has to be one of the session's mounts.
    pub is_mount: bool,
}

/// Puts what was sealed in a record into its place, for who has the key.
pub type Unsealing<'a> = &'a dyn Fn(&mut Record);

/// What the session of that number (32 hexadecimal digits) delivered, by the log in `directory`, which is read twice.
///
/// # Errors
/// If the session goes on or is not there, no checkpoint of `keys` covers it yet ([`ProofError::NotCovered`]), or the log can't
/// be read or is not what was signed.
pub fn of_session(
    directory: &Path,
    session: &str,
    scope: &Scope,
    keys: &[StandardVerifier],
    unsealing: Option<Unsealing<'_>>,
) -> Result<Manifest, ManifestError> {
    let origin = origin(keys).ok_or_else(|| ManifestError::NotAManifest {
        why: "the keys have several names; give those of one log".to_owned(),
    })?;
    let last = last_of(directory, session)?;
    let head = covering(directory, last, keys)?;
    let mut reader = Reader::of(session, head, unsealing);
    pass(directory, &head, &mut reader)?;
    let Reader { plain, opened, .. } = reader;
    let named = opened.as_ref().unwrap_or(&plain);
    let wanted = match scope {
        Scope::All => None,
        Scope::At(wish) => Some(wish.of(named, session)?),
    };
    let mut manifest = manifest_of(origin, head, session, plain)?;
    if let Some(opened) = opened {
        manifest.entries = with_names(manifest.entries, opened.into_entries());
    }
    if let Some(path) = wanted {
        manifest
            .entries
            .retain(|entry| is_at_or_below(&entry.path, &path));
        manifest.below = match manifest.entries.as_slice() {
            // A file is named below its directory.
            [entry] if entry.path == path => above(&path),
            _ => path.clone(),
        };
        manifest.scope = path;
    }
    Ok(manifest)
}

/// All that a session delivered which is over, by its records that `head` covers.
pub(super) fn manifest_of(
    origin: &str,
    head: Head,
    session: &str,
    delivery: Delivery,
) -> Result<Manifest, ManifestError> {
    let (begun, ended) = delivery.time().ok_or_else(|| ManifestError::GoesOn {
        session: session.to_owned(),
    })?;
    Ok(Manifest {
        origin: origin.to_owned(),
        head,
        session: session.to_owned(),
        user: delivery.user().unwrap_or_default().to_owned(),
        begun: begun.to_owned(),
        ended: ended.to_owned(),
        scope: b"/".to_vec(),
        below: b"/".to_vec(),
        entries: delivery.into_entries(),
    })
}

impl Wish {
    fn of(&self, delivery: &Delivery, session: &str) -> Result<Vec<u8>, ManifestError> {
        let is_hidden = delivery.mount_points().any(is_token);
        let path = self.token.as_ref().filter(|_| is_hidden);
        let path = path.unwrap_or(&self.path);
        if !self.is_mount || delivery.mount_points().any(|mount| mount == path) {
            return Ok(path.clone());
        }
        let had = delivery.mount_points().map(String::from_utf8_lossy);
        let had: Vec<_> = had.collect();
        Err(ManifestError::NoSuchMount {
            session: session.to_owned(),
            at: String::from_utf8_lossy(path).into_owned(),
            had: had.join(", "),
        })
    }
}

/// What a manifest says that the log in `directory` does not.
///
/// # Errors
/// If the log can't be read.
pub fn compare(manifest: &Manifest, directory: &Path) -> Result<Vec<String>, ManifestError> {
    let mut reader = Reader::of(&manifest.session, manifest.head, None);
    match pass(directory, &manifest.head, &mut reader) {
        Ok(()) => {}
        Err(error) if error.is_finding() => return Ok(vec![error.to_string()]),
        Err(error) => return Err(error),
    }
    let delivery = reader.plain;
    let mut findings = Vec::new();
    let mut same = |what: &str, said: &str, log: Option<&str>| {
        if log != Some(said) {
            findings.push(format!(
                "{what} is {said} in the manifest, and {} in the log",
                log.unwrap_or("not")
            ));
        }
    };
    same("the user", &manifest.user, delivery.user());
    let time = delivery.time();
    same("the beginning", &manifest.begun, time.map(|time| time.0));
    same("the end", &manifest.ended, time.map(|time| time.1));
    let mut recorded = delivery.into_entries();
    let mut of_log = |entry: &Entry| {
        let at = recorded
            .iter()
            .position(|other| other.records == entry.records)?;
        Some(recorded.swap_remove(at))
    };
    let shown = |entry: &Entry| String::from_utf8_lossy(manifest.name(entry)).into_owned();
    for entry in &manifest.entries {
        let Some(mut log) = of_log(entry) else {
            findings.push(format!(
                "{}: the log has no such file by the records that are named",
                shown(entry)
            ));
            continue;
        };
        // The names in clear are the auditor's word.
        if entry.recorded.as_ref() == Some(&log.path) {
            log.path.clone_from(&entry.path);
            log.recorded.clone_from(&entry.recorded);
        }
        if log != *entry {
            findings.push(format!("{}: the log says otherwise", shown(entry)));
        }
    }
    for entry in &recorded {
        if is_at_or_below(&entry.path, &manifest.scope) {
            findings.push(format!("{}: is not in the manifest", shown(entry)));
        }
    }
    Ok(findings)
}

/// Number of the record that ends the session.
fn last_of(directory: &Path, session: &str) -> Result<u64, ManifestError> {
    let mut delivery = Delivery::of(session);
    let filter = Wanted::of(session);
    let mut lines = lines(directory, Part::default())?;
    while let Some(line) = lines.next(&mut |line| filter.takes(line))? {
        if !filter.takes(line) {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(record) => delivery.hear(&record),
            Err(_) => return Err(lines.not_a_record().into()),
        }
    }
    let session = session.to_owned();
    if !delivery.is_known() {
        return Err(ManifestError::NoSuchSession { session });
    }
    if !delivery.has_mounts() {
        return Err(ManifestError::NoMounts { session });
    }
    if delivery.time().is_none() {
        return Err(ManifestError::GoesOn { session });
    }
    Ok(delivery.last())
}

/// The first head that covers the record.
fn covering(
    directory: &Path,
    record: u64,
    keys: &[StandardVerifier],
) -> Result<Head, ManifestError> {
    let path = directory.join(CHECKPOINTS);
    let text = fs::read(&path).map_err(|source| ManifestError::Read { path, source })?;
    let good = good_notes(&text, keys);
    let heads = good.iter().map(|(head, _)| *head);
    let covering = heads.filter(|head| head.size > record);
    covering.min_by_key(|head| head.size).ok_or_else(|| {
        let signed = good.iter().map(|(head, _)| head.size).max().unwrap_or(0);
        ProofError::NotCovered { record, signed }.into()
    })
}

/// Entries of the same records, the names of the second in the first.
fn with_names(entries: Vec<Entry>, named: Vec<Entry>) -> Vec<Entry> {
    let mut named: std::collections::HashMap<Vec<u64>, Vec<u8>> = named
        .into_iter()
        .map(|entry| (entry.records, entry.path))
        .collect();
    let mut entries = entries;
    for entry in &mut entries {
        if let Some(path) = named.remove(&entry.records)
            && path != entry.path
        {
            entry.recorded = Some(std::mem::replace(&mut entry.path, path));
        }
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    entries
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    if above == b"/" || path == above {
        return true;
    }
    path.strip_prefix(beginning(above))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The directory that a path lies in.
fn above(path: &[u8]) -> Vec<u8> {
    let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    match path.get(..end) {
        Some(b"") | None => b"/".to_vec(),
        Some(b"hmac:") => b"hmac:/".to_vec(),
        Some(above) => above.to_vec(),
    }
}

/// Lines that a delivery has to hear.
#[derive(Debug)]
struct Wanted {
    session: Finder<'static>,
    start: Finder<'static>,
}

impl Wanted {
    fn of(session: &str) -> Self {
        let start = format!("\"event\":\"{}\"", EventKind::AppStart.name());
        Self {
            session: Finder::new(session).into_owned(),
            start: Finder::new(&start).into_owned(),
        }
    }

    fn takes(&self, line: &[u8]) -> bool {
        self.session.find(line).is_some() || self.start.find(line).is_some()
    }
}

struct Reader<'a> {
    /// Records that count.
    size: u64,
    wanted: Wanted,
    plain: Delivery,
    /// The same with names in clear.
    opened: Option<Delivery>,
    unsealing: Option<Unsealing<'a>>,
}

impl<'a> Reader<'a> {
    fn of(session: &str, head: Head, unsealing: Option<Unsealing<'a>>) -> Self {
        Self {
            size: head.size,
            wanted: Wanted::of(session),
            plain: Delivery::of(session),
            opened: unsealing.map(|_| Delivery::of(session)),
            unsealing,
        }
    }
}

impl From<PassageError> for ManifestError {
    fn from(error: PassageError) -> Self {
        match error {
            PassageError::List(error) => error.into(),
            PassageError::Read { path, source } => Self::Read { path, source },
            PassageError::Altered { size } => ProofError::Altered { size }.into(),
        }
    }
}

impl Visitor for Reader<'_> {
    type Error = ManifestError;

    fn gone(&mut self, tombstone: &Tombstone, _: &Tree) -> Result<(), ManifestError> {
        // Those of older sessions.
        if tombstone.first == 0 && tombstone.end.records < self.size && !self.plain.is_known() {
            return Ok(());
        }
        let record = tombstone.last();
        Err(ManifestError::Deleted { record })
    }

    fn line(&mut self, _: &Tree, line: &[u8], _: Hash) -> Result<(), ManifestError> {
        if !self.wanted.takes(line) {
            return Ok(());
        }
        let Ok(mut record) = serde_json::from_slice::<Record>(line) else {
            return Err(ProofError::Altered { size: self.size }.into());
        };
        self.plain.hear(&record);
        if let (Some(opened), Some(unsealing)) = (&mut self.opened, self.unsealing) {
            unsealing(&mut record);
            opened.hear(&record);
        }
        Ok(())
    }
}

/// Whether a manifest may have names that only its maker can vouch for.
#[must_use]
pub(super) fn hides(entry: &Entry) -> bool {
    is_token(&entry.path)
}
