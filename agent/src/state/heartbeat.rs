//! Signs of life, so that `status` can say since when the daemon is dead: `daemon.json` in the state directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

const NAME: &str = "daemon.json";

/// What a daemon last said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    pub pid: u32,
    pub version: String,
    /// The boot that the process belongs to.
    pub boot_id: String,
    pub started: DateTime<Utc>,
    /// When it was known to live, every few seconds.
    pub alive: DateTime<Utc>,
    /// When it stopped in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<DateTime<Utc>>,
}

impl Life {
    /// A life that begins.
    pub fn begin(now: DateTime<Utc>) -> Self {
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: boot_id(),
            started: now,
            alive: now,
            stopped: None,
        }
    }

    /// The moment from which on nobody looked after the kernel's lists; `None` while the process is there.
    pub fn dead_since(&self) -> Option<DateTime<Utc>> {
        let is_running = self.stopped.is_none()
            && self.boot_id == boot_id()
            && PathBuf::from(format!("/proc/{}", self.pid)).exists();
        (!is_running).then_some(self.stopped.unwrap_or(self.alive))
    }

    /// Writes it down. Not synced: after a power cut there is another boot anyway.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn keep(&self, directory: &Path) -> io::Result<()> {
        let path = directory.join(NAME);
        let aside = path.with_extension("new");
        fs::write(&aside, serde_json::to_vec(self)?)?;
        fs::rename(aside, path)
    }

    /// What the last daemon said; `None` if there was none, or its file can't be read.
    pub fn last(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.join(NAME)).ok()?).ok()
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    #[test]
    fn a_running_daemon_is_not_dead_and_a_stopped_one_is_since_its_stop() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Life::last(directory.path()), None);
        let mut life = Life::begin(now());
        life.keep(directory.path()).unwrap();
        assert_eq!(Life::last(directory.path()).unwrap().dead_since(), None);
        life.stopped = Some(now() + chrono::TimeDelta::seconds(9));
        life.keep(directory.path()).unwrap();
        assert_eq!(
            Life::last(directory.path()).unwrap().dead_since(),
            life.stopped
        );
    }

    #[test]
    fn a_killed_daemon_is_dead_since_its_last_sign_of_life() {
        let another_boot = Life {
            boot_id: "another".to_owned(),
            ..Life::begin(now())
        };
        assert_eq!(another_boot.dead_since(), Some(now()));
        let no_such_process = Life {
            pid: u32::MAX,
            ..Life::begin(now())
        };
        assert_eq!(no_such_process.dead_since(), Some(now()));
    }
}
