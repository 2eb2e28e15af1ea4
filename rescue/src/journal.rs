//! What the journal says was uploaded last.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use portcullis_at_rest::Head;
use portcullis_journal::{
    read::{ReadError, Record, records},
    record::{HIDDEN, untrusted_bytes},
    tree::key::{KeyError, read_verifier_keys},
    verify::directory::{VerifyError, verify},
};
use serde_json::Value;

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("the journal's public keys can't be read")]
    Key(#[source] KeyError),
    #[error("the journal can't be checked")]
    Verify(#[source] VerifyError),
    #[error("the journal in {} can't be read", directory.display())]
    Read {
        directory: PathBuf,
        source: ReadError,
    },
}

/// The last state of each path that somebody uploaded, as far as it follows from uploads, renames and removals.
pub(crate) struct Index {
    files: HashMap<Named, Upload>,
    /// Paths by their last component.
    by_name: HashMap<Vec<u8>, Vec<Named>>,
    pub(crate) records: u64,
    /// Files that were destroyed on record, by their numbers.
    pub(crate) shredded: HashMap<[u8; 16], Shredded>,
    /// Sets of keys that were.
    pub(crate) lost: Vec<Lost>,
    /// Uploads whose paths the journal does not say in clear.
    pub(crate) hidden: u64,
    /// What is wrong with the journal itself.
    pub(crate) findings: u64,
}

/// Accounts see different trees: a path means something only together with its account.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Named {
    user: String,
    path: Vec<u8>,
}

#[derive(Clone)]
struct Upload {
    /// `None` if the journal gives a reason instead.
    sha256: Option<[u8; 32]>,
    time: String,
    record: u64,
}

/// What the journal says about a file.
pub(crate) enum Said {
    /// The digest, by whom and when it was uploaded.
    Same {
        user: String,
        time: String,
    },
    /// The last digest of the path is another.
    Other {
        sha256: [u8; 32],
        user: String,
        time: String,
    },
    Nothing,
}

/// A file that was destroyed.
pub(crate) struct Shredded {
    /// With the backend's name in front; `None` if the journal does not say it in clear.
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) approver: String,
    pub(crate) time: String,
}

/// A set of keys that was destroyed.
pub(crate) struct Lost {
    pub(crate) set: String,
    /// Of its key-encryption keys and its escrow key.
    ids: Vec<[u8; 16]>,
    pub(crate) backends: Vec<String>,
    pub(crate) files: u64,
    pub(crate) approver: String,
    pub(crate) time: String,
}

struct Move {
    user: String,
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

impl Index {
    pub(crate) fn read(directory: &Path, key: &Path) -> Result<Self, JournalError> {
        let keys = read_verifier_keys(key).map_err(JournalError::Key)?;
        let report = verify(directory, keys, None).map_err(JournalError::Verify)?;
        let mut index = Self {
            files: HashMap::new(),
            by_name: HashMap::new(),
            records: 0,
            shredded: HashMap::new(),
            lost: Vec::new(),
            hidden: 0,
            findings: report.findings.len() as u64 + report.further_findings,
        };
        let error = |source| JournalError::Read {
            directory: directory.to_owned(),
            source,
        };
        let mut moves = HashMap::new();
        for record in records(directory).map_err(error)? {
            match record {
                Ok(record) => index.take(&record, &mut moves),
                // Already among the findings; what comes behind it can't be read.
                Err(ReadError::NotARecord { .. }) if index.findings > 0 => break,
                Err(source) => return Err(error(source)),
            }
        }
        for named in index.files.keys() {
            let name = name(&named.path).to_vec();
            index.by_name.entry(name).or_default().push(named.clone());
        }
        Ok(index)
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.findings == 0
    }

    fn take(&mut self, record: &Record, moves: &mut HashMap<(String, u64), Move>) {
        self.records += 1;
        let is_success = record.outcome.as_deref() == Some("success");
        let operation = || Some((record.session.clone()?, record.operation?));
        match record.event.as_str() {
            "xfer.summary" if is_success => self.upload(record),
            "rest.tombstone" => self.bury(record),
            "op.intent" => {
                if let (Some(key), Some(change)) = (operation(), change(record)) {
                    moves.insert(key, change);
                }
            }
            "op.outcome" => {
                let change = operation().and_then(|key| moves.remove(&key));
                if let Some(change) = change.filter(|_| is_success) {
                    self.apply(change);
                }
            }
            _ => {}
        }
    }

    /// The set that a file with this head belonged to.
    pub(crate) fn lost(&self, head: &Head) -> Option<&Lost> {
        let escrow = head.escrow().map(|(id, _)| id);
        self.lost.iter().find(|lost| {
            lost.ids.contains(&head.kek().0) || escrow.is_some_and(|id| lost.ids.contains(&id))
        })
    }

