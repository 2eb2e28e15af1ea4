//! A directory of list files, one for each partner, taken all together or not at all.
//!
//! Files whose name ends in `.txt`, `.list`, `.csv` or `.json` are lists; hidden files and others are left alone. Whoever wants to
//! change several at once moves them there within the quiet time, or lets the directory be a symbolic link and turns it.

mod changes;
mod scan;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    changes::Changes,
    scan::{Stamps, scan},
};
use super::{Board, Sink, SourceState, SourceStatus, SourceUpdate, format::Limits};
use crate::entry::Entry;

/// What begins the name of a list from a file.
pub const PREFIX: &str = "file:";
/// The directory's own name among the sources.
pub const NAME: &str = "directory";
/// A file that is open for writing is waited for at most so long.
const MAX_WRITING: Duration = Duration::from_secs(60);
const GATHER: Duration = Duration::from_millis(50);

/// Which directory, and what is accepted there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub directory: PathBuf,
    /// Users who may own the directory and its files. Nobody else may be able to write them.
    pub owners: BTreeSet<u32>,
    /// How long nothing must have changed before the files are read.
    pub quiet: Duration,
    /// How often to look without having been told of a change: network file systems tell of none.
    pub rescan: Duration,
    pub limits: Limits,
}

/// What became of a look at the directory.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Unchanged,
    /// Something changes or changed just now: look again after so long.
    Wait(Duration),
    Changed(Content),
    /// Nothing can be taken, by file or for the directory as a whole.
    Failed(BTreeMap<String, String>),
}

#[derive(Debug, PartialEq, Eq)]
struct Content {
    stamps: Stamps,
    lists: BTreeMap<String, Option<Vec<Entry>>>,
}

/// What is known between two looks.
struct Directory {
    settings: Settings,
    /// The files as they were when the lists in force were read.
    taken: Stamps,
    /// Lists in force that came from files, those from before a restart included.
    lists: BTreeSet<String>,
    /// What was seen last, and since when it is so.
    seen: Option<(Stamps, Instant)>,
    /// What could not be taken: it is not read again before it changes.
    failed: Option<(Stamps, BTreeMap<String, String>)>,
    /// What keeps the files from being read, and since when.
    failing: Option<(BTreeMap<String, String>, Instant)>,
}

impl Directory {
    fn new(settings: Settings, lists: BTreeSet<String>) -> Self {
        Self {
            settings,
            taken: Stamps::new(),
            lists,
            seen: None,
            failed: None,
            failing: None,
        }
    }

    /// Looks at the directory, and reads the files that changed once they are quiet.
    fn look(&mut self, writing: bool, now: Instant) -> Look {
        let files = match scan(&self.settings) {
            Ok(files) => files,
            Err(faults) => return self.fail_if_it_lasts(faults, now),
        };
        self.failing = None;
        let stamps = files.stamps();
        let quiet = self.settings.quiet;
        if self.is_in_force(&stamps) {
            self.seen = None;
            self.failed = None;
            return Look::Unchanged;
        }
        if let Some((failed, faults)) = &self.failed
            && *failed == stamps
        {
            return Look::Failed(faults.clone());
        }
        let since = match &self.seen {
            Some((seen, since)) if *seen == stamps => *since,
            Some(_) | None => {
                self.seen = Some((stamps, now));
                return Look::Wait(quiet);
            }
        };
        let age = now.saturating_duration_since(since);
        if age < quiet {
            return Look::Wait(quiet.saturating_sub(age));
        }
        if writing && age < MAX_WRITING {
            return Look::Wait(quiet);
        }
        if stamps.is_empty() {
            return self.fail(
                stamps,
                BTreeMap::from([(
                    NAME.to_owned(),
                    format!(
                        "{} has no list file; the last good lists stay. To end a list, remove its file and keep another; to end all, take lists.directory out of the configuration",
                        self.settings.directory.display()
                    ),
                )]),
            );
        }
        let mut lists = BTreeMap::new();
        let mut faults = BTreeMap::new();
        for name in stamps.keys() {
            let list = format!("{PREFIX}{name}");
            if self.taken.get(name) == stamps.get(name) {
                continue;
            }
            match files.read(name, &self.settings) {
                Ok(Some(entries)) => drop(lists.insert(list, Some(entries))),
                Ok(None) => {
                    self.seen = None;
                    return Look::Wait(quiet);
                }
                Err(fault) => drop(faults.insert(list, fault)),
            }
        }
        if !faults.is_empty() {
            return self.fail(stamps, faults);
        }
        // Nothing may have changed while the files were read one after the other.
        match scan(&self.settings) {
            Ok(again) if again.stamps() == stamps => {}
            Ok(_) | Err(_) => {
                self.seen = None;
                return Look::Wait(quiet);
            }
        }
        for list in &self.lists {
            let is_there = list
                .strip_prefix(PREFIX)
                .is_some_and(|name| stamps.contains_key(name));
            if !is_there {
                lists.insert(list.clone(), None);
            }
        }
        Look::Changed(Content { stamps, lists })
    }

    fn is_in_force(&self, stamps: &Stamps) -> bool {
        *stamps == self.taken && stamps.len() == self.lists.len()
    }

