//! Keeps what sources owe over restarts, in an SQLite file beside the accounts.
//!
//! A file of its own: a login never waits for its commits. They come in batches, so that a crash loses the last half
//! second at most.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use rusqlite::{Connection, TransactionBehavior};
use tokio::time::{self, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{AccountsError, prepare_file},
    auth::throttle::{Row, Throttles},
    metrics,
};

/// How often changes are written.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a write waits for another process, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const VERSION: i64 = 1;

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error(transparent)]
    File(#[from] AccountsError),
    #[error("the database of throttles {}; where it is damaged, move it away: counts begin anew", path.display())]
    Database {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error(
        "the database of throttles {} has schema {found}, this program knows {VERSION}; run the newer program",
        path.display()
    )]
    NewerSchema { path: PathBuf, found: i64 },
}

/// The file.
#[derive(Debug)]
pub struct ThrottleStore {
    path: PathBuf,
    connection: Connection,
}

impl ThrottleStore {
    /// Opens or makes `throttles.db` in the directory of the account database.
    ///
    /// # Errors
    /// If it is open to others, no database, or of a newer program.
    pub fn beside(accounts: &Path) -> Result<Self, StoreError> {
        Self::open(&accounts.with_file_name("throttles.db"))
    }

    fn open(path: &Path) -> Result<Self, StoreError> {
        prepare_file(path)?;
        let failed = |source| StoreError::Database {
            path: path.to_owned(),
            source,
        };
        let connection = Connection::open(path).map_err(failed)?;
        let found = set_up(&connection).map_err(failed)?;
        if found > VERSION {
            return Err(StoreError::NewerSchema {
                path: path.to_owned(),
                found,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            connection,
        })
    }

    /// Puts what is stored into `throttles`, and says how many lines there were. One that can't be read is told and left out.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn load(&self, throttles: &Throttles) -> Result<usize, StoreError> {
        let mut taken = 0;
        self.each(|network, state| match throttles.restore(network, state) {
            Ok(()) => taken += 1,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, path = %self.path.display(), "a count of failures is lost");
            }
        })?;
        Ok(taken)
    }

    /// Hands out each line.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn each(&self, mut take: impl FnMut(&str, &str)) -> Result<(), StoreError> {
        let failed = |source| self.failed(source);
        let mut statement = self
            .connection
            .prepare("SELECT network, state FROM throttle")
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let network: String = row.get(0).map_err(failed)?;
            let state: String = row.get(1).map_err(failed)?;
            take(&network, &state);
        }
        Ok(())
    }

    /// Writes rows in one commit, synced when this returns.
    ///
    /// # Errors
    /// If the file can't be written; nothing of it is written then.
    pub fn save(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let path = self.path.clone();
        write(&mut self.connection, rows).map_err(|source| StoreError::Database { path, source })
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Database {
            path: self.path.clone(),
            source,
        }
    }
}

fn set_up(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let _: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found == 0 {
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS throttle (network TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID;",
        )?;
        connection.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(found)
}

fn write(connection: &mut Connection, rows: &[Row]) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut put = transaction.prepare_cached(
            "INSERT INTO throttle (network, state) VALUES (?1, ?2)
             ON CONFLICT (network) DO UPDATE SET state = excluded.state",
        )?;
        let mut remove = transaction.prepare_cached("DELETE FROM throttle WHERE network = ?1")?;
        for Row { network, state } in rows {
            let network: &IpNet = network;
            match state {
                Some(state) => put.execute((network.to_string(), state))?,
                None => remove.execute([network.to_string()])?,
            };
        }
    }
    transaction.commit()
}

/// Writes changes until `stop`, and what is left then.
pub async fn keep(store: ThrottleStore, throttles: Throttles, stop: CancellationToken) {
    let store = Arc::new(std::sync::Mutex::new(store));
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_last = false;
    while !is_last {
        is_last = stop.run_until_cancelled(ticks.tick()).await.is_none();
        let (store, throttles) = (Arc::clone(&store), throttles.clone());
        let written = tokio::task::spawn_blocking(move || write_changes(&store, &throttles)).await;
        if let Err(error) = written {
            tracing::error!(%error, "counts of failures are not written any more");
            return;
        }
    }
}