    fn lose(&mut self, set: &str, record: &Record) {
        let list = |field: &str| {
            let list = record.body.get(field).and_then(Value::as_array);
            let texts = list.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        let digits = list("kek_ids").into_iter();
        let digits = digits.chain(text(record, "escrow_id").map(str::to_owned));
        let ids: Vec<[u8; 16]> = digits
            .filter_map(|digits| {
                let mut id = [0; 16];
                hex::decode_to_slice(digits, &mut id).ok()?;
                Some(id)
            })
            .collect();
        // The record of what became of the keys names none.
        if ids.is_empty() {
            return;
        }
        self.lost.push(Lost {
            set: set.to_owned(),
            ids,
            backends: list("backends"),
            files: record
                .body
                .get("files")
                .and_then(Value::as_u64)
                .unwrap_or(0),
            approver: text(record, "approver").unwrap_or_default().to_owned(),
            time: record.time.clone(),
        });
    }

    fn bury(&mut self, record: &Record) {
        if let Some(set) = text(record, "set") {
            return self.lose(set, record);
        }
        let mut object = [0; 16];
        let digits = text(record, "object").unwrap_or_default();
        if hex::decode_to_slice(digits, &mut object).is_err() {
            return;
        }
        let shredded = Shredded {
            path: path(record, "path"),
            approver: text(record, "approver").unwrap_or_default().to_owned(),
            time: record.time.clone(),
        };
        self.shredded.insert(object, shredded);
    }

    fn upload(&mut self, record: &Record) {
        if text(record, "direction") != Some("upload") {
            return;
        }
        if text(record, "path").is_some_and(|path| path.starts_with(HIDDEN)) {
            self.hidden += 1;
            return;
        }
        let Some(path) = path(record, "path") else {
            return;
        };
        let sha256 = text(record, "sha256").and_then(|digits| {
            let mut digest = [0; 32];
            hex::decode_to_slice(digits, &mut digest).ok()?;
            Some(digest)
        });
        let upload = Upload {
            sha256,
            time: record.time.clone(),
            record: record.seq,
        };
        let user = user(record);
        self.files.insert(Named { user, path }, upload);
    }

    fn apply(&mut self, Move { user, from, to }: Move) {
        let named = |path| Named {
            user: user.clone(),
            path,
        };
        if let Some(upload) = self.files.remove(&named(from.clone())) {
            if let Some(to) = to {
                self.files.insert(named(to), upload);
            }
            return;
        }
        let Some(to) = to else { return };
        // A directory, or a file that was there before the journal.
        self.files.remove(&named(to.clone()));
        let below = [&from[..], b"/"].concat();
        let inside: Vec<Named> = self
            .files
            .keys()
            .filter(|file| file.user == user && file.path.starts_with(&below))
            .cloned()
            .collect();
        for old in inside {
            if let Some(upload) = self.files.remove(&old) {
                let rest = old.path.get(from.len()..).unwrap_or_default();
                self.files.insert(named([&to[..], rest].concat()), upload);
            }
        }
    }

    /// What is said of the file at `path` of the backend. The paths of the journal begin at a mount, which is some directory
    /// there: those that agree with the end of `path` longest count.
    pub(crate) fn about(&self, path: &[u8], sha256: &[u8; 32]) -> Said {
        let named = self.by_name.get(name(path)).map_or(&[][..], Vec::as_slice);
        let longest = named
            .iter()
            .map(|named| agreement(&named.path, path))
            .max()
            .unwrap_or(0);
        let mut candidates: Vec<(&Named, &Upload)> = named
            .iter()
            .filter(|named| agreement(&named.path, path) == longest)
            .filter_map(|named| Some((named, self.files.get(named)?)))
            .collect();
        candidates.sort_by_key(|(_, upload)| std::cmp::Reverse(upload.record));
        let same = candidates
            .iter()
            .find(|(_, upload)| upload.sha256.as_ref() == Some(sha256));
        if let Some((named, upload)) = same {
            return Said::Same {
                user: named.user.clone(),
                time: upload.time.clone(),
            };
        }
        candidates
            .iter()
            .find_map(|(named, upload)| {
                Some(Said::Other {
                    sha256: upload.sha256?,
                    user: named.user.clone(),
                    time: upload.time.clone(),
                })
            })
            .unwrap_or(Said::Nothing)
    }
}

/// What a rename or a removal will change, if it succeeds.
fn change(record: &Record) -> Option<Move> {
    let to = match text(record, "sftp_op")? {
        "rename" | "posix_rename" => Some(path(record, "path2")?),
        "remove" => None,
        _ => return None,
    };
    Some(Move {
        user: user(record),
        from: path(record, "path")?,
        to,
    })
}

fn user(record: &Record) -> String {
    let user = record.user.as_ref();
    user.map_or_else(String::new, |user| user.name.clone())
}

fn text<'a>(record: &'a Record, field: &str) -> Option<&'a str> {
    record.body.get(field).and_then(Value::as_str)
}

