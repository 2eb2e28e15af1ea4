//! `[server]`: where the gateway listens, what it proves itself with, and what it lets clients take.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::NaiveDate;
use ipnet::IpNet;

use super::{exception::exception, files, seconds, section::Section, throttles::networks};
use crate::{
    cipher_policy::{CipherPolicy, DEFAULT, Purpose},
    exception::Exception,
};

/// Time from the connection's first byte to the last factor. OpenSSH gives 120 s; a person with a phone needs less.
const LOGIN_GRACE_SECONDS: u64 = 60;
/// Automatic logoff (45 CFR 164.312(a)(2)(iii)): time without an SFTP request or data.
const IDLE_TIMEOUT_SECONDS: u64 = 600;
/// Longest session: one working day, after which both factors are asked for again (SP 800-63B-4 section 2.2: 24 h).
const SESSION_LIMIT_SECONDS: u64 = 12 * 3600;
/// Time that transfers under way get at shutdown; systemd kills after 90 s.
const SHUTDOWN_GRACE_SECONDS: u64 = 30;
/// Time that transfers under way get when a reload changed what they rest on. Nothing presses, unlike at shutdown.
const RELOAD_GRACE_SECONDS: u64 = 600;
/// An idle session costs about 200 KiB: 1024 of them fit in 256 MiB.
const MAX_CONNECTIONS: u64 = 1024;
/// Unauthenticated connections together: each may announce a packet of 256 KiB.
const MAX_UNAUTHENTICATED: u64 = 128;
/// Unauthenticated connections from one address: enough for a client that opens several at once.
const MAX_UNAUTHENTICATED_PER_SOURCE: u64 = 16;
/// Failed attempts in one connection, as OpenSSH's `MaxAuthTries`.
const MAX_AUTH_FAILURES: u64 = 6;

/// `[server]`
#[derive(Debug, PartialEq)]
pub struct ServerConfig {
    pub listen: Vec<SocketAddr>,
    pub host_keys: Vec<HostKey>,
    pub cipher_policy: CipherPolicy,
    pub login_grace: Duration,
    pub idle_timeout: Duration,
    pub session_limit: Duration,
    pub shutdown_grace: Duration,
    pub reload_grace: Duration,
    pub max_connections: usize,
    pub max_unauthenticated: usize,
    pub max_unauthenticated_per_source: usize,
    pub max_auth_failures: u32,
    pub scp: ScpMode,
    pub accept: AcceptMode,
    /// Load balancers whose connections begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// From where connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptMode {
    /// From anywhere.
    Any,
    /// From the networks of enabled accounts.
    ListedSources,
}

/// What becomes of `scp -O`, that is, of an exec request for `scp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScpMode {
    /// Done as SFTP operations.
    Serve,
    /// Refused with a record, as every other command.
    Refuse,
}

/// A key that the gateway proves itself with.
#[derive(Clone, PartialEq)]
pub struct HostKey {
    pub path: PathBuf,
    pub key: ssh_key::PrivateKey,
}

impl HostKey {
    /// True if it signs with one of the algorithms.
    pub fn is_one_of(&self, algorithms: &[&str]) -> bool {
        signs_with(&self.key)
            .iter()
            .any(|own| algorithms.contains(&own.as_str()))
    }
}

/// The signature algorithms of a key: of RSA keys those of RFC 8332.
pub(super) fn signs_with(key: &ssh_key::PrivateKey) -> Vec<String> {
    let algorithm = key.algorithm();
    if matches!(algorithm, ssh_key::Algorithm::Rsa { .. }) {
        vec!["rsa-sha2-512".to_owned(), "rsa-sha2-256".to_owned()]
    } else {
        vec![algorithm.to_string()]
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey")
            .field("path", &self.path)
            .field("key", &"<secret>")
            .finish()
    }
}

fn count(section: &mut Section<'_>, key: &'static str, default: u64) -> usize {
    usize::try_from(section.number(key, 1..=100_000, default)).unwrap_or(usize::MAX)
}

