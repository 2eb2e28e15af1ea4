//! Records that match a filter, of one log or of several merged by time.

use std::path::{Path, PathBuf};

use portcullis_journal::{
    EventKind,
    read::{Lines, Part, ReadError, Record, lines},
};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    filter::Filter,
    hidden::Revealer,
    operations::{Deed, Operations, Told},
    raw,
    text::harmless_json,
};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{} is no log: it has no segments", path.display())]
    NoLog { path: PathBuf },
}

/// The lines of the log in `directory`, or of a part of it.
///
/// # Errors
/// If it can't be listed or is no log.
pub fn lines_of(directory: &Path, part: Part) -> Result<Lines, SearchError> {
    let lines = lines(directory, part)?;
    if lines.have_segments() {
        Ok(lines)
    } else {
        Err(SearchError::NoLog {
            path: directory.to_owned(),
        })
    }
}

/// A record that was asked for.
#[derive(Debug, Clone)]
pub struct Found {
    /// Number of its log in the order in which they were given.
    pub log: usize,
    pub record: Record,
    /// As it stands in the log.
    pub line: Vec<u8>,
    pub deed: Deed,
    /// What was opened of what the line has sealed.
    pub opened: Map<String, Value>,
}

/// A record of one log that was asked for.
#[derive(Debug)]
pub struct Match {
    pub record: Record,
    pub deed: Deed,
    pub opened: Map<String, Value>,
}

/// The search of one log, line by line.
#[derive(Debug)]
pub struct Search<'a> {
    filter: &'a Filter,
    revealer: Option<&'a Revealer>,
    operations: Operations,
}

impl<'a> Search<'a> {
    pub fn new(filter: &'a Filter, revealer: Option<&'a Revealer>) -> Self {
        Self {
            filter,
            revealer,
            operations: Operations::default(),
        }
    }

    /// Looks at the next line that [`matters`](Self::matters).
    ///
    /// # Errors
    /// If it is no record.
    pub fn look(&mut self, line: &[u8]) -> Result<Option<Match>, serde_json::Error> {
        let mut record: Record = serde_json::from_slice(line)?;
        let opened = self
            .revealer
            .map(|revealer| revealer.reveal(&mut record))
            .unwrap_or_default();
        let filter = self.filter;
        let deed = self.operations.observe(&record, |deed| {
            !filter.asks_for_deeds()
                || filter.matches_deed(deed)
                || filter.asks_for_operations() && deed.handle.is_some() && deed.path.is_some()
        });
        Ok(filter.matches_as(&record, &deed).then_some(Match {
            record,
            deed,
            opened,
        }))
    }

    /// False only if the line neither matches nor says something of a record that may.
    pub fn matters(&self, line: &[u8]) -> bool {
        // The gateway's next run knows neither user nor source of what a crash cut off.
        let is_orphan = || raw::OUTCOME.of(line) == Some(b"unknown");
        if !self.filter.may_match_actor(line) && !is_orphan() {
            return false;
        }
        if self.filter.asks_for_deeds() {
            return self.filter.may_match_deed(line)
                || self.operations.know_session_of(line)
                || self.filter.asks_for_operations() && is_opening(line);
        }
        self.filter.may_match(line)
            || is_orphan()
            || self.filter.asks_for(EventKind::OperationOutcome)
                && self.filter.may_match_time(line)
                && is_intent(line)
    }
}

fn is_intent(line: &[u8]) -> bool {
    raw::EVENT.of(line) == Some(EventKind::OperationIntent.name().as_bytes())
}

fn is_opening(line: &[u8]) -> bool {
    raw::OPENING.is_in(line)
}

/// All that match, of several logs, in the order of their times. After the last one, what is added later comes when it is
/// asked for.
#[derive(Debug)]
pub struct Results<'a> {
    logs: Vec<Log<'a>>,
}

#[derive(Debug)]
struct Log<'a> {
    lines: Lines,
    search: Search<'a>,
    /// Found and not given yet.
    head: Option<(Match, Vec<u8>)>,
}

impl<'a> Results<'a> {
    /// With a `revealer`, records are what they were before they were sealed.
    ///
    /// # Errors
    /// If a directory can't be listed or is no log.
    pub fn of(
        directories: &[PathBuf],
        filter: &'a Filter,
        revealer: Option<&'a Revealer>,
    ) -> Result<Self, SearchError> {
        let logs = directories
            .iter()
            .map(|directory| Log::open(directory, filter, revealer))
            .collect::<Result<_, _>>()?;
        Ok(Self { logs })
    }

    fn advance(&mut self) -> Result<Option<Found>, SearchError> {
        for log in &mut self.logs {
            log.fill()?;
        }
        let heads = self.logs.iter().enumerate();
        let first = heads
            .filter_map(|(number, log)| Some((&log.head.as_ref()?.0.record.time, number)))
            .min()
            .map(|(_, number)| number);
        let taken =
            first.and_then(|number| Some((number, self.logs.get_mut(number)?.head.take()?)));
        Ok(taken.map(|(log, (found, line))| Found {
            log,
            record: found.record,
            line,
            deed: found.deed,
            opened: found.opened,
        }))
    }
}

impl Iterator for Results<'_> {
    type Item = Result<Found, SearchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance();
        if item.is_err() {
            self.logs.clear();
        }
        item.transpose()
    }
}

impl<'a> Log<'a> {
    fn open(
        directory: &Path,
        filter: &'a Filter,
        revealer: Option<&'a Revealer>,
    ) -> Result<Self, SearchError> {
        Ok(Self {
            lines: lines_of(directory, filter.part())?,
            search: Search::new(filter, revealer),
            head: None,
        })
    }

    fn fill(&mut self) -> Result<(), SearchError> {
        while self.head.is_none() {
            let search = &self.search;
            let Some(line) = self.lines.next(&mut |line| search.matters(line))? else {
                return Ok(());
            };
            match self.search.look(line) {
                Ok(Some(found)) => self.head = Some((found, line.to_vec())),
                Ok(None) => {}
                Err(_) => return Err(self.lines.not_a_record().into()),
            }
        }
        Ok(())
    }
}

impl Found {
    /// One JSON object: the log, the record as it stands there, for an outcome what its intent says, and what was opened.
    ///
    /// # Errors
    /// If the line is no JSON.
    pub fn to_json(&self, logs: &[PathBuf]) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Json<'a> {
            log: std::borrow::Cow<'a, str>,
            record: &'a RawValue,
            #[serde(skip_serializing_if = "Option::is_none")]
            about: Option<Told<'a>>,
            #[serde(skip_serializing_if = "Map::is_empty")]
            opened: &'a Map<String, Value>,
        }
        let log = logs.get(self.log).map(|log| log.to_string_lossy());
        let adds = self.deed.intent.is_some() || self.deed.path != Deed::of(&self.record).path;
        let json = Json {
            log: log.unwrap_or_default(),
            record: serde_json::from_slice(&self.line)?,
            about: adds.then(|| self.deed.told()),
            opened: &self.opened,
        };
        Ok(harmless_json(&serde_json::to_string(&json)?).into_owned())
    }
}

#[cfg(test)]
mod tests;
