//! `[backends.NAME]`: the legacy servers and directories behind the gateway.

mod bucket;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::NaiveDate;
use sha2::{Digest as _, Sha256};

pub use self::bucket::{BucketAccess, BucketConfig, BucketTransport};
use super::{
    files::{self, Secret},
    section::Section,
};

/// How long what interrupted uploads left is kept: a partner may come back the next day.
const PARTIAL_RETENTION_HOURS: u64 = 24;

/// What passes twice through the gateway when a client changes a file on a server that can't copy.
const COPY_LIMIT_BYTES: u64 = 64 << 20;

/// Longest wait for an answer of a server: longer than a slow disk array takes to wake.
const TIMEOUT_SECONDS: u64 = 30;

/// With [`SFTP_CHANNELS`] of each, enough for as many sessions as the gateway takes by default.
const SFTP_CONNECTIONS: u64 = 128;
/// What OpenSSH and mod_sftp take (`MaxSessions`, `SFTPMaxChannels`).
const SFTP_CHANNELS: u64 = 10;
/// Spares a client that comes again soon the login.
const SFTP_IDLE_SECONDS: u64 = 60;
/// Below the minute after which the first firewalls forget a silent connection.
const SFTP_KEEPALIVE_SECONDS: u64 = 30;

/// How often an idle FTP connection says NOOP: well below the five minutes after which vsftpd hangs up.
const KEEPALIVE_SECONDS: u64 = 60;
/// Files up to this size can be continued and changed over FTP; they pass through the gateway for that.
const COPY_LIMIT: u64 = 64 * 1024 * 1024;
/// Beyond this nobody wants to wait for a copy through the gateway.
const LARGEST_COPY_LIMIT: u64 = 1 << 40;

const TLS_CHOICE: &str = "\"explicit\", \"implicit\", or \"none\" with a plaintext_exception";

/// One backend.
#[derive(Debug, PartialEq)]
pub enum BackendConfig {
    Local {
        directory: PathBuf,
        uploads: Uploads,
        timeout: Duration,
    },
    Ftp {
        address: ServerAddress,
        user: String,
        password: Secret,
        tls: FtpTls,
        uploads: Uploads,
        charset: Charset,
        /// In bytes.
        copy_limit: u64,
        keepalive: Duration,
        timeout: Duration,
    },
    /// Of an object store.
    Bucket(BucketConfig),
    Sftp {
        address: ServerAddress,
        user: String,
        /// The one key that the server must prove.
        host_key: Box<ssh_key::PublicKey>,
        credential: Credential,
        uploads: Uploads,
        /// Uploads are written under their final names.
        publishes_directly: bool,
        copy_limit: u64,
        pool: SftpPool,
        timeout: Duration,
    },
    /// The first of several others that answers.
    Failover {
        members: Vec<String>,
        check_interval: Duration,
    },
}

/// The SSH connections to an SFTP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SftpPool {
    pub connections: usize,
    /// Of each connection: one for a session and mount.
    pub channels: usize,
    /// How long a connection without a channel is kept.
    pub idle: Duration,
    pub keepalive: Duration,
}

/// What becomes of interrupted uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploads {
    /// The account can continue them.
    pub resume: bool,
    pub retention: Duration,
}

/// Host name or address, and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How an FTP connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FtpTls {
    /// `AUTH TLS` before the login (RFC 4217), data connections protected too.
    Explicit {
        /// Name that the certificate must have.
        server_name: String,
        trust: TrustAnchor,
    },
    /// TLS from the first byte on.
    Implicit {
        /// Name that the certificate must have.
        server_name: String,
        trust: TrustAnchor,
    },
    /// In clear, for as long as the exception lasts.
    Plaintext(PlaintextException),
}

/// What the bytes of names on an FTP server stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Also for servers that never thought about it: clients see their bytes.
    Utf8,
    /// Other names are refused.
    Utf8Only,
    /// ISO 8859-1; clients see names in UTF-8.
    Latin1,
}

