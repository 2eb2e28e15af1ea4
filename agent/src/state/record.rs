//! What the change log and the snapshot say, as text: a line of JSON for each record, and a line for each entry that changes.

use std::{fmt::Write as _, str};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    bans::Ban,
    entry::Entry,
    lists::{Counts, Delta, ListName, Step},
};

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(super) enum Record {
    /// The lists change; the body says how.
    Lists(Revision),
    /// The change that made this revision stays.
    Confirmed {
        revision: u64,
    },
    Banned {
        ban: Ban,
    },
    /// Bans lifted or at their end.
    Unbanned {
        sources: Vec<IpNet>,
    },
    /// The wall clock was set: the ends of all bans move with it.
    ClockShifted {
        seconds: i64,
    },
}

/// A state of the lists, and the change that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// From 1, without gaps.
    pub revision: u64,
    pub time: DateTime<Utc>,
    /// Who asked for it; nobody for what the agent does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What was done: `add`, `remove`, `replace`, `rollback`, `revert`, `expire`, `sync`.
    pub action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    #[serde(flatten)]
    pub counts: Counts,
    /// Entries of all lists together, afterwards.
    pub entries: usize,
    /// SHA-256 over the digest of the revision before and the lines of this change: equal digests have equal histories.
    pub digest: String,
    /// Until when it waits for its confirmation; unless that comes, it is reverted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_by: Option<DateTime<Utc>>,
}

/// A line that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(super) struct LineError {
    pub(super) line: usize,
    pub(super) message: String,
}

/// A change as lines: `=NAME` names the list of what follows, `-ENTRY` was there, `+ENTRY` is there.
pub(super) fn delta_to_text(delta: &Delta) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for (name, steps) in delta.lists() {
        push_line(&mut text, '=', name)?;
        for step in steps {
            if let Some(before) = step.before() {
                push_line(&mut text, '-', &before)?;
            }
            if let Some(after) = step.after() {
                push_line(&mut text, '+', &after)?;
            }
        }
    }
    Ok(text)
}

pub(super) fn push_line(
    text: &mut String,
    sign: char,
    value: &impl Serialize,
) -> Result<(), serde_json::Error> {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{sign}{}", serde_json::to_string(value)?);
    Ok(())
}

/// Reads what [`delta_to_text`] wrote.
pub(super) fn delta_from_text(body: &[u8]) -> Result<Delta, LineError> {
    let mut lists: Vec<(ListName, Vec<Step>)> = Vec::new();
    let mut before: Option<Entry> = None;
    for line in lines(body) {
        let line = line?;
        match line.sign {
            '=' => {
                push_step(&mut lists, before.take(), None, &line)?;
                lists.push((line.value()?, Vec::new()));
            }
            '-' => {
                push_step(&mut lists, before.take(), None, &line)?;
                before = Some(line.value()?);
            }
            '+' => {
                let after: Entry = line.value()?;
                match before.take() {
                    Some(before) if before.rule() != after.rule() => {
                        push_step(&mut lists, Some(before), None, &line)?;
                        push_step(&mut lists, None, Some(after), &line)?;
                    }
                    before => push_step(&mut lists, before, Some(after), &line)?,
                }
            }
            _ => return Err(line.fault("unknown sign")),
        }
    }
    if let Some(entry) = before
        && let (Some((_, steps)), Some(step)) = (lists.last_mut(), Step::of(Some(entry), None))
    {
        steps.push(step);
    }
    Ok(lists.into_iter().collect())
}

fn push_step(
    lists: &mut [(ListName, Vec<Step>)],
    before: Option<Entry>,
    after: Option<Entry>,
    line: &Line<'_>,
) -> Result<(), LineError> {
    let Some(step) = Step::of(before, after) else {
        return Ok(());
    };
    let (_, steps) = lists
        .last_mut()
        .ok_or_else(|| line.fault("an entry before the name of its list"))?;
    steps.push(step);
    Ok(())
}

/// One line: its sign, and the JSON behind it.
pub(super) struct Line<'a> {
    number: usize,
    pub(super) sign: char,
    rest: &'a str,
}

impl Line<'_> {
    pub(super) fn value<T: for<'de> Deserialize<'de>>(&self) -> Result<T, LineError> {
        serde_json::from_str(self.rest).map_err(|error| self.fault(&error.to_string()))
    }

    /// Bytes of the line, without its end.
    pub(super) fn length(&self) -> usize {
        self.sign.len_utf8() + self.rest.len()
    }

    pub(super) fn fault(&self, message: &str) -> LineError {
        LineError {
            line: self.number,
            message: message.to_owned(),
        }
    }
}

pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = Result<Line<'_>, LineError>> {
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            let number = index + 1;
            let fault = |message: &str| LineError {
                line: number,
                message: message.to_owned(),
            };
            let line = str::from_utf8(line).map_err(|_| fault("not UTF-8"))?;
            let mut rest = line.chars();
            let sign = rest.next().ok_or_else(|| fault("empty"))?;
            Ok(Line {
                number,
                sign,
                rest: rest.as_str(),
            })
        })
}

/// The digest of a revision.
pub(super) fn digest(before: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update([0]);
    hash.update(body);
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lists::tests::some_lists;

    proptest! {
        #[test]
        fn a_change_is_read_as_it_was_written(old in some_lists(), new in some_lists()) {
            let delta = old.delta_to(&new);
            let text = delta_to_text(&delta).unwrap();
            prop_assert_eq!(delta_from_text(text.as_bytes()), Ok(delta));
        }
    }

    #[test]
    fn what_is_no_change_is_refused_with_its_line() {
        for (text, line) in [
            ("+{\"prefix\":\"203.0.113.0/24\"}\n", 1),
            ("=\"manual\"\n+{\"prefix\":\"203.0.113.0\"}\n", 2),
            ("=\"manual\"\n?{}\n", 2),
            ("=\"nobody's\"\n", 1),
        ] {
            assert_eq!(
                delta_from_text(text.as_bytes()).unwrap_err().line,
                line,
                "{text}"
            );
        }
    }
}
