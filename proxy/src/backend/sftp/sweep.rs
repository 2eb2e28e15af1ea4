//! Staging files that crashes and interrupted uploads left on the server: removed when their directory is used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{connection::Connection, file::Directory, session::remove, staged::stale};
use crate::{
    backend::staging::StagingNames,
    operation::{Entry, Outcome},
};

/// How long a directory that was searched is left alone.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Directories that are remembered; beyond them, listings still remove what they meet.
const MAX_DIRECTORIES: usize = 4096;
/// READDIRs of one search: what a server with a huge directory is asked for, once an hour.
const MAX_READS: usize = 100;

/// When each directory of a server was last searched.
#[derive(Debug, Default)]
pub(super) struct Sweeps(Mutex<HashMap<Vec<u8>, Instant>>);

impl Sweeps {
    fn is_due(&self, directory: &[u8], now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last
            .get(directory)
            .is_some_and(|&last| now.duration_since(last) < INTERVAL)
        {
            return false;
        }
        if last.len() >= MAX_DIRECTORIES {
            last.retain(|_, last| now.duration_since(*last) < INTERVAL);
        }
        let is_remembered = last.len() < MAX_DIRECTORIES;
        if is_remembered {
            last.insert(directory.to_vec(), now);
        }
        is_remembered
    }

    /// Searches the directory that holds `path`, beside everything else, if that is due.
    pub(super) fn search(&self, connection: &Arc<Connection>, names: &StagingNames, path: &[u8]) {
        let directory = match path.iter().rposition(|&byte| byte == b'/') {
            Some(0) => b"/",
            Some(slash) => path.get(..slash).unwrap_or_default(),
            None => b".",
        };
        if !self.is_due(directory, Instant::now()) {
            return;
        }
        let (connection, names) = (connection.clone(), names.clone());
        let directory = directory.to_vec();
        tokio::spawn(async move {
            let Ok(directory) = Directory::open(connection, directory, names).await else {
                return;
            };
            for _ in 0..MAX_READS {
                let Ok(Outcome::Names(_)) = directory.next_names().await else {
                    break;
                };
            }
        });
    }
}

/// Removes those of a directory's entries that are staging files which nobody has touched for the retention time.
pub(super) fn sweep(
    connection: &Connection,
    names: &StagingNames,
    directory: &[u8],
    entries: &[Entry],
) {
    let horizon = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .saturating_sub(names.retention())
        .as_secs();
    for entry in entries {
        let stale = stale(&entry.name, &entry.attributes, horizon);
        // The claim keeps an upload from taking it up at this moment.
        if let Some(claim) = stale.and_then(|name| names.claim(name)) {
            let path = [directory, b"/", &entry.name].concat();
            tracing::info!(
                path = %String::from_utf8_lossy(&path),
                "removes the staging file of an upload that never finished"
            );
            remove(connection, &path, vec![claim]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_searched_once_an_hour_and_few_are_remembered() {
        let sweeps = Sweeps::default();
        let now = Instant::now();
        assert!(sweeps.is_due(b"a", now) && !sweeps.is_due(b"a", now));
        assert!(sweeps.is_due(b"b", now));
        assert!(sweeps.is_due(b"a", now + INTERVAL));
        for number in 0..2 * MAX_DIRECTORIES {
            sweeps.is_due(number.to_string().as_bytes(), now);
        }
        assert_eq!(sweeps.0.lock().unwrap().len(), MAX_DIRECTORIES);
        assert!(!sweeps.is_due(b"new", now));
        assert!(sweeps.is_due(b"new", now + 2 * INTERVAL));
    }
}
