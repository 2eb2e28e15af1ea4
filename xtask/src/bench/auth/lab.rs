//! What the parts share: a gateway with accounts, workers, the clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, anyhow};
use portcullis_tests::account::{Account, Mount};
use portcullis_tests::place::Place;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::report::Report;
use portcullis_tests::{files, locate};
use tempfile::TempDir;

pub(super) struct Lab {
    program: PathBuf,
    rounds: u32,
    is_reduced: bool,
}

/// A proxy with room for every connection of a part, and the folder behind it.
pub(super) struct Gateway {
    pub(super) proxy: Proxy,
    _storage: TempDir,
}

impl Lab {
    pub(super) fn new(rounds: u32, is_reduced: bool) -> Result<Self> {
        let mut lab = Self {
            program: PathBuf::new(),
            rounds,
            is_reduced,
        };
        lab.program = lab.binary("portcullis-proxy")?;
        Ok(lab)
    }

    fn binary(&self, name: &str) -> Result<PathBuf> {
        if self.is_reduced {
            locate::binary(name)
        } else {
            locate::release_binary(name)
        }
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn agent(&self) -> Result<PathBuf> {
        self.binary("portcullis-agent")
    }

    pub(super) fn rounds(&self) -> u32 {
        self.scale(self.rounds, 2)
    }

    /// The real number, or the one that only shows that the benchmark works.
    pub(super) fn scale<N>(&self, real: N, reduced: N) -> N {
        if self.is_reduced { reduced } else { real }
    }

    /// A gateway that takes so many connections that are not logged in yet, also from one source.
    pub(super) fn gateway(&self, unauthenticated: u32) -> Result<Gateway> {
        let storage = files::folder("storage")?;
        let room = unauthenticated.to_string();
        let proxy = Plan::of(Place::Loopback, self.program.clone())?
            .backend("archive", Backend::local(storage.path()))
            .server("max_connections", &(4 * unauthenticated).to_string())
            .server("max_unauthenticated", &room)
            .server("max_unauthenticated_per_source", &room)
            .start()?;
        Ok(Gateway {
            proxy,
            _storage: storage,
        })
    }

    /// What was the same for all parts.
    pub(super) fn conditions(&self, report: &mut Report) {
        report.condition(
            "proxy",
            if self.is_reduced {
                "DEBUG BUILD, few samples: the figures mean nothing"
            } else {
                "release build, journal on"
            },
        );
        report.condition(
            "client",
            "the tests' own, in this process, on the same processors",
        );
        report.condition(
            "algorithms",
            "curve25519-sha256, ssh-ed25519, aes256-gcm@openssh.com",
        );
        report.condition(
            "processors",
            thread::available_parallelism()
                .map_or(0, usize::from)
                .to_string(),
        );
        for (name, file) in [
            ("kernel", "/proc/sys/kernel/osrelease"),
            ("load at start", "/proc/loadavg"),
        ] {
            let text = fs::read_to_string(file).unwrap_or_default();
            report.condition(name, text.trim());
        }
    }
}

impl Gateway {
    /// An account with password, phone and key.
    pub(super) fn account(&self, name: &str) -> Result<Account> {
        self.proxy
            .account(name, &[Mount::all("/inbox", "archive", "/")])
    }

    /// So many accounts.
    pub(super) fn accounts(&self, count: usize) -> Result<Vec<Account>> {
        (0..count)
            .map(|number| self.account(&format!("user{number}")))
            .collect()
    }

    /// So many accounts to which key and code are enough.
    pub(super) fn possession_pairs(&self, count: usize) -> Result<Vec<Account>> {
        let accounts = self.accounts(count)?;
        for account in &accounts {
            self.proxy.command(&[
                "account",
                "policy",
                &account.name,
                "possession-pair",
                "--reason",
                "measured against a peer that asks for the same",
                "--approver",
                "bench",
                "--expires",
                "2099-12-31",
            ])?;
        }
        Ok(accounts)
    }
}

/// Does the work for every item, with so many at a time; the results come in the order in which they were done.
pub(super) fn at_once<I: Send, T: Send>(
    workers: usize,
    items: Vec<I>,
    work: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let open = Mutex::new(items.into_iter());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let item = open
                            .lock()
                            .map_err(|_| anyhow!("another worker panicked"))?
                            .next();
                        let Some(item) = item else {
                            return Ok(done);
                        };
                        done.push(work(item)?);
                    }
                })
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            let done: Result<Vec<T>> = worker
                .join()
                .map_err(|_| anyhow!("a worker panicked"))
                .flatten();
            all.extend(done?);
        }
        Ok(all)
    })
}

/// Resident memory of a process in KiB.
pub(super) fn resident(process: u32) -> Result<f64> {
    let file = format!("/proc/{process}/status");
    fs::read_to_string(&file)
        .with_context(|| format!("read {file}"))?
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("{file} has a line VmRSS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_an_error_is_not_lost() {
        let mut done = at_once(4, (0..100).collect(), |item: u32| Ok(item * 2)).unwrap();
        done.sort_unstable();
        assert_eq!(done, (0..100).map(|item| item * 2).collect::<Vec<_>>());
        assert!(
            at_once(4, vec![1, 2, 3], |item| if item == 2 {
                Err(anyhow!("two"))
            } else {
                Ok(())
            })
            .is_err()
        );
    }
}
