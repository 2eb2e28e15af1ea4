//! Lines at the end of a file that somebody else rotates.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{Receipt, SendError};

/// Records name people: their owner and a group may read them.
const MODE: u32 = 0o640;

pub(in crate::sink) struct Appender {
    records: Ending,
    notes: Ending,
}

impl Appender {
    pub(super) fn open(path: &Path) -> Result<Self, SendError> {
        let mut notes = OsString::from(path);
        notes.push(".checkpoints");
        let mut records = Ending {
            path: path.to_owned(),
            file: None,
        };
        records.current()?;
        Ok(Self {
            records,
            notes: Ending {
                path: PathBuf::from(notes),
                file: None,
            },
        })
    }

    /// Appends, and has it on disk when it returns.
    pub(super) fn append(&mut self, records: &[u8], notes: &[u8]) -> Result<Receipt, SendError> {
        self.records.append(records)?;
        self.notes.append(notes)?;
        Ok(Receipt::CERTAIN)
    }
}

/// The end of one file.
struct Ending {
    path: PathBuf,
    file: Option<File>,
}

impl Ending {
    fn append(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        let file = self.current()?;
        let written = || -> io::Result<()> {
            let before = file.metadata()?.len();
            (&*file).write_all(bytes).inspect_err(|_| {
                // Half a line would be taken for the beginning of the next.
                let _ = file.set_len(before);
            })?;
            file.sync_data()
        };
        written().map_err(|source| {
            self.file = None;
            SendError::Append { path, source }
        })
    }

    /// The file that has the name now: after a rotation that is another one.
    fn current(&mut self) -> Result<&File, SendError> {
        let named = fs::metadata(&self.path).ok();
        let is_same = |file: &File| {
            let (Some(named), Ok(held)) = (&named, file.metadata()) else {
                return false;
            };
            (named.dev(), named.ino()) == (held.dev(), held.ino())
        };
        let file = match self.file.take().filter(is_same) {
            Some(file) => file,
            None => open(&self.path).map_err(|source| SendError::Append {
                path: self.path.clone(),
                source,
            })?,
        };
        Ok(self.file.insert(file))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)?;
    if file.metadata()?.len() == 0 {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            File::open(folder)?.sync_all()?;
        }
        return Ok(file);
    }
    // What a crash cut in two ends here.
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_file_is_begun_anew_and_the_old_one_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let mut file = Appender::open(&path).unwrap();
        file.append(b"a\n", b"note\n").unwrap();
        fs::rename(&path, folder.path().join("records.1")).unwrap();
        file.append(b"b\n", b"").unwrap();
        assert_eq!(fs::read(folder.path().join("records.1")).unwrap(), b"a\n");
        assert_eq!(fs::read(&path).unwrap(), b"b\n");
        let notes = folder.path().join("records.jsonl.checkpoints");
        assert_eq!(fs::read(notes).unwrap(), b"note\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn half_a_line_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        fs::write(&path, b"whole\nhal").unwrap();
        let mut file = Appender::open(&path).unwrap();
        file.append(b"next\n", b"").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole\nhal\nnext\n");
    }

    #[test]
    fn a_place_that_is_not_there_is_named() {
        let Err(error) = Appender::open(Path::new("/nonexistent/records")) else {
            panic!("opened");
        };
        assert_eq!(error.to_string(), "append to /nonexistent/records");
    }
}
