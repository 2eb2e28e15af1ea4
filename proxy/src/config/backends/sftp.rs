//! `kind = "sftp"`.

use std::{fmt, path::Path, time::Duration};

use super::{
    BackendConfig, copy_limit,
    server::{password, server_address},
    timeout, uploads,
};
use crate::config::{
    files::{self, Secret},
    section::Section,
};

/// With [`CHANNELS`] of each, enough for as many sessions as the gateway takes by default.
const CONNECTIONS: u64 = 128;
/// What OpenSSH and mod_sftp take (`MaxSessions`, `SFTPMaxChannels`).
const CHANNELS: u64 = 10;
/// Spares a client that comes again soon the login.
const IDLE_SECONDS: u64 = 60;
/// Below the minute after which the first firewalls forget a silent connection.
const KEEPALIVE_SECONDS: u64 = 30;

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

pub(super) fn sftp(mut section: Section<'_>) -> Option<BackendConfig> {
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
    let copy_limit = copy_limit(&mut section);
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
        connections: count("max_connections", CONNECTIONS),
        channels: count("max_channels", CHANNELS),
        idle: Duration::from_secs(section.number("idle_seconds", 0..=3600, IDLE_SECONDS)),
        keepalive: Duration::from_secs(section.number(
            "keepalive_seconds",
            5..=3600,
            KEEPALIVE_SECONDS,
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
