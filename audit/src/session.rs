//! The story of one session: what its records say, folded into chapters.

mod sentence;

use std::collections::{BTreeMap, VecDeque};

use portcullis_journal::{EventKind, read::Record, record::untrusted_bytes};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    hidden::as_recorded,
    operations::{Deed, Operations, integer, text},
    ranges::Ranges,
    text::{quoted, sentence, word},
};

/// Open files of a session that are folded at a time; a gateway lets a channel have 256.
const OPEN_FILES: usize = 4096;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chapter {
    /// When it began, as records write it.
    pub at: String,
    /// Number of the first record that tells it.
    pub seq: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The connection came, with what was negotiated.
    Connected {
        source: Option<String>,
        outcome: String,
        details: Map<String, Value>,
    },
    /// One step of the login, or its end.
    Login {
        event: String,
        user: Option<String>,
        outcome: String,
        reason: Option<String>,
        details: Map<String, Value>,
    },
    /// A file from OPEN to CLOSE.
    File(FileUse),
    /// A directory was listed.
    Listed {
        path: Value,
        packets: u64,
        outcome: String,
    },
    /// Another operation, and others of the same kind right after it.
    Operation {
        operation: String,
        count: u64,
        /// Of the first.
        path: Option<Value>,
        path2: Option<Value>,
        /// Of the last, where there are several.
        last_path: Option<Value>,
        outcome: String,
        reason: Option<String>,
    },
    /// Refused by policy or parser.
    Denied {
        operation: Option<String>,
        path: Option<Value>,
        path2: Option<Value>,
        reason: Option<String>,
        details: Option<String>,
    },
    /// A channel or a request of one was refused.
    ChannelRefused {
        request: Value,
        detail: Option<Value>,
    },
    /// The connection's end.
    Ended {
        reason: Option<String>,
        bytes_in: u64,
        bytes_out: u64,
        duration_ms: u64,
    },
    /// Anything else that names the session.
    Other {
        event: String,
        outcome: Option<String>,
        reason: Option<String>,
    },
}

/// What went through one open file.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FileUse {
    pub path: Value,
    pub flags: String,
    pub reads: u64,
    pub read_bytes: u64,
    /// READs began at 0 and left out nothing up to the furthest.
    pub read_without_gaps: bool,
    pub writes: u64,
    pub written_bytes: u64,
    pub written_without_gaps: bool,
    pub failed: u64,
    /// `closed`, `not_opened`, `not_closed`, or what a failed CLOSE said.
    pub end: String,
    pub sha256: Option<String>,
    /// Why there is none.
    pub sha256_reason: Option<String>,
}

/// A file under way.
#[derive(Debug, Default)]
struct Open {
    at: String,
    seq: u64,
    is_directory: bool,
    packets: u64,
    failed_open: Option<String>,
    file: FileUse,
    read: Ranges,
    written: Ranges,
    has_summary: bool,
}

/// What the outcome of a READ or WRITE says, or of the extent that announced several.
struct Moved {
    /// That did what they were to do.
    requests: u64,
    failed: u64,
    bytes: u64,
    offset: u64,
    /// From the first byte that was moved to the last.
    length: u64,
}

impl Moved {
    fn of(record: &Record, deed: &Deed, succeeded: bool) -> Self {
        let number = |name| integer(record.body.get(name));
        let bytes = number("bytes").unwrap_or(0);
        match number("requests") {
            Some(requests) => {
                let failed = ["failed", "unknown"].map(|name| number(name).unwrap_or(0));
                let failed = failed.into_iter().sum();
                Self {
                    requests: requests.saturating_sub(failed),
                    failed,
                    bytes,
                    offset: number("offset").unwrap_or(0),
                    length: number("len").unwrap_or(0),
                }
            }
            None => Self {
                requests: succeeded.into(),
                failed: (!succeeded).into(),
                bytes: if succeeded { bytes } else { 0 },
                offset: deed.offset.unwrap_or(0),
                length: 0,
            },
        }
    }
}

/// Tells the chapters of one session as their records come. Memory is bounded.
#[derive(Debug, Default)]
pub struct Story {
    operations: Operations,
    open: BTreeMap<u64, Open>,
    /// Operations of the same kind, not told yet.
    run: Option<Chapter>,
    told: VecDeque<Chapter>,
}

