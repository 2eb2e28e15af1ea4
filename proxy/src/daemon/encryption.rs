//! Works on what encrypted backends hold when `portcullis-proxy encryption` asks for it, and ends what a crash interrupted.
//!
//! One thread of the lowest priority does it. Requests and answers are files beside the journal; what counts is on record.

mod shred;
mod shred_keys;
mod walk;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use portcullis_at_rest::kek::KekId;
use portcullis_journal::Journal;
use tokio_util::sync::CancellationToken;

pub use self::shred_keys::SettleError;
pub(super) use self::shred_keys::{settle, tell_left};
use self::{
    shred::Shred,
    shred_keys::ShredKeys,
    walk::{Walk, settled},
};
use super::{
    backends::{Built, leading_to, pending},
    quiet::Quiet,
    requests,
    rest::Stored,
};
use crate::{
    accounts::Accounts,
    backend::{BackendError, BackendService, ErrorKind, Origin, encrypted::Place},
    causes::chain,
    config::{AtRest, BackendConfig, Config, EncryptionConfig, JournalConfig},
    encryption::{Answer, REQUEST, Request, Task},
    gate::{names::Keeper, verify::Verified},
    operation::{Care, Tended},
    pace::Pace,
    path::VirtualPath,
};

/// How often requests are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// The encrypted backends of a configuration.
#[derive(Debug, Clone)]
pub(super) struct Vaults {
    by_name: BTreeMap<String, Kept>,
    /// Those of other backends.
    plain: BTreeMap<String, Arc<dyn BackendService>>,
    /// Of keys.
    sets: Vec<Arc<EncryptionConfig>>,
    /// Of earlier configurations, that sessions may still write by.
    outdated: Vec<Outdated>,
    stored: Stored,
}

#[derive(Debug, Clone)]
struct Kept {
    service: Arc<dyn BackendService>,
    keys: Arc<EncryptionConfig>,
    /// Who has the key of its names, if they are encrypted.
    names: Option<Keeper>,
    is_migrating: bool,
    /// Where wraps of a file that is destroyed may stay all the same.
    remains: Option<&'static str>,
    /// Mounts' directories may be anywhere on it, and nobody's else are looked at.
    is_server: bool,
    /// It, and the lists that it is a member of.
    backends: Vec<String>,
}

impl Kept {
    /// Looks at the file whose head may be half written.
    async fn tend_left(
        &self,
        journal: &Journal,
        name: &str,
        left: &Place,
        pace: &Pace,
    ) -> Result<Tended, BackendError> {
        let journal = journal.clone();
        let verified = Verified::below(journal, name, &*self.service, &left.directory, pace)?;
        let path = [verified.mount.at.as_bytes(), left.path.as_bytes()].concat();
        let tended = match VirtualPath::clean(&path) {
            Ok(path) => verified.tend(&path, Care::Rewrap).await,
            Err(error) => {
                let (kind, origin) = (ErrorKind::NotFound, Origin::Gateway);
                Err(BackendError::new(kind, origin, error.to_string()))
            }
        };
        verified.backend.end().await;
        tended
    }

    /// True unless the key of its names needs no retired one.
    fn has_outdated_names(&self) -> bool {
        self.names.as_ref().is_some_and(|names| !names.is_current())
    }
}

#[derive(Debug, Clone)]
struct Outdated {
    name: String,
    /// What new files were wrapped to; `None` if they were not encrypted.
    active: Option<KekId>,
    service: Weak<dyn BackendService>,
}

impl Vaults {
    pub(super) fn of(config: &Config, built: &Built) -> Self {
        let services = built.services();
        let kept = config.at_rest.iter().filter_map(|(name, at_rest)| {
            let AtRest::Encrypted {
                keys, is_migrating, ..
            } = at_rest
            else {
                return None;
            };
            let kept = Kept {
                service: Arc::clone(services.get(name)?),
                keys: Arc::clone(keys),
                names: built.keeper(name),
                is_migrating: *is_migrating,
                remains: config.backends.get(name).and_then(remains),
                is_server: config.backends.get(name).is_some_and(is_server),
                backends: leading_to(&config.backends, name),
            };
            Some((name.clone(), kept))
        });
        let by_name: BTreeMap<_, _> = kept.collect();
        let plain = services
            .iter()
            .filter(|(name, _)| !by_name.contains_key(*name))
            .map(|(name, service)| (name.clone(), Arc::clone(service)));
        Self {
            plain: plain.collect(),
            by_name,
            sets: config.key_sets.clone(),
            outdated: Vec::new(),
            stored: Stored::of(config, Arc::clone(&services)),
        }
    }

    /// These, in the place of others.
    fn after(mut self, before: &Self) -> Self {
        let kept = before.by_name.iter().map(|(name, kept)| {
            let active = kept.keys.ring.active();
            (name, Some(active), &kept.service)
        });
        let plain = before
            .plain
            .iter()
            .map(|(name, service)| (name, None, service));
        let replaced = kept.chain(plain).filter(|(name, _, old)| {
            let new = self.by_name.get(*name).map(|kept| &kept.service);
            new.or(self.plain.get(*name))
                .is_none_or(|new| !Arc::ptr_eq(new, old))
        });
        let replaced = replaced.map(|(name, active, service)| Outdated {
            name: name.clone(),
            active,
            service: Arc::downgrade(service),
        });
        let outdated: Vec<_> = before.outdated.iter().cloned().chain(replaced).collect();
        self.outdated = outdated;
        self.outdated
            .retain(|outdated| outdated.service.strong_count() > 0);
        self
    }

