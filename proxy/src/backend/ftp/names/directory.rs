//! Listings.

use bytes::Bytes;
use chrono::Utc;

use super::{attributes, not_found, sweep};
use crate::{
    backend::{
        ErrorKind,
        ftp::{
            connection::{Connection, TakeLines, too_long},
            fault::Fault,
            listing::{Line, ListReader, parse_mlsd_line},
            location::Location,
            pool::Lease,
            settings::Charset,
        },
        staging,
    },
    operation::Entry,
    path::RelativePath,
};

/// Most names of one directory: some 50 MiB.
const NAMES: usize = 500_000;

/// The names of a directory, without `.`, `..` and the gateway's own.
pub(in crate::backend::ftp) async fn list_directory(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Vec<Entry>, Fault> {
    let location = lease.locate(path).await?;
    match list(lease, &location).await {
        Ok(mut entries) => {
            sweep::leftovers(lease, &location, &entries).await;
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

/// All that the server lists, the gateway's own names included.
pub(super) async fn list(
    connection: &mut Connection,
    location: &Location,
) -> Result<Vec<Entry>, Fault> {
    let server = connection.server().clone();
    let charset = server.settings.charset;
    if connection.announces("MLST") && !server.quirks.no_mlsd.is_known() {
        let mut listed = Listed::new(Form::Facts, charset);
        match connection.machine_listing(location, &mut listed).await {
            Ok(()) => return listed.entries(),
            Err(fault) if fault.is_unknown_command() => server.quirks.no_mlsd.learn(),
            Err(fault) => return Err(fault),
        }
    }
    connection.change_directory(location).await?;
    if !server.quirks.no_list_all.is_known() {
        match list_here(connection, true, charset).await {
            // A server that knows the option lists at least `.` and `..`.
            Ok(listed) if listed.lines > 0 => {
                if let Ok(entries) = listed.entries() {
                    return Ok(entries);
                }
                server.quirks.no_list_all.learn();
            }
            Ok(_) => server.quirks.no_list_all.learn(),
            Err(fault) if fault.is_refusal() => server.quirks.no_list_all.learn(),
            Err(fault) => return Err(fault),
        }
    }
    match list_here(connection, false, charset).await {
        Ok(listed) => listed.entries(),
        // How some servers say that a directory is empty, after CWD has shown that it is one.
        Err(Fault::Refused {
            code: 450 | 550, ..
        }) => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}

/// LIST of the current directory.
async fn list_here(
    connection: &mut Connection,
    hidden_too: bool,
    charset: Charset,
) -> Result<Listed, Fault> {
    let reader = ListReader::new(Utc::now().naive_utc());
    let mut listed = Listed::new(Form::List(reader), charset);
    connection.listing(hidden_too, &mut listed).await?;
    if let Form::List(reader) = &listed.form {
        connection.server().learn_form(reader.form());
    }
    Ok(listed)
}

#[derive(Debug)]
enum Form {
    /// MLSD.
    Facts,
    List(ListReader),
}

/// What came of a listing so far.
#[derive(Debug)]
struct Listed {
    form: Form,
    charset: Charset,
    entries: Vec<Entry>,
    lines: usize,
    unknown: usize,
    /// The first line that can't be read.
    first_unknown: Option<String>,
}

impl Listed {
    fn new(form: Form, charset: Charset) -> Self {
        Self {
            form,
            charset,
            entries: Vec::new(),
            lines: 0,
            unknown: 0,
            first_unknown: None,
        }
    }

    fn command(&self) -> &'static str {
        match self.form {
            Form::Facts => "MLSD",
            Form::List(_) => "LIST",
        }
    }

    /// A line that can't be read is passed over with a warning; a listing of nothing else is an error, not an empty
    /// directory.
    fn entries(self) -> Result<Vec<Entry>, Fault> {
        let Some(first) = &self.first_unknown else {
            return Ok(self.entries);
        };
        if self.unknown == self.lines {
            return Err(Fault::Garbled {
                command: self.command(),
                answer: format!("a listing of unknown form, such as {first:?}"),
            });
        }
        tracing::warn!(
            command = self.command(),
            lines = self.unknown,
            first,
            "lines of a listing can't be read"
        );
        Ok(self.entries)
    }
}

impl TakeLines for Listed {
    fn take(&mut self, line: Option<&[u8]>) -> Result<(), Fault> {
        self.lines += 1;
        let read = match (line, &mut self.form) {
            (None, _) => Line::Unknown,
            (Some(line), Form::Facts) => parse_mlsd_line(line),
            (Some(line), Form::List(reader)) => reader.read(line),
        };
        match read {
            Line::Entry(_) if self.entries.len() >= NAMES => {
                return Err(too_long(self.command(), format!("{NAMES} names")));
            }
            Line::Entry(mut entry) => {
                if self.charset == Charset::Latin1 {
                    entry.name = Bytes::copy_from_slice(&self.charset.to_client(&entry.name));
                }
                self.entries.push(entry);
            }
            Line::Noise => {}
            Line::Unknown => {
                self.unknown += 1;
                self.first_unknown.get_or_insert_with(|| {
                    let shown = line.unwrap_or(b"one of more than 16 KiB");
                    let shown = shown.get(..200).unwrap_or(shown);
                    String::from_utf8_lossy(shown).escape_debug().to_string()
                });
            }
        }
        Ok(())
    }
}
