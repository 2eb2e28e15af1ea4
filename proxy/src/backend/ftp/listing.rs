//! What servers say about files: MLST facts (RFC 3659), and LIST, which has no standard.
//!
//! Names are bytes as they came. A name that could not be a component of a path is not reported.

mod unix;
mod vms;

use bytes::Bytes;
use chrono::{NaiveDate, NaiveDateTime, NaiveTime};

use crate::operation::{Attributes, Entry};

/// Permission bits of what a server shows without any: unknown is not zero, which clients take for "no access".
pub(super) const FILE_MODE: u32 = Attributes::REGULAR | 0o644;
pub(super) const DIRECTORY_MODE: u32 = Attributes::DIRECTORY | 0o755;

/// The forms of LIST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListForm {
    Unix,
    Dos,
    Eplf,
    Vms,
}

/// The facts that [`Facts::parse`] reads, in lower case.
const USED_FACTS: [&str; 9] = [
    "type",
    "size",
    "sizd",
    "modify",
    PERMISSIONS_FACT,
    "unix.uid",
    "unix.owner",
    "unix.gid",
    "unix.group",
];
/// The fact that has permission bits.
pub(super) const PERMISSIONS_FACT: &str = "unix.mode";

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Entry(Entry),
    /// Says nothing about a name: `total 12`, an empty line, the directory itself or its parent.
    Noise,
    Unknown,
}

/// The names that a line gives, whichever form it is taken for.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(line: &[u8]) -> Vec<Bytes> {
    let _ = (parse_mlst_line(line), parse_time_value(line));
    [
        parse_mlsd_line(line),
        parse_list_line(line, NaiveDateTime::default()).1,
    ]
    .into_iter()
    .filter_map(|line| match line {
        Line::Entry(entry) => Some(entry.name),
        Line::Noise | Line::Unknown => None,
    })
    .collect()
}

/// Reads a line of MLSD: `fact=value;fact=value; name` (RFC 3659 section 7.2).
pub(super) fn parse_mlsd_line(line: &[u8]) -> Line {
    let Some(space) = line.iter().position(|&byte| byte == b' ') else {
        return if line.is_empty() {
            Line::Noise
        } else {
            Line::Unknown
        };
    };
    let (facts, name) = line.split_at(space);
    let name = name.get(1..).unwrap_or_default();
    let facts = Facts::parse(facts);
    if facts.kind == Some(FactKind::Surroundings) {
        return Line::Noise;
    }
    entry(name, facts.attributes())
}

/// True for a fact that is read here.
pub(super) fn is_used(fact: &str) -> bool {
    let fact = fact.to_ascii_lowercase();
    USED_FACTS.contains(&fact.as_str())
}

/// Reads the facts of an MLST reply; `None` for a file system object that is neither a file nor a directory nor a link.
pub(super) fn parse_mlst_line(line: &[u8]) -> Option<Attributes> {
    let line = line.trim_ascii_start();
    let facts = line.split(|&byte| byte == b' ').next()?;
    let facts = Facts::parse(facts);
    facts.kind?;
    Some(facts.attributes())
}

/// Reads LIST line by line, in any of its known forms: VMS breaks long lines, and shows every version of a file.
#[derive(Debug)]
pub(super) struct ListReader {
    now: NaiveDateTime,
    /// A name of VMS whose attributes are on the next line.
    begun: Option<Vec<u8>>,
    /// The name of VMS that was read last.
    last: Option<Bytes>,
    /// Of the name that was read last.
    form: Option<ListForm>,
}

impl ListReader {
    /// `now` decides the year of dates that name none.
    pub(super) fn new(now: NaiveDateTime) -> Self {
        Self {
            now,
            begun: None,
            last: None,
            form: None,
        }
    }

    /// The form of the listing; `None` if no name was read.
    pub(super) fn form(&self) -> Option<ListForm> {
        self.form
    }

    pub(super) fn read(&mut self, line: &[u8]) -> Line {
        if let Some(begun) = self.begun.take()
            && line.first().is_some_and(u8::is_ascii_whitespace)
        {
            return self.newest(vms::parse(&[&begun, line].concat()));
        }
        if vms::is_name_alone(line) {
            self.begun = Some(line.to_vec());
            return Line::Noise;
        }
        match parse_list_line(line, self.now) {
            (_, Line::Unknown) => self.newest(vms::parse(line)),
            (form, Line::Entry(entry)) => {
                self.form = Some(form);
                Line::Entry(entry)
            }
            (_, Line::Noise) => Line::Noise,
        }
    }