    /// True if new files may still be wrapped to that key, on a backend of a set or on one that is not there any more.
    fn is_written_to(&self, key: KekId, is_of_set: impl Fn(&str) -> bool) -> bool {
        self.outdated().any(|outdated| {
            let name = &*outdated.name;
            let counts = is_of_set(name) || !self.by_name.contains_key(name);
            counts && outdated.active == Some(key)
        })
    }

    /// True if new files on that backend may still not be encrypted.
    fn is_written_plain(&self, name: &str) -> bool {
        self.outdated()
            .any(|outdated| outdated.active.is_none() && outdated.name == name)
    }

    /// Those that sessions have.
    fn outdated(&self) -> impl Iterator<Item = &Outdated> {
        self.outdated
            .iter()
            .filter(|outdated| outdated.service.strong_count() > 0)
    }
}

fn is_server(backend: &BackendConfig) -> bool {
    matches!(
        backend,
        BackendConfig::Sftp { .. } | BackendConfig::Ftp { .. }
    )
}

/// Why what a crash has left could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Unfinished {
    Kept(#[from] io::Error),
    Backend(#[from] BackendError),
}

/// Where a backend keeps what it no longer shows, if nothing can be overwritten there.
fn remains(backend: &BackendConfig) -> Option<&'static str> {
    match backend {
        BackendConfig::Local { .. } | BackendConfig::Sftp { .. } => None,
        BackendConfig::Ftp { .. } => Some("freed blocks of the server"),
        BackendConfig::Bucket(_) => Some("bucket versioning"),
        // Its members have their own names.
        BackendConfig::Failover { .. } => None,
    }
}

/// Writes again what a crash may have torn. Nobody uses the backends yet.
pub(super) async fn finish(config: &Config, built: &Built, journal: &Journal) {
    let folder = config.journal.verification();
    for (name, kept) in Vaults::of(config, built).by_name {
        let pending = pending(&folder, &name);
        if kept.keys.ring.is_destroyed() {
            let _ = pending.clear();
            continue;
        }
        let finished = async {
            let Some(place) = pending.place()? else {
                return Ok(None);
            };
            let tended = kept
                .tend_left(journal, &name, &place, &Pace::default())
                .await;
            settled(&tended, &pending).map_err(BackendError::clone)?;
            let state = tended.map_or("gone", Tended::name);
            Ok::<_, Unfinished>(Some((place.path, state)))
        };
        match finished.await {
            Ok(None) => {}
            Ok(Some((path, state))) => {
                tracing::info!(
                    ?path,
                    state,
                    "a crash interrupted a rotation of keys at this file"
                );
            }
            Err(error) => {
                tracing::error!(backend = name, %error, "a crash interrupted a rotation of keys, and the file it was at can't be looked at; it is tried again at the next start, and by the next rotation");
            }
        }
    }
}

/// The thread.
pub(super) struct Encryption {
    vaults: Arc<Mutex<Vaults>>,
    thread: Quiet,
}

impl Encryption {
    /// Begins. The folder of requests is there.
    ///
    /// # Errors
    /// If there can't be another thread.
    pub(super) fn start(
        config: &JournalConfig,
        journal: Journal,
        (accounts, vaults): (Accounts, Vaults),
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let vaults = Arc::new(Mutex::new(vaults));
        let worker = Worker {
            folder: config.verification(),
            config: config.clone(),
            journal,
            accounts,
            vaults: Arc::clone(&vaults),
        };
        let thread = Quiet::start(
            "rest-keys",
            "keys of stored files can't be rotated",
            stop,
            || worker.work(),
        )?;
        Ok(Self { vaults, thread })
    }

    /// Goes on with other backends, from the next request on.
    pub(super) fn change(&self, vaults: Vaults) {
        let mut own = self.vaults.lock().unwrap_or_else(PoisonError::into_inner);
        *own = vaults.after(&own);
    }

    /// Waits for the thread, once it has been told to stop.
    pub(super) async fn end(self) {
        self.thread.end().await;
    }
}

struct Worker {
    folder: PathBuf,
    config: JournalConfig,
    journal: Journal,
    accounts: Accounts,
    vaults: Arc<Mutex<Vaults>>,
}

impl Worker {
    async fn work(self) {
        let mut interval = tokio::time::interval(LOOK);
        loop {
            interval.tick().await;
            while let Some(asked) = requests::next(&self.folder, REQUEST) {
                asked
                    .answer(async |request, uid, tell| self.run(&request, uid, tell).await)
                    .await;
            }
        }
    }

    async fn run(
        &self,
        request: &Request,
        asked_by: u32,
        tell: &mut (dyn FnMut(&Answer) + Send),
    ) -> Answer {
        let vaults = self
            .vaults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let done = match &request.task {
            Task::Walk(task) => {
                let walk = Walk {
                    journal: &self.journal,
                    config: &self.config,
                    accounts: &self.accounts,
                    vaults,
                    task: *task,
                    request,
                    asked_by,
                };
                walk.carry_out(tell).await.map_err(|error| chain(&error))
            }
            Task::Shred {
                backend,
                path,
                reason,
                approver,
            } => {
                let shred = Shred {
                    journal: &self.journal,
                    config: &self.config,
                    vaults: &vaults,
                    backend,
                    path,
                    reason,
                    approver,
                    asked_by,
                };
                shred.carry_out().await.map_err(|error| chain(&error))
            }
            Task::ShredKeys {
                set,
                reason,
                approver,
            } => {
                let shred = ShredKeys {
                    journal: &self.journal,
                    config: &self.config,
                    vaults: &vaults,
                    set,
                    reason,
                    approver,
                    asked_by,
                };
                shred.carry_out().await.map_err(|error| chain(&error))
            }
        };
        done.unwrap_or_else(|error| {
            tracing::error!(error, "the work on stored files was not done");
            error.into()
        })
    }
}
