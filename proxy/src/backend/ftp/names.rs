//! What is done to names: attributes, listings, removal, renaming.
//!
//! Replies to refused commands often say only "failed". Then what stands at the path decides what the failure was.

use chrono::Utc;

use super::{
    connection::Connection,
    fault::Fault,
    listing::{
        DIRECTORY_MODE, FILE_MODE, Line, parse_list_line, parse_mlsd_line, parse_mlst_line,
        parse_time_value,
    },
    location::Location,
    pool::Lease,
};
use crate::{
    backend::{ErrorKind, staging},
    operation::{Attributes, Entry},
    path::RelativePath,
};

/// What stands at a path; `None` if nothing does.
pub(super) async fn attributes(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    let location = lease.locate(path).await?;
    let server = lease.server().clone();
    if lease.announces("MLST") && !server.quirks.no_mlst.is_known() {
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
    listed_in_parent(lease, path).await
}

/// What a client is told of a path: also the permissions and the owner, where the server shows them.
pub(super) async fn all_attributes(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    let Some(mut found) = attributes(lease, path).await? else {
        return Ok(None);
    };
    let quirk = &lease.server().clone().quirks.no_list_file;
    // For a directory LIST shows what it contains. A name with these letters is a pattern to some.
    let is_plain = |name: &[u8]| !name.iter().any(|byte| b"*?[{\\~".contains(byte));
    let Some(name) = path.file_name().filter(|_| is_plain(path.as_bytes())) else {
        return Ok(Some(found));
    };
    if lease.announces("MLST") || found.is_directory() || quirk.is_known() {
        return Ok(Some(found));
    }
    let location = lease.locate(path).await?;
    let lines = match lease.listing_of_file(&location).await {
        Ok(lines) => lines,
        Err(fault) if fault.is_refusal() => {
            quirk.learn();
            return Ok(Some(found));
        }
        Err(fault) => return Err(fault),
    };
    let now = Utc::now().naive_utc();
    for line in lines {
        // The name comes as it was asked for, or without its directory.
        let line = match line.strip_suffix(location.as_bytes()) {
            Some(before) => [before, name].concat(),
            None => line,
        };
        if let Line::Entry(entry) = parse_list_line(&line, now)
            && entry.name == name
            && !is_symlink(&entry.attributes)
        {
            found.permissions = entry.attributes.permissions;
            found.owner = entry.attributes.owner;
            break;
        }
    }
    Ok(Some(found))
}

/// Finds a name in the listing of its directory: the only way with servers that know neither MLST nor SIZE.
async fn listed_in_parent(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let parent = lease.locate(&parent).await?;
    match list(lease, &parent).await {
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

/// The names of a directory, without `.`, `..` and the gateway's own.
pub(super) async fn list_directory(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Vec<Entry>, Fault> {
    let location = lease.locate(path).await?;
    match list(lease, &location).await {
        Ok(mut entries) => {
            entries.retain(|entry| !staging::is_reserved(&entry.name));
            Ok(entries)
        }
        Err(fault) if fault.kind().is_none() => Err(match attributes(lease, path).await? {
            None => not_found(path),
            Some(found) if !found.is_directory() => Fault::judged(
                ErrorKind::NotADirectory,
                format!("{path:?} is not a directory"),
            ),
            Some(_) => fault,
        }),
        Err(fault) => Err(fault),
    }
}

async fn list(connection: &mut Connection, location: &Location) -> Result<Vec<Entry>, Fault> {
    let server = connection.server().clone();
    if connection.announces("MLST") && !server.quirks.no_mlsd.is_known() {
        match connection.machine_listing(location).await {
            Ok(lines) => return read_listing("MLSD", &lines, parse_mlsd_line),
            Err(fault) if fault.is_unknown_command() => server.quirks.no_mlsd.learn(),
            Err(fault) => return Err(fault),
        }
    }
    connection.change_directory(location).await?;
    let now = Utc::now().naive_utc();
    let parse = |line: &[u8]| parse_list_line(line, now);
    if !server.quirks.no_list_all.is_known() {
        match connection.listing(true).await {
            // A server that knows the option lists at least `.` and `..`.
            Ok(lines) if !lines.is_empty() => {
                if let Ok(entries) = read_listing("LIST -a", &lines, parse) {
                    return Ok(entries);
                }
                server.quirks.no_list_all.learn();
            }
            Ok(_) => server.quirks.no_list_all.learn(),
            Err(fault) if fault.is_refusal() => server.quirks.no_list_all.learn(),
            Err(fault) => return Err(fault),
        }
    }
    match connection.listing(false).await {
        Ok(lines) => read_listing("LIST", &lines, parse),
        // How some servers say that a directory is empty, after CWD has shown that it is one.
        Err(Fault::Refused {
            code: 450 | 550, ..
        }) => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}

/// A line that can't be read is passed over with a warning; a listing of nothing else is an error, not an empty
/// directory.
fn read_listing(
    command: &'static str,
    lines: &[Vec<u8>],
    parse: impl Fn(&[u8]) -> Line,
) -> Result<Vec<Entry>, Fault> {
    let mut entries = Vec::with_capacity(lines.len());
    let mut noise = 0_usize;
    let mut unknown = Vec::new();
    for line in lines {
        match parse(line) {
            Line::Entry(entry) => entries.push(entry),
            Line::Noise => noise += 1,
            Line::Unknown => unknown.push(line),
        }
    }
    if let Some(first) = unknown.first() {
        let first = String::from_utf8_lossy(first).escape_debug().to_string();
        if entries.is_empty() && noise == 0 {
            return Err(Fault::Garbled {
                command,
                answer: format!("a listing of unknown form, such as {first:?}"),
            });
        }
        tracing::warn!(
            command,
            lines = unknown.len(),
            first,
            "lines of a listing can't be read"
        );
    }
    Ok(entries)
}

pub(super) async fn remove(lease: &mut Lease, path: &RelativePath) -> Result<(), Fault> {
    let location = lease.locate(path).await?;
    match lease.delete(&location).await {
        Err(fault) if fault.kind().is_none() => Err(match attributes(lease, path).await? {
            None => not_found(path),
            Some(found) if found.is_directory() => is_a_directory(path),
            Some(_) => fault,
        }),
        result => result,
    }
}

pub(super) async fn make_directory(lease: &mut Lease, path: &RelativePath) -> Result<(), Fault> {
    let location = lease.locate(path).await?;
    match lease.make_directory(&location).await {
        Err(fault) if fault.kind().is_none() => Err(if attributes(lease, path).await?.is_some() {
            already_exists(path)
        } else {
            parent_missing(lease, path).await?.unwrap_or(fault)
        }),
        result => result,
    }
}

pub(super) async fn remove_directory(lease: &mut Lease, path: &RelativePath) -> Result<(), Fault> {
    let location = lease.locate(path).await?;
    match lease.remove_directory(&location).await {
        Err(fault) if fault.kind().is_none() => Err(match attributes(lease, path).await? {
            None => not_found(path),
            Some(found) if !found.is_directory() => Fault::judged(
                ErrorKind::NotADirectory,
                format!("{path:?} is not a directory"),
            ),
            // Names that are hidden from clients keep a directory from being empty, too.
            Some(_)
                if list(lease, &location)
                    .await
                    .is_ok_and(|names| !names.is_empty()) =>
            {
                Fault::judged(ErrorKind::NotEmpty, format!("{path:?} is not empty"))
            }
            Some(_) => fault,
        }),
        result => result,
    }
}

/// Renames unless `to` exists. Between the look and the rename another client of the server can make it exist.
pub(super) async fn rename(
    lease: &mut Lease,
    from: &RelativePath,
    to: &RelativePath,
) -> Result<(), Fault> {
    if attributes(lease, to).await?.is_some() {
        return Err(already_exists(to));
    }
    let (source, destination) = (lease.locate(from).await?, lease.locate(to).await?);
    match lease.rename(&source, &destination).await {
        Err(fault) if fault.is_refusal() => Err(why_not_renamed(lease, from, to, fault).await?),
        result => result,
    }
}

/// Renames over whatever file `to` is. If the server does not replace files, the old one is first moved aside, so that
/// it is still there if the second rename fails; for that moment there is no file at `to`.
pub(super) async fn replace(
    lease: &mut Lease,
    from: &RelativePath,
    to: &RelativePath,
) -> Result<(), Fault> {
    let (source, destination) = (lease.locate(from).await?, lease.locate(to).await?);
    let refusal = match lease.rename(&source, &destination).await {
        Err(fault) if fault.is_refusal() => fault,
        result => return result,
    };
    match attributes(lease, to).await? {
        None => return Err(why_not_renamed(lease, from, to, refusal).await?),
        Some(found) if found.is_directory() => return Err(is_a_directory(to)),
        Some(_) => {}
    }
    if attributes(lease, from).await?.is_none() {
        return Err(not_found(from));
    }
    let aside = staging_name()?.beside(to);
    let aside = lease.locate(&aside).await?;
    lease.rename(&destination, &aside).await?;
    match lease.rename(&source, &destination).await {
        Ok(()) => {
            if let Err(fault) = lease.delete(&aside).await {
                tracing::warn!(file = %aside, %fault, "a replaced file is left behind; remove it by hand");
            }
            Ok(())
        }
        Err(fault) => {
            if let Err(second) = lease.rename(&aside, &destination).await {
                tracing::error!(
                    file = %destination, old = %aside, fault = %second,
                    "a file could be neither replaced nor put back; rename the old one by hand"
                );
            }
            Err(fault)
        }
    }
}

async fn why_not_renamed(
    lease: &mut Lease,
    from: &RelativePath,
    to: &RelativePath,
    fault: Fault,
) -> Result<Fault, Fault> {
    if attributes(lease, from).await?.is_none() {
        return Ok(not_found(from));
    }
    Ok(parent_missing(lease, to).await?.unwrap_or(fault))
}

/// Why nothing can be made at `path`, if its directory is missing.
pub(super) async fn parent_missing(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Fault>, Fault> {
    let Some(parent) = path.parent() else {
        return Ok(None);
    };
    Ok(match attributes(lease, &parent).await? {
        None => Some(not_found(&parent)),
        Some(found) if !found.is_directory() => Some(Fault::judged(
            ErrorKind::NotADirectory,
            format!("{parent:?} is not a directory"),
        )),
        Some(_) => None,
    })
}

/// Sets what FTP can set, times and permission bits, and refuses the rest.
pub(super) async fn set_attributes(
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
        return Err(Fault::judged(
            ErrorKind::Unsupported,
            "FTP can't change a file's owner",
        ));
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
    quirk: &super::connection::Quirk,
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

pub(super) fn staging_name() -> Result<staging::StagingName, Fault> {
    staging::StagingName::random()
        .map_err(|error| Fault::judged(ErrorKind::Failure, format!("no staging name: {error}")))
}

pub(super) fn not_found(path: &RelativePath) -> Fault {
    Fault::judged(ErrorKind::NotFound, format!("{path:?} does not exist"))
}

pub(super) fn is_a_directory(path: &RelativePath) -> Fault {
    Fault::judged(ErrorKind::IsADirectory, format!("{path:?} is a directory"))
}

pub(super) fn already_exists(path: &RelativePath) -> Fault {
    Fault::judged(ErrorKind::AlreadyExists, format!("{path:?} exists already"))
}