impl Story {
    /// Takes the next record of the session, and gives what it completes.
    pub fn hear(&mut self, record: &Record) -> impl Iterator<Item = Chapter> + '_ {
        let deed = self.operations.observe(record, |_| true);
        self.take(record, &deed);
        self.told.drain(..)
    }

    /// What is left when there are no more records.
    pub fn end(&mut self) -> impl Iterator<Item = Chapter> + '_ {
        self.end_run();
        while let Some((_, open)) = self.open.pop_first() {
            self.close(open, "not_closed");
        }
        self.told.drain(..)
    }

    fn take(&mut self, record: &Record, deed: &Deed) {
        let is = |kind: EventKind| record.event == kind.name();
        if is(EventKind::OperationIntent) {
            self.intent(record, deed);
        } else if is(EventKind::OperationOutcome) {
            self.outcome(record, deed);
        } else if is(EventKind::TransferSummary) {
            self.summary(record, deed);
        } else {
            self.end_run();
            if is(EventKind::ConnectionClose) {
                while let Some((_, open)) = self.open.pop_first() {
                    self.close(open, "not_closed");
                }
            }
            self.tell(record, other(record, deed));
        }
    }

    fn intent(&mut self, record: &Record, deed: &Deed) {
        let operation = deed.operation.as_deref().unwrap_or_default();
        let (Some(handle), "open" | "opendir") = (deed.handle, operation) else {
            return;
        };
        if self.open.len() >= OPEN_FILES
            && let Some((_, oldest)) = self.open.pop_first()
        {
            self.close(oldest, "not_closed");
        }
        let open = Open {
            at: record.time.clone(),
            seq: record.seq,
            is_directory: operation == "opendir",
            file: FileUse {
                path: shown(deed.path.as_deref()),
                flags: text(&record.body, "flags").unwrap_or_default().to_owned(),
                ..FileUse::default()
            },
            ..Open::default()
        };
        self.open.insert(handle, open);
    }

    fn outcome(&mut self, record: &Record, deed: &Deed) {
        let operation = deed.operation.clone().unwrap_or_default();
        let outcome = record.outcome.clone().unwrap_or_default();
        let succeeded = outcome == "success";
        let handle = deed.handle;
        let Some(open) = handle.and_then(|handle| self.open.get_mut(&handle)) else {
            return self.single(record, deed, operation, outcome);
        };
        match operation.as_str() {
            "open" | "opendir" if succeeded => {}
            "open" | "opendir" => {
                open.failed_open = Some(record.reason.clone().unwrap_or(outcome));
                self.end_handle(handle, "not_opened");
            }
            "read" | "write" => {
                let moved = Moved::of(record, deed, succeeded);
                open.file.failed += moved.failed;
                let (requests, bytes, ranges) = if operation == "read" {
                    (
                        &mut open.file.reads,
                        &mut open.file.read_bytes,
                        &mut open.read,
                    )
                } else {
                    (
                        &mut open.file.writes,
                        &mut open.file.written_bytes,
                        &mut open.written,
                    )
                };
                *requests += moved.requests;
                *bytes += moved.bytes;
                ranges.add(moved.offset, moved.bytes);
                if moved.bytes < moved.length {
                    ranges.add_gap();
                }
            }
            "readdir" if succeeded => open.packets += 1,
            "readdir" => {}
            "close" => {
                let reason = record.reason.clone().unwrap_or(outcome);
                let end = if succeeded { "closed" } else { &reason };
                self.end_handle(handle, end);
            }
            "fstat" => {}
            _ => self.single(record, deed, operation, outcome),
        }
    }

    fn end_handle(&mut self, handle: Option<u64>, end: &str) {
        let ended = handle.and_then(|handle| self.open.remove(&handle));
        if let Some(open) = ended {
            self.close(open, end);
        }
    }

    fn close(&mut self, open: Open, end: &str) {
        self.end_run();
        let what = if open.is_directory {
            What::Listed {
                path: open.file.path,
                packets: open.packets,
                outcome: open.failed_open.unwrap_or_else(|| end.to_owned()),
            }
        } else {
            let mut file = open.file;
            file.read_without_gaps |= file.reads > 0 && open.read.is_whole();
            file.written_without_gaps = file.writes > 0 && open.written.is_whole();
            end.clone_into(&mut file.end);
            if let Some(reason) = open.failed_open {
                file.end = format!("not_opened: {reason}");
            }
            What::File(file)
        };
        self.told.push_back(Chapter {
            at: open.at,
            seq: open.seq,
            what,
        });
    }

    fn summary(&mut self, record: &Record, deed: &Deed) {
        let Some(open) = deed.handle.and_then(|handle| self.open.get_mut(&handle)) else {
            return;
        };
        open.has_summary = true;
        open.file.sha256 = text(&record.body, "sha256").map(str::to_owned);
        open.file.sha256_reason = text(&record.body, "sha256_reason").map(str::to_owned);
        if record.reason.as_deref() == Some("not_closed") {
            self.end_handle(deed.handle, "not_closed");
        }
    }

    fn single(&mut self, record: &Record, deed: &Deed, operation: String, outcome: String) {
        if let Some(Chapter {
            what:
                What::Operation {
                    operation: before,
                    count,
                    last_path,
                    outcome: before_outcome,
                    reason,
                    ..
                },
            ..
        }) = &mut self.run
            && *before == operation
            && *before_outcome == outcome
            && *reason == record.reason
            && is_look(&operation)
        {
            *count += 1;
            *last_path = deed.path.as_deref().map(as_recorded);
            return;
        }
        self.end_run();
        self.run = Some(Chapter {
            at: record.time.clone(),
            seq: deed.intent.unwrap_or(record.seq),
            what: What::Operation {
                operation,
                count: 1,
                path: deed.path.as_deref().map(as_recorded),
                path2: deed.path2.as_deref().map(as_recorded),
                last_path: None,
                outcome,
                reason: record.reason.clone(),
            },
        });
    }

    fn end_run(&mut self) {
        self.told.extend(self.run.take());
    }

    fn tell(&mut self, record: &Record, what: What) {
        self.told.push_back(Chapter {
            at: record.time.clone(),
            seq: record.seq,
            what,
        });
    }
}

