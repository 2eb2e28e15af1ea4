//! Pure-FTPd: MLSD and MFMT, a greeting of several lines, uploads under a temporary name of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::{USER, USER_ID, home, isolated};
use crate::files::{self, Certificate};
use crate::locate;
use crate::place::Place;
use crate::process::{Running, succeed};

/// A running Pure-FTPd.
#[derive(Debug)]
pub struct PureFtpd {
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

impl PureFtpd {
    /// Starts it; with `tls`, explicit TLS is demanded, and session reuse is not.
    ///
    /// # Errors
    /// Without root, or when it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>, tls: bool) -> Result<Self> {
        let program = locate::peer("pure-ftpd", "usr/sbin/pure-ftpd")?;
        let scratch = files::folder("pure-ftpd")?;
        let folder = scratch.path();
        let home = home(folder)?;
        let address = SocketAddr::new(place.address(), place.port(21));
        let database = folder.join("accounts.pdb");
        let hash = super::password_hash()?;
        files::secret(
            &folder.join("accounts.passwd"),
            // Its own form of passwd(5): what follows the home are quotas and limits, none of them set.
            &format!(
                "{USER}:{}:{USER_ID}:{USER_ID}::{}/./::::::::::::\n",
                hash.trim(),
                home.display()
            ),
        )?;
        succeed(
            Command::new(locate::peer("pure-ftpd", "usr/bin/pure-pw")?)
                .arg("mkdb")
                .arg(&database)
                .arg("-f")
                .arg(folder.join("accounts.passwd")),
        )?;
        let mut command = isolated(place, folder, &home, &program)?;
        command
            .arg("-S")
            .arg(format!("{},{}", address.ip(), address.port()))
            .arg("-l")
            .arg(format!("puredb:{}", database.display()))
            .arg("-g")
            .arg(folder.join("pure-ftpd.pid"))
            // Everybody in a cage, nobody without a name, no name lookups, names with a dot are listed, many at a time.
            .args(["-A", "-E", "-H", "-D", "-c", "50", "-C", "50"]);
        let mut certificate = None;
        if tls {
            let made = Certificate::of_server(folder, &address.ip().to_string())?;
            let both = [fs::read(&made.key)?, fs::read(&made.certificate)?].concat();
            files::secret(&folder.join("both.pem"), &String::from_utf8(both)?)?;
            command.args(["-Y", "3", "-2"]).arg(folder.join("both.pem"));
            certificate = Some(made);
        }
        let mut process = Running::start("pure-ftpd", &mut command, &folder.join("output.log"))?;
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
