//! Records as other systems want them: the line as it stands, OCSF, CEF, and syslog around any of these.
//!
//! Pure: a line of the log in, bytes out. Nothing that stands in a record can end a message or a field early.

mod cef;
mod ocsf;
mod severity;
pub mod syslog;
#[cfg(test)]
mod tests;

use portcullis_journal::read::Record;
use serde_json::Value;

pub use severity::Severity;

/// One record with the line that it was read from.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Without its newline.
    pub line: &'a [u8],
    pub record: Record,
}

impl<'a> Entry<'a> {
    /// `None` for a line that is no record.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let record = serde_json::from_slice(line).ok()?;
        Some(Self { line, record })
    }

    /// A field of the event's own that is text.
    fn text(&self, field: &str) -> Option<&str> {
        self.record.body.get(field)?.as_str()
    }

    /// When the record was made, in milliseconds since 1970; `None` where its time is not one.
    pub fn milliseconds(&self) -> Option<i64> {
        chrono::DateTime::parse_from_rfc3339(&self.record.time)
            .ok()
            .map(|time| time.timestamp_millis())
    }
}

/// How a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The line of the log, byte by byte: what `prev` and checkpoints speak of.
    Json,
    /// One event of OCSF 1.8.0 as one line of JSON.
    Ocsf,
    /// ArcSight Common Event Format, version 0.
    Cef,
}

impl Format {
    /// The word in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ocsf => "ocsf",
            Self::Cef => "cef",
        }
    }

    /// The record in this format: one line, without its newline.
    pub fn write(self, entry: &Entry<'_>, product: &Product) -> Vec<u8> {
        match self {
            Self::Json => entry.line.to_vec(),
            Self::Ocsf => ocsf::event(entry, product).to_string().into_bytes(),
            Self::Cef => cef::event(entry, product).into_bytes(),
        }
    }
}

/// Which program the records come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Such as `portcullis-proxy`.
    pub name: String,
    pub version: String,
}

/// The vendor in OCSF and CEF.
const VENDOR: &str = "Portcullis";

/// True for what a terminal, a line reader or an eye could misread: controls, line separators, changes of direction.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A signed tree head as a line of JSON: for collectors that take lines.
pub fn checkpoint_line(note: &[u8], node: &str) -> Vec<u8> {
    let note = String::from_utf8_lossy(note);
    let size = checkpoint_size(note.as_bytes());
    serde_json::json!({
        "checkpoint": note,
        "event": CHECKPOINT,
        "node": node,
        "size": size,
    })
    .to_string()
    .into_bytes()
}

/// The event name of signed tree heads on their way to a collector; no record of the log has it.
pub const CHECKPOINT: &str = "log.checkpoint";

/// How many records a checkpoint covers: its second line.
pub fn checkpoint_size(note: &[u8]) -> Option<u64> {
    std::str::from_utf8(note).ok()?.lines().nth(1)?.parse().ok()
}

/// The last component of a path.
fn name_of(path: &str) -> &str {
    let path = path.strip_suffix('/').unwrap_or(path);
    match path.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        Some(_) | None => "/",
    }
}

/// A field as text, whatever its type.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}
