//! A catalogue beside a log that grows.

use std::path::Path;

use portcullis_journal::read::{Lines, Part, Record};

use super::Catalogue;
use crate::{
    raw,
    search::{SearchError, lines_of},
};

/// Reads a log into a catalogue.
#[derive(Debug)]
pub struct Reader {
    lines: Lines,
    has_begun: bool,
    pub catalogue: Catalogue,
}

impl Reader {
    /// Reads nothing yet.
    ///
    /// # Errors
    /// If `directory` can't be listed or is no log.
    pub fn of(directory: &Path, catalogue: Catalogue) -> Result<Self, SearchError> {
        Ok(Self {
            lines: lines_of(directory, Part::default())?,
            has_begun: false,
            catalogue,
        })
    }

    /// Takes all that has been written since.
    ///
    /// # Errors
    /// If the log can't be read on.
    pub fn advance(&mut self) -> Result<(), SearchError> {
        loop {
            let (catalogue, has_begun) = (&mut self.catalogue, &mut self.has_begun);
            let line = self.lines.next(&mut |line| {
                if !*has_begun {
                    *has_begun = true;
                    catalogue.is_cut |= raw::seq(line) != Some(0);
                }
                catalogue.matters(line)
            })?;
            let Some(line) = line else {
                return Ok(());
            };
            let Ok(record) = serde_json::from_slice::<Record>(line) else {
                return Err(self.lines.not_a_record().into());
            };
            self.catalogue.hear(&record);
        }
    }
}
