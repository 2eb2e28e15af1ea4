//! aiosmtpd: a mail server with STARTTLS and a user.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde::Deserialize;
use tempfile::TempDir;

use super::{PASSWORD, USER};
use crate::files::{self, Certificate};
use crate::place::Place;
use crate::process::Running;

const SCRIPT: &str = include_str!("aiosmtpd.py");

/// A mail that it took.
#[derive(Debug, Clone, Deserialize)]
pub struct Mail {
    /// Whether it came over TLS.
    pub is_encrypted: bool,
    /// Who was logged in.
    pub user: Option<String>,
    /// The sender of the envelope.
    pub from: String,
    /// Those of the envelope.
    pub to: Vec<String>,
    /// Headers and body as they came.
    pub text: String,
}

/// A running aiosmtpd.
#[derive(Debug)]
pub struct Aiosmtpd {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate, for `localhost` and the address.
    pub certificate: Certificate,
    /// The process.
    pub process: Running,
    scratch: TempDir,
}

impl Aiosmtpd {
    /// Starts it. `modes` are words of its script, such as `implicit` and `no-starttls`.
    ///
    /// # Errors
    /// When it isn't installed (`cargo xtask setup`).
    pub fn start(place: Place<'_>, modes: &[&str]) -> Result<Self> {
        let scratch = files::folder("aiosmtpd")?;
        let address = SocketAddr::new(place.address(), place.port(587));
        let certificate = Certificate::of_server(scratch.path(), &address.ip().to_string())?;
        // Debian's own: the environment of the other Python tools does not see it.
        let mut command = place.command("/usr/bin/python3");
        command
            .args(["-c", SCRIPT])
            .arg(address.ip().to_string())
            .arg(address.port().to_string())
            .args([USER, PASSWORD])
            .arg(&certificate.certificate)
            .arg(&certificate.key)
            .arg(scratch.path().join("mails"))
            .args(modes);
        let log = scratch.path().join("output.log");
        let mut process = Running::start("aiosmtpd", &mut command, &log)?;
        process.wait_until_printed("ready")?;
        Ok(Self {
            address,
            certificate,
            process,
            scratch,
        })
    }

    /// The mails that it took, oldest first.
    ///
    /// # Errors
    /// When its file has something else.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let text = fs::read_to_string(self.scratch.path().join("mails")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }
}
