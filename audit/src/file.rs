//! Who touched a file, also while it had another name, and whether what went out is what came in.

use std::collections::VecDeque;

use portcullis_journal::{EventKind, read::Record};
use serde::Serialize;
use serde_json::Value;

use crate::{
    hidden::{PathKey, as_recorded, base, is_token},
    operations::{Deed, Operations, integer, text},
    pattern::is_at_or_below,
    raw,
    session::path_word,
    text::{seconds, size, word},
};

/// Renames that are kept in mind.
const RENAMES: usize = 1 << 18;
/// Names that one file is followed under.
const NAMES: usize = 256;

/// A rename that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rename {
    /// As records write it.
    at: String,
    from: Vec<u8>,
    to: Vec<u8>,
}

/// Collects renames, in the order of their records: the first look at a log.
#[derive(Debug, Default)]
pub struct Renames {
    operations: Operations,
    done: VecDeque<Rename>,
    left_out: bool,
}

impl Renames {
    /// False only if the line says nothing of a rename.
    pub fn matters(&self, line: &[u8]) -> bool {
        raw::RENAME.is_in(line) || self.operations.know_session_of(line)
    }

    pub fn hear(&mut self, record: &Record) {
        let deed = self.operations.observe(record, is_rename);
        let is_done = record.event == EventKind::OperationOutcome.name()
            && record.outcome.as_deref() == Some("success");
        if let (true, true, Some(from), Some(to)) =
            (is_done, is_rename(&deed), deed.path, deed.path2)
        {
            if self.done.len() == RENAMES {
                self.done.pop_front();
                self.left_out = true;
            }
            self.done.push_back(Rename {
                at: record.time.clone(),
                from,
                to,
            });
        }
    }

    /// The names that the file had and got; the first is the one that was asked for. With `key`, records that hide names
    /// count too.
    pub fn lineage(mut self, path: &[u8], key: Option<&PathKey>) -> Lineage {
        // Several logs are heard one after the other.
        self.done.make_contiguous().sort_by(|a, b| a.at.cmp(&b.at));
        let mut names = Vec::new();
        let asked = Name {
            path: path.to_vec(),
            from: None,
            until: None,
        };
        push(&mut names, asked, key);
        let mut next = 0;
        while let Some(name) = names.get(next).cloned() {
            next += 1;
            for rename in &self.done {
                if !name.holds(&rename.at) {
                    continue;
                }
                if let Some(old) = moved(&name.path, &rename.to, &rename.from) {
                    let since = self.last_before(&old, &rename.at);
                    push(
                        &mut names,
                        Name {
                            path: old,
                            from: since,
                            until: Some(rename.at.clone()),
                        },
                        key,
                    );
                }
                if let Some(new) = moved(&name.path, &rename.from, &rename.to) {
                    let until = self.first_after(&new, &rename.at);
                    push(
                        &mut names,
                        Name {
                            path: new,
                            from: Some(rename.at.clone()),
                            until,
                        },
                        key,
                    );
                }
            }
        }
        Lineage {
            names,
            is_cut: self.left_out,
        }
    }

    /// When another file last took or left that name before then.
    fn last_before(&self, path: &[u8], at: &str) -> Option<String> {
        let before = self
            .done
            .iter()
            .rev()
            .filter(|rename| rename.at.as_str() < at);
        let mut left = before.filter(|rename| moved(path, &rename.from, &rename.to).is_some());
        left.next().map(|rename| rename.at.clone())
    }

    /// When that name next was taken away from the file, or given to another.
    fn first_after(&self, path: &[u8], at: &str) -> Option<String> {
        let after = self.done.iter().filter(|rename| rename.at.as_str() > at);
        let mut ended = after
            .filter(|rename| moved(path, &rename.from, &rename.to).is_some() || rename.to == path);
        ended.next().map(|rename| rename.at.clone())
    }
}

/// What becomes of `path` when `from` becomes `to`.
pub(crate) fn moved(path: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    if path == from {
        return Some(to.to_vec());
    }
    let rest = path.get(base(from).len()..).unwrap_or_default();
    is_at_or_below(path, from).then(|| [base(to), rest].concat())
}

/// With the key of hidden paths, the token of a name is a name of the same time.
fn push(names: &mut Vec<Name>, name: Name, key: Option<&PathKey>) {
    let key = key.filter(|_| !is_token(&name.path));
    let token = key.map(|key| Name {
        path: key.token(&name.path).into_bytes(),
        ..name.clone()
    });
    for name in std::iter::once(name).chain(token) {
        if names.len() < NAMES && !names.contains(&name) {
            names.push(name);
        }
    }
}

fn is_rename(deed: &Deed) -> bool {
    matches!(deed.operation.as_deref(), Some("rename" | "posix_rename"))
}

