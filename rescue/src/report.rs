//! What became of each file, and of all.

use std::{
    io::{self, IsTerminal as _, Write},
    time::{Duration, Instant},
};

use portcullis_journal::record::untrusted;
use serde_json::{Value, json};

use crate::journal::Index;

/// What became of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Verified,
    Decrypted,
    Differs,
    NotAuthentic,
    NotEncrypted,
    NewerFormat,
    KeyMissing,
    Exists,
    NotAFile,
    Failed,
    Unfinished,
    Unnamed,
    Shredded,
}

const FATES: [Fate; 13] = [
    Fate::Verified,
    Fate::Decrypted,
    Fate::Differs,
    Fate::NotAuthentic,
    Fate::NotEncrypted,
    Fate::NewerFormat,
    Fate::KeyMissing,
    Fate::Exists,
    Fate::NotAFile,
    Fate::Failed,
    Fate::Unfinished,
    Fate::Unnamed,
    Fate::Shredded,
];

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Decrypted => "decrypted",
            Self::Differs => "differs",
            Self::NotAuthentic => "not-authentic",
            Self::NotEncrypted => "not-encrypted",
            Self::NewerFormat => "newer-format",
            Self::KeyMissing => "key-missing",
            Self::Exists => "exists",
            Self::NotAFile => "not-a-file",
            Self::Failed => "failed",
            Self::Unfinished => "unfinished",
            Self::Shredded => "shredded",
            Self::Unnamed => "unnamed",
        }
    }

    /// An upload that was never published is missed by nobody, and what was destroyed is as it should be.
    fn is_good(self) -> bool {
        match self {
            Self::Verified | Self::Decrypted | Self::Unfinished | Self::Shredded => true,
            Self::Differs
            | Self::NotAuthentic
            | Self::NotEncrypted
            | Self::NewerFormat
            | Self::KeyMissing
            | Self::Exists
            | Self::NotAFile
            | Self::Failed
            | Self::Unnamed => false,
        }
    }
}

/// One line of the report.
pub(crate) struct Entry<'a> {
    /// From the backend's directory on.
    pub(crate) path: &'a [u8],
    pub(crate) fate: Fate,
    pub(crate) detail: Option<String>,
    /// Of what was written.
    pub(crate) bytes: u64,
    pub(crate) sha256: Option<[u8; 32]>,
}

pub(crate) struct Report<W> {
    json: bool,
    out: W,
    counts: [u64; FATES.len()],
    bytes: u64,
    begun: Instant,
    /// When progress was last shown; `None` if nobody looks.
    shown: Option<Instant>,
    /// Bytes of the files under way too.
    seen: u64,
}

impl<W: Write> Report<W> {
    pub(crate) fn new(json: bool, out: W) -> Self {
        let begun = Instant::now();
        Self {
            json,
            out,
            counts: [0; FATES.len()],
            bytes: 0,
            begun,
            shown: io::stderr().is_terminal().then_some(begun),
            seen: 0,
        }
    }

    /// What the files are compared with.
    pub(crate) fn journal(&mut self, index: Option<&Index>) -> io::Result<()> {
        let Some(index) = index else { return Ok(()) };
        if self.json {
            let said = json!({"journal": {
                "records": index.records, "findings": index.findings, "hidden_paths": index.hidden,
            }});
            return writeln!(self.out, "{said}");
        }
        writeln!(self.out, "journal: {} records", index.records)?;
        if index.findings > 0 {
            writeln!(
                self.out,
                "journal: NOT SOUND, {} findings (portcullis-verify names them): what it says of files may be false",
                index.findings
            )?;
        }
        if index.hidden > 0 {
            writeln!(
                self.out,
                "journal: {} uploads have hidden paths and can't be compared",
                index.hidden
            )?;
        }
        Ok(())
    }

    pub(crate) fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        for (count, fate) in self.counts.iter_mut().zip(FATES) {
            if fate == entry.fate {
                *count += 1;
            }
        }
        self.bytes += entry.bytes;
        self.clear()?;
        if self.json {
            let said = json!({
                "path": untrusted(entry.path),
                "result": entry.fate.name(),
                "bytes": entry.bytes,
                "sha256": entry.sha256.map(hex::encode),
                "detail": entry.detail,
            });
            return writeln!(self.out, "{said}");
        }
        write!(
            self.out,
            "{:13} {}",
            entry.fate.name(),
            printable(entry.path)
        )?;
        match &entry.detail {
            None => writeln!(self.out),
            Some(detail) => writeln!(self.out, " ({})", printable(detail.as_bytes())),
        }
    }

    /// So many bytes more of some file.
    pub(crate) fn progress(&mut self, bytes: u64) {
        self.seen += bytes;
        let Some(shown) = self.shown else { return };
        if shown.elapsed() < Duration::from_millis(200) {
            return;
        }
        self.shown = Some(Instant::now());
        let files: u64 = self.counts.iter().sum();
        // Nobody is harmed if a terminal does not show it.
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{files} files, {} MiB, {} s",
            self.seen >> 20,
            self.begun.elapsed().as_secs()
        );
    }

    fn clear(&self) -> io::Result<()> {
        if self.shown.is_some() {
            write!(io::stderr(), "\r\x1b[K")?;
        }
        Ok(())
    }

    /// Writes the summary. True if every file was verified or decrypted.
    pub(crate) fn end(mut self) -> io::Result<bool> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let is_good = FATES
            .iter()
            .zip(self.counts)
            .all(|(fate, count)| count == 0 || fate.is_good());
        let counted = FATES
            .iter()
            .zip(self.counts)
            .filter(|(_, count)| *count > 0);
        if self.json {
            let counts: serde_json::Map<String, Value> = counted
                .map(|(fate, count)| (fate.name().to_owned(), count.into()))
                .collect();
            let said = json!({"summary": {
                "files": self.counts.iter().sum::<u64>(), "bytes": self.bytes, "seconds": seconds, "counts": counts,
            }});
            writeln!(self.out, "{said}")?;
        } else {
            let counts: Vec<String> = counted
                .map(|(fate, count)| format!("{count} {}", fate.name()))
                .collect();
            let counts = if counts.is_empty() {
                "no files".to_owned()
            } else {
                counts.join(", ")
            };
            let bytes = self.bytes;
            writeln!(
                self.out,
                "summary: {counts}; {bytes} bytes written in {seconds:.1} s"
            )?;
        }
        self.out.flush()?;
        Ok(is_good)
    }
}

/// A name that does nothing to a terminal and stays on its line.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control()
                || c == '\\'
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_write_lines_or_move_the_cursor() {
        assert_eq!(printable("Größe.csv".as_bytes()), "Größe.csv");
        assert_eq!(
            printable(b"a\nverified b\x1b[2J\xff\\"),
            "a\\nverified b\\u{1b}[2J\\xff\\\\"
        );
        assert_eq!(printable("\u{202e}gpj".as_bytes()), "\\u{202e}gpj");
    }
}
