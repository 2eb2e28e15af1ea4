//! The log's lines as they become durable, from any record on, and its checkpoints.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use portcullis_journal::read::{Lines, Part, lines};

use crate::format::checkpoint_size;

/// Bytes of checkpoints that are read at once.
const NOTES_AT_ONCE: u64 = 1 << 20;

/// What a look at the log found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The next line is in the buffer.
    Line,
    /// The log was cut at its beginning: records before this one are gone.
    BeginsAt(u64),
}

/// Reads lines one after the other. What is not durable yet may still be cut off: the caller says how far it may read.
#[derive(Debug)]
pub(crate) struct Follower {
    directory: PathBuf,
    next: u64,
    open: Option<Lines>,
}

impl Follower {
    pub(crate) fn new(directory: &Path, next: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            next,
            open: None,
        }
    }

    /// The record that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Goes on with another record.
    pub(crate) fn seek(&mut self, next: u64) {
        if self.next != next {
            self.next = next;
            self.open = None;
        }
    }

    /// Forgets what was read ahead: it may not have been durable, and stand differently now.
    pub(crate) fn forget_ahead(&mut self) {
        if let Some(lines) = &mut self.open
            && lines.forget_ahead().is_err()
        {
            self.open = None;
        }
    }

    /// Reads the next line, which has to be durable, into `line`, without its newline.
    ///
    /// # Errors
    /// If the log can't be read there. It may be asked again.
    pub(crate) fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Found> {
        let found = self.advance(line);
        if !matches!(found, Ok(Found::Line)) {
            self.open = None;
        }
        found
    }

    fn advance(&mut self, line: &mut Vec<u8>) -> io::Result<Found> {
        let part = Part {
            first: self.next,
            ..Part::default()
        };
        let lines = match &mut self.open {
            Some(lines) => lines,
            None => self
                .open
                .insert(lines(&self.directory, part).map_err(io::Error::other)?),
        };
        let Some(found) = lines.next(&mut |_| true).map_err(io::Error::other)? else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "record {} is not in {}",
                    self.next,
                    self.directory.display()
                ),
            ));
        };
        line.clear();
        line.extend_from_slice(found);
        match lines.seq() {
            Some(seq) if seq != self.next => Ok(Found::BeginsAt(seq)),
            Some(_) | None => {
                self.next += 1;
                Ok(Found::Line)
            }
        }
    }
}

/// The signed tree heads of a log, oldest first.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    path: PathBuf,
    /// Bytes of the file that were read.
    read: u64,
}

impl Checkpoints {
    pub(crate) fn in_log(directory: &Path) -> Self {
        Self {
            path: directory.join("checkpoints"),
            read: 0,
        }
    }

    /// How far the file was read, in bytes.
    pub(crate) fn position(&self) -> u64 {
        self.read
    }

    /// Goes back to where it was: notes since then come again.
    pub(crate) fn seek(&mut self, position: u64) {
        self.read = position;
    }

    /// Notes that came since the last look, without those that cover fewer records than `from`. There may be more.
    ///
    /// # Errors
    /// If the file can't be read. Where there is none yet, there are no notes.
    pub(crate) fn look(&mut self, from: u64) -> io::Result<Vec<Vec<u8>>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // A file that has become shorter is another one.
        if file.metadata()?.len() < self.read {
            self.read = 0;
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        file.take(NOTES_AT_ONCE).read_to_end(&mut text)?;
        let is_all = (text.len() as u64) < NOTES_AT_ONCE;
        let (notes, taken) = split_notes(&text, is_all);
        self.read += taken as u64;
        Ok(notes
            .into_iter()
            .filter(|note| checkpoint_size(note).is_some_and(|size| size >= from))
            .collect())
    }
}