    /// Whoever puts a file in place may set its owner and mode a moment later.
    fn fail_if_it_lasts(&mut self, faults: BTreeMap<String, String>, now: Instant) -> Look {
        let quiet = self.settings.quiet;
        match &self.failing {
            Some((failing, since)) if *failing == faults => {
                let age = now.saturating_duration_since(*since);
                if age < quiet {
                    Look::Wait(quiet.saturating_sub(age))
                } else {
                    Look::Failed(faults)
                }
            }
            Some(_) | None => {
                self.failing = Some((faults, now));
                Look::Wait(quiet)
            }
        }
    }

    fn fail(&mut self, stamps: Stamps, faults: BTreeMap<String, String>) -> Look {
        self.failed = Some((stamps, faults.clone()));
        Look::Failed(faults)
    }

    /// What was read is in force.
    fn take(&mut self, stamps: Stamps) {
        self.lists = stamps
            .keys()
            .map(|name| format!("{PREFIX}{name}"))
            .collect();
        self.taken = stamps;
        self.seen = None;
        self.failed = None;
    }
}

/// Follows the directory until `stop`. `lists` are those from files that are in force at the start, from before a restart.
pub async fn run(
    settings: Settings,
    lists: BTreeMap<String, usize>,
    sink: impl Sink,
    board: Board,
    stop: CancellationToken,
) {
    for (name, entries) in &lists {
        board.update(name, |status| status.entries = *entries);
    }
    let mut changes = Changes::new();
    let mut told = String::new();
    let mut directory = Directory::new(settings.clone(), lists.into_keys().collect());
    loop {
        // Before the look: what changes after it is announced.
        changes.watch(&settings.directory);
        let writing = changes.is_writing();
        let looked = tokio::task::spawn_blocking(move || {
            let look = directory.look(writing, Instant::now());
            (directory, look)
        })
        .await;
        let Ok((back, look)) = looked else {
            tracing::error!("the directory of lists is no longer followed");
            return;
        };
        directory = back;
        let wait = match look {
            Look::Wait(wait) => wait,
            Look::Unchanged => {
                told.clear();
                report_good(&board, &directory);
                settings.rescan
            }
            Look::Failed(faults) => {
                report_failure(&board, &settings, &faults, &mut told);
                settings.rescan
            }
            Look::Changed(content) => {
                match apply(&sink, &board, &directory, content.lists).await {
                    Ok(()) => {
                        told.clear();
                        directory.take(content.stamps);
                        report_good(&board, &directory);
                    }
                    Err(refusal) => {
                        let faults = BTreeMap::from([(NAME.to_owned(), refusal)]);
                        report_failure(&board, &settings, &faults, &mut told);
                    }
                }
                settings.rescan
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            // Many changes are one reason to look.
            () = changes.changed() => tokio::time::sleep(GATHER).await,
        }
    }
}

async fn apply(
    sink: &impl Sink,
    board: &Board,
    directory: &Directory,
    lists: BTreeMap<String, Option<Vec<Entry>>>,
) -> Result<(), String> {
    let mut parts = Vec::new();
    let counts: BTreeMap<String, Option<usize>> = lists
        .iter()
        .map(|(name, entries)| (name.clone(), entries.as_ref().map(Vec::len)))
        .collect();
    for (name, count) in &counts {
        parts.push(match count {
            Some(count) if directory.lists.contains(name) => {
                format!("{name} changed, {count} entries")
            }
            Some(count) => format!("{name} is new, {count} entries"),
            None => format!("{name} was removed"),
        });
    }
    let reason = format!("list files: {}", parts.join("; "));
    tracing::info!(%reason, "lists changed");
    sink.apply(SourceUpdate { lists, reason }).await?;
    let now = Utc::now();
    for (name, count) in counts {
        match count {
            Some(count) => board.update(&name, |status| {
                status.entries = count;
                status.last_good = Some(now);
            }),
            None => board.remove(&name),
        }
    }
    Ok(())
}

fn report_good(board: &Board, directory: &Directory) {
    let next = next_try(&directory.settings);
    board.update(NAME, |status| {
        status.state = SourceState::Good;
        status.last_good = Some(Utc::now());
        status.last_error = None;
        status.next_try = next;
    });
    for SourceStatus { name, .. } in board.all() {
        if directory.lists.contains(&name) {
            board.update(&name, |status| {
                status.state = SourceState::Good;
                status.last_error = None;
            });
        } else if name.starts_with(PREFIX) {
            board.remove(&name);
        }
    }
}

fn report_failure(
    board: &Board,
    settings: &Settings,
    faults: &BTreeMap<String, String>,
    told: &mut String,
) {
    let all = faults
        .values()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("\n");
    if *told != all {
        tracing::error!(faults = %all, "the list files are not taken; the last good lists stay in force");
    }
    let next = next_try(settings);
    board.update(NAME, |status| {
        status.state = SourceState::Failing;
        status.last_error = Some(all.clone());
        status.next_try = next;
    });
    for (name, fault) in faults {
        board.update(name, |status| {
            status.state = SourceState::Failing;
            status.last_error = Some(fault.clone());
        });
    }
    *told = all;
}

fn next_try(settings: &Settings) -> Option<chrono::DateTime<Utc>> {
    Utc::now().checked_add_signed(TimeDelta::from_std(settings.rescan).ok()?)
}

#[cfg(test)]
mod tests;
