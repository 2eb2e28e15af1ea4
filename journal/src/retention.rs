//! The end of old segments: deleted whole, on record, and with a tombstone that keeps the rest of the log provable.
//!
//! A tombstone (`<first record>.deleted`) says where the log stood behind the records that are gone. It is worth something
//! only with a signed head over as many records, and with the `log.delete` record that the log itself has of it.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    append::Urgency,
    chain::End,
    checked,
    disk::{Disk, Reader, write_all},
    queue::Shared,
    record::{Event, EventKind, Verdict},
    sealed::SealedSegment,
    segment::{plain_name, segments},
};

const SUFFIX: &str = ".deleted";
const UNFINISHED: &str = ".deleted.new";

/// How long a log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// A sealed segment is deleted once all its records are older.
    pub keep: TimeDelta,
    /// Folder of the holds: nothing that one of them covers is deleted.
    pub holds: PathBuf,
}

/// A legal hold: records of this time stay, however old they are. One JSON file in the folder of holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Without it from the beginning, and without `until` to the end.
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    pub reason: String,
    /// Who asked for it.
    pub by: String,
}

impl Hold {
    fn covers(&self, from: &str, to: &str) -> bool {
        self.since.is_none_or(|since| time(since).as_str() <= to)
            && self.until.is_none_or(|until| time(until).as_str() >= from)
    }
}

/// As `ts` is written.
fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// Why it is not known what is held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a hold: {why}", path.display())]
    NotAHold { path: PathBuf, why: String },
}

/// All holds in a folder with their names, in the order of these; none if there is no such folder.
///
/// # Errors
/// If one can't be read: then everything has to be held.
pub fn holds(folder: &Path) -> Result<Vec<(String, Hold)>, HoldError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| HoldError::Read { path, source }
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(read(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(name) = name.strip_suffix(HOLD_SUFFIX) else {
            return Err(HoldError::NotAHold {
                path: path.clone(),
                why: format!("its name does not end with {HOLD_SUFFIX}"),
            });
        };
        let text = fs::read_to_string(&path).map_err(read(&path))?;
        let hold = serde_json::from_str(&text).map_err(|error| HoldError::NotAHold {
            path: path.clone(),
            why: error.to_string(),
        })?;
        found.push((name.to_owned(), hold));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

/// What the name of a hold's file ends with.
pub const HOLD_SUFFIX: &str = ".hold.json";

/// What is left of records that were deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    /// Number of the first record that is gone.
    pub(crate) first: u64,
    /// The log behind the last one.
    pub(crate) end: End,
    /// Number of the `log.delete` record.
    pub(crate) record: u64,
}

impl Tombstone {
    /// Reads the text of one.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let tombstone: Self = serde_json::from_slice(checked::open(text)?).ok()?;
        (tombstone.first < tombstone.end.records).then_some(tombstone)
    }

    /// Number of the last record that is gone.
    pub(crate) fn last(&self) -> u64 {
        self.end.records.saturating_sub(1)
    }

    pub(crate) fn name(&self) -> String {
        tombstone_name(self.first)
    }

    fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let unfinished = format!("{:012}{UNFINISHED}", self.first);
        disk.remove(&unfinished)?;
        let file = disk.open(&unfinished)?;
        write_all(file.as_ref(), &checked::seal(&serde_json::to_vec(self)?), 0)?;
        file.sync()?;
        disk.rename(&unfinished, &self.name())?;
        disk.sync_names()
    }
}

/// The file name of the tombstone of records from `first` on.
pub(crate) fn tombstone_name(first: u64) -> String {
    format!("{first:012}{SUFFIX}")
}