/// What a server's certificate is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustAnchor {
    /// The usual public authorities.
    WebRoots,
    /// Authorities in a PEM file.
    Authorities {
        file: PathBuf,
        /// Of what the file held: a reload sees that it was replaced.
        sha256: [u8; 32],
    },
    /// One certificate, by the SHA-256 of its DER form.
    Pinned([u8; 32]),
}

/// A dated permission to send in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaintextException {
    pub reason: String,
    pub approver: String,
    /// Last day (UTC) on which it holds.
    pub expires: NaiveDate,
}

/// What the gateway logs in with at an SFTP server.
#[derive(Debug, PartialEq)]
pub enum Credential {
    Key(KeyPair),
    Password(Secret),
}

/// A private key whose Debug does not print it.
#[derive(Clone, PartialEq)]
pub struct KeyPair(pub Box<ssh_key::PrivateKey>);

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Time between two probes of a failover backend's members: a server that is gone is left within it.
const CHECK_SECONDS: u64 = 10;

impl BackendConfig {
    /// The exception under which this backend sends in clear.
    pub fn plaintext_exception(&self) -> Option<&PlaintextException> {
        match self {
            Self::Ftp {
                tls: FtpTls::Plaintext(exception),
                ..
            }
            | Self::Bucket(BucketConfig {
                transport: BucketTransport::Plaintext(exception),
                ..
            }) => Some(exception),
            Self::Ftp { .. }
            | Self::Local { .. }
            | Self::Bucket(_)
            | Self::Sftp { .. }
            | Self::Failover { .. } => None,
        }
    }
}

pub(super) fn backend(mut section: Section<'_>, today: NaiveDate) -> Option<BackendConfig> {
    const KINDS: &str = "\"local\", \"ftp\", \"s3\", \"azure\", \"gcs\", \"sftp\" or \"failover\"";
    match section.required_text("kind", KINDS)? {
        "local" => local(section),
        "ftp" => ftp(section, today),
        "s3" => bucket::s3(section, today).map(BackendConfig::Bucket),
        "azure" => bucket::azure(section, today).map(BackendConfig::Bucket),
        "gcs" => bucket::gcs(section, today).map(BackendConfig::Bucket),
        "sftp" => sftp(section),
        "failover" => failover(section),
        other => {
            section.fault("kind", format!("expected {KINDS}, found {other:?}"));
            None
        }
    }
}

fn failover(mut section: Section<'_>) -> Option<BackendConfig> {
    const EXPECTED: &str =
        "a list of at least two names of other backends, the preferred one first";
    if !section.has("members") {
        section.fault("members", format!("missing; expected {EXPECTED}"));
    }
    let mut members = Vec::new();
    let texts = section.texts("members", EXPECTED);
    for (index, name) in texts.iter().flatten() {
        if members.iter().any(|member| member == name) {
            section.fault(
                &format!("members[{index}]"),
                format!("{name:?} is listed twice"),
            );
        }
        members.push((*name).to_owned());
    }
    if texts.is_some() && members.len() < 2 {
        section.fault("members", format!("expected {EXPECTED}"));
    }
    let check = section.number("check_seconds", 1..=3600, CHECK_SECONDS);
    section.finish();
    texts?;
    Some(BackendConfig::Failover {
        members,
        check_interval: Duration::from_secs(check),
    })
}

/// What is wrong with the members of failover backends, as key and problem.
pub(super) fn member_faults(backends: &[(String, Option<BackendConfig>)]) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    for (name, backend) in backends {
        let Some(BackendConfig::Failover { members, .. }) = backend else {
            continue;
        };
        for (index, member) in members.iter().enumerate() {
            let problem = match backends.iter().find(|(other, _)| other == member) {
                None => format!("there is no [backends.{member}]"),
                Some((_, Some(BackendConfig::Failover { .. }))) => {
                    format!("{member:?} is a failover backend itself")
                }
                Some(_) => continue,
            };
            faults.push((format!("backends.{name}.members[{index}]"), problem));
        }
    }
    faults
}

