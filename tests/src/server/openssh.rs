//! OpenSSH's sshd: an SFTP server behind the gateway, and the one that speed is compared with.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use super::{home, isolated};
use crate::files;
use crate::locate;
use crate::place::Place;
use crate::process::Running;

/// Which code serves SFTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsystem {
    /// Inside sshd.
    Internal,
    /// The program `sftp-server`, Debian's default.
    External,
}

/// A running sshd.
#[derive(Debug)]
pub struct Openssh {
    /// Where it listens.
    pub address: SocketAddr,
    /// The account's home, where its sessions begin; clients see the whole file system.
    pub home: PathBuf,
    /// `ssh-ed25519 AAAA...`.
    pub host_key: String,
    /// The process.
    pub process: Running,
    program: PathBuf,
    scratch: TempDir,
}

impl Openssh {
    /// Starts it; the account logs in with the private key at `user_key`, or its password.
    ///
    /// # Errors
    /// Without root, or when it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>, subsystem: Subsystem, user_key: &Path) -> Result<Self> {
        let program = locate::peer("openssh", "usr/sbin/sshd")?;
        let subsystem = match subsystem {
            Subsystem::Internal => "internal-sftp".to_owned(),
            Subsystem::External => locate::peer("openssh", "usr/lib/openssh/sftp-server")?
                .display()
                .to_string(),
        };
        let scratch = files::folder("sshd")?;
        let folder = scratch.path();
        let home = home(folder)?;
        let key = files::ssh_key(folder, "host")?;
        let host_key = files::public_key(&key)?;
        fs::copy(
            user_key.with_extension("pub"),
            folder.join("authorized_keys"),
        )?;
        let address = SocketAddr::new(place.address(), place.port(22));
        fs::write(
            folder.join("sshd.conf"),
            format!(
                "Port {port}\n\
                 ListenAddress {ip}\n\
                 HostKey {key}\n\
                 AuthorizedKeysFile {folder}/authorized_keys\n\
                 StrictModes no\n\
                 PidFile none\n\
                 PermitRootLogin no\n\
                 PasswordAuthentication yes\n\
                 UsePAM no\n\
                 MaxStartups 100\n\
                 Subsystem sftp {subsystem}\n",
                port = address.port(),
                ip = address.ip(),
                key = key.display(),
                folder = folder.display(),
            ),
        )?;
        let process = run(place, folder, &home, &program, address)?;
        Ok(Self {
            address,
            home,
            host_key,
            process,
            program,
            scratch,
        })
    }

    /// Kills it and every session with SIGKILL and starts it again with the same files, on the same address of loopback.
    ///
    /// # Errors
    /// When it doesn't come back.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.process.kill_with_children()?;
        self.process = run(
            Place::Loopback,
            self.scratch.path(),
            &self.home,
            &self.program,
            self.address,
        )?;
        Ok(())
    }
}

fn run(
    place: Place<'_>,
    folder: &Path,
    home: &Path,
    program: &Path,
    address: SocketAddr,
) -> Result<Running> {
    let mut command = isolated(place, folder, home, program)?;
    command
        .args(["-D", "-e", "-f"])
        .arg(folder.join("sshd.conf"));
    let mut process = Running::start("sshd", &mut command, &folder.join("output.log"))?;
    process.wait_until_listening(address.port())?;
    Ok(process)
}
