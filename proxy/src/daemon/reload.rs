//! The configuration in force, and how another takes its place: whole, or not at all.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{NaiveDate, Utc};
use portcullis_journal::{AppendError, Journal};
use tokio::{
    sync::{mpsc, watch},
    task::JoinError,
};
use tokio_util::sync::CancellationToken;

use super::{
    alerts::Alerts,
    backends::{self, BuildError, Built},
    bans,
    encryption::{Encryption, Vaults},
    judges,
    names::JournalNames,
    records,
    rest::{Rest, Stored},
    revocation,
    sinks::{self, SinkError, Sinks},
    witnesses::Witnesses,
};
use crate::{
    auth::{Authenticator, Judges, ldap::DirectoryError, throttle::BanRequest},
    config::{Config, ConfigError, RevokedKeysFile},
    metrics,
    ssh::{self, Terms, UnknownAlgorithm},
};

/// Why the configuration in force stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ReloadError {
    #[error(transparent)]
    Faulty(#[from] ConfigError),
    #[error(
        "{} can't change while the gateway runs; restart it, or put back what was there",
        keys.join(", ")
    )]
    NeedsRestart {
        keys: Vec<&'static str>,
        /// Of the file that was refused.
        sha256: [u8; 32],
    },
    #[error(transparent)]
    Backend(#[from] BuildError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Algorithms(#[from] UnknownAlgorithm),
    #[error("the change can't be recorded")]
    Unrecorded(#[from] AppendError),
    #[error("the task that read the configuration ended")]
    Interrupted(#[from] JoinError),
}

impl ReloadError {
    /// The code in records.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Faulty(_) => "faulty",
            Self::NeedsRestart { .. } => "needs_restart",
            Self::Backend(_) | Self::Directory(_) | Self::Sink(_) | Self::Algorithms(_) => {
                "unusable"
            }
            Self::Unrecorded(_) => "unrecorded",
            Self::Interrupted(_) => "interrupted",
        }
    }
}

/// A configuration, and what was built from it.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) config: Config,
    pub(super) built: Built,
    pub(super) bans: Option<mpsc::Sender<BanRequest>>,
    pub(super) judges: Judges,
}

/// Brings the file into force again and again.
pub(super) struct Reloader<'a> {
    pub(super) path: PathBuf,
    pub(super) in_force: Mutex<Arc<InForce>>,
    pub(super) authenticator: Authenticator,
    /// The list of revoked keys whose file is looked at.
    pub(super) revoked_keys: watch::Sender<Option<RevokedKeysFile>>,
    pub(super) server: &'a ssh::Server,
    pub(super) journal: Journal,
    pub(super) sinks: &'a Sinks,
    pub(super) alerts: &'a Alerts,
    pub(super) witnesses: &'a Witnesses,
    pub(super) rest: &'a Rest,
    pub(super) encryption: &'a Encryption,
    pub(super) names: Arc<JournalNames>,
    /// Ends what runs beside connections.
    pub(super) stop: CancellationToken,
}