fn local(mut section: Section<'_>) -> Option<BackendConfig> {
    let directory = section.required_text("directory", "the path of a directory");
    if let Some(directory) = directory {
        let path = Path::new(directory);
        if !path.is_absolute() {
            section.fault(
                "directory",
                format!("{directory:?} is not an absolute path"),
            );
        } else if !path.is_dir() {
            section.fault(
                "directory",
                format!("{directory} is not a directory that can be seen"),
            );
        }
    }
    let uploads = uploads(&mut section);
    let timeout = timeout(&mut section);
    section.finish();
    Some(BackendConfig::Local {
        directory: PathBuf::from(directory?),
        uploads,
        timeout,
    })
}

fn ftp(mut section: Section<'_>, today: NaiveDate) -> Option<BackendConfig> {
    let mode = section.required_text("tls", TLS_CHOICE);
    let port = if mode == Some("implicit") { 990 } else { 21 };
    let address = server_address(&mut section, port);
    let user = section.required_text("user", "the gateway's user on the server");
    let password = password(&mut section, true);
    let timeout = timeout(&mut section);
    let tls = ftp_tls(&mut section, mode, address.as_ref(), today);
    let uploads = uploads(&mut section);
    let charset = ftp_charset(&mut section);
    let copy_limit = section.number("copy_limit_bytes", 0..=LARGEST_COPY_LIMIT, COPY_LIMIT);
    let keepalive =
        Duration::from_secs(section.number("keepalive_seconds", 5..=3600, KEEPALIVE_SECONDS));
    section.finish();
    Some(BackendConfig::Ftp {
        address: address?,
        user: user?.to_owned(),
        password: password?,
        tls: tls?,
        uploads,
        charset: charset?,
        copy_limit,
        keepalive,
        timeout,
    })
}

fn ftp_tls(
    section: &mut Section<'_>,
    mode: Option<&str>,
    address: Option<&ServerAddress>,
    today: NaiveDate,
) -> Option<FtpTls> {
    let server_name = section.text("server_name", "the name in the server's certificate");
    let authorities = section.text("ca_file", "the path of a PEM file");
    let pin = section.text(
        "pinned_certificate_sha256",
        "64 hexadecimal digits: `openssl x509 -in cert.pem -outform DER | sha256sum`",
    );
    let exception = section
        .section("plaintext_exception")
        .map(|exception| plaintext_exception(exception, today));
    match mode? {
        mode @ ("explicit" | "implicit") => {
            if exception.is_some() {
                section.fault(
                    "plaintext_exception",
                    format!("has no use with tls = {mode:?}; remove it"),
                );
            }
            let trust = trust_anchor(section, authorities, pin)?;
            let server_name = server_name
                .map(str::to_owned)
                .or_else(|| address.map(|address| address.host.clone()))?;
            Some(if mode == "implicit" {
                FtpTls::Implicit { server_name, trust }
            } else {
                FtpTls::Explicit { server_name, trust }
            })
        }
        "none" => {
            for key in ["server_name", "ca_file", "pinned_certificate_sha256"] {
                if section.has(key) {
                    section.fault(key, "has no use with tls = \"none\"; remove it");
                }
            }
            if exception.is_none() {
                section.fault(
                    "plaintext_exception",
                    "missing; tls = \"none\" sends patients' files in clear and needs { reason, approver, expires }",
                );
            }
            exception.flatten().map(FtpTls::Plaintext)
        }
        other => {
            section.fault("tls", format!("expected {TLS_CHOICE}, found {other:?}"));
            None
        }
    }
}

fn ftp_charset(section: &mut Section<'_>) -> Option<Charset> {
    const CHOICE: &str = "\"utf-8\", \"utf-8-only\" or \"latin1\"";
    match section.text("charset", CHOICE) {
        None | Some("utf-8") => Some(Charset::Utf8),
        Some("utf-8-only") => Some(Charset::Utf8Only),
        Some("latin1") => Some(Charset::Latin1),
        Some(other) => {
            section.fault("charset", format!("expected {CHOICE}, found {other:?}"));
            None
        }
    }
}