fn write_changes(store: &std::sync::Mutex<ThrottleStore>, throttles: &Throttles) {
    let rows = throttles.changes();
    if rows.is_empty() {
        return;
    }
    let mut store = store
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let written = store.save(&rows);
    metrics::throttles_stored(written.is_ok());
    if let Err(error) = written {
        throttles.retry(&rows);
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "counts of failures are kept in memory only, until they can be written"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use chrono::Utc;
    use portcullis_journal::SessionId;

    use super::*;
    use crate::auth::throttle::{Mistake, Penalised, ThrottleConfig};

    fn throttles() -> Throttles {
        Throttles::new(ThrottleConfig::default(), None, Utc::now())
    }

    fn fail(throttles: &Throttles, source: IpAddr, times: usize) {
        for _ in 0..times {
            throttles.failed(source, "alice", Mistake::Code, SessionId([7; 16]));
        }
    }

    #[test]
    fn a_penalty_holds_over_a_restart_and_one_below_the_threshold_goes_on_counting() {
        let directory = tempfile::tempdir().unwrap();
        let accounts = directory.path().join("accounts.db");
        let (guesser, other): (IpAddr, IpAddr) =
            ("192.0.2.7".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let before = throttles();
        fail(&before, guesser, 6);
        fail(&before, other, 3);
        let mut store = ThrottleStore::beside(&accounts).unwrap();
        store.save(&before.changes()).unwrap();
        drop(store);

        let after = throttles();
        let store = ThrottleStore::beside(&accounts).unwrap();
        assert_eq!(
            store.load(&after).unwrap(),
            4,
            "two sources and their networks"
        );
        assert_eq!(after.penalised(guesser), Some(Penalised::Source));
        assert_eq!(after.penalised(other), None);
        fail(&after, other, 1);
        assert_eq!(after.penalised(other), Some(Penalised::Source));
        assert!(
            after.changes().len() <= 2,
            "what was loaded is not written again"
        );
    }

    #[test]
    fn a_line_that_cant_be_read_is_left_out_and_the_others_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.db");
        let before = throttles();
        fail(&before, "192.0.2.7".parse().unwrap(), 6);
        let mut rows = before.changes();
        rows.push(Row {
            network: "192.0.2.9/32".parse().unwrap(),
            state: Some("{\"penalty\":".to_owned()),
        });
        rows.push(Row {
            network: "10.0.0.0/9".parse().unwrap(),
            state: Some("{}".to_owned()),
        });
        let mut store = ThrottleStore::beside(&path).unwrap();
        store.save(&rows).unwrap();
        let after = throttles();
        assert_eq!(store.load(&after).unwrap(), 2);
        assert!(after.penalised("192.0.2.7".parse().unwrap()).is_some());
    }

    #[test]
    fn a_damaged_file_and_one_of_a_newer_program_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let accounts = directory.path().join("accounts.db");
        let store = ThrottleStore::beside(&accounts).unwrap();
        store
            .connection
            .pragma_update(None, "user_version", 9)
            .unwrap();
        drop(store);
        let error = ThrottleStore::beside(&accounts).unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 9, .. }));

        let path = directory.path().join("throttles.db");
        std::fs::write(&path, [b'x'; 8192]).unwrap();
        let error = ThrottleStore::beside(&accounts).unwrap_err();
        assert!(error.to_string().contains("throttles.db"), "{error}");
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = ThrottleStore::beside(&directory.path().join("accounts.db")).unwrap();
        store
            .connection
            .pragma_update(None, "query_only", true)
            .unwrap();
        let throttles = throttles();
        fail(&throttles, "192.0.2.7".parse().unwrap(), 6);
        let store = std::sync::Mutex::new({
            assert!(store.save(&throttles.clone().changes()).is_err());
            store
        });
        fail(&throttles, "192.0.2.7".parse().unwrap(), 1);
        write_changes(&store, &throttles);
        let store_ref = store.lock().unwrap();
        store_ref
            .connection
            .pragma_update(None, "query_only", false)
            .unwrap();
        drop(store_ref);
        write_changes(&store, &throttles);
        let again = Throttles::new(ThrottleConfig::default(), None, Utc::now());
        assert!(store.lock().unwrap().load(&again).unwrap() >= 1);
        assert!(again.penalised("192.0.2.7".parse().unwrap()).is_some());
    }
}
