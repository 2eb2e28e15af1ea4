//! OpenSSH's sshd: an SFTP server behind the gateway, and the one that speed is compared with.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{USER, USER_ID, home, isolated};
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
    /// Green End's `gesftpserver`, which speaks versions 3 to 6 and answers out of order.
    GreenEnd,
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
        Self::start_with(place, subsystem, user_key, "")
    }

    /// As [`Self::start`], with more lines of `sshd_config`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        place: Place<'_>,
        subsystem: Subsystem,
        user_key: &Path,
        settings: &str,
    ) -> Result<Self> {
        Self::serving(place, user_key, "no", settings, |_| {
            Ok(match subsystem {
                Subsystem::Internal => "internal-sftp".to_owned(),
                Subsystem::External => locate::peer("openssh", "usr/lib/openssh/sftp-server")?
                    .display()
                    .to_string(),
                Subsystem::GreenEnd => locate::peer("gesftpserver", "usr/libexec/gesftpserver")?
                    .display()
                    .to_string(),
            })
        })
    }

    /// Starts one that asks for the key and then, through PAM, for a one-time code of the base32 `secret`. A code may be used
    /// any number of times.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with_codes(place: Place<'_>, user_key: &Path, secret: &str) -> Result<Self> {
        let module = pam_module()?;
        let settings = "KbdInteractiveAuthentication yes\n\
                        AuthenticationMethods publickey,keyboard-interactive:pam\n";
        Self::serving(place, user_key, "yes", settings, |folder| {
            let codes = folder.join("codes");
            files::secret(
                &codes,
                &format!("{secret}\n\" WINDOW_SIZE 3\n\" TOTP_AUTH\n"),
            )?;
            fs::create_dir_all(folder.join("accounts/pam.d"))?;
            fs::write(
                folder.join("accounts/pam.d/sshd"),
                format!(
                    "auth required {} user=root secret={} no_strict_owner allowed_perm=0600 no_increment_hotp\n\
                     account required pam_permit.so\nsession required pam_permit.so\n",
                    module.display(),
                    codes.display()
                ),
            )?;
            Ok("internal-sftp".to_owned())
        })
    }

    /// Starts one that serves the files of `upstream`: its subsystem is OpenSSH's client, which logs in there with the
    /// same key.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn relay(place: Place<'_>, user_key: &Path, upstream: &Self, cipher: &str) -> Result<Self> {
        Self::serving(place, user_key, "no", "", |folder| {
            let key = folder.join("upstream_key");
            files::secret(&key, &fs::read_to_string(user_key)?)?;
            chown(&key, Some(USER_ID), Some(USER_ID))?;
            let known_hosts = folder.join("known_hosts");
            let (ip, port) = (upstream.address.ip(), upstream.address.port());
            fs::write(
                &known_hosts,
                format!("[{ip}]:{port} {}\n", upstream.host_key),
            )?;
            Ok(format!(
                "/usr/bin/ssh -F /dev/null -o UserKnownHostsFile={} -o GlobalKnownHostsFile=/dev/null \
                 -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes \
                 -o Ciphers={cipher} -i {} -p {port} {USER}@{ip} -s sftp",
                known_hosts.display(),
                key.display()
            ))
        })
    }

    /// Starts it with the subsystem that is made for its folder.
    fn serving(
        place: Place<'_>,
        user_key: &Path,
        pam: &str,
        settings: &str,
        subsystem: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<Self> {
        let program = locate::peer("openssh", "usr/sbin/sshd")?;
        let scratch = files::folder("sshd")?;
        let folder = scratch.path();
        let home = home(folder)?;
        let subsystem = subsystem(folder)?;
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
                 UsePAM {pam}\n\
                 MaxStartups 100\n\
                 Subsystem sftp {subsystem}\n\
                 {settings}",
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

/// The PAM module that checks one-time codes, wherever it is for this processor.
fn pam_module() -> Result<PathBuf> {
    let known = locate::peer(
        "google-authenticator",
        "usr/share/doc/libpam-google-authenticator/copyright",
    )?;
    let libraries = known
        .ancestors()
        .nth(5)
        .context("the package is unpacked below a folder")?
        .join("lib");
    fs::read_dir(&libraries)?
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("security/pam_google_authenticator.so"))
        .find(|module| module.is_file())
        .with_context(|| format!("no PAM module below {}", libraries.display()))
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