fn trust_anchor(
    section: &Section<'_>,
    authorities: Option<&str>,
    pin: Option<&str>,
) -> Option<TrustAnchor> {
    match (authorities, pin) {
        (Some(_), Some(_)) => {
            section.fault(
                "ca_file",
                "give either ca_file or pinned_certificate_sha256, not both",
            );
            None
        }
        (Some(path), None) => {
            let text = std::fs::read(path)
                .map_err(|error| {
                    section.fault("ca_file", format!("{path}: can't be read: {error}"));
                })
                .ok()?;
            Some(TrustAnchor::Authorities {
                file: PathBuf::from(path),
                sha256: Sha256::digest(&text).into(),
            })
        }
        (None, Some(digits)) => {
            let mut digest = [0; 32];
            let digits: String = digits.chars().filter(|&digit| digit != ':').collect();
            if hex::decode_to_slice(&digits, &mut digest).is_ok() {
                Some(TrustAnchor::Pinned(digest))
            } else {
                section.fault(
                    "pinned_certificate_sha256",
                    "expected 64 hexadecimal digits: `openssl x509 -in cert.pem -outform DER | sha256sum`",
                );
                None
            }
        }
        (None, None) => Some(TrustAnchor::WebRoots),
    }
}

fn plaintext_exception(mut section: Section<'_>, today: NaiveDate) -> Option<PlaintextException> {
    let reason = section.required_text("reason", "why the server can't use TLS");
    let approver = section.required_text("approver", "who accepted the risk");
    let expires = section.required_text("expires", "a day, such as \"2027-06-30\"");
    let expires = expires.and_then(|text| match text.parse::<NaiveDate>() {
        Ok(day) if day < today => {
            section.fault(
                "expires",
                format!("the exception ended on {day}; move the server to TLS or have a new one approved"),
            );
            None
        }
        Ok(day) => Some(day),
        Err(_) => {
            section.fault("expires", format!("{text:?} is not a day such as \"2027-06-30\""));
            None
        }
    });
    section.finish();
    Some(PlaintextException {
        reason: reason?.to_owned(),
        approver: approver?.to_owned(),
        expires: expires?,
    })
}

fn sftp(mut section: Section<'_>) -> Option<BackendConfig> {
    const KEY: &str = "the server's public key, such as \"ssh-ed25519 AAAA...\": `ssh-keyscan -t ed25519 HOST`, checked by another way";
    let address = server_address(&mut section, 22);
    let user = section.required_text("user", "the gateway's user on the server");
    let host_key = section.required_text("host_key", KEY).and_then(|text| {
        ssh_key::PublicKey::from_openssh(text)
            .map_err(|error| section.fault("host_key", format!("{error}; expected {KEY}")))
            .ok()
    });
    let key = section
        .text("key_file", "the path of a private key")
        .map(|path| {
            files::private_key(Path::new(path))
                .map_err(|problem| section.fault("key_file", problem))
                .ok()
        });
    let password = section
        .has("password_file")
        .then(|| password(&mut section, false));
    let credential = match (key, password) {
        (Some(key), None) => key.map(|key| Credential::Key(KeyPair(Box::new(key)))),
        (None, Some(password)) => password.map(Credential::Password),
        (Some(_), Some(_)) | (None, None) => {
            section.fault(
                "key_file",
                "expected exactly one of key_file and password_file",
            );
            None
        }
    };
    let uploads = uploads(&mut section);
    let publishes_directly = publishes_directly(&mut section);
    let copy_limit = section.number("copy_limit_bytes", 0..=1 << 40, COPY_LIMIT_BYTES);
    let pool = sftp_pool(&mut section);
    let timeout = timeout(&mut section);
    section.finish();
    Some(BackendConfig::Sftp {
        address: address?,
        user: user?.to_owned(),
        host_key: Box::new(host_key?),
        credential: credential?,
        uploads,
        publishes_directly,
        copy_limit,
        pool,
        timeout,
    })
}