pub(super) fn server(mut section: Section<'_>, today: NaiveDate) -> Option<ServerConfig> {
    let listen = listen_addresses(&mut section);
    let cipher_policy = cipher_policy(&mut section, today);
    let host_keys = host_keys(&mut section, cipher_policy.as_ref());
    let login_grace = seconds(&mut section, "login_grace_seconds", LOGIN_GRACE_SECONDS);
    let idle_timeout = seconds(&mut section, "idle_timeout_seconds", IDLE_TIMEOUT_SECONDS);
    let session_limit = seconds(&mut section, "session_limit_seconds", SESSION_LIMIT_SECONDS);
    let shutdown_grace = seconds(
        &mut section,
        "shutdown_grace_seconds",
        SHUTDOWN_GRACE_SECONDS,
    );
    let reload_grace = seconds(&mut section, "reload_grace_seconds", RELOAD_GRACE_SECONDS);
    let max_connections = count(&mut section, "max_connections", MAX_CONNECTIONS);
    let max_unauthenticated = count(&mut section, "max_unauthenticated", MAX_UNAUTHENTICATED);
    let max_unauthenticated_per_source = count(
        &mut section,
        "max_unauthenticated_per_source",
        MAX_UNAUTHENTICATED_PER_SOURCE,
    );
    let max_auth_failures =
        u32::try_from(section.number("max_auth_failures", 1..=100, MAX_AUTH_FAILURES))
            .unwrap_or(u32::MAX);
    let scp = scp_mode(&mut section);
    let accept = accept_mode(&mut section);
    let proxy_protocol_from = networks(&mut section, "proxy_protocol_from").unwrap_or_default();
    section.finish();
    Some(ServerConfig {
        listen: listen?,
        host_keys: host_keys?,
        cipher_policy: cipher_policy?,
        login_grace,
        idle_timeout,
        session_limit,
        shutdown_grace,
        reload_grace,
        max_connections,
        max_unauthenticated,
        max_unauthenticated_per_source,
        max_auth_failures,
        scp: scp?,
        accept: accept?,
        proxy_protocol_from,
    })
}

fn scp_mode(section: &mut Section<'_>) -> Option<ScpMode> {
    const CHOICE: &str = "\"serve\" or \"refuse\"";
    if !section.has("scp") {
        // Known even where it is left out.
        let _ = section.text("scp", CHOICE);
        return Some(ScpMode::Serve);
    }
    match section.text("scp", CHOICE)? {
        "serve" => Some(ScpMode::Serve),
        "refuse" => Some(ScpMode::Refuse),
        other => {
            section.fault("scp", format!("expected {CHOICE}, found {other:?}"));
            None
        }
    }
}

fn accept_mode(section: &mut Section<'_>) -> Option<AcceptMode> {
    const CHOICE: &str = "\"any\" or \"listed-sources\"";
    if !section.has("accept") {
        // Known even where it is left out.
        let _ = section.text("accept", CHOICE);
        return Some(AcceptMode::Any);
    }
    match section.text("accept", CHOICE)? {
        "any" => Some(AcceptMode::Any),
        "listed-sources" => Some(AcceptMode::ListedSources),
        other => {
            section.fault("accept", format!("expected {CHOICE}, found {other:?}"));
            None
        }
    }
}

fn listen_addresses(section: &mut Section<'_>) -> Option<Vec<SocketAddr>> {
    const EXPECTED: &str =
        "a list of addresses with ports, such as [\"192.0.2.1:22\", \"[::]:22\"]";
    if !section.has("listen") {
        section.fault("listen", format!("missing; expected {EXPECTED}"));
    }
    let texts = section.texts("listen", EXPECTED)?;
    if texts.is_empty() {
        section.fault("listen", format!("the list is empty; expected {EXPECTED}"));
    }
    let mut addresses = Vec::new();
    for (index, text) in texts {
        match text.parse::<SocketAddr>() {
            Ok(address) if addresses.contains(&address) && address.port() != 0 => {
                section.fault(&format!("listen[{index}]"), format!("{address} is listed twice"));
            }
            Ok(address) => addresses.push(address),
            Err(_) => section.fault(
                &format!("listen[{index}]"),
                format!("{text:?} is not an address with a port, such as \"192.0.2.1:22\" or \"[::]:22\""),
            ),
        }
    }
    (!addresses.is_empty()).then_some(addresses)
}

