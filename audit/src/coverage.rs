//! How far a log goes within a period, as a reviewer signs for it.

use std::path::Path;

use portcullis_journal::read::{Part, Record};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    raw,
    search::{SearchError, lines_of},
    time::{Period, as_recorded},
};

/// The part of a log that lies in a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coverage {
    pub node: String,
    pub first_seq: u64,
    pub last_seq: u64,
    /// As records write it.
    pub last_time: String,
    /// Of the last record's line: `prev` of the record behind it.
    pub last_sha256: String,
}

/// `None` if no record of the log in `directory` lies in the period.
///
/// # Errors
/// If the log can't be read.
pub fn coverage(directory: &Path, period: Period) -> Result<Option<Coverage>, SearchError> {
    let (from, until) = (as_recorded(period.from), as_recorded(period.until));
    let part = Part {
        first: 0,
        since: Some(from.clone()),
        until: Some(until.clone()),
    };
    let mut lines = lines_of(directory, part)?;
    let (mut first, mut last) = (None, None);
    while lines
        .next(&mut |line| {
            let time = raw::TIME.of(line).unwrap_or_default();
            if (from.as_bytes()..until.as_bytes()).contains(&time)
                && let Some(seq) = raw::seq(line)
            {
                first.get_or_insert(seq);
                last = Some(seq);
            }
            false
        })?
        .is_some()
    {}
    let (Some(first_seq), Some(last_seq)) = (first, last) else {
        return Ok(None);
    };
    let part = Part {
        first: last_seq,
        ..Part::default()
    };
    let mut lines = lines_of(directory, part)?;
    let Some(line) = lines.next(&mut |_| true)? else {
        return Ok(None);
    };
    let last_sha256 = hex::encode(Sha256::digest(line));
    let Ok(record) = serde_json::from_slice::<Record>(line) else {
        return Err(lines.not_a_record().into());
    };
    Ok(Some(Coverage {
        node: record.node,
        first_seq,
        last_seq,
        last_time: record.time,
        last_sha256,
    }))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;
    use crate::testing::{ALICE, Log};

    #[test]
    fn the_last_record_of_the_period_is_named_with_its_hash() {
        let log = Log::of([ALICE.done(1, "stat", b"/1"), ALICE.done(2, "stat", b"/2")].concat());
        let records: Vec<Record> = log
            .lines()
            .iter()
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let time = |seq: usize| -> DateTime<Utc> { records[seq].time.parse().unwrap() };
        let period = Period {
            from: time(1),
            until: time(3),
        };
        let found = coverage(&log.path(), period).unwrap().unwrap();
        assert_eq!((found.first_seq, found.last_seq), (1, 2));
        assert_eq!(found.last_sha256, records[3].prev);
        let before = Period {
            from: time(0) - TimeDelta::days(2),
            until: time(0) - TimeDelta::days(1),
        };
        assert_eq!(coverage(&log.path(), before).unwrap(), None);
    }
}
