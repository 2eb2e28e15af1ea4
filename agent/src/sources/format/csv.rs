//! CSV (RFC 4180): the first row names the columns. A semicolon separates as well as a comma, whichever the first row has.

use std::borrow::Cow;

use csv::{ByteRecord, ReaderBuilder, Trim};

use super::{
    Faults, Limits, MAX_LINE, Place, column, hint,
    raw::{Field, RawEntry},
    too_many,
};
use crate::{entry::Entry, prefix};

/// Other names that spreadsheets have for the column of prefixes.
const PREFIX_NAMES: [&str; 5] = ["cidr", "address", "network", "ip", "subnet"];

/// Whether a file that begins with this line is CSV.
pub(super) fn is_header(line: &[u8]) -> bool {
    line.split(|byte| matches!(byte, b',' | b';'))
        .map(<[u8]>::trim_ascii)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .any(|name| column_of(name.trim_matches('"')) == Some(Field::Prefix))
}

fn column_of(name: &str) -> Option<Field> {
    let name = name.trim();
    Field::of(name).or_else(|| {
        PREFIX_NAMES
            .into_iter()
            .any(|known| known.eq_ignore_ascii_case(name))
            .then_some(Field::Prefix)
    })
}

pub(super) fn parse(text: &str, limits: &Limits, faults: &mut Faults) -> Vec<Entry> {
    let bytes = text.as_bytes();
    if let Some(fault) = long_line(bytes) {
        faults.push(fault.0, fault.1);
        return Vec::new();
    }
    let separator = separator(bytes);
    let mut reader = ReaderBuilder::new()
        .delimiter(separator)
        .comment(Some(b'#'))
        .trim(Trim::All)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes);
    let mut record = ByteRecord::new();
    let mut entries = Vec::new();
    let mut columns: Option<Vec<Field>> = None;
    let source = Source { bytes, separator };
    // Reading from memory as bytes can't fail.
    while let Ok(true) = reader.read_byte_record(&mut record) {
        if record.iter().all(<[u8]>::is_empty) {
            continue;
        }
        let Some(columns) = &columns else {
            let found = header(&record, &source, faults);
            if !faults.is_none() {
                return entries;
            }
            columns = Some(found);
            continue;
        };
        match row(&record, columns).and_then(|raw| {
            raw.entry(limits).map_err(|(field, message)| {
                (
                    columns
                        .iter()
                        .position(|column| *column == field)
                        .unwrap_or_default(),
                    message,
                )
            })
        }) {
            Ok(_) if entries.len() >= limits.entries => {
                faults.push(source.place(&record, 0), too_many(limits));
                break;
            }
            Ok(entry) => entries.push(entry),
            // To find the place costs more than to read the row.
            Err((index, message)) if faults.tells() => {
                faults.push(source.place(&record, index), message);
            }
            Err(_) => faults.count_untold(),
        }
    }
    entries
}

fn long_line(bytes: &[u8]) -> Option<(Place, String)> {
    bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .find_map(|(index, line)| {
            let place = Place {
                line: index + 1,
                column: MAX_LINE + 1,
            };
            (line.len() > MAX_LINE).then(|| {
                (
                    place,
                    format!(
                        "the line has {} bytes, and {MAX_LINE} are the most",
                        line.len()
                    ),
                )
            })
        })
}

fn separator(bytes: &[u8]) -> u8 {
    let header = bytes
        .split(|byte| *byte == b'\n')
        .find(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"#"))
        .unwrap_or_default();
    if header.contains(&b';') && !header.contains(&b',') {
        b';'
    } else {
        b','
    }
}