    /// The first line of a name is its newest version, which is also what the name without a version means.
    fn newest(&mut self, read: Option<Line>) -> Line {
        match read {
            None => Line::Unknown,
            Some(Line::Entry(entry)) if self.last.as_ref() == Some(&entry.name) => Line::Noise,
            Some(Line::Entry(entry)) => {
                self.form = Some(ListForm::Vms);
                self.last = Some(entry.name.clone());
                Line::Entry(entry)
            }
            Some(other @ (Line::Noise | Line::Unknown)) => other,
        }
    }
}

/// Reads a line of LIST that stands for itself: in the forms of Unix and DOS, and EPLF. `now` decides the year of dates that name none.
fn parse_list_line(line: &[u8], now: NaiveDateTime) -> (ListForm, Line) {
    let trimmed = line.trim_ascii_start();
    if trimmed.is_empty() || trimmed.to_ascii_lowercase().starts_with(b"total ") {
        return (ListForm::Unix, Line::Noise);
    }
    if let Some(facts) = trimmed.strip_prefix(b"+") {
        return (ListForm::Eplf, parse_eplf(facts));
    }
    if let Some(read) = unix::parse(trimmed, now) {
        return (ListForm::Unix, read);
    }
    let read = parse_dos(trimmed).unwrap_or(Line::Unknown);
    (ListForm::Dos, read)
}

