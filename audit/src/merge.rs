//! Records of several logs in the order of their times.

use std::path::PathBuf;

use portcullis_journal::read::{Lines, Part, Record};

use crate::search::{SearchError, lines_of};

/// Records of several logs, read as they are asked for.
#[derive(Debug)]
pub struct Merge {
    logs: Vec<Log>,
}

#[derive(Debug)]
struct Log {
    lines: Lines,
    /// Read and not given yet.
    head: Option<Record>,
}

impl Merge {
    /// # Errors
    /// If a directory can't be listed or is no log.
    pub fn of(directories: &[PathBuf], part: &Part) -> Result<Self, SearchError> {
        let logs = directories
            .iter()
            .map(|directory| {
                Ok(Log {
                    lines: lines_of(directory, part.clone())?,
                    head: None,
                })
            })
            .collect::<Result<_, SearchError>>()?;
        Ok(Self { logs })
    }

    /// The next record that matters, and the number of its log. Of each log, `matters` has seen what was given before.
    ///
    /// # Errors
    /// If a log can't be read.
    pub fn next(
        &mut self,
        matters: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<(usize, Record)>, SearchError> {
        for log in &mut self.logs {
            if log.head.is_none()
                && let Some(line) = log.lines.next(&mut |line| matters(line))?
            {
                let Ok(record) = serde_json::from_slice(line) else {
                    return Err(log.lines.not_a_record().into());
                };
                log.head = Some(record);
            }
        }
        let heads = self.logs.iter().enumerate();
        let first = heads
            .filter_map(|(number, log)| Some((&log.head.as_ref()?.time, number)))
            .min()
            .map(|(_, number)| number);
        Ok(first.and_then(|number| Some((number, self.logs.get_mut(number)?.head.take()?))))
    }
}
