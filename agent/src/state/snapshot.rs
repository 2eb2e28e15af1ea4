//! Snapshots: all that is kept as of one record, `snapshot-SEQUENCE.jsonl`.
//!
//! The first line says what it is, the last one how many lines there are and their checksum; a snapshot takes its name only when
//! it is whole and on the disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    StateError,
    content::Content,
    record::{LineError, Revision, lines, push_line},
    segment::numbered,
};
use crate::{
    bans::Ban,
    entry::Entry,
    lists::{List, ListName},
};

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    sequence: u64,
    revision: Option<Revision>,
    is_pending: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Foot {
    lines: usize,
    crc32: u32,
}

pub(super) fn path(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("snapshot-{sequence:020}.jsonl"))
}

/// The sequence numbers of the snapshots in `directory`, in order.
pub(super) fn list(directory: &Path) -> Result<Vec<u64>, StateError> {
    numbered(directory, "snapshot-", ".jsonl")
}

/// Writes a snapshot; it is durable when this returns.
pub(super) fn write(directory: &Path, sequence: u64, content: &Content) -> Result<(), StateError> {
    let path = path(directory, sequence);
    let aside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let text = to_text(sequence, content)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| StateError::Write {
        path: path.clone(),
        source,
    })
}

fn to_text(sequence: u64, content: &Content) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    let head = Head {
        format: FORMAT,
        sequence,
        revision: content.revision.clone(),
        is_pending: content.is_pending,
    };
    push_line(&mut text, '#', &head)?;
    for (name, list) in content.lists.iter() {
        push_line(&mut text, '=', name)?;
        for entry in list.entries() {
            push_line(&mut text, '+', &entry)?;
        }
    }
    for ban in content.bans.values() {
        push_line(&mut text, '!', ban)?;
    }
    let foot = Foot {
        lines: text.bytes().filter(|byte| *byte == b'\n').count(),
        crc32: crc32fast::hash(text.as_bytes()),
    };
    push_line(&mut text, '.', &foot)?;
    Ok(text)
}

/// Reads a snapshot.
///
/// # Errors
/// If it is not whole or says something else: a damaged list is never taken for a shorter one.
pub(super) fn read(directory: &Path, sequence: u64) -> Result<Content, StateError> {
    let path = path(directory, sequence);
    let bytes = fs::read(&path).map_err(|source| StateError::Read {
        path: path.clone(),
        source,
    })?;
    from_bytes(&bytes).map_err(|error| StateError::Malformed {
        path,
        message: error.to_string(),
    })
}

fn from_bytes(bytes: &[u8]) -> Result<Content, LineError> {
    let mut content = Content::default();
    let mut lists: Vec<(ListName, Vec<Entry>)> = Vec::new();
    let mut end = 0;
    let mut is_whole = false;
    let mut format = None;
    for line in lines(bytes) {
        let line = line?;
        match line.sign {
            '#' => {
                let head: Head = line.value()?;
                format = Some(head.format);
                content.revision = head.revision;
                content.is_pending = head.is_pending;
            }
            '=' => lists.push((line.value()?, Vec::new())),
            '+' => {
                let (_, entries) = lists
                    .last_mut()
                    .ok_or_else(|| line.fault("an entry before the name of its list"))?;
                entries.push(line.value()?);
            }
            '!' => {
                let ban: Ban = line.value()?;
                content.bans.insert(ban.source, ban);
            }
            '.' => {
                let foot: Foot = line.value()?;
                let checked = bytes.get(..end).unwrap_or_default();
                is_whole = foot.crc32 == crc32fast::hash(checked);
            }
            _ => return Err(line.fault("unknown sign")),
        }
        end += line.length() + 1;
    }
    let fault = |message: &str| LineError {
        line: 1,
        message: message.to_owned(),
    };
    if format != Some(FORMAT) {
        return Err(fault("it is not a snapshot of a version that is known"));
    }
    if !is_whole {
        return Err(fault("it is not whole: its checksum is missing or wrong"));
    }
    content.lists = lists
        .into_iter()
        .map(|(name, entries)| (name, entries.into_iter().collect::<List>()))
        .collect();
    Ok(content)
}
