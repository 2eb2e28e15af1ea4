//! The configuration file: read, checked as a whole, and turned into values that can only be good.
//!
//! `deploy/portcullis-proxy.toml` shows every key. Accounts, factors and mounts are not here but in the database.

mod alerts;
mod auth;
mod backends;
mod encryption;
mod exception;
mod files;
mod journal;
mod manifests;
mod passwords;
mod section;
mod server;
mod sinks;
mod throttles;
mod trust;
mod verification;
mod witness;
mod witnesses;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{NaiveDate, TimeDelta};
use ipnet::IpNet;
use portcullis_audit::alert::Rule;
use sha2::{Digest as _, Sha256};

pub use auth::AuthConfig;
pub use backends::{
    BackendConfig, BucketAccess, BucketConfig, BucketTransport, Charset, Credential, FtpTls,
    KeyPair, ServerAddress, TrustAnchor, Uploads,
};
pub use encryption::{AtRest, EncryptionConfig};
pub use files::{Secret, Stamp, revoked_keys};
pub use journal::{JournalConfig, PathMode, RoomConfig};
pub use manifests::ManifestsConfig;
pub use section::Fault;
pub use server::{AcceptMode, HostKey, ScpMode, ServerConfig};
pub use sinks::{
    Identity, MailConfig, MailTransport, SinkConfig, SinkTarget, SinkTls, SinkTransport,
};
pub use throttles::{AllowlistConfig, BansConfig};
pub use trust::RevokedKeysFile;
pub use verification::VerificationConfig;
pub use witness::{WitnessConfig, WitnessedLog};
pub use witnesses::WitnessPeer;

use crate::{
    accounts::{admission::AccountDefaults, break_glass::OPEN_MAX},
    auth::{
        public_key::KeyRules,
        throttle::{PenaltyConfig, ThrottleConfig},
    },
    cipher_policy::CipherPolicy,
    exception::Exception,
    sftp::request::Extensions,
    tombs::Tombs,
};
use section::{Faults, Section};

/// Most days that an account may be idle, and most sessions that one may have.
const MOST_BY_DEFAULT: u64 = 10_000;

/// All settings of the proxy.
#[derive(Debug)]
pub struct Config {
    pub server: ServerConfig,
    pub auth: AuthConfig,
    pub sftp: SftpConfig,
    pub accounts: AccountsConfig,
    pub journal: JournalConfig,
    pub penalties: PenaltyConfig,
    pub bans: Option<BansConfig>,
    pub allowlist: Option<AllowlistConfig>,
    pub metrics: Option<MetricsConfig>,
    pub backends: BTreeMap<String, BackendConfig>,
    /// All sets of keys, that of `[encryption]` first.
    pub key_sets: Vec<Arc<EncryptionConfig>>,
    /// How the files of each backend lie there.
    pub at_rest: BTreeMap<String, AtRest>,
    pub sinks: Vec<SinkConfig>,
    pub alerts: Vec<Rule>,
    /// Who cosigns the journal.
    pub witnesses: Vec<WitnessPeer>,
    pub verification: VerificationConfig,
    pub manifests: Option<ManifestsConfig>,
    /// SHA-256 of the file, for the records of the start and of reloads.
    pub sha256: [u8; 32],
}

/// `[sftp]`
#[derive(Debug, Default, PartialEq)]
pub struct SftpConfig {
    /// Those of the extensions that are off by default.
    pub extensions: Extensions,
}

/// `[accounts]`
#[derive(Debug, PartialEq)]
pub struct AccountsConfig {
    pub database: PathBuf,
    pub defaults: AccountDefaults,
    /// The longest that a break-glass account may be open.
    pub break_glass_longest: TimeDelta,
}

