//! Compares what lies on backends with the journal: when it is due, and when `portcullis-proxy verify` asks for it.
//!
//! One thread of the lowest priority does it. Requests and answers are files beside the journal; what counts is on record.

mod look;
mod run;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use portcullis_journal::Journal;
use tokio_util::sync::CancellationToken;

use self::run::{Ended, Run};
pub(super) use self::{
    look::{Seen, described},
    run::{RunError, mounts, reader},
};
use super::{names::Places, quiet::Quiet, requests};
use crate::{
    accounts::Accounts,
    causes::chain,
    config::{AtRest, BackendConfig, Config, JournalConfig, VerificationConfig},
    session::Backends,
    verification::{Answer, REQUEST, Request},
};

/// How often requests are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// After a start the daemon has other things to do.
const FIRST: Duration = Duration::from_secs(600);
/// Its time is that of the last look that was due.
const LAST: &str = "last";

/// What is looked at.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    services: Backends,
    /// Directories of the local ones.
    local: HashMap<String, PathBuf>,
    /// Those that are looked at unless another one is asked for.
    usual: HashSet<String>,
    /// Those on which a mount's directory may be absolute.
    servers: HashSet<String>,
    /// Those that show an upload before it is closed.
    direct: Vec<String>,
    /// Those whose names are encrypted: none of their directories is another's, as their names go.
    named: Vec<String>,
}

impl Stored {
    pub(super) fn of(config: &Config, services: Backends) -> Self {
        let names = |is: &dyn Fn(&BackendConfig) -> bool| {
            let all = config.backends.iter();
            let named = all.filter(|(_, backend)| is(backend));
            named
                .map(|(name, _)| name.clone())
                .collect::<HashSet<String>>()
        };
        let local = config.backends.iter().filter_map(|(name, backend)| {
            if let BackendConfig::Local { directory, .. } = backend {
                Some((name.clone(), directory.clone()))
            } else {
                None
            }
        });
        let usual = match &config.verification.backends {
            Some(named) => named.iter().cloned().collect(),
            // On others' servers others may put files.
            None => names(&|backend| {
                matches!(
                    backend,
                    BackendConfig::Local { .. } | BackendConfig::Bucket(_)
                )
            }),
        };
        let servers = names(&|backend| {
            matches!(
                backend,
                BackendConfig::Ftp { .. } | BackendConfig::Sftp { .. }
            )
        });
        let leads_to_one = |backend: &BackendConfig| match backend {
            BackendConfig::Failover { members, .. } => {
                members.iter().any(|member| servers.contains(member))
            }
            BackendConfig::Local { .. }
            | BackendConfig::Ftp { .. }
            | BackendConfig::Sftp { .. }
            | BackendConfig::Bucket(_) => false,
        };
        let lists = names(&leads_to_one);
        let direct = names(&|backend| {
            matches!(
                backend,
                BackendConfig::Sftp {
                    publishes_directly: true,
                    ..
                }
            )
        });
        let named = config.at_rest.iter().filter_map(|(name, at_rest)| {
            let has_names = matches!(
                at_rest,
                AtRest::Encrypted {
                    has_names: true,
                    ..
                }
            );
            has_names.then(|| name.clone())
        });
        Self {
            services,
            local: local.collect(),
            usual,
            servers: servers.into_iter().chain(lists).collect(),
            direct: direct.into_iter().collect(),
            named: named.collect(),
        }
    }

    /// What a fold of the journal needs to know of backends.
    pub(super) fn places(&self) -> Places {
        Places {
            roots: run::roots(self),
            direct: self.direct.clone(),
        }
    }
}

/// The thread.
pub(super) struct Rest {
    stored: Arc<Mutex<Stored>>,
    thread: Quiet,
}

impl Rest {
    /// Begins.
    ///
    /// # Errors
    /// If there can't be another thread, or no folder for requests.
    pub(super) fn start(
        config: &VerificationConfig,
        journal_config: &JournalConfig,
        journal: Journal,
        accounts: Accounts,
        stored: Stored,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let folder = journal_config.verification();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let stored = Arc::new(Mutex::new(stored));
        let worker = Worker {
            config: config.clone(),
            journal_config: journal_config.clone(),
            journal,
            accounts,
            stored: Arc::clone(&stored),
            folder,
        };
        let thread = Quiet::start("rest-check", "stored files are not verified", stop, || {
            worker.work()
        })?;
        Ok(Self { stored, thread })
    }

    /// Goes on with other backends, from the next look on.
    pub(super) fn change(&self, stored: Stored) {
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = stored;
    }

    /// Waits for the thread, once it has been told to stop.
    pub(super) async fn end(self) {
        self.thread.end().await;
    }
}

struct Worker {
    config: VerificationConfig,
    journal_config: JournalConfig,
    journal: Journal,
    accounts: Accounts,
    stored: Arc<Mutex<Stored>>,
    folder: PathBuf,
}

impl Worker {
    async fn work(self) {
        let mut interval = tokio::time::interval(LOOK);
        let not_before = tokio::time::Instant::now() + FIRST;
        loop {
            interval.tick().await;
            while let Some(asked) = requests::next(&self.folder, REQUEST) {
                asked
                    .answer(async |request, uid, tell| self.run(&request, Some(uid), tell).await)
                    .await;
            }
            if tokio::time::Instant::now() >= not_before && self.is_due() {
                // First, so that one that can't be ended is not begun all the time.
                if let Err(error) = fs::write(self.folder.join(LAST), b"") {
                    tracing::error!(%error, "the look at stored files waits");
                    continue;
                }
                let request = Request::default();
                self.run(&request, None, &mut |_| {}).await;
            }
        }
    }

    fn is_due(&self) -> bool {
        let Some(every) = self.config.every else {
            return false;
        };
        let last = fs::metadata(self.folder.join(LAST)).and_then(|last| last.modified());
        let since = last
            .ok()
            .and_then(|last| SystemTime::now().duration_since(last).ok());
        since.is_none_or(|since| since >= every)
    }

    async fn run(
        &self,
        request: &Request,
        asked_by: Option<u32>,
        tell: &mut (dyn FnMut(&Answer) + Send),
    ) -> Answer {
        let stored = self
            .stored
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let rate = request.rate.or(self.config.rate);
        let run = Run {
            journal: &self.journal,
            config: &self.journal_config,
            accounts: &self.accounts,
            stored: &stored,
            request,
            asked_by,
            rate,
        };
        match run.carry_out(tell).await {
            Ok(Ended { answer, is_sound }) => {
                if is_sound {
                    tracing::info!(files = answer.files, "stored files are as the journal says");
                } else {
                    tracing::error!(
                        findings = answer.findings.len(),
                        "stored files are not as the journal says: portcullis-proxy audit search --event rest.finding"
                    );
                }
                answer
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "stored files can't be verified");
                error.into()
            }
        }
    }
}
