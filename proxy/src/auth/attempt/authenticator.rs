//! What authentications of all connections share, and how they are set.

use std::{
    fmt,
    hash::RandomState,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use portcullis_journal::SessionId;
use tokio::sync::watch;

use super::{Attempt, AuditLog, windows::Windows};
use crate::{
    accounts::{Accounts, AccountsError, admission::AccountDefaults},
    allowance::AccountLimits,
    allowlist::Allowlist,
    auth::{
        Authenticated, Judges,
        flow::{Flow, FlowRules},
        password::{Hasher, PasswordError, PasswordPolicy},
        public_key::KeyRules,
        throttle::Throttles,
        trust::Trust,
        turns::Turns,
    },
    policy::Mount,
};

/// Argon2id takes one core for some tens of milliseconds, so that more hashes than processors only wait for each other, and
/// 19 MiB.
const HASHES_AT_ONCE_MAX: usize = 8;

/// The present time, for codes and for policies that run out.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::new(Utc::now)
    }

    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// How an [`Authenticator`] behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Failures of one connection before it ends.
    pub max_failures: u32,
    /// No failure is told earlier than this after its request; it has to exceed the time of a password check.
    pub failure_floor: Duration,
    /// Up to so much more, at random.
    pub failure_jitter: Duration,
    pub flow: FlowRules,
    /// What sources pay for failures.
    pub throttles: Throttles,
    pub passwords: PasswordPolicy,
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_failures: 6,
            failure_floor: Duration::from_millis(250),
            failure_jitter: Duration::from_millis(50),
            flow: FlowRules::default(),
            throttles: Throttles::default(),
            passwords: PasswordPolicy::default(),
            clock: Clock::system(),
        }
    }
}

/// Authenticates connections of the gateway. Clones share everything; those made by
/// [`reconfigured`](Authenticator::reconfigured) everything but their rules.
#[derive(Debug, Clone)]
pub struct Authenticator {
    pub(super) shared: Arc<Shared>,
    pub(super) rules: Arc<Rules>,
    pub(super) defaults: AccountDefaults,
    pub(super) judges: Judges,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) accounts: Accounts,
    pub(super) passwords: PasswordPolicy,
    pub(super) hasher: Hasher,
    pub(super) hashes: Turns,
    pub(super) log: Box<dyn AuditLog>,
    pub(super) failure_floor: Duration,
    pub(super) failure_jitter: Duration,
    pub(super) throttles: Throttles,
    pub(super) clock: Clock,
    /// Keyed at random: which account a name without one is treated as.
    pub(super) strangers: RandomState,
    pub(super) changes: watch::Sender<u64>,
    pub(super) windows: Mutex<Windows>,
    pub(super) trust: watch::Sender<Arc<Trust>>,
    /// Where accounts may be used from; `None` until it was read.
    pub(super) allowlist: watch::Sender<Option<Arc<Allowlist>>>,
}

/// What a reload may change. A connection keeps those under which it began.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) max_failures: u32,
    pub(super) flow: FlowRules,
    pub(super) keys: KeyRules,
}

/// What an account is given at its login.
#[derive(Debug)]
pub struct Grants {
    pub mounts: Vec<Mount>,
    pub limits: AccountLimits,
}

/// Why the accounts could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    #[error("the task that reads the account database ended")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Authenticator {
    /// # Errors
    /// If the system has no randomness.
    pub fn new(
        accounts: Accounts,
        log: impl AuditLog + 'static,
        settings: Settings,
    ) -> Result<Self, PasswordError> {
        let hasher = Hasher::with_cost(settings.passwords.cost)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            shared: Arc::new(Shared {
                accounts,
                passwords: settings.passwords,
                hasher,
                hashes: Turns::new(processors.min(HASHES_AT_ONCE_MAX)),
                log: Box::new(log),
                failure_floor: settings.failure_floor,
                failure_jitter: settings.failure_jitter,
                throttles: settings.throttles,
                clock: settings.clock,
                strangers: RandomState::new(),
                changes: watch::Sender::new(0),
                windows: Mutex::default(),
                trust: watch::Sender::default(),
                allowlist: watch::Sender::new(None),
            }),
            rules: Arc::new(Rules {
                max_failures: settings.max_failures,
                flow: settings.flow,
                keys: KeyRules::default(),
            }),
            defaults: AccountDefaults::default(),
            judges: Judges::default(),
        })
    }

    /// The same with other defaults of accounts, for connections that begin from now on.
    #[must_use]
    pub fn with_account_defaults(self, defaults: AccountDefaults) -> Self {
        Self { defaults, ..self }
    }

    /// The same with other servers for factors that are judged elsewhere, for connections that begin from now on.
    #[must_use]
    pub fn with_judges(self, judges: Judges) -> Self {
        Self { judges, ..self }
    }

    /// The same with other rules, for connections that begin from now on.
    #[must_use]
    pub fn reconfigured(&self, max_failures: u32, flow: FlowRules) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            rules: Arc::new(Rules {
                max_failures,
                flow,
                keys: self.rules.keys,
            }),
            defaults: self.defaults,
            judges: self.judges.clone(),
        }
    }

    /// The same with other kinds of keys, for connections that begin from now on.
    #[must_use]
    pub fn with_key_rules(self, keys: KeyRules) -> Self {
        let Rules {
            max_failures, flow, ..
        } = *self.rules;
        let rules = Arc::new(Rules {
            max_failures,
            flow,
            keys,
        });
        Self { rules, ..self }
    }

    /// What sources pay for failures.
    pub fn throttles(&self) -> &Throttles {
        &self.shared.throttles
    }

    /// Where accounts may be used from, as far as it was read. Needs [`Self::follow_changes`] to run.
    pub fn allowlist(&self) -> watch::Receiver<Option<Arc<Allowlist>>> {
        self.shared.allowlist.subscribe()
    }

    /// Begins the authentication of one connection. When the result is dropped, the connection has ended.
    pub fn attempt(&self, source: SocketAddr, session: SessionId) -> Attempt {
        Attempt {
            shared: Arc::clone(&self.shared),
            rules: Arc::clone(&self.rules),
            defaults: self.defaults,
            judges: self.judges.clone(),
            groups: None,
            source,
            session,
            flow: Flow::new(self.rules.flow),
            user: String::new(),
            requests: 0,
            steps: 0,
            failures: 0,
            wrong_keys: 0,
            guesses: 0,
            is_penalised: false,
            ended: false,
        }
    }

    /// The mounts and limits of a user who is in; notes the login, and the groups that the directory named.
    ///
    /// # Errors
    /// If the database can't be read or written, or two of the user's groups have a mount at one place.
    pub async fn grants(&self, user: &Authenticated) -> Result<Grants, LookupError> {
        let (accounts, uid) = (self.shared.accounts.clone(), user.uid());
        let (now, defaults) = (self.shared.clock.now(), self.defaults);
        let groups = user.directory_groups().cloned();
        let grants = tokio::task::spawn_blocking(move || -> Result<_, AccountsError> {
            accounts.note_login(uid, now)?;
            let limits = accounts.limits(uid)?;
            Ok(Grants {
                mounts: match groups {
                    Some(groups) => accounts.mounts_at_login(uid, &groups)?,
                    None => accounts.mounts(uid)?,
                },
                limits: AccountLimits {
                    sessions: limits.sessions.or(defaults.sessions),
                    ..limits
                },
            })
        });
        Ok(grants.await??)
    }
}