/// What the commands on accounts need of a configuration.
#[derive(Debug)]
pub struct AccountCommandsConfig {
    pub accounts: AccountsConfig,
    /// Names.
    pub backends: Vec<String>,
    /// Faults in it matter only to commands that set a factor.
    pub auth: Result<AuthConfig, ConfigError>,
    /// Which keys may be added: those of the cipher policy, and of the default one where that has a fault.
    pub key_rules: KeyRules,
}

/// What the commands on logs need of a configuration; each part may have a fault where it isn't used.
#[derive(Debug)]
pub struct AuditCommandsConfig {
    pub accounts: Result<AccountsConfig, ConfigError>,
    pub journal: Result<JournalConfig, ConfigError>,
    pub manifests: Result<ManifestsConfig, ConfigError>,
}

/// `[metrics]`
#[derive(Debug, PartialEq)]
pub struct MetricsConfig {
    pub listen: SocketAddr,
}

/// Why a configuration can't be used: every fault that was found.
#[derive(Debug, thiserror::Error)]
#[error("configuration {} has {} fault(s):{}", path.display(), faults.len(), list(faults))]
pub struct ConfigError {
    pub path: PathBuf,
    /// Of the file, if it could be read.
    pub sha256: Option<[u8; 32]>,
    pub faults: Vec<Fault>,
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

impl Config {
    /// Reads and checks the file and every file that it names.
    ///
    /// # Errors
    /// All faults together.
    pub fn load(path: &Path, today: NaiveDate) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|faults| ConfigError {
            path: path.to_owned(),
            sha256: None,
            faults,
        })?;
        Self::parse(&text, today).map_err(|faults| ConfigError {
            path: path.to_owned(),
            sha256: Some(Sha256::digest(text.as_bytes()).into()),
            faults,
        })
    }

    /// What the commands on accounts need. The rest of the file is not judged: an account can be disabled while an exception
    /// has run out or a key can't be read.
    ///
    /// # Errors
    /// If the file can't be read or has no good `[accounts]`.
    pub fn load_accounts(path: &Path) -> Result<AccountCommandsConfig, ConfigError> {
        let config_error = |faults| ConfigError {
            path: path.to_owned(),
            sha256: None,
            faults,
        };
        let table = read(path)
            .and_then(|text| parse_table(&text))
            .map_err(config_error)?;
        let faults = Faults::default();
        let accounts = Section::root(&table, &faults)
            .required_section("accounts")
            .and_then(accounts);
        let faults = faults.into_vec();
        let accounts = accounts
            .filter(|_| faults.is_empty())
            .ok_or_else(|| config_error(faults))?;
        let backends = match table.get("backends") {
            Some(toml::Value::Table(backends)) => backends.keys().cloned().collect(),
            Some(_) | None => Vec::new(),
        };
        let faults = Faults::default();
        let auth = Section::root(&table, &faults).section("auth");
        // An exception that has run out keeps nobody from setting a password.
        let auth = auth
            .map(|section| auth::auth(section, NaiveDate::MIN))
            .unwrap_or_default();
        let faults = faults.into_vec();
        Ok(AccountCommandsConfig {
            accounts,
            backends,
            auth: if faults.is_empty() {
                Ok(auth)
            } else {
                Err(config_error(faults))
            },
            key_rules: key_rules(&table),
        })
    }

    /// What the commands on logs need. Logs may be read where there is no configuration at all.
    pub fn load_audit(path: &Path) -> AuditCommandsConfig {
        let config_error = |faults| ConfigError {
            path: path.to_owned(),
            sha256: None,
            faults,
        };
        fn part<T>(
            path: &Path,
            key: &'static str,
            parse: impl FnOnce(Section<'_>) -> Option<T>,
        ) -> Result<T, Vec<Fault>> {
            let table = parse_table(&read(path)?)?;
            let faults = Faults::default();
            let parsed = Section::root(&table, &faults)
                .required_section(key)
                .and_then(parse);
            let faults = faults.into_vec();
            match parsed {
                Some(parsed) if faults.is_empty() => Ok(parsed),
                Some(_) | None => Err(faults),
            }
        }
        let journal = part(path, "journal", journal::journal);
        let keep = journal.as_ref().ok().and_then(|journal| journal.keep);
        let manifests = part(path, "manifests", |section| {
            manifests::manifests(section, keep)
        });
        AuditCommandsConfig {
            accounts: part(path, "accounts", accounts).map_err(config_error),
            journal: journal.map_err(config_error),
            manifests: manifests.map_err(config_error),
        }
    }

    /// As [`load`](Self::load), for text that is already read.
    ///
    /// # Errors
    /// All faults together; a syntax error alone, since nothing after it can be trusted.
    pub fn parse(text: &str, today: NaiveDate) -> Result<Self, Vec<Fault>> {
        let table = parse_table(text)?;
        let faults = Faults::default();
        let mut root = Section::root(&table, &faults);
        let server = root
            .required_section("server")
            .map(|section| server::server(section, today));
        let sftp = root.section("sftp").map(sftp).unwrap_or_default();
        let accounts = root.required_section("accounts").map(accounts);
        let auth = root
            .section("auth")
            .map(|section| auth::auth(section, today))
            .unwrap_or_default();
        let journal = root.required_section("journal").map(journal::journal);
        let penalties = root
            .section("penalties")
            .map(throttles::penalties)
            .unwrap_or_default();
        let bans = root.section("bans").map(throttles::bans);
        let allowlist = root.section("allowlist").map(throttles::allowlist);
        let metrics = root.section("metrics").map(metrics);
        let key_sets = root
            .section("encryption")
            .map(|section| {
                let tombs = journal.as_ref().and_then(Option::as_ref);
                let tombs = tombs.map(|journal| tombs_beside(journal, &faults));
                encryption::encryption(section, &tombs.unwrap_or_default(), &faults)
            })
            .unwrap_or_default();
        let verification = root
            .section("verification")
            .map(verification::verification)
            .unwrap_or_default();
        let manifests = root.section("manifests").map(|section| {
            let journal = journal.as_ref().and_then(Option::as_ref);
            manifests::manifests(section, journal.and_then(|journal| journal.keep))
        });
        let backends = root
            .named_sections("backends")
            .into_iter()
            .map(|(name, section)| {
                (
                    name.to_owned(),
                    backends::backend(name, section, &key_sets, today),
                )
            })
            .collect::<Vec<_>>();
        let sinks = sinks::sinks(root.tables("sink"), today);
        let alerts = alerts::alerts(root.tables("alert"), &sink_names(&table));
        let witnesses = witnesses::witnesses(root.tables("witness"));
        root.finish();
        for (key, problem) in backends::member_faults(&backends) {
            faults.note(key, problem);
        }
        for (key, problem) in encryption::overlaps(&backends) {
            faults.note(key, problem);
        }
        let names = backends.iter().map(|(name, _)| name.as_str());
        if let Some(Some(config)) = &manifests {
            let journal = journal.as_ref().and_then(Option::as_ref);
            let journal =
                journal.map(|config| ("the journal".to_owned(), config.directory.as_path()));
            let local = backends.iter().filter_map(|(name, backend)| match backend {
                Some((BackendConfig::Local { directory, .. }, _)) => {
                    Some((format!("[backends.{name}]"), directory.as_path()))
                }
                Some(_) | None => None,
            });
            if let Some(problem) = manifests::overlap(config, journal.into_iter().chain(local)) {
                faults.note("manifests.directory", problem);
            }
        }
        for (key, problem) in verification::unknown_backends(&verification, names) {
            faults.note(key, problem);
        }
        // A sink or an alert with a fault is left out and would be missed.
        if faults.is_empty() {
            for name in alerts::unheard(&sinks, &alerts) {
                faults.note(
                    "sink",
                    format!("{name:?} takes alerts, and no [[alert]] has it in `to`: add it there, or remove the sink"),
                );
            }
        }

        let faults = faults.into_vec();
        let (backends, at_rest) = backends
            .into_iter()
            .filter_map(|(name, backend)| {
                let (backend, at_rest) = backend?;
                Some(((name.clone(), backend), (name, at_rest)))
            })
            .unzip();
        let optional_is_whole = bans.as_ref().is_none_or(Option::is_some)
            && allowlist.as_ref().is_none_or(Option::is_some)
            && metrics.as_ref().is_none_or(Option::is_some)
            && manifests.as_ref().is_none_or(Option::is_some);
        match (server.flatten(), accounts.flatten(), journal.flatten()) {
            (Some(server), Some(accounts), Some(journal))
                if faults.is_empty() && optional_is_whole =>
            {
                Ok(Self {
                    server,
                    auth,
                    sftp,
                    accounts,
                    journal,
                    penalties,
                    bans: bans.flatten(),
                    allowlist: allowlist.flatten(),
                    metrics: metrics.flatten(),
                    backends,
                    key_sets: key_sets.into_good(),
                    at_rest,
                    sinks,
                    alerts,
                    witnesses,
                    verification,
                    manifests: manifests.flatten(),
                    sha256: Sha256::digest(text.as_bytes()).into(),
                })
            }
            _ => Err(faults),
        }
    }

    /// What sources pay for failures.
    pub fn throttles(&self) -> ThrottleConfig {
        ThrottleConfig {
            penalties: self.penalties.clone(),
            bans: self.bans.as_ref().map(|bans| bans.rules.clone()),
        }
    }

    /// The backends that send in clear, and who allowed it.
    pub fn plaintext_exceptions(&self) -> impl Iterator<Item = (&str, &Exception)> {
        self.backends
            .iter()
            .filter_map(|(name, backend)| Some((name.as_str(), backend.plaintext_exception()?)))
    }

    /// The backends whose files lie there unencrypted although they need not, and who allowed it.
    pub fn unencrypted_exceptions(&self) -> impl Iterator<Item = (&str, &Exception)> {
        self.at_rest
            .iter()
            .filter_map(|(name, at_rest)| Some((name.as_str(), at_rest.exception()?)))
    }

    /// What an operator should know of key sets: each a sentence.
    pub fn notes_on_keys(&self) -> Vec<String> {
        let backends = self
            .backends
            .iter()
            .filter_map(|(name, config)| Some((name.as_str(), config, self.at_rest.get(name)?)));
        let joint = encryption::joint_logins(backends);
        let joint = joint.into_iter().map(|(one, other)| {
            format!("backends {one} and {other} log in as one user to one server and have different keys: keep the directories of their mounts apart")
        });
        let lost = self.key_sets.iter().filter_map(|keys| {
            let record = keys.ring.record()?;
            Some(format!(
                "[{}] can't be used: {record}. What lies on its backends can be listed and removed; then remove the sections, or name new keys",
                keys.section()
            ))
        });
        encryption::lent(&self.key_sets)
            .into_iter()
            .chain(joint)
            .chain(lost)
            .collect()
    }

    /// The sinks that send in clear, and who allowed it.
    pub fn plaintext_sinks(&self) -> impl Iterator<Item = (&str, &Exception)> {
        self.sinks
            .iter()
            .filter_map(|sink| Some((sink.name.as_str(), sink.plaintext_exception()?)))
    }
}