fn header(record: &ByteRecord, source: &Source<'_>, faults: &mut Faults) -> Vec<Field> {
    let mut columns = Vec::new();
    for (index, name) in record.iter().enumerate() {
        let name = std::str::from_utf8(name).unwrap_or_default();
        match column_of(name) {
            Some(field) if columns.contains(&field) => faults.push(
                source.place(record, index),
                format!("there is a second column `{}`", field.name()),
            ),
            Some(field) => columns.push(field),
            None => {
                faults.push(source.place(record, index), unknown(name));
                if prefix::parse(name).is_ok() {
                    break;
                }
            }
        }
    }
    if faults.is_none() && !columns.contains(&Field::Prefix) {
        faults.push(
            source.place(record, 0),
            "no column is named prefix; the first row names the columns, such as prefix,scope,owner".to_owned(),
        );
    }
    columns
}

fn unknown(name: &str) -> String {
    let is_data = prefix::parse(name).is_ok();
    let known = Field::ALL.map(Field::name);
    match hint::similar(name, known) {
        _ if is_data => {
            "the first row names the columns, such as prefix,scope,owner; here it is an entry"
                .to_owned()
        }
        Some(meant) => format!("{} is no column; did you mean {meant}?", hint::quoted(name)),
        None => format!(
            "{} is no column; there are {}",
            hint::quoted(name),
            known.join(", ")
        ),
    }
}

/// The row's fields, or the index of the one that is wrong.
fn row<'a>(record: &'a ByteRecord, columns: &[Field]) -> Result<RawEntry<'a>, (usize, String)> {
    if record.len() > columns.len() {
        return Err((
            columns.len(),
            format!(
                "the row has {} fields, and there are {} columns; a field with a separator in it stands in double quotes",
                record.len(),
                columns.len()
            ),
        ));
    }
    let mut raw = RawEntry::default();
    for (index, (field, bytes)) in columns.iter().zip(record).enumerate() {
        let text = Cow::Borrowed(std::str::from_utf8(bytes).unwrap_or_default());
        match field {
            Field::Prefix => raw.prefix = text,
            Field::Deny => {
                raw.deny = boolean(&text).ok_or_else(|| {
                    (
                        index,
                        format!("{} is neither true nor false", hint::quoted(&text)),
                    )
                })?;
            }
            Field::Scope => raw.scope = Some(text),
            Field::Owner => raw.owner = Some(text),
            Field::Ticket => raw.ticket = Some(text),
            Field::Comment => raw.comment = Some(text),
            Field::Expires => raw.expires = Some(text),
        }
    }
    Ok(raw)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Some(true),
        "" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

struct Source<'a> {
    bytes: &'a [u8],
    separator: u8,
}

impl Source<'_> {
    /// Where the record's field begins.
    fn place(&self, record: &ByteRecord, index: usize) -> Place {
        let position = record.position();
        let start = position.map_or(0, |position| position.byte());
        let mut at = usize::try_from(start).unwrap_or_default();
        let mut line = position.map_or(1, |position| position.line());
        let mut line_start = at;
        // The reader's position is before the lines that it skips.
        while let Some(skipped) = self.skipped(at) {
            at += skipped;
            line_start = at;
            line += 1;
        }
        let mut fields = 0;
        let mut is_quoted = false;
        while fields < index {
            match self.bytes.get(at) {
                Some(b'"') => is_quoted = !is_quoted,
                Some(b'\n') => {
                    line += 1;
                    line_start = at + 1;
                }
                Some(byte) if *byte == self.separator && !is_quoted => fields += 1,
                Some(_) => {}
                None => break,
            }
            at += 1;
        }
        while matches!(self.bytes.get(at), Some(b' ' | b'\t')) {
            at += 1;
        }
        Place {
            line: usize::try_from(line).unwrap_or(usize::MAX),
            column: column(self.bytes.get(line_start..at).unwrap_or_default()),
        }
    }

    /// The length of the line at `at`, its end included, if it is empty or a comment.
    fn skipped(&self, at: usize) -> Option<usize> {
        let rest = self.bytes.get(at..)?;
        let length = rest.iter().position(|byte| *byte == b'\n')? + 1;
        let line = rest.get(..length)?;
        (line.starts_with(b"#") || matches!(line, b"\n" | b"\r\n")).then_some(length)
    }
}