/// A name with its attributes, unless it is `.`, `..` or no name at all.
fn entry(name: &[u8], attributes: Attributes) -> Line {
    match name {
        b"." | b".." => Line::Noise,
        _ if name.is_empty() || name.contains(&b'/') || name.contains(&0) => Line::Unknown,
        _ => Line::Entry(Entry {
            name: name.to_vec().into(),
            attributes,
        }),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FactKind {
    File,
    Directory,
    Link,
    /// `cdir` and `pdir`: the listed directory and its parent.
    Surroundings,
}

#[derive(Debug, Default)]
struct Facts {
    kind: Option<FactKind>,
    size: Option<u64>,
    modified: Option<u32>,
    mode: Option<u32>,
    user: Option<u32>,
    group: Option<u32>,
}

impl Facts {
    /// Unknown and malformed facts are passed over (RFC 3659 section 7.5).
    fn parse(facts: &[u8]) -> Self {
        let mut parsed = Self::default();
        for fact in facts.split(|&byte| byte == b';') {
            let Some(equals) = fact.iter().position(|&byte| byte == b'=') else {
                continue;
            };
            let (name, value) = fact.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            match name.to_ascii_lowercase().as_slice() {
                b"type" => parsed.kind = fact_kind(value),
                b"size" | b"sizd" => parsed.size = number(value),
                b"modify" => parsed.modified = parse_time_value(value),
                b"unix.mode" => {
                    // pyftpdlib writes octal numbers as Python does.
                    let digits = value.strip_prefix(b"0o").unwrap_or(value);
                    parsed.mode = std::str::from_utf8(digits)
                        .ok()
                        .and_then(|text| u32::from_str_radix(text, 8).ok());
                }
                b"unix.uid" | b"unix.owner" => parsed.user = number(value),
                b"unix.gid" | b"unix.group" => parsed.group = number(value),
                _ => {}
            }
        }
        parsed
    }

    fn attributes(&self) -> Attributes {
        let (kind, usual) = match self.kind {
            Some(FactKind::Directory | FactKind::Surroundings) => {
                (Attributes::DIRECTORY, DIRECTORY_MODE)
            }
            Some(FactKind::Link) => (Attributes::SYMLINK, Attributes::SYMLINK | 0o777),
            Some(FactKind::File) | None => (Attributes::REGULAR, FILE_MODE),
        };
        Attributes {
            size: self.size,
            owner: self.user.zip(self.group),
            permissions: Some(self.mode.map_or(usual, |mode| kind | (mode & 0o7777))),
            times: self.modified.map(|time| (time, time)),
            is_interrupted: false,
            is_foreign: false,
        }
    }
}

/// `file`, `dir`, `cdir`, `pdir` and `OS.unix=slink:target`, in any case.
fn fact_kind(value: &[u8]) -> Option<FactKind> {
    let value = value.to_ascii_lowercase();
    match value.as_slice() {
        b"file" => Some(FactKind::File),
        b"dir" => Some(FactKind::Directory),
        b"cdir" | b"pdir" => Some(FactKind::Surroundings),
        link if link.starts_with(b"os.unix=slink") || link.starts_with(b"os.unix=symlink") => {
            Some(FactKind::Link)
        }
        _ => None,
    }
}

/// `YYYYMMDDHHMMSS`, with or without fractions, in UTC (RFC 3659 section 2.3), as seconds since 1970.
pub(super) fn parse_time_value(value: &[u8]) -> Option<u32> {
    let digits = value.get(..14)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = std::str::from_utf8(digits).ok()?;
    seconds(NaiveDateTime::parse_from_str(text, "%Y%m%d%H%M%S").ok()?)
}

/// Easily Parsed LIST Format: `+facts,facts,<tab>name` (cr.yp.to/ftp/list/eplf.html), without the plus.
fn parse_eplf(line: &[u8]) -> Line {
    let Some(tab) = line.iter().position(|&byte| byte == b'\t') else {
        return Line::Unknown;
    };
    let (facts, name) = line.split_at(tab);
    let name = name.get(1..).unwrap_or_default();
    let mut attributes = Attributes {
        permissions: Some(FILE_MODE),
        ..Attributes::default()
    };
    for fact in facts.split(|&byte| byte == b',') {
        match fact {
            b"/" => attributes.permissions = Some(DIRECTORY_MODE),
            [b's', size @ ..] => attributes.size = number(size),
            [b'm', time @ ..] => {
                attributes.times = number(time).map(|time: u32| (time, time));
            }
            _ => {}
        }
    }
    entry(name, attributes)
}

/// `10-19-20  03:19PM       <DIR>          pub`, also with four digits of year and with 24 hours.
fn parse_dos(line: &[u8]) -> Option<Line> {
    let (date, rest) = word(line)?;
    let (time, rest) = word(rest)?;
    let modified = seconds(NaiveDateTime::new(dos_date(date)?, dos_time(time)?));
    let (size, rest) = word(rest)?;
    let mut attributes = Attributes {
        times: modified.map(|time| (time, time)),
        ..Attributes::default()
    };
    let name = if size.eq_ignore_ascii_case(b"<DIR>") {
        attributes.permissions = Some(DIRECTORY_MODE);
        // The name stands in a column of its own: its leading blanks can't be told from the column's.
        rest.trim_ascii_start()
    } else if size.starts_with(b"<") {
        attributes.permissions = Some(Attributes::SYMLINK | 0o777);
        rest.trim_ascii_start()
    } else {
        let digits: Vec<u8> = size.iter().copied().filter(|&byte| byte != b',').collect();
        attributes.size = Some(number(&digits)?);
        attributes.permissions = Some(FILE_MODE);
        rest.strip_prefix(b" ")?
    };
    Some(entry(name, attributes))
}

/// `MM-DD-YY`, `MM-DD-YYYY`, `YYYY-MM-DD`, with `-` or `/`.
fn dos_date(date: &[u8]) -> Option<NaiveDate> {
    let parts: Vec<&[u8]> = date.split(|byte| matches!(byte, b'-' | b'/')).collect();
    let [first, second, third] = parts.as_slice() else {
        return None;
    };
    if first.len() == 4 {
        return NaiveDate::from_ymd_opt(number(first)?, number(second)?, number(third)?);
    }
    let year: i32 = number(third)?;
    let year = match third.len() {
        2 if year < 70 => 2000 + year,
        2 => 1900 + year,
        4 => year,
        _ => return None,
    };
    NaiveDate::from_ymd_opt(year, number(first)?, number(second)?)
}

/// `03:19PM` or `15:19`.
fn dos_time(time: &[u8]) -> Option<NaiveTime> {
    let text = std::str::from_utf8(time).ok()?;
    ["%I:%M%p", "%H:%M", "%H:%M:%S"]
        .iter()
        .find_map(|form| NaiveTime::parse_from_str(text, form).ok())
}

/// The next run of bytes that are no blank, and what follows it, blanks included.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii_start();
    let end = line
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(line.len());
    (end > 0).then(|| line.split_at(end))
}

fn number<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds since 1970, if SFTP v3 can say them.
fn seconds(time: NaiveDateTime) -> Option<u32> {
    u32::try_from(time.and_utc().timestamp()).ok()
}

#[cfg(test)]
mod tests;
