//! `[backends.NAME]`: the legacy servers and directories behind the gateway.

mod bucket;
mod ftp;
mod server;
mod sftp;

use crate::exception::Exception;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::NaiveDate;

pub(super) use self::server::{parse_server_address, trust_anchor};
use self::sftp::SftpPool;
pub use self::{
    bucket::{BucketAccess, BucketConfig, BucketTransport},
    ftp::{Charset, FtpTls},
    server::{ServerAddress, TrustAnchor},
    sftp::{Credential, KeyPair},
};
use super::{
    encryption::{AtRest, KeySets, at_rest},
    files::Secret,
    section::Section,
};

/// How long what interrupted uploads left is kept: a partner may come back the next day.
const PARTIAL_RETENTION_HOURS: u64 = 24;

/// Longest wait for an answer of a server: longer than a slow disk array takes to wake.
const TIMEOUT_SECONDS: u64 = 30;

/// Files up to this size, in bytes, can be continued and changed on a server that can't copy; they pass twice through the
/// gateway for that.
const COPY_LIMIT: u64 = 64 << 20;
/// Beyond this nobody wants to wait for a copy through the gateway.
const LARGEST_COPY_LIMIT: u64 = 1 << 40;

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

/// What becomes of interrupted uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploads {
    /// The account can continue them.
    pub resume: bool,
    pub retention: Duration,
}

/// Time between two probes of a failover backend's members: a server that is gone is left within it.
const CHECK_SECONDS: u64 = 10;

impl BackendConfig {
    /// The exception under which this backend sends in clear.
    pub fn plaintext_exception(&self) -> Option<&Exception> {
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

pub(super) fn backend(
    name: &str,
    mut section: Section<'_>,
    sets: &KeySets,
    today: NaiveDate,
) -> Option<(BackendConfig, AtRest)> {
    let at_rest = at_rest(name, &mut section, sets, today);
    Some((target(section, today)?, at_rest?))
}

fn target(mut section: Section<'_>, today: NaiveDate) -> Option<BackendConfig> {
    const KINDS: &str = "\"local\", \"ftp\", \"s3\", \"azure\", \"gcs\", \"sftp\" or \"failover\"";
    match section.required_text("kind", KINDS)? {
        "local" => local(section),
        "ftp" => ftp::ftp(section, today),
        "s3" => bucket::s3(section, today).map(BackendConfig::Bucket),
        "azure" => bucket::azure(section, today).map(BackendConfig::Bucket),
        "gcs" => bucket::gcs(section, today).map(BackendConfig::Bucket),
        "sftp" => sftp::sftp(section),
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
pub(super) fn member_faults(
    backends: &[(String, Option<(BackendConfig, AtRest)>)],
) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    for (name, backend) in backends {
        let Some((BackendConfig::Failover { members, .. }, _)) = backend else {
            continue;
        };
        for (index, member) in members.iter().enumerate() {
            let problem = match backends.iter().find(|(other, _)| other == member) {
                None => format!("there is no [backends.{member}]"),
                Some((_, Some((BackendConfig::Failover { .. }, _)))) => {
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

fn copy_limit(section: &mut Section<'_>) -> u64 {
    section.number("copy_limit_bytes", 0..=LARGEST_COPY_LIMIT, COPY_LIMIT)
}
