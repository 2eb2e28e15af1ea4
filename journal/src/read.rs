//! Reading a log that may be in use: no lock, no signature checked. For search, display and tests.

use std::{
    fs, io,
    io::BufReader,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    line::{Found, integer, read_line, some_integer},
    segment::segments,
};

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

/// All records in `directory`, oldest first. A line that the writer has not finished ends them.
///
/// # Errors
/// If the directory can't be listed. What can't be read later comes as an item, and is the last.
pub fn records(directory: &Path) -> Result<Records, ReadError> {
    let paths = segment_paths(directory)?
        .into_iter()
        .map(|(_, path)| path)
        .rev()
        .collect();
    Ok(Records {
        paths,
        open: None,
        line: Vec::new(),
    })
}

/// The segments in `directory` with the number of their first record, in order.
pub(crate) fn segment_paths(directory: &Path) -> Result<Vec<(String, PathBuf)>, ReadError> {
    let names = fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    });
    let names = names.map_err(|source| ReadError::Read {
        path: directory.to_owned(),
        source,
    })?;
    let found = segments(names).into_iter();
    Ok(found
        .map(|(_, name)| (name.clone(), directory.join(name)))
        .collect())
}

/// Iterator over the records of a log.
#[derive(Debug)]
pub struct Records {
    /// Segments still to read, the next one last.
    paths: Vec<PathBuf>,
    open: Option<Segment>,
    line: Vec<u8>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    input: BufReader<fs::File>,
    line: u64,
}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance();
        if matches!(item, Err(_) | Ok(None)) {
            self.open = None;
            self.paths.clear();
        }
        item.transpose()
    }
}

impl Records {
    fn advance(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            let segment = match &mut self.open {
                Some(segment) => segment,
                None => {
                    let Some(path) = self.paths.pop() else {
                        return Ok(None);
                    };
                    let file = fs::File::open(&path).map_err(|source| ReadError::Read {
                        path: path.clone(),
                        source,
                    })?;
                    self.open.insert(Segment {
                        path,
                        input: BufReader::new(file),
                        line: 0,
                    })
                }
            };
            let (found, _) = read_line(&mut segment.input, &mut self.line).map_err(|source| {
                ReadError::Read {
                    path: segment.path.clone(),
                    source,
                }
            })?;
            segment.line += 1;
            let wrong = || ReadError::NotARecord {
                path: segment.path.clone(),
                line: segment.line,
            };
            match found {
                Found::Whole => {
                    return serde_json::from_slice(&self.line)
                        .map(Some)
                        .map_err(|_| wrong());
                }
                Found::Torn if self.paths.is_empty() => return Ok(None),
                Found::Torn | Found::TooLong => return Err(wrong()),
                Found::End => self.open = None,
            }
        }
    }
}
