//! Chapters in words.

use portcullis_journal::EventKind;
use serde_json::{Map, Value};

use super::{Chapter, FileUse, What, path_word};
use crate::text::{seconds, sentence, size, word};

impl Chapter {
    /// As a line for people.
    pub fn line(&self) -> String {
        format!("{}  {}", seconds(&self.at), self.what.sentence())
    }
}

impl What {
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Connected {
                source,
                outcome,
                details,
            } => {
                let source = source.as_deref().unwrap_or("an unknown address");
                let verb = if outcome == "allow" {
                    "connected"
                } else {
                    "was refused"
                };
                format!("{source} {verb}{}", fields(details, &NEGOTIATED))
            }
            Self::Login {
                event,
                user,
                outcome,
                reason,
                details,
            } => {
                let user = word(user.as_deref().unwrap_or_default());
                let because = because(reason.as_deref());
                if event == EventKind::AuthResult.name() {
                    let result = if outcome == "success" {
                        "is in"
                    } else {
                        "did not get in"
                    };
                    return format!("{user} {result}{because}{}", fields(details, &RESULT));
                }
                format!(
                    "login step of {user}: {outcome}{because}{}",
                    fields(details, &STEP)
                )
            }
            Self::File(file) => file.sentence(),
            Self::Listed {
                path,
                packets,
                outcome,
            } => {
                let ended = if outcome == "closed" {
                    String::new()
                } else {
                    format!(", {}", word(outcome))
                };
                format!("listed {} ({packets} packets){ended}", path_word(path))
            }
            Self::Operation {
                operation,
                count,
                path,
                path2,
                last_path,
                outcome,
                reason,
            } => {
                let mut out = word(operation);
                if let Some(path) = path {
                    out.push_str(&format!(" {}", path_word(path)));
                }
                if let Some(path) = path2 {
                    out.push_str(&format!(" to {}", path_word(path)));
                }
                if *count > 1 {
                    let last = last_path.as_ref().map(path_word).unwrap_or_default();
                    out.push_str(&format!(" and {} more, last {last}", count - 1));
                }
                if outcome != "success" {
                    out.push_str(&format!(
                        ": {}{}",
                        word(outcome),
                        because(reason.as_deref())
                    ));
                }
                out
            }
            Self::Denied {
                operation,
                path,
                path2,
                reason,
                details,
            } => {
                let mut out = format!("DENIED {}", word(operation.as_deref().unwrap_or("request")));
                for (before, path) in [("", path), ("to ", path2)] {
                    if let Some(path) = path {
                        out.push_str(&format!(" {before}{}", path_word(path)));
                    }
                }
                out.push_str(&because(reason.as_deref()));
                if let Some(details) = details {
                    out.push_str(&format!(": {}", sentence(details)));
                }
                out
            }
            Self::ChannelRefused { request, detail } => {
                let detail = detail.as_ref().map(path_word).unwrap_or_default();
                format!("REFUSED channel request {} {detail}", path_word(request))
            }
            Self::Ended {
                reason,
                bytes_in,
                bytes_out,
                duration_ms,
            } => format!(
                "ended{} after {}.{:03} s, {} in, {} out",
                because(reason.as_deref()),
                duration_ms / 1000,
                duration_ms % 1000,
                size(*bytes_in),
                size(*bytes_out)
            ),
            Self::Other {
                event,
                outcome,
                reason,
            } => format!(
                "{} {}{}",
                word(event),
                outcome.as_deref().unwrap_or_default(),
                because(reason.as_deref())
            ),
        }
    }
}

impl FileUse {
    fn sentence(&self) -> String {
        let path = path_word(&self.path);
        let mut out = String::new();
        let mut add = |text: String| {
            if !out.is_empty() {
                out.push_str(", ");
            }
            out.push_str(&text);
        };
        if self.writes > 0 {
            let gaps = if self.written_without_gaps {
                "without gaps"
            } else {
                "with gaps"
            };
            let (bytes, writes) = (size(self.written_bytes), self.writes);
            add(format!("wrote {path}: {bytes} in {writes} writes, {gaps}"));
        }
        if self.reads > 0 {
            let gaps = if self.read_without_gaps {
                "without gaps"
            } else {
                "in part"
            };
            let (bytes, reads) = (size(self.read_bytes), self.reads);
            add(format!("read {path}: {bytes} in {reads} reads, {gaps}"));
        }
        if self.writes + self.reads == 0 {
            add(format!("opened {path} ({})", word(&self.flags)));
        }
        if self.failed > 0 {
            add(format!("{} failed", self.failed));
        }
        if self.end != "closed" {
            add(sentence(&self.end));
        }
        if let Some(sha256) = &self.sha256 {
            add(format!("SHA-256 {}", word(sha256)));
        }
        out
    }
}

const NEGOTIATED: [&str; 8] = [
    "client_version",
    "kex",
    "hostkey",
    "cipher",
    "mac",
    "strict_kex",
    "pq",
    "no_common",
];
const STEP: [&str; 6] = [
    "method",
    "factor",
    "key_fp",
    "fail_count",
    "locked",
    "alert",
];
const RESULT: [&str; 6] = [
    "factors",
    "is_mfa",
    "policy",
    "key_fp",
    "mfa_window",
    "break_glass",
];

fn fields(details: &Map<String, Value>, names: &[&str]) -> String {
    let mut out = String::new();
    for name in names {
        let Some(value) = details.get(*name).filter(|value| !value.is_null()) else {
            continue;
        };
        let value = match value {
            Value::Array(list) => {
                let words: Vec<String> = list.iter().map(path_word).collect();
                words.join("+")
            }
            Value::String(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Object(_) => path_word(value),
        };
        out.push_str(&format!(", {name} {value}"));
    }
    out
}

fn because(reason: Option<&str>) -> String {
    reason
        .map(|reason| format!(" ({})", word(reason)))
        .unwrap_or_default()
}
