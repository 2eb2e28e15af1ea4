//! LIST as VMS prints it.

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};

use super::{DIRECTORY_MODE, FILE_MODE, Line, entry, number, seconds, word};
use crate::operation::Attributes;

const MONTHS: [&[u8]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];

/// `REPORT.TXT;3  213/216  29-JAN-1996 03:33:12  [LAB,GATEWAY]  (RWED,RWED,RE,)`, `INBOX.DIR;1 ...`, and the lines
/// above and below. A size is in blocks, so that the file's size is not known.
pub(super) fn parse(line: &[u8]) -> Option<Line> {
    if is_frame(line) {
        return Some(Line::Noise);
    }
    let (name, rest) = name_and_rest(line)?;
    let mut attributes = Attributes {
        permissions: Some(FILE_MODE),
        ..Attributes::default()
    };
    // What a user may not see is listed with an error in place of the attributes.
    if !rest.trim_ascii_start().starts_with(b"%") {
        let modified = moment(rest)?;
        attributes.times = seconds(modified).map(|time| (time, time));
        if let Some(bits) = protection(rest) {
            attributes.permissions = Some(Attributes::REGULAR | bits);
        }
    }
    let is_directory = name
        .len()
        .checked_sub(4)
        .and_then(|dot| name.split_at_checked(dot))
        .filter(|(_, extension)| extension.eq_ignore_ascii_case(b".dir"));
    match is_directory {
        Some((name, _)) => {
            attributes.permissions = Some(DIRECTORY_MODE);
            Some(entry(name, attributes))
        }
        None => Some(entry(name, attributes)),
    }
}

/// True for `A_RATHER_LONG_NAME.TXT;12`, whose attributes follow on the next line.
pub(super) fn is_name_alone(line: &[u8]) -> bool {
    word(line).is_some_and(|(name, rest)| {
        rest.is_empty() && name.contains(&b'.') && without_version(name).is_some()
    })
}

/// `Directory DISK:[LAB.INBOX]` and `Total of 3 files, 12/15 blocks.`
fn is_frame(line: &[u8]) -> bool {
    let line = line.trim_ascii().to_ascii_lowercase();
    (line.starts_with(b"directory ") && line.ends_with(b"]"))
        || line.starts_with(b"grand total of ")
}

/// The name without its version, and what follows. Servers that only print so have names with blanks.
fn name_and_rest(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii_start();
    let semicolons = line
        .iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b';')
        .map(|(position, _)| position);
    for semicolon in semicolons {
        let (name, version) = line.split_at_checked(semicolon)?;
        let digits = version
            .iter()
            .skip(1)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let rest = version.get(1 + digits..).unwrap_or_default();
        let ends = rest.first().is_some_and(u8::is_ascii_whitespace);
        if digits > 0 && ends && !name.is_empty() {
            return Some((name, rest));
        }
    }
    None
}

fn without_version(name: &[u8]) -> Option<&[u8]> {
    let semicolon = name.iter().rposition(|&byte| byte == b';')?;
    let (name, version) = name.split_at(semicolon);
    let version = version.get(1..)?;
    let is_number = !version.is_empty() && version.iter().all(u8::is_ascii_digit);
    (is_number && !name.is_empty()).then_some(name)
}

/// `8-SEP-1996 16:09`, with seconds and their fractions or without, wherever it stands.
fn moment(rest: &[u8]) -> Option<NaiveDateTime> {
    let mut rest = rest;
    for _ in 0..4 {
        let (first, following) = word(rest)?;
        rest = following;
        if let Some(day) = date(first) {
            return Some(NaiveDateTime::new(day, time(word(rest)?.0)?));
        }
    }
    None
}

fn date(word: &[u8]) -> Option<NaiveDate> {
    let parts: Vec<&[u8]> = word.split(|&byte| byte == b'-').collect();
    let [day, month, year] = parts.as_slice() else {
        return None;
    };
    let month = month.to_ascii_lowercase();
    let month = MONTHS.iter().position(|&known| known == month)?;
    if year.len() != 4 {
        return None;
    }
    NaiveDate::from_ymd_opt(number(year)?, u32::try_from(month + 1).ok()?, number(day)?)
}

fn time(word: &[u8]) -> Option<NaiveTime> {
    let text = std::str::from_utf8(word).ok()?;
    ["%H:%M", "%H:%M:%S", "%H:%M:%S%.f"]
        .iter()
        .find_map(|form| NaiveTime::parse_from_str(text, form).ok())
}

/// `(RWED,RWED,RE,)`: what system, owner, group and world may do, as the bits of the latter three.
fn protection(line: &[u8]) -> Option<u32> {
    let open = line.iter().rposition(|&byte| byte == b'(')?;
    let classes = line
        .get(open + 1..)?
        .trim_ascii_end()
        .strip_suffix(b")")?
        .split(|&byte| byte == b',');
    let mut bits = 0;
    for (class, shift) in classes.skip(1).zip([6, 3, 0]) {
        for letter in class.trim_ascii().to_ascii_uppercase() {
            bits |= match letter {
                b'R' => 4 << shift,
                b'W' => 2 << shift,
                b'E' => 1 << shift,
                // Deletion is a right of the directory elsewhere.
                b'D' => 0,
                _ => return None,
            };
        }
    }
    Some(bits)
}
