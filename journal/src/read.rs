//! Reading a log that may be in use: no lock, no signature checked. For search, display and tests.

mod lines;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

pub(crate) use lines::{Input, layout};
pub use lines::{Lines, Part, lines};

use crate::line::{integer, some_integer};

/// One record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    #[serde(deserialize_with = "integer")]
    pub seq: u64,
    /// RFC 3339, UTC, microseconds.
    #[serde(rename = "ts")]
    pub time: String,
    /// Nanoseconds since the boot that `boot_id` names.
    #[serde(deserialize_with = "integer")]
    pub mono_ns: u64,
    pub node: String,
    pub boot_id: String,
    /// The dotted name, as [`EventKind::name`](crate::EventKind::name) gives it.
    pub event: String,
    pub outcome: Option<String>,
    pub reason: Option<String>,
    /// 32 hexadecimal digits.
    #[serde(rename = "session_id")]
    pub session: Option<String>,
    #[serde(default, rename = "op_id", deserialize_with = "some_integer")]
    pub operation: Option<u64>,
    pub user: Option<User>,
    #[serde(rename = "src")]
    pub source: Option<Address>,
    #[serde(rename = "dst")]
    pub destination: Option<Address>,
    /// Hexadecimal SHA-256 of the line before.
    pub prev: String,
    /// The event's own fields. Strings of a peer may be encoded: [`untrusted_bytes`](crate::record::untrusted_bytes).
    pub body: Value,
}

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct User {
    pub name: String,
    /// `human`, `machine`, `admin` or `breakglass`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub uid: Option<i64>,
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Address {
    pub ip: IpAddr,
    pub port: u16,
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        Self::new(address.ip, address.port)
    }
}

/// Why a log can't be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} line {line} is not a record; let portcullis-verify check the log", path.display())]
    NotARecord { path: PathBuf, line: u64 },
}

impl ReadError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }
}

/// All records in `directory`, oldest first. A line that the writer has not finished ends them.
///
/// # Errors
/// If the directory can't be listed. What can't be read later comes as an item, and is the last.
pub fn records(directory: &Path) -> Result<Records, ReadError> {
    Ok(Records {
        lines: Some(lines(directory, Part::default())?),
    })
}

/// Iterator over the records of a log.
#[derive(Debug)]
pub struct Records {
    /// `None` once they are at their end.
    lines: Option<Lines>,
}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let lines = self.lines.as_mut()?;
        let item = match lines.next(&mut |_| true) {
            Ok(Some(line)) => serde_json::from_slice(line)
                .map(Some)
                .map_err(|_| lines.not_a_record()),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if matches!(item, Err(_) | Ok(None)) {
            self.lines = None;
        }
        item.transpose()
    }
}