/// Operations that change nothing: many in a row are one chapter.
fn is_look(operation: &str) -> bool {
    matches!(
        operation,
        "stat" | "lstat" | "fstat" | "realpath" | "readlink" | "statvfs" | "fstatvfs" | "limits"
    )
}

fn shown(path: Option<&[u8]>) -> Value {
    path.map_or(Value::Null, as_recorded)
}

fn other(record: &Record, deed: &Deed) -> What {
    let details = || record.body.as_object().cloned().unwrap_or_default();
    let is = |kind: EventKind| record.event == kind.name();
    let outcome = record.outcome.clone();
    let reason = record.reason.clone();
    let number = |field| integer(record.body.get(field)).unwrap_or(0);
    if is(EventKind::ConnectionOpen) {
        What::Connected {
            source: record.source.map(|source| source.ip.to_string()),
            outcome: outcome.unwrap_or_default(),
            details: details(),
        }
    } else if is(EventKind::AuthStep) || is(EventKind::AuthResult) {
        What::Login {
            event: record.event.clone(),
            user: record.user.as_ref().map(|user| user.name.clone()),
            outcome: outcome.unwrap_or_default(),
            reason,
            details: details(),
        }
    } else if is(EventKind::OperationDenied) {
        What::Denied {
            operation: deed.operation.clone(),
            path: deed.path.as_deref().map(as_recorded),
            path2: deed.path2.as_deref().map(as_recorded),
            reason,
            details: text(&record.body, "error").map(str::to_owned),
        }
    } else if is(EventKind::ChannelRefused) {
        What::ChannelRefused {
            request: record.body.get("request").cloned().unwrap_or_default(),
            detail: record.body.get("detail").cloned(),
        }
    } else if is(EventKind::ConnectionClose) {
        What::Ended {
            reason,
            bytes_in: number("bytes_in"),
            bytes_out: number("bytes_out"),
            duration_ms: number("duration_ms"),
        }
    } else {
        What::Other {
            event: record.event.clone(),
            outcome,
            reason,
        }
    }
}

/// A peer's text, in quotes if it is a path.
pub(crate) fn path_word(value: &Value) -> String {
    match value {
        Value::String(text) => match untrusted_bytes(text) {
            Some(bytes) if text.starts_with('/') || text.starts_with("b64:") => quoted(&bytes),
            Some(_) | None => word(text),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => sentence(&value.to_string()),
    }
}

#[cfg(test)]
mod tests;