/// Which keys were destroyed.
fn tombs_beside(journal: &JournalConfig, faults: &Faults) -> Tombs {
    Tombs::read(&journal.verification()).unwrap_or_else(|error| {
        let problem = format!("which keys were destroyed can't be read beside it: {error}");
        faults.note("journal.directory", problem);
        Tombs::default()
    })
}

/// Also of sinks with a fault.
fn sink_names(table: &toml::Table) -> Vec<&str> {
    let sinks = table.get("sink").and_then(toml::Value::as_array);
    sinks
        .into_iter()
        .flatten()
        .filter_map(|sink| sink.get("name")?.as_str())
        .collect()
}

fn key_rules(table: &toml::Table) -> KeyRules {
    let name = table
        .get("server")
        .and_then(|server| server.get("cipher_policy")?.as_str());
    name.and_then(|name| CipherPolicy::preset(name).ok())
        .map(|policy| policy.key_rules())
        .unwrap_or_default()
}

fn read(path: &Path) -> Result<String, Vec<Fault>> {
    std::fs::read_to_string(path).map_err(|error| whole_file(format!("can't be read: {error}")))
}

fn parse_table(text: &str) -> Result<toml::Table, Vec<Fault>> {
    text.parse()
        .map_err(|error: toml::de::Error| whole_file(format!("not TOML: {error}")))
}