impl Reloader<'_> {
    /// The configuration in force.
    pub(super) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The last day of the exception that the cipher policy in force needs.
    pub(super) fn policy_ends(&self) -> Option<NaiveDate> {
        let in_force = self.in_force();
        let exception = in_force.config.server.cipher_policy.exception()?;
        Some(exception.expires)
    }

    /// Goes on with the algorithms that need no exception: what a reload that changes them does, without a file. Also if it
    /// can't be recorded: less is offered, and nothing else changes.
    pub(super) async fn end_policy(&self) {
        let in_force = self.in_force();
        let config = &in_force.config;
        let today = Utc::now().date_naive();
        let policy = config.server.cipher_policy.on(today).name();
        let services = in_force.built.services();
        match Terms::new(config, self.configured(&in_force), services, today) {
            Ok(terms) => self.server.change_terms(terms),
            Err(error) => return tracing::error!(%error, "the end of an exception has no effect"),
        }
        tracing::error!(
            policy,
            "the exception for {} ended: old clients are turned away; move them, or have a new one approved",
            config.server.cipher_policy.name()
        );
        if let Err(error) = records::policy_expired(&self.journal, config, policy).await {
            tracing::error!(%error, "the end of an exception is not on record");
        }
    }

    fn configured(&self, in_force: &InForce) -> Authenticator {
        let config = &in_force.config;
        self.authenticator
            .reconfigured(config.server.max_auth_failures, config.auth.flow)
            .with_account_defaults(config.accounts.defaults)
            .with_judges(in_force.judges.clone())
    }

    /// Reads the file and brings it into force, or says why not. May be dropped at any time: then nothing has changed.
    pub(super) async fn reload(&self) {
        let now = sd_notify::NotifyState::monotonic_usec_now();
        let reloading: Vec<_> = [sd_notify::NotifyState::Reloading]
            .into_iter()
            .chain(now)
            .collect();
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&reloading);
        match self.journal.change_key().await {
            Ok(true) => tracing::info!("another key signs the journal from here on"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the journal's next key did not take over"),
        }
        let status = match self.try_reload().await {
            Ok(changed) => {
                metrics::reload("applied");
                let changed = if changed.is_empty() {
                    "nothing".to_owned()
                } else {
                    changed.join(", ")
                };
                tracing::info!(changed, "the configuration was read again");
                format!("Configuration read again; changed: {changed}")
            }
            Err(error) => {
                metrics::reload("refused");
                let reason = crate::causes::chain(&error);
                tracing::error!(
                    code = error.code(),
                    "the configuration in force stays: {reason}"
                );
                let in_force = self.in_force();
                // Its failure is that of the journal, which the log tells of.
                let _ = records::refused(&self.journal, &in_force.config, &error).await;
                format!("Configuration refused, the one before stays in force: {reason}")
            }
        };
        // A line each: a second one would be taken for another variable.
        let status = status.replace('\n', ";");
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Ready,
            sd_notify::NotifyState::Status(&status),
        ]);
    }

    /// The keys and sections that changed.
    async fn try_reload(&self) -> Result<Vec<String>, ReloadError> {
        let before = self.in_force();
        let after = self.build(Arc::clone(&before)).await?;
        after.built.probe_new().await;
        let terms = Terms::new(
            &after.config,
            self.configured(&after),
            after.built.services(),
            Utc::now().date_naive(),
        )?;
        let sinks = sinks::settings(&after.config)?;
        let changed = changes(&before.config, &after.config);
        records::reloaded(&self.journal, &before.config, &after.config, &changed).await?;
        self.authenticator
            .change_trust(|_| revocation::trust(&after.config.auth));
        self.revoked_keys
            .send_replace(after.config.auth.revoked_keys.clone());
        self.authenticator
            .throttles()
            .configure(after.config.throttles(), after.bans.clone());
        self.server.change_terms(terms);
        self.sinks.change(sinks, &before.config, &after.config);
        if before.config.alerts != after.config.alerts {
            self.alerts.change(&after.config.alerts);
        }
        self.witnesses
            .change(&before.config.witnesses, &after.config.witnesses);
        let stored = Stored::of(&after.config, after.built.services());
        self.names.place(stored.places());
        self.rest.change(stored);
        self.encryption
            .change(Vaults::of(&after.config, &after.built));
        super::exception::announce(&after.config);
        after.built.prepare_new();
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        Ok(changed)
    }

    /// All that the start does with a configuration, on a thread that files may hold up.
    async fn build(&self, before: Arc<InForce>) -> Result<InForce, ReloadError> {
        let (path, journal, stop) = (self.path.clone(), self.journal.clone(), self.stop.clone());
        let names = Arc::clone(&self.names);
        tokio::task::spawn_blocking(move || {
            let config = Config::load(&path, Utc::now().date_naive())?;
            let keys = fixed_keys_that_differ(&before.config, &config);
            if !keys.is_empty() {
                return Err(ReloadError::NeedsRestart {
                    keys,
                    sha256: config.sha256,
                });
            }
            let old = Some((&before.config, &before.built));
            let built = backends::build(&config, &journal, &names, old)?;
            let socket = |config: &Config| {
                let bans = config.bans.as_ref()?;
                Some(bans.agent_socket.clone())
            };
            let bans = if socket(&config) == socket(&before.config) {
                before.bans.clone()
            } else {
                let relayed = config.bans.as_ref();
                relayed.map(|config| bans::relay(config, &journal, &stop))
            };
            let judges = judges::build(&config.auth, Some((&before.config.auth, &before.judges)))?;
            Ok(InForce {
                config,
                built,
                bans,
                judges,
            })
        })
        .await?
    }
}

/// What the process is built on.
fn fixed_keys_that_differ(before: &Config, after: &Config) -> Vec<&'static str> {
    let (journal, other) = (&before.journal, &after.journal);
    [
        ("server.listen", before.server.listen == after.server.listen),
        (
            "accounts.database",
            before.accounts.database == after.accounts.database,
        ),
        ("auth.password", before.auth.password == after.auth.password),
        ("journal.directory", journal.directory == other.directory),
        (
            "journal.signing_key",
            journal.signing_key == other.signing_key,
        ),
        ("journal.node", journal.node == other.node),
        (
            "journal.segment_mib",
            journal.segment_bytes == other.segment_bytes,
        ),
        (
            "journal.compression_level",
            journal.compression_level == other.compression_level,
        ),
        ("journal.keep_days", journal.keep == other.keep),
        ("journal.warn_percent", journal.room == other.room),
        (
            "journal.verify_days",
            journal.verify_every == other.verify_every,
        ),
        ("journal.sinks_directory", journal.sinks == other.sinks),
        ("journal.path_mode", journal.paths == other.paths),
        ("journal.path_key_file", journal.path_key == other.path_key),
        ("metrics", before.metrics == after.metrics),
        ("verification", before.verification == after.verification),
        ("manifests", before.manifests == after.manifests),
        ("allowlist", before.allowlist == after.allowlist),
    ]
    .into_iter()
    .filter_map(|(key, is_same)| (!is_same).then_some(key))
    .collect()
}

/// The sections that differ, contents of the files that they name included.
fn changes(before: &Config, after: &Config) -> Vec<String> {
    let sections = [
        ("server", before.server == after.server),
        ("auth", before.auth == after.auth),
        ("sftp", before.sftp == after.sftp),
        ("accounts", before.accounts == after.accounts),
        ("journal", before.journal == after.journal),
        ("penalties", before.penalties == after.penalties),
        ("bans", before.bans == after.bans),
        ("sink", before.sinks == after.sinks),
        ("alert", before.alerts == after.alerts),
        ("witness", before.witnesses == after.witnesses),
    ];
    let sections = sections
        .into_iter()
        .filter(|(_, is_same)| !is_same)
        .map(|(section, _)| section.to_owned());
    let names: std::collections::BTreeSet<_> = before
        .backends
        .keys()
        .chain(after.backends.keys())
        .collect();
    let backends = names
        .into_iter()
        .filter(|&name| {
            before.backends.get(name) != after.backends.get(name)
                || before.at_rest.get(name) != after.at_rest.get(name)
        })
        .map(|name| format!("backends.{name}"));
    sections.chain(backends).collect()
}