/// A name that a file had for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Name {
    #[serde(serialize_with = "peer_text")]
    pub path: Vec<u8>,
    /// As records write it; before the log if absent.
    pub from: Option<String>,
    /// Included, since a rename names both; still if absent.
    pub until: Option<String>,
}

fn peer_text<S: serde::Serializer>(path: &[u8], output: S) -> Result<S::Ok, S::Error> {
    as_recorded(path).serialize(output)
}

impl Name {
    fn holds(&self, at: &str) -> bool {
        self.from.as_deref().is_none_or(|from| from <= at)
            && self.until.as_deref().is_none_or(|until| at <= until)
    }
}

/// All names of a file.
#[derive(Debug, Clone)]
pub struct Lineage {
    pub names: Vec<Name>,
    /// There were more renames than are kept in mind.
    pub is_cut: bool,
}

impl Lineage {
    fn holds(&self, path: &[u8], at: &str) -> bool {
        self.names
            .iter()
            .any(|name| name.path == path && name.holds(at))
    }
}

/// One thing that was done to the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Touch {
    /// As records write it.
    pub at: String,
    pub seq: u64,
    pub user: Option<String>,
    pub source: Option<String>,
    pub session: Option<String>,
    /// `upload`, `download`, or the operation as records write it.
    pub what: String,
    pub path: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path2: Option<Value>,
    pub outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_reason: Option<String>,
    /// Of a download.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// The same by the same session, one after the other.
    pub times: u64,
}

/// A download beside the last upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Compared {
    Same {
        upload: u64,
    },
    Differs {
        upload: u64,
        sha256: String,
    },
    /// One of the two has no hash, or the download is not of the whole file.
    Unknown {
        because: &'static str,
    },
}

/// Tells what was done to a file: the second look at a log.
#[derive(Debug)]
pub struct History<'a> {
    lineage: &'a Lineage,
    operations: Operations,
    uploaded: Uploaded,
    /// Not told yet: the same may follow.
    last: Option<Touch>,
}

/// What is known of the file's content.
#[derive(Debug)]
enum Uploaded {
    Never,
    Hash {
        seq: u64,
        sha256: String,
    },
    /// Not by its hash.
    Unhashed,
}

impl<'a> History<'a> {
    pub fn of(lineage: &'a Lineage) -> Self {
        Self {
            lineage,
            operations: Operations::default(),
            uploaded: Uploaded::Never,
            last: None,
        }
    }

    /// Takes the next record, and gives what it completes.
    pub fn hear(&mut self, record: &Record) -> Option<Touch> {
        let lineage = self.lineage;
        let concerns = |deed: &Deed| {
            [&deed.path, &deed.path2]
                .into_iter()
                .flatten()
                .any(|path| lineage.holds(path, &record.time))
        };
        let deed = self.operations.observe(record, concerns);
        if !concerns(&deed) {
            return None;
        }
        let touch = self.touch(record, &deed)?;
        if let Some(last) = &mut self.last
            && last.same_as(&touch)
        {
            last.times += 1;
            return None;
        }
        self.last.replace(touch)
    }

    /// What is left at the end.
    pub fn end(self) -> Option<Touch> {
        self.last
    }

    /// False only if the line neither names the file nor belongs to what does.
    pub fn matters(&self, line: &[u8], needles: &Needles) -> bool {
        needles.are_in(line) || self.operations.know_session_of(line)
    }

    fn touch(&mut self, record: &Record, deed: &Deed) -> Option<Touch> {
        let is = |kind: EventKind| record.event == kind.name();
        let path = |path: &Option<Vec<u8>>| path.as_deref().map(as_recorded);
        let user = record.user.as_ref().or(deed.user.as_ref());
        let source = record.source.map(|source| source.ip).or(deed.source);
        let mut touch = Touch {
            at: record.time.clone(),
            seq: record.seq,
            user: user.map(|user| user.name.clone()),
            source: source.map(|ip| ip.to_string()),
            session: record.session.clone(),
            what: deed
                .operation
                .clone()
                .unwrap_or_else(|| record.event.clone()),
            path: path(&deed.path).unwrap_or_default(),
            path2: path(&deed.path2),
            outcome: record.outcome.clone().unwrap_or_default(),
            reason: record.reason.clone(),
            bytes: None,
            sha256: None,
            sha256_reason: None,
            compared: None,
            times: 1,
        };
        if is(EventKind::TransferSummary) {
            self.transfer(record, &mut touch);
            return Some(touch);
        }
        if is(EventKind::OperationDenied) {
            return Some(touch);
        }
        if !is(EventKind::OperationOutcome) {
            return None;
        }
        let succeeded = touch.outcome == "success";
        match touch.what.as_str() {
            // Its summary says it; one that failed has none.
            "open" if succeeded => return None,
            "read" | "write" | "close" | "fstat" | "opendir" | "readdir" if succeeded => {
                return None;
            }
            "setstat" | "fsetstat" | "lsetstat" | "remove" | "copy_data" if succeeded => {
                self.uploaded = match touch.what.as_str() {
                    "remove" => Uploaded::Never,
                    _ => Uploaded::Unhashed,
                };
            }
            _ => {}
        }
        Some(touch)
    }