fn path(record: &Record, field: &str) -> Option<Vec<u8>> {
    let text = text(record, field).filter(|text| !text.starts_with(HIDDEN))?;
    untrusted_bytes(text)
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// How many components at the end are equal.
fn agreement(one: &[u8], other: &[u8]) -> usize {
    let parts = |path| <[u8]>::rsplit(path, |byte: &u8| *byte == b'/').filter(|p| !p.is_empty());
    parts(one)
        .zip(parts(other))
        .take_while(|(one, other)| one == other)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64, event: &str, outcome: &str, operation: u64, body: Value) -> Record {
        serde_json::from_value(serde_json::json!({
            "seq": seq, "ts": format!("2026-01-01T00:00:00.{seq:06}Z"), "mono_ns": 1, "node": "gw", "boot_id": "b",
            "event": event, "outcome": outcome, "session_id": "00", "op_id": operation,
            "user": {"name": "alice", "type": "human"}, "prev": "", "body": body,
        }))
        .unwrap()
    }

    fn uploaded(path: &str, digest: u8) -> (&'static str, Value) {
        let sha256 = hex::encode([digest; 32]);
        let body = serde_json::json!({"direction": "upload", "path": path, "sha256": sha256});
        ("xfer.summary", body)
    }

    fn index(said: Vec<(&str, Value)>) -> Index {
        let mut index = Index {
            files: HashMap::new(),
            by_name: HashMap::new(),
            records: 0,
            shredded: HashMap::new(),
            lost: Vec::new(),
            hidden: 0,
            findings: 0,
        };
        let mut moves = HashMap::new();
        for (seq, (event, body)) in (1..).zip(said) {
            let operation = body.get("n").and_then(Value::as_u64).unwrap_or(seq);
            index.take(&record(seq, event, "success", operation, body), &mut moves);
        }
        for named in index.files.keys() {
            let name = name(&named.path).to_vec();
            index.by_name.entry(name).or_default().push(named.clone());
        }
        index
    }

    fn is_same(index: &Index, path: &str, digest: u8) -> Option<bool> {
        match index.about(path.as_bytes(), &[digest; 32]) {
            Said::Same { .. } => Some(true),
            Said::Other { .. } => Some(false),
            Said::Nothing => None,
        }
    }

    #[test]
    fn the_last_upload_of_the_path_that_agrees_longest_counts() {
        let index = index(vec![
            uploaded("/in/a.csv", 1),
            uploaded("/in/a.csv", 2),
            uploaded("/out/a.csv", 3),
        ]);
        assert_eq!(is_same(&index, "partner/in/a.csv", 2), Some(true));
        assert_eq!(is_same(&index, "partner/in/a.csv", 1), Some(false));
        assert_eq!(is_same(&index, "partner/in/a.csv", 3), Some(false));
        assert_eq!(is_same(&index, "partner/out/a.csv", 3), Some(true));
        assert_eq!(is_same(&index, "elsewhere/a.csv", 3), Some(true));
        assert_eq!(is_same(&index, "partner/in/b.csv", 2), None);
    }

    #[test]
    fn renames_and_removals_are_followed_once_they_succeed() {
        let rename = |n: u64, from: &str, to: &str| serde_json::json!({"n": n, "sftp_op": "rename", "path": from, "path2": to});
        let done = |n: u64| ("op.outcome", serde_json::json!({"n": n}));
        let index = index(vec![
            uploaded("/a.csv.part", 1),
            ("op.intent", rename(90, "/a.csv.part", "/a.csv")),
            done(90),
            uploaded("/dir/b", 2),
            ("op.intent", rename(91, "/dir", "/new")),
            done(91),
            uploaded("/c", 3),
            ("op.intent", rename(92, "/c", "/never")),
            uploaded("/d", 4),
            (
                "op.intent",
                serde_json::json!({"n": 93, "sftp_op": "remove", "path": "/d"}),
            ),
            done(93),
        ]);
        assert_eq!(is_same(&index, "x/a.csv", 1), Some(true));
        assert_eq!(is_same(&index, "x/a.csv.part", 1), None);
        assert_eq!(is_same(&index, "x/new/b", 2), Some(true));
        assert_eq!(is_same(&index, "x/c", 3), Some(true));
        assert_eq!(is_same(&index, "x/never", 3), None);
        assert_eq!(is_same(&index, "x/d", 4), None);
    }

    #[test]
    fn hidden_paths_are_counted_and_not_guessed() {
        let index = index(vec![uploaded("hmac:00112233", 1)]);
        assert_eq!(index.hidden, 1);
        assert_eq!(is_same(&index, "hmac:00112233", 1), None);
    }
}
