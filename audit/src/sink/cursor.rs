//! How far a sink has got: one number in a file, replaced as a whole.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// What a collector has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// The first record that it has not.
    pub(crate) next: u64,
    /// Records that the last checkpoint covers which it has.
    pub(crate) checkpoint: Option<u64>,
}

/// The file that keeps a position.
#[derive(Debug)]
pub(crate) struct Cursor {
    path: PathBuf,
    kept: Option<Position>,
}

impl Cursor {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, kept: None }
    }

    /// What was kept; `None` if the sink is new.
    ///
    /// # Errors
    /// If the file can't be read, or is none.
    pub(crate) fn load(&mut self) -> io::Result<Option<Position>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let wrong = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no cursor; remove it and the sink begins anew",
            )
        };
        let kept: Value = serde_json::from_slice(&text).map_err(|_| wrong())?;
        let position = Position {
            next: kept.get("next").and_then(Value::as_u64).ok_or_else(wrong)?,
            checkpoint: kept.get("checkpoint").and_then(Value::as_u64),
        };
        self.kept = Some(position);
        Ok(Some(position))
    }

    /// Keeps the position; durable when this returns.
    ///
    /// # Errors
    /// If the file can't be written; what was kept before stays.
    pub(crate) fn keep(&mut self, position: Position) -> io::Result<()> {
        if self.kept == Some(position) {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let new = self.path.with_extension("cursor.new");
        let mut file = File::create(&new)?;
        let text = json!({ "next": position.next, "checkpoint": position.checkpoint });
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(directory)?.sync_all()?;
        self.kept = Some(position);
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_and_the_name_is_never_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sinks/siem.cursor");
        let mut cursor = Cursor::at(path.clone());
        assert_eq!(cursor.load().unwrap(), None);
        let position = Position {
            next: 7,
            checkpoint: Some(5),
        };
        cursor.keep(position).unwrap();
        assert_eq!(Cursor::at(path.clone()).load().unwrap(), Some(position));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_cursor_is_not_taken_for_a_new_sink() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("siem.cursor");
        for text in ["", "7", "{}", "{\"next\":-1}", "{\"next\":"] {
            fs::write(&path, text).unwrap();
            let error = Cursor::at(path.clone()).load().unwrap_err();
            assert!(error.to_string().contains("remove it"), "{text}: {error}");
        }
    }
}
