//! What stands at a path, and setting what of it can be set.

use std::borrow::Cow;

use chrono::Utc;

use super::{directory, not_found};
use crate::{
    backend::{
        ErrorKind,
        ftp::{
            connection::{Connection, TakeLines},
            fault::Fault,
            listing::{
                DIRECTORY_MODE, FILE_MODE, Line, ListReader, parse_mlst_line, parse_time_value,
            },
            location::Location,
            pool::Lease,
            server::{Quirk, Server},
        },
    },
    operation::Attributes,
    path::RelativePath,
};

/// What stands at a path; `None` if nothing does.
pub(in crate::backend::ftp) async fn attributes(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    let location = lease.locate(path).await?;
    let server = lease.server().clone();
    if lease.tells_facts() {
        match lease.facts(&location).await {
            // A link's own facts say nothing about the file: SIZE and CWD follow it.
            Ok(line) => match parse_mlst_line(&line) {
                Some(attributes) if !is_symlink(&attributes) => return Ok(Some(attributes)),
                Some(_) | None => {}
            },
            Err(fault) if fault.is_unknown_command() => server.quirks.no_mlst.learn(),
            Err(fault) => return absent_or_fault(fault),
        }
    }
    if !server.quirks.no_size.is_known() {
        match lease.size(&location).await {
            Ok(size) => {
                let times = modified(lease, &location).await?;
                return Ok(Some(Attributes {
                    size: Some(size),
                    permissions: Some(FILE_MODE),
                    times,
                    ..Attributes::default()
                }));
            }
            Err(fault) if fault.is_unknown_command() => server.quirks.no_size.learn(),
            Err(fault) if fault.is_refusal() => {}
            Err(fault) => return Err(fault),
        }
    }
    match lease.change_directory(&location).await {
        Ok(()) => {
            return Ok(Some(Attributes {
                permissions: Some(DIRECTORY_MODE),
                ..Attributes::default()
            }));
        }
        Err(fault) if fault.is_refusal() => {}
        Err(fault) => return Err(fault),
    }
    if !server.quirks.no_size.is_known() {
        return Ok(None);
    }
    let Some(mut found) = listed(lease, path, &location).await? else {
        return Ok(None);
    };
    if !found.is_directory() {
        found.times = modified(lease, &location).await?.or(found.times);
    }
    Ok(Some(found))
}

/// What a client is told of a path: also the permissions and the owner, where the server shows them.
pub(in crate::backend::ftp) async fn all_attributes(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    let Some(mut found) = attributes(lease, path).await? else {
        return Ok(None);
    };
    let server = lease.server().clone();
    let quirks = &server.quirks;
    let is_complete = lease.tells_facts()
        // For a directory LIST shows what it contains.
        || found.is_directory()
        // It was listed already.
        || quirks.no_size.is_known()
        || quirks.no_modes.is_known() && found.times.is_some();
    if is_complete || quirks.no_list_file.is_known() {
        return Ok(Some(found));
    }
    let location = lease.locate(path).await?;
    match listed_alone(lease, path, &location).await {
        Ok(Some(listed)) => {
            found.permissions = listed.permissions;
            found.owner = listed.owner;
            found.times = found.times.or(listed.times);
        }
        Ok(None) => {}
        Err(fault) if fault.is_refusal() => quirks.no_list_file.learn(),
        Err(fault) => return Err(fault),
    }
    Ok(Some(found))
}

/// What LIST says of a path that is no directory: the only way with servers that know neither MLST nor SIZE.
async fn listed(
    lease: &mut Lease,
    path: &RelativePath,
    location: &Location,
) -> Result<Option<Attributes>, Fault> {
    let quirk = &lease.server().clone().quirks.no_list_file;
    if !quirk.is_known() {
        match listed_alone(lease, path, location).await {
            Ok(Some(found)) => return Ok(Some(found)),
            Err(fault) if fault.kind() == Some(ErrorKind::NotFound) => return Ok(None),
            Err(fault) if !fault.is_refusal() => return Err(fault),
            // Perhaps there is nothing, and perhaps the server doesn't list files by themselves.
            Ok(None) | Err(_) => {}
        }
    }
    listed_in_parent(lease, path).await
}

/// LIST of the file alone; `None` if the answer is not its line.
async fn listed_alone(
    lease: &mut Lease,
    path: &RelativePath,
    location: &Location,
) -> Result<Option<Attributes>, Fault> {
    // A name with these letters is a pattern to some.
    if path.is_empty() || path.as_bytes().iter().any(|byte| b"*?[{\\~".contains(byte)) {
        return Ok(None);
    }
    let mut answer = FileLine {
        location,
        reader: ListReader::new(Utc::now().naive_utc()),
        found: None,
        names: 0,
    };
    lease.listing_of_file(location, &mut answer).await?;
    // More than one name is the listing of a directory, whichever.
    let found = answer.found.filter(|_| answer.names == 1);
    if found.is_some() {
        lease.server().learn_form(answer.reader.form());
    }
    Ok(found)
}

/// The line that LIST prints of one file.
struct FileLine<'a> {
    location: &'a Location,
    reader: ListReader,
    found: Option<Attributes>,
    names: usize,
}

