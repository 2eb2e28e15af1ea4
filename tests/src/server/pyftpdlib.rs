//! pyftpdlib: stands for servers that know less than others, or list in old forms.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use super::{PASSWORD, USER, home, isolated};
use crate::files::{self, Certificate};
use crate::locate;
use crate::place::Place;
use crate::process::Running;

const SCRIPT: &str = include_str!("pyftpdlib.py");

/// A running pyftpdlib.
#[derive(Debug)]
pub struct Pyftpdlib {
    /// Where it listens.
    pub address: SocketAddr,
    /// The account's folder, which clients see as `/`.
    pub home: PathBuf,
    /// Its certificate, with TLS.
    pub certificate: Option<Certificate>,
    /// The process.
    pub process: Running,
    _scratch: TempDir,
}

impl Pyftpdlib {
    /// Starts it. `modes` are words of its script, such as `no-mlsd` and `dos`; `tls` stands for explicit TLS.
    ///
    /// # Errors
    /// Without root, or when it isn't installed (`cargo xtask setup`).
    pub fn start(place: Place<'_>, modes: &[&str]) -> Result<Self> {
        let python = locate::python_tool("python3")?;
        let scratch = files::folder("pyftpdlib")?;
        let folder = scratch.path();
        let home = home(folder)?;
        let address = SocketAddr::new(place.address(), place.port(21));
        let mut command = isolated(place, folder, &home, &python)?;
        command
            .args(["-c", SCRIPT])
            .arg(address.ip().to_string())
            .arg(address.port().to_string())
            .arg(&home)
            .args([USER, PASSWORD])
            .args(modes.iter().filter(|mode| **mode != "tls"));
        let mut certificate = None;
        if modes.contains(&"tls") {
            let made = Certificate::of_server(folder, &address.ip().to_string())?;
            command
                .arg(format!("certificate={}", made.certificate.display()))
                .arg(format!("key={}", made.key.display()));
            certificate = Some(made);
        }
        let mut process = Running::start("pyftpdlib", &mut command, &folder.join("output.log"))?;
        process.wait_until_listening(address.port())?;
        Ok(Self {
            address,
            home,
            certificate,
            process,
            _scratch: scratch,
        })
    }
}