/// Whole notes at the beginning of `text`, and how many bytes they are. A note is text, an empty line, and signature lines;
/// the last one is whole only if `text` `is_all` that there is.
fn split_notes(text: &[u8], is_all: bool) -> (Vec<Vec<u8>>, usize) {
    const SIGNATURE: &[u8] = "\u{2014} ".as_bytes();
    let (mut notes, mut note, mut taken) = (Vec::new(), Vec::new(), 0);
    let mut is_signed = false;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if !line.ends_with(b"\n") {
            break;
        }
        let is_signature = line.starts_with(SIGNATURE);
        if is_signed && !is_signature {
            taken += note.len();
            notes.push(std::mem::take(&mut note));
            is_signed = false;
        }
        is_signed |= is_signature;
        note.extend_from_slice(line);
    }
    if is_signed && is_all {
        taken += note.len();
        notes.push(note);
    }
    (notes, taken)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    fn read(follower: &mut Follower) -> io::Result<String> {
        let mut line = Vec::new();
        match follower.read(&mut line)? {
            Found::Line => Ok(String::from_utf8(line).unwrap()),
            Found::BeginsAt(first) => Ok(format!("begins at {first}")),
        }
    }

    #[test]
    fn lines_come_across_segments_from_any_record_on() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("000000000000.jsonl"), "a\nb\n").unwrap();
        fs::write(folder.path().join("000000000002.jsonl"), "c\n").unwrap();
        fs::write(folder.path().join("000000000003.jsonl"), "").unwrap();
        fs::write(folder.path().join("foreign"), "x\n").unwrap();
        for (from, expected) in [(0, "abc"), (1, "bc"), (2, "c")] {
            let mut follower = Follower::new(folder.path(), from);
            let found: String = expected
                .chars()
                .map(|_| read(&mut follower).unwrap())
                .collect();
            assert_eq!(found, expected);
            assert!(read(&mut follower).is_err());
        }
    }

    #[test]
    fn what_was_read_ahead_and_cut_off_is_not_given_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("000000000000.jsonl");
        fs::write(&path, "a\nstale\n").unwrap();
        let mut follower = Follower::new(folder.path(), 0);
        assert_eq!(read(&mut follower).unwrap(), "a");
        follower.forget_ahead();
        fs::write(&path, "a\nb\nc").unwrap();
        assert_eq!(read(&mut follower).unwrap(), "b");
        follower.forget_ahead();
        assert!(read(&mut follower).is_err());
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"c\n")
            .unwrap();
        assert_eq!(read(&mut follower).unwrap(), "cc");
    }

    #[test]
    fn a_log_that_begins_later_says_where() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("000000000005.jsonl"), "f\n").unwrap();
        let mut follower = Follower::new(folder.path(), 2);
        assert_eq!(read(&mut follower).unwrap(), "begins at 5");
        follower.seek(5);
        assert_eq!(read(&mut follower).unwrap(), "f");
    }

    #[test]
    fn checkpoints_come_once_and_only_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints");
        let note = |size: u64| format!("gw1/log\n{size}\nAAAA\n\n\u{2014} gw1/log x\n");
        let mut checkpoints = Checkpoints::in_log(folder.path());
        assert!(checkpoints.look(0).unwrap().is_empty());
        fs::write(
            &path,
            [note(3), note(7), "gw1/log\n9\n".to_owned()].concat(),
        )
        .unwrap();
        let texts = |notes: Vec<Vec<u8>>| -> Vec<String> {
            notes
                .into_iter()
                .map(|note| String::from_utf8(note).unwrap())
                .collect()
        };
        assert_eq!(texts(checkpoints.look(4).unwrap()), [note(7)]);
        assert!(checkpoints.look(4).unwrap().is_empty());
        fs::write(&path, [note(3), note(7), note(9)].concat()).unwrap();
        assert_eq!(texts(checkpoints.look(4).unwrap()), [note(9)]);
        checkpoints.seek(0);
        assert_eq!(texts(checkpoints.look(9).unwrap()), [note(9)]);
    }
}