/// Whether a file of that name is a tombstone.
pub(crate) fn is_tombstone(name: &str) -> bool {
    name.strip_suffix(SUFFIX)
        .is_some_and(|digits| digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Of tombstones those that no other one includes, in order.
pub(crate) fn outermost(mut tombstones: Vec<Tombstone>) -> Vec<Tombstone> {
    tombstones.sort_by_key(|tombstone| (tombstone.first, u64::MAX - tombstone.end.records));
    let mut end = 0;
    tombstones.retain(|tombstone| {
        let is_further = tombstone.end.records > end;
        end = end.max(tombstone.end.records);
        is_further
    });
    tombstones
}

/// Whether one of them says that record `seq` is gone.
pub(crate) fn covers(tombstones: &[Tombstone], seq: u64) -> bool {
    tombstones
        .iter()
        .any(|tombstone| (tombstone.first..tombstone.end.records).contains(&seq))
}

/// The tombstones of a log. One that is damaged is as none: then records are missing.
pub(crate) fn tombstones(disk: &dyn Disk) -> io::Result<Vec<Tombstone>> {
    let mut found = Vec::new();
    for name in disk.names()?.into_iter().filter(|name| is_tombstone(name)) {
        let file = disk.open(&name)?;
        let mut text = Vec::new();
        Reader::new(file.as_ref()).read_to_end(&mut text)?;
        found.extend(Tombstone::parse(&text));
    }
    Ok(outermost(found))
}

/// Ends what an interrupted deletion began.
pub(crate) fn tidy(disk: &dyn Disk) -> io::Result<()> {
    let names = disk.names()?;
    for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
        disk.remove(name)?;
    }
    let gone = tombstones(disk)?;
    for (first, name) in segments(names) {
        if covers(&gone, first) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

/// Deletes sealed segments whose records are all older than `retention` allows, and are not held.
pub(crate) fn delete_expired(
    disk: &dyn Disk,
    shared: &Shared,
    retention: &Retention,
    goes_on: &mut dyn FnMut() -> bool,
) -> io::Result<()> {
    let Some(cutoff) = Utc::now().checked_sub_signed(retention.keep).map(time) else {
        return Ok(());
    };
    for (_, name) in segments(disk.names()?) {
        if plain_name(&name).is_none() || !goes_on() {
            continue;
        }
        let segment = SealedSegment::open(disk.open(&name)?)?;
        let times = segment.frames().iter();
        let (Some(from), Some(to)) = (
            times.clone().map(|frame| &frame.from).min(),
            times.map(|frame| &frame.to).max(),
        ) else {
            continue;
        };
        // Those behind it are younger still; a clock that was set back makes some stay a while longer.
        if *to >= cutoff {
            break;
        }
        // Asked for each segment, so that a hold that was just laid counts.
        let held = holds(&retention.holds).map_err(io::Error::other)?;
        if held.iter().any(|(_, hold)| hold.covers(from, to)) {
            continue;
        }
        let index = segment.index();
        delete(
            disk,
            shared,
            &name,
            (index.first, index.end.clone()),
            retention,
        )?;
    }
    Ok(())
}

fn delete(
    disk: &dyn Disk,
    shared: &Shared,
    name: &str,
    (first, end): (u64, End),
    retention: &Retention,
) -> io::Result<()> {
    // Neighbours become one, so that the record of it is always younger than what is gone.
    let others = tombstones(disk)?;
    let before = others.iter().find(|other| other.end.records == first);
    let behind = others.iter().find(|other| other.first == end.records);
    let mut tombstone = Tombstone {
        first: before.map_or(first, |before| before.first),
        end: behind.map_or(end, |behind| behind.end.clone()),
        record: 0,
    };
    let root = tombstone.end.tree().map(|tree| tree.root().to_string());
    let mut event = Event::new(EventKind::LogDelete);
    event.outcome = Some(Verdict::Allow);
    event.reason = Some("retention".to_owned());
    for (field, value) in [
        ("first", tombstone.first.into()),
        ("last", tombstone.last().into()),
        ("root", root.into()),
        ("segment", name.into()),
        ("keep_days", retention.keep.num_days().into()),
    ] {
        event.body.insert(field.to_owned(), value);
    }
    let (done, written) = oneshot::channel();
    shared
        .push(&event, Urgency::Now, done)
        .map_err(io::Error::other)?;
    let record = written
        .blocking_recv()
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?;
    tombstone.record = record.0;
    tombstone.write(disk)?;
    disk.remove(name)?;
    for other in before.into_iter().chain(behind) {
        if other.name() != tombstone.name() {
            disk.remove(&other.name())?;
        }
    }
    disk.sync_names()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(since: Option<&str>, until: Option<&str>) -> Hold {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        Hold {
            since: since.map(at),
            until: until.map(at),
            reason: "case 7".into(),
            by: "counsel".into(),
        }
    }

    #[test]
    fn a_hold_covers_what_overlaps_with_it() {
        let (from, to) = ("2026-03-01T00:00:00.000000Z", "2026-03-02T00:00:00.000000Z");
        let april = Some("2026-04-01T00:00:00Z");
        for (since, until, covers) in [
            (None, None, true),
            (Some("2026-03-01T12:00:00Z"), april, true),
            (Some("2026-03-02T00:00:00Z"), april, true),
            (Some("2026-03-02T00:00:01Z"), april, false),
            (None, Some("2026-03-01T00:00:00Z"), true),
            (None, Some("2026-02-28T23:59:59Z"), false),
        ] {
            assert_eq!(
                hold(since, until).covers(from, to),
                covers,
                "{since:?} {until:?}"
            );
        }
    }

    #[test]
    fn what_can_not_be_read_in_the_folder_of_holds_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(holds(&folder.path().join("none")).unwrap(), []);
        let one = hold(None, Some("2026-03-01T00:00:00Z"));
        let text = serde_json::to_string(&one).unwrap();
        fs::write(folder.path().join("case-7.hold.json"), &text).unwrap();
        assert_eq!(holds(folder.path()).unwrap(), [("case-7".to_owned(), one)]);
        for (name, text) in [("notes.txt", text.as_str()), ("x.hold.json", "{}")] {
            fs::write(folder.path().join(name), text).unwrap();
            assert!(holds(folder.path()).is_err(), "{name}");
            fs::remove_file(folder.path().join(name)).unwrap();
        }
    }
}
