//! One look at the files of a directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io::{self, Read as _},
    os::fd::OwnedFd,
    os::unix::ffi::OsStrExt as _,
};

use rustix::{
    fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat},
    io::Errno,
};

use super::{NAME, PREFIX, Settings};
use crate::{entry::Entry, sources::format};

/// Endings of list files.
const ENDINGS: [&str; 4] = ["txt", "list", "csv", "json"];
/// Bytes of a file's name: it becomes part of the list's.
const MAX_NAME: usize = 100;
/// The most files in one directory.
const MAX_FILES: usize = 1_000;

/// What tells two versions of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: i64,
    modified: (i64, u64),
    /// Also moves with owner and mode, and can't be set by hand.
    changed: (i64, u64),
}

pub(super) type Stamps = BTreeMap<String, Stamp>;

/// The list files of a directory, none of which strangers can write.
pub(super) struct Files {
    directory: OwnedFd,
    stamps: Stamps,
}

/// Finds the list files, without reading them.
///
/// # Errors
/// What is wrong, by the name of the source.
pub(super) fn scan(settings: &Settings) -> Result<Files, BTreeMap<String, String>> {
    let path = settings.directory.display();
    let whole = |problem: String| BTreeMap::from([(NAME.to_owned(), problem)]);
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = openat(CWD, &settings.directory, flags, Mode::empty()).map_err(|error| {
        whole(format!(
            "{path} can't be opened ({error}); the last good lists stay"
        ))
    })?;
    let stat = fstat(&directory).map_err(|error| whole(format!("{path}: {error}")))?;
    if let Err(problem) = is_ours(&stat, &settings.owners) {
        return Err(whole(format!("{path} {problem}")));
    }
    let names =
        names(&directory).map_err(|error| whole(format!("{path} can't be listed: {error}")))?;
    if names.len() > MAX_FILES {
        return Err(whole(format!(
            "{path} has {} list files, and {MAX_FILES} are the most",
            names.len()
        )));
    }
    let mut stamps = Stamps::new();
    let mut faults = BTreeMap::new();
    for name in names {
        match open(&directory, &name, &settings.owners) {
            Ok(Some((_, stamp))) => drop(stamps.insert(name, stamp)),
            Ok(None) => {}
            Err(problem) => {
                drop(faults.insert(format!("{PREFIX}{name}"), format!("{name}: {problem}")))
            }
        }
    }
    if faults.is_empty() {
        Ok(Files { directory, stamps })
    } else {
        Err(faults)
    }
}

impl Files {
    pub(super) fn stamps(&self) -> Stamps {
        self.stamps.clone()
    }

    /// The file's entries, or `None` if it changes.
    ///
    /// # Errors
    /// Every fault of the list.
    pub(super) fn read(
        &self,
        name: &str,
        settings: &Settings,
    ) -> Result<Option<Vec<Entry>>, String> {
        let Some((file, before)) = open(&self.directory, name, &settings.owners)
            .map_err(|problem| format!("{name}: {problem}"))?
        else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let mut file = std::fs::File::from(file);
        // One byte more than the limit shows that there are more.
        (&mut file)
            .take(settings.limits.bytes.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| format!("{name}: {error}"))?;
        let after = fstat(&file).map_err(|error| format!("{name}: {error}"))?;
        if stamp(&after) != before || self.stamps.get(name) != Some(&before) {
            return Ok(None);
        }
        let parsed =
            format::parse(name, &bytes, &settings.limits).map_err(|error| error.to_string())?;
        if parsed.duplicates > 0 || parsed.overlaps > 0 {
            tracing::info!(
                file = name,
                duplicates = parsed.duplicates,
                overlaps = parsed.overlaps,
                "the list has entries twice, or within others"
            );
        }
        Ok(Some(parsed.entries))
    }
}

/// The names that are lists by their ending.
fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in Dir::read_from(directory)? {
        let file = file?;
        let name = OsStr::from_bytes(file.file_name().to_bytes());
        let Some(name) = name.to_str() else { continue };
        let is_list = !name.starts_with(['.', '#'])
            && name.rsplit_once('.').is_some_and(|(_, ending)| {
                ENDINGS
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(ending))
            });
        if is_list {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Opens a list file; `None` if it is a directory, or there no longer.
fn open(
    directory: &OwnedFd,
    name: &str,
    owners: &BTreeSet<u32>,
) -> Result<Option<(OwnedFd, Stamp)>, String> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '@' | ' ');
    if name.len() > MAX_NAME || !name.chars().all(is_plain) {
        return Err(format!(
            "a list file's name has at most {MAX_NAME} bytes and no characters but letters, digits, blanks and ._-+@"
        ));
    }
    // Nothing but a regular file: a link could lead to a file that its target's owner may not show, a pipe would never end.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => {
            return Err("is a symbolic link; put the file itself here, or let the whole directory be a link".to_owned());
        }
        Err(error) => return Err(format!("can't be opened: {error}")),
    };
    let stat = fstat(&file).map_err(|error| error.to_string())?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind.is_dir() {
        return Ok(None);
    }
    if !kind.is_file() {
        return Err("is not a regular file".to_owned());
    }
    is_ours(&stat, owners)?;
    let stamp = stamp(&stat);
    Ok(Some((file, stamp)))
}

/// Whoever can write the file decides who reaches this host.
fn is_ours(stat: &Stat, owners: &BTreeSet<u32>) -> Result<(), String> {
    if !owners.contains(&stat.st_uid) {
        return Err(format!(
            "belongs to user {}; it must belong to root or to lists.owner",
            stat.st_uid
        ));
    }
    let others = Mode::from_raw_mode(stat.st_mode) & (Mode::WGRP | Mode::WOTH);
    if !others.is_empty() {
        return Err(format!(
            "can be written by others than its owner (mode {:o}); chmod go-w",
            stat.st_mode & 0o7777
        ));
    }
    Ok(())
}

fn stamp(stat: &Stat) -> Stamp {
    Stamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        length: stat.st_size,
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        changed: (stat.st_ctime, stat.st_ctime_nsec),
    }
}
