//! List files: plain text, CSV and JSON into entries and back, with every fault at its line and column.
//!
//! Plain text has an entry a line, fields behind it, and a comment:
//! `203.0.113.0/24 scope=tcp/22 owner="lab a" ticket=CHG-7 expires=2026-12-31 # where it comes from`.
//! `!203.0.113.7` denies. CSV names the same fields in its first row, JSON in its objects.

mod csv;
mod finish;
mod hint;
mod json;
mod raw;
mod text;
mod write;

use std::{fmt, path::Path};

use crate::entry::Entry;

pub use self::write::write;

/// Faults that are told one by one; the others are counted.
pub const MAX_FAULTS: usize = 20;
/// The longest line of plain text and CSV, in bytes without its end.
pub const MAX_LINE: usize = 64 * 1024;
/// Entries of one file, unless set: what the compiled table holds.
pub const DEFAULT_MAX_ENTRIES: usize = 2_000_000;
/// Bytes of one file, unless set.
pub const DEFAULT_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Csv,
    Json,
}

/// What a list may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most entries, those included that are there twice.
    pub entries: usize,
    /// The most bytes, for those who read the list from somewhere.
    pub bytes: u64,
    /// Whether `0.0.0.0/0` and `::/0` may be entries. One of them opens the host to everybody.
    pub allow_default_route: bool,
    /// Whether a list without entries is one.
    pub allow_empty: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: DEFAULT_MAX_ENTRIES,
            bytes: DEFAULT_MAX_BYTES,
            allow_default_route: false,
            allow_empty: false,
        }
    }
}

/// A list that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// In the order of the file. Of entries with the same prefix, kind and scope the last is kept.
    pub entries: Vec<Entry>,
    pub format: Format,
    /// Entries left out since a later one has the same prefix, kind and scope.
    pub duplicates: usize,
    /// Entries whose prefix lies within that of another entry.
    pub overlaps: usize,
}

/// A place in a file, both numbers from 1. Columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// The place of the byte at `offset` of `bytes`.
    fn of(bytes: &[u8], offset: usize) -> Self {
        let before = bytes.get(..offset).unwrap_or(bytes);
        let start = memrchr_line(before);
        Self {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: column(before.get(start..).unwrap_or_default()),
        }
    }
}

fn memrchr_line(before: &[u8]) -> usize {
    before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1)
}

/// The column behind `before`, the bytes of its line.
fn column(before: &[u8]) -> usize {
    let before = before.strip_prefix(BOM).unwrap_or(before);
    // Every byte but a continuation byte begins a character.
    1 + before.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// One thing that is wrong with a list, and what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFault {
    pub place: Place,
    pub message: String,
}

/// Why a file is not a list: the first [`MAX_FAULTS`] faults, each as `FILE:LINE:COLUMN: what`, and how many more there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListError {
    pub file: String,
    pub faults: Vec<ListFault>,
    pub more: usize,
}

impl std::error::Error for ListError {}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let Place { line, column } = fault.place;
            write!(f, "{}:{line}:{column}: {}", self.file, fault.message)?;
        }
        if self.more > 0 {
            write!(f, "\n{}: and {} more faults", self.file, self.more)?;
        }
        Ok(())
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl Format {
    /// The format that the name's ending says, else what the content looks like.
    pub fn of(name: &str, bytes: &[u8]) -> Self {
        let extension = Path::new(name)
            .extension()
            .and_then(|extension| extension.to_str())
            .map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("json") => Self::Json,
            Some("csv") => Self::Csv,
            Some("txt" | "list") => Self::Text,
            Some(_) | None => Self::sniff(bytes),
        }
    }

    fn sniff(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        let first = bytes
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .find(|line| !line.is_empty() && !line.starts_with(b"#"));
        match first {
            Some([b'[' | b'{', ..]) => Self::Json,
            Some(line) if csv::is_header(line) => Self::Csv,
            Some(_) | None => Self::Text,
        }
    }
}

/// Reads a list. `name` is for the messages and for the format, as in [`Format::of`].
///
/// # Errors
/// Every fault that it has; then nothing of it is to be used.
pub fn parse(name: &str, bytes: &[u8], limits: &Limits) -> Result<Parsed, ListError> {
    parse_as(Format::of(name, bytes), name, bytes, limits)
}

/// Reads a list in a known format.
///
/// # Errors
/// Every fault that it has; then nothing of it is to be used.
pub fn parse_as(
    format: Format,
    name: &str,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Parsed, ListError> {
    let mut faults = Faults::default();
    let entries = match readable(bytes, limits) {
        Ok(text) => match format {
            Format::Text => text::parse(text, limits, &mut faults),
            Format::Csv => csv::parse(text, limits, &mut faults),
            Format::Json => json::parse(text, limits, &mut faults),
        },
        Err(fault) => {
            faults.push(fault.place, fault.message);
            Vec::new()
        }
    };
    if faults.is_none() && entries.is_empty() && !limits.allow_empty {
        faults.push(
            Place { line: 1, column: 1 },
            "there is no entry in it".to_owned(),
        );
    }
    if faults.is_none() {
        Ok(finish::finish(entries, format))
    } else {
        Err(ListError {
            file: name.to_owned(),
            faults: faults.told,
            more: faults.more,
        })
    }
}

/// The text in `bytes`, without a byte order mark.
fn readable<'a>(bytes: &'a [u8], limits: &Limits) -> Result<&'a str, ListFault> {
    let fault = |offset, message: String| {
        Err(ListFault {
            place: Place::of(bytes, offset),
            message,
        })
    };
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limits.bytes) {
        return fault(
            0,
            format!(
                "the file has {} bytes, and {} are the most",
                bytes.len(),
                limits.bytes
            ),
        );
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return fault(0, "this is UTF-16; save it as UTF-8".to_owned());
    }
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        return fault(
            offset,
            "a NUL byte: this is a binary file, or UTF-16 to be saved as UTF-8".to_owned(),
        );
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => fault(
            error.valid_up_to(),
            "a byte that is not UTF-8; save the file as UTF-8".to_owned(),
        ),
    }
}

#[derive(Debug, Default)]
struct Faults {
    told: Vec<ListFault>,
    more: usize,
}

impl Faults {
    fn push(&mut self, place: Place, message: String) {
        if self.told.len() < MAX_FAULTS {
            self.told.push(ListFault { place, message });
        } else {
            self.more += 1;
        }
    }

    fn is_none(&self) -> bool {
        self.told.is_empty()
    }

    /// Whether a fault's place would still be told.
    fn tells(&self) -> bool {
        self.told.len() < MAX_FAULTS
    }

    fn count_untold(&mut self) {
        self.more += 1;
    }
}

fn too_many(limits: &Limits) -> String {
    format!(
        "more than {} entries; split the list, or raise max_entries",
        limits.entries
    )
}

#[cfg(test)]
mod tests;