fn sftp_pool(section: &mut Section<'_>) -> SftpPool {
    let mut count = |key, default| {
        usize::try_from(section.number(key, 1..=10_000, default)).unwrap_or(usize::MAX)
    };
    SftpPool {
        connections: count("max_connections", SFTP_CONNECTIONS),
        channels: count("max_channels", SFTP_CHANNELS),
        idle: Duration::from_secs(section.number("idle_seconds", 0..=3600, SFTP_IDLE_SECONDS)),
        keepalive: Duration::from_secs(section.number(
            "keepalive_seconds",
            5..=3600,
            SFTP_KEEPALIVE_SECONDS,
        )),
    }
}

fn publishes_directly(section: &mut Section<'_>) -> bool {
    const CHOICE: &str = "\"rename\", or \"direct\" for a server where the gateway may not rename";
    match section.text("publish", CHOICE) {
        None | Some("rename") => false,
        Some("direct") => {
            if section.has("resume") {
                section.fault("resume", "has no use with publish = \"direct\"; remove it");
            }
            true
        }
        Some(other) => {
            section.fault("publish", format!("expected {CHOICE}, found {other:?}"));
            false
        }
    }
}

fn uploads(section: &mut Section<'_>) -> Uploads {
    const YEAR: u64 = 366 * 24;
    let hours = section.number("partial_retention_hours", 1..=YEAR, PARTIAL_RETENTION_HOURS);
    Uploads {
        resume: section.flag("resume", true),
        retention: Duration::from_secs(hours * 60 * 60),
    }
}

fn timeout(section: &mut Section<'_>) -> Duration {
    Duration::from_secs(section.number("timeout_seconds", 1..=600, TIMEOUT_SECONDS))
}

fn password(section: &mut Section<'_>, is_required: bool) -> Option<Secret> {
    const EXPECTED: &str = "the path of a file whose first line is the password";
    let path = if is_required {
        section.required_text("password_file", EXPECTED)
    } else {
        section.text("password_file", EXPECTED)
    }?;
    files::password(Path::new(path))
        .map_err(|problem| section.fault("password_file", problem))
        .ok()
}

fn server_address(section: &mut Section<'_>, default_port: u16) -> Option<ServerAddress> {
    const EXPECTED: &str = "a host with a port, such as \"ftp.example.org:21\"";
    let text = section.required_text("address", EXPECTED)?;
    let address = parse_server_address(text, default_port);
    if address.is_none() {
        section.fault("address", format!("expected {EXPECTED}, found {text:?}"));
    }
    address
}

fn parse_server_address(text: &str, default_port: u16) -> Option<ServerAddress> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (
            host,
            port.strip_prefix(':').or(port.is_empty().then_some(""))?,
        )
    } else {
        text.split_once(':').unwrap_or((text, ""))
    };
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte));
    let port = if port.is_empty() {
        default_port
    } else {
        port.parse().ok().filter(|&port| port != 0)?
    };
    is_host.then(|| ServerAddress {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_address_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("198.51.100.20:21", "198.51.100.20", 21),
            ("ftp.example.org", "ftp.example.org", 21),
            ("ftp.example.org:2121", "ftp.example.org", 2121),
            ("[2001:db8::1]:2121", "2001:db8::1", 2121),
            ("[2001:db8::1]", "2001:db8::1", 21),
        ] {
            let address = parse_server_address(text, 21).unwrap();
            assert_eq!(
                (address.host.as_str(), address.port),
                (host, port),
                "{text}"
            );
        }
        for text in [
            "",
            ":21",
            "host:0",
            "host:port",
            "host:70000",
            "[host]:21",
            "ho st:21",
            "a:1:2",
        ] {
            assert_eq!(parse_server_address(text, 21), None, "{text}");
        }
    }
}