impl TakeLines for FileLine<'_> {
    fn take(&mut self, line: Option<&[u8]>) -> Result<(), Fault> {
        let line = line.unwrap_or_default();
        let name = self.location.file_name();
        // The name comes as it was asked for, or without its directory.
        let line = match line.strip_suffix(self.location.as_bytes()) {
            Some(before) => Cow::Owned([before, name].concat()),
            None => Cow::Borrowed(line),
        };
        if let Line::Entry(entry) = self.reader.read(&line) {
            self.names += 1;
            if entry.name == name && !is_symlink(&entry.attributes) {
                self.found.get_or_insert(entry.attributes);
            }
        }
        Ok(())
    }
}

/// Finds a name in the listing of its directory.
async fn listed_in_parent(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let parent = lease.locate(&parent).await?;
    match directory::list(lease, &parent).await {
        Ok(entries) => Ok(entries
            .into_iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.attributes)),
        Err(fault) => absent_or_fault(fault),
    }
}

/// MDTM; its refusal is no reason to fail.
async fn modified(
    connection: &mut Connection,
    location: &Location,
) -> Result<Option<(u32, u32)>, Fault> {
    let server = connection.server().clone();
    if server.quirks.no_mdtm.is_known() {
        return Ok(None);
    }
    match connection.modified(location).await {
        Ok(time) => Ok(Some((time, time))),
        Err(fault) if fault.is_refusal() => {
            if fault.is_unknown_command() {
                server.quirks.no_mdtm.learn();
            }
            Ok(None)
        }
        Err(Fault::Garbled { answer, .. }) if parse_time_value(answer.as_bytes()).is_none() => {
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

fn is_symlink(attributes: &Attributes) -> bool {
    attributes
        .permissions
        .is_some_and(|mode| mode & Attributes::TYPE_MASK == Attributes::SYMLINK)
}

/// "Not found" is an answer to the question what stands there, and so is a refusal that names no reason.
fn absent_or_fault(fault: Fault) -> Result<Option<Attributes>, Fault> {
    match fault.kind() {
        Some(ErrorKind::NotFound) | None => Ok(None),
        Some(_) => Err(fault),
    }
}

/// Sets what FTP can set, times and permission bits, and refuses the rest.
pub(in crate::backend::ftp) async fn set_attributes(
    lease: &mut Lease,
    path: &RelativePath,
    attributes: &Attributes,
) -> Result<(), Fault> {
    if attributes.size.is_some() {
        return Err(Fault::judged(
            ErrorKind::Unsupported,
            "FTP can't truncate or extend a file",
        ));
    }
    if attributes.owner.is_some() {
        return Err(no_owner());
    }
    let location = lease.locate(path).await?;
    let server = lease.server().clone();
    if let Some(mode) = attributes.permissions {
        let changed = if server.quirks.no_chmod.is_known() {
            Err(cannot("permissions"))
        } else {
            lease.change_mode(&location, mode).await
        };
        settle(lease, path, changed, &server.quirks.no_chmod, "permissions").await?;
    }
    if let Some((_, modified)) = attributes.times {
        let changed = if server.quirks.no_set_time.is_known() {
            Err(cannot("times"))
        } else {
            lease.set_modified(&location, modified).await
        };
        settle(lease, path, changed, &server.quirks.no_set_time, "times").await?;
    }
    Ok(())
}

/// Tells a missing file from a server that can't set the attribute, and remembers the latter.
async fn settle(
    lease: &mut Lease,
    path: &RelativePath,
    changed: Result<(), Fault>,
    quirk: &Quirk,
    what: &'static str,
) -> Result<(), Fault> {
    let fault = match changed {
        Err(fault) if fault.is_refusal() => fault,
        result => return result,
    };
    if attributes(lease, path).await?.is_none() {
        return Err(not_found(path));
    }
    // Without MFMT, `MDTM time name` is asking for the time of a file of that odd name.
    let misunderstood = what == "times" && !lease.announces("MFMT");
    if fault.is_unknown_command() || misunderstood {
        quirk.learn();
        return Err(cannot(what));
    }
    Err(fault)
}

fn cannot(what: &'static str) -> Fault {
    Fault::judged(
        ErrorKind::Unsupported,
        format!("the server can't set {what} (no MFMT or SITE CHMOD)"),
    )
}

/// Adds to `kept` what of `wanted` is to be set later, when a file is published; refuses what the server can't set.
pub(in crate::backend::ftp) fn keep_settable(
    server: &Server,
    kept: &mut Attributes,
    wanted: &Attributes,
) -> Result<(), Fault> {
    let quirks = &server.quirks;
    if wanted.owner.is_some() {
        return Err(no_owner());
    }
    if wanted.times.is_some() && quirks.no_set_time.is_known() {
        return Err(cannot("times"));
    }
    if wanted.permissions.is_some() && quirks.no_chmod.is_known() {
        return Err(cannot("permissions"));
    }
    kept.times = wanted.times.or(kept.times);
    kept.permissions = wanted.permissions.or(kept.permissions);
    Ok(())
}

fn no_owner() -> Fault {
    Fault::judged(ErrorKind::Unsupported, "FTP can't change a file's owner")
}