    fn transfer(&mut self, record: &Record, touch: &mut Touch) {
        let body = &record.body;
        text(body, "direction")
            .unwrap_or("transfer")
            .clone_into(&mut touch.what);
        touch.bytes = integer(body.get("bytes"));
        touch.sha256 = text(body, "sha256").map(str::to_owned);
        touch.sha256_reason = text(body, "sha256_reason").map(str::to_owned);
        if touch.what == "upload" {
            // One that failed was withdrawn.
            if touch.outcome == "success" {
                self.uploaded = match &touch.sha256 {
                    Some(sha256) => Uploaded::Hash {
                        seq: record.seq,
                        sha256: sha256.clone(),
                    },
                    None => Uploaded::Unhashed,
                };
            }
            return;
        }
        let is_whole = body.get("ranges_complete").and_then(Value::as_bool) == Some(true);
        touch.compared = Some(match (&self.uploaded, &touch.sha256) {
            (Uploaded::Never, _) => Compared::Unknown {
                because: "no upload in the log",
            },
            (Uploaded::Unhashed, _) => Compared::Unknown {
                because: "the last change has no hash",
            },
            (Uploaded::Hash { .. }, None) => Compared::Unknown {
                because: "the download has no hash",
            },
            (Uploaded::Hash { .. }, Some(_)) if !is_whole => Compared::Unknown {
                because: "the download is not of the whole file",
            },
            (Uploaded::Hash { seq, sha256 }, Some(downloaded)) if sha256 == downloaded => {
                Compared::Same { upload: *seq }
            }
            (Uploaded::Hash { seq, sha256 }, Some(_)) => Compared::Differs {
                upload: *seq,
                sha256: sha256.clone(),
            },
        });
    }
}

impl Touch {
    fn same_as(&self, other: &Self) -> bool {
        self.sha256.is_none()
            && self.bytes.is_none()
            && self.what == other.what
            && self.session == other.session
            && self.path == other.path
            && self.path2 == other.path2
            && self.outcome == other.outcome
            && self.reason == other.reason
            && self.bytes == other.bytes
    }

    /// As a line for people.
    pub fn line(&self) -> String {
        let mut out = format!(
            "{}  {}",
            seconds(&self.at),
            word(self.user.as_deref().unwrap_or("-"))
        );
        if let Some(source) = &self.source {
            out.push_str(&format!(" from {source}"));
        }
        if let Some(session) = &self.session {
            out.push_str(&format!(" [{}]", session.get(..8).unwrap_or(session)));
        }
        out.push_str(&format!(": {} {}", word(&self.what), path_word(&self.path)));
        if let Some(path) = &self.path2 {
            out.push_str(&format!(" to {}", path_word(path)));
        }
        if let Some(bytes) = self.bytes {
            out.push_str(&format!(", {}", size(bytes)));
        }
        if self.times > 1 {
            out.push_str(&format!(", {} times", self.times));
        }
        if self.outcome != "success" {
            out.push_str(&format!(", {}", word(&self.outcome)));
        }
        if let Some(reason) = &self.reason {
            out.push_str(&format!(" ({})", word(reason)));
        }
        match (&self.sha256, &self.sha256_reason) {
            (Some(sha256), _) => out.push_str(&format!(", SHA-256 {}", word(sha256))),
            (None, Some(reason)) => out.push_str(&format!(", no hash ({})", word(reason))),
            (None, None) => {}
        }
        match &self.compared {
            Some(Compared::Same { upload }) => {
                out.push_str(&format!(", as uploaded by record {upload}"));
            }
            Some(Compared::Differs { upload, sha256 }) => out.push_str(&format!(
                ", DIFFERS from the upload of record {upload}, SHA-256 {}",
                word(sha256)
            )),
            Some(Compared::Unknown { because }) => {
                out.push_str(&format!(", not compared: {because}"));
            }
            None => {}
        }
        out
    }
}

/// The names of a file as lines have them.
#[derive(Debug)]
pub struct Needles {
    names: Vec<memchr::memmem::Finder<'static>>,
}

impl Needles {
    pub fn of(lineage: &Lineage) -> Self {
        let mut paths: Vec<&[u8]> = lineage.names.iter().map(|name| &*name.path).collect();
        paths.sort_unstable();
        paths.dedup();
        let names = paths.into_iter().map(|path| {
            let quoted = serde_json::to_vec(&as_recorded(path)).unwrap_or_default();
            memchr::memmem::Finder::new(&quoted).into_owned()
        });
        Self {
            names: names.collect(),
        }
    }

    fn are_in(&self, line: &[u8]) -> bool {
        self.names.iter().any(|name| name.find(line).is_some())
    }
}

#[cfg(test)]
mod tests;