/// Those of the files that the policy has a use for; every other is a fault, since partners would pin a key that is never shown.
fn host_keys(section: &mut Section<'_>, policy: Option<&CipherPolicy>) -> Option<Vec<HostKey>> {
    const EXPECTED: &str =
        "a list of files with private keys, made by `portcullis-proxy host-key generate FILE`";
    if !section.has("host_keys") {
        section.fault("host_keys", format!("missing; expected {EXPECTED}"));
    }
    let texts = section.texts("host_keys", EXPECTED)?;
    if texts.is_empty() {
        section.fault(
            "host_keys",
            format!("the list is empty; expected {EXPECTED}"),
        );
    }
    let mut keys = Vec::new();
    for (index, text) in texts {
        match files::host_key(Path::new(text), policy) {
            Ok(key) => keys.push(HostKey {
                path: PathBuf::from(text),
                key,
            }),
            Err(problem) => section.fault(&format!("host_keys[{index}]"), problem),
        }
    }
    if policy.is_some_and(CipherPolicy::is_relaxation)
        && !keys.is_empty()
        && !keys.iter().any(|key| key.is_one_of(DEFAULT.host_keys))
    {
        section.fault(
            "host_keys",
            format!(
                "{} has to be among them: the gateway goes on with it under {} when the exception has ended; make one with `portcullis-proxy host-key generate FILE`",
                DEFAULT.host_keys.join(" or "),
                DEFAULT.name
            ),
        );
        return None;
    }
    (!keys.is_empty()).then_some(keys)
}

fn cipher_policy(section: &mut Section<'_>, today: NaiveDate) -> Option<CipherPolicy> {
    let exception = section.section("cipher_policy_exception").map(|section| {
        exception(
            section,
            "which partners need the old algorithms, and for what",
            "move to hipaa-2026",
            today,
        )
    });
    let name = if section.has("cipher_policy") {
        section.text("cipher_policy", "the name of a cipher policy")?
    } else {
        // Known even where it is left out.
        let _ = section.text("cipher_policy", "");
        crate::cipher_policy::PRESETS
            .first()
            .map(|preset| preset.name)?
    };
    let policy = CipherPolicy::preset(name)
        .map_err(|error| section.fault("cipher_policy", error.to_string()))
        .ok()
        .and_then(|policy| excepted(section, policy, exception));
    let Some(mut lists) = section.section("algorithms") else {
        return policy;
    };
    let mut policy = policy?;
    for purpose in [Purpose::KeyExchange, Purpose::Cipher, Purpose::Mac] {
        let Some(names) = lists.texts(purpose.key(), "a list of algorithm names") else {
            continue;
        };
        let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
        if let Err(errors) = policy.narrow(purpose, &names) {
            for error in errors {
                lists.fault(purpose.key(), error.to_string());
            }
        }
    }
    lists.finish();
    Some(policy)
}

/// A relaxation with its exception, which nothing else may have. An exception with faults is `Some(None)`.
fn excepted(
    section: &mut Section<'_>,
    policy: CipherPolicy,
    exception: Option<Option<Exception>>,
) -> Option<CipherPolicy> {
    const KEY: &str = "cipher_policy_exception";
    match (policy.is_relaxation(), exception) {
        (false, None) => Some(policy),
        (true, Some(exception)) => Some(policy.under(exception?)),
        (true, None) => {
            section.fault(
                KEY,
                format!(
                    "missing; {} is {}, and needs {{ reason, approver, expires }}",
                    policy.name(),
                    policy.claim()
                ),
            );
            None
        }
        (false, Some(_)) => {
            section.fault(
                KEY,
                format!(
                    "has no use with cipher_policy = {:?}; remove it",
                    policy.name()
                ),
            );
            None
        }
    }
}