fn whole_file(problem: String) -> Vec<Fault> {
    vec![Fault {
        key: String::new(),
        problem,
    }]
}

fn seconds(section: &mut Section<'_>, key: &'static str, default: u64) -> Duration {
    const WEEK: u64 = 7 * 24 * 3600;
    Duration::from_secs(section.number(key, 1..=WEEK, default))
}

fn sftp(mut section: Section<'_>) -> SftpConfig {
    let mut extensions = Extensions::default();
    for (index, name) in section
        .texts("extensions", "a list of extension names")
        .unwrap_or_default()
    {
        if let Err(unknown) = extensions.switch_on(name) {
            section.fault(&format!("extensions[{index}]"), unknown.to_string());
        }
    }
    section.finish();
    SftpConfig { extensions }
}

fn accounts(mut section: Section<'_>) -> Option<AccountsConfig> {
    let database = section.required_text("database", "the path of the accounts database");
    let standard = AccountDefaults::default();
    let number = |section: &mut Section<'_>, key, default: Option<NonZeroU32>| {
        let default = default.map_or(0, NonZeroU32::get);
        let number = section.number(key, 0..=MOST_BY_DEFAULT, default.into());
        u32::try_from(number).ok().and_then(NonZeroU32::new)
    };
    let idle_days = number(&mut section, "idle_days", standard.idle_days);
    let sessions = number(&mut section, "max_sessions", standard.sessions);
    let grace = section.number(
        "hours_grace_seconds",
        0..=3600,
        standard.hours_grace.as_secs(),
    );
    let most = u64::try_from(OPEN_MAX.num_hours()).unwrap_or(1);
    let hours = section.number("break_glass_hours", 1..=most, most);
    section.finish();
    Some(AccountsConfig {
        database: PathBuf::from(database?),
        defaults: AccountDefaults {
            idle_days,
            sessions,
            hours_grace: Duration::from_secs(grace),
        },
        break_glass_longest: TimeDelta::hours(i64::try_from(hours).unwrap_or(1)),
    })
}

/// A network in CIDR notation, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().map_err(|_| {
        format!("{text:?} is not a network such as \"192.0.2.0/24\" or \"2001:db8::/32\"")
    })?;
    if network.addr() == network.network() {
        Ok(network)
    } else {
        Err(format!(
            "{network} has bits set behind the prefix; write {} for the network or {} for the address",
            network.trunc(),
            network.addr()
        ))
    }
}

fn metrics(mut section: Section<'_>) -> Option<MetricsConfig> {
    let text = section.required_text(
        "listen",
        "a loopback address with a port, such as \"127.0.0.1:9465\"",
    );
    let listen = text.and_then(|text| match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Some(address),
        Ok(address) => {
            section.fault(
                "listen",
                format!("{address} is not a loopback address; metrics name users' behaviour and have no login"),
            );
            None
        }
        Err(_) => {
            section.fault("listen", format!("{text:?} is not an address with a port"));
            None
        }
    });
    section.finish();
    Some(MetricsConfig { listen: listen? })
}

#[cfg(test)]
mod tests;
