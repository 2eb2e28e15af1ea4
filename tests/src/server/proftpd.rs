//! ProFTPD: FTP with MLSD, FTPS with session reuse, and SFTP by mod_sftp, which has its own quirks.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{USER, USER_ID, home, isolated};
use crate::files::{self, Certificate};
use crate::locate;
use crate::place::Place;
use crate::process::{Running, succeed};

/// Which of its protocols the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Plain FTP.
    Ftp,
    /// FTP with explicit TLS and session reuse, ProFTPD's default.
    Ftps,
    /// FTP with explicit TLS, at least 1.3, without session reuse.
    Ftps13,
    /// FTP with TLS from the first byte on and session reuse.
    FtpsImplicit,
    /// SFTP by mod_sftp.
    Sftp,
}

/// A running ProFTPD.
#[derive(Debug)]
pub struct Proftpd {
    /// Where it listens.
    pub address: SocketAddr,
    /// The account's folder, which clients see as `/`.
    pub home: PathBuf,
    /// Its certificate, over TLS.
    pub certificate: Option<Certificate>,
    /// `ssh-ed25519 AAAA...`, with [`Protocol::Sftp`].
    pub host_key: Option<String>,
    /// The process.
    pub process: Running,
    _scratch: TempDir,
}

impl Proftpd {
    /// Starts it. With [`Protocol::Sftp`] the account logs in with the private key at `user_key`.
    ///
    /// # Errors
    /// Without root, or when it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>, protocol: Protocol, user_key: Option<&Path>) -> Result<Self> {
        let program = locate::peer("proftpd", "usr/sbin/proftpd")?;
        let modules = program
            .ancestors()
            .nth(3)
            .context("proftpd lies in usr/sbin")?
            .join("usr/lib/proftpd");
        let scratch = files::folder("proftpd")?;
        let folder = scratch.path();
        let home = home(folder)?;
        let address = SocketAddr::new(place.address(), place.port(protocol.port()));
        let hash = super::password_hash()?;
        files::secret(
            &folder.join("passwd"),
            &format!(
                "{USER}:{}:{USER_ID}:{USER_ID}::{}:/bin/sh\n",
                hash.trim(),
                home.display()
            ),
        )?;

        let (mut certificate, mut host_key) = (None, None);
        let protection = match protocol {
            Protocol::Ftp => String::new(),
            Protocol::Ftps | Protocol::Ftps13 | Protocol::FtpsImplicit => {
                let made = Certificate::of_server(folder, &address.ip().to_string())?;
                let text = format!(
                    "TLSEngine on\nTLSRequired on\n\
                     TLSRSACertificateFile {}\nTLSRSACertificateKeyFile {}\n{}",
                    made.certificate.display(),
                    made.key.display(),
                    match protocol {
                        Protocol::Ftps13 =>
                            "TLSProtocol TLSv1.3\nTLSOptions NoSessionReuseRequired\n",
                        Protocol::FtpsImplicit => "TLSOptions UseImplicitSSL\n",
                        Protocol::Ftp | Protocol::Ftps | Protocol::Sftp => "",
                    }
                );
                certificate = Some(made);
                text
            }
            Protocol::Sftp => {
                let key = files::ssh_key(folder, "host")?;
                host_key = Some(files::public_key(&key)?);
                let keys = authorized_keys(folder, user_key)?;
                format!(
                    "SFTPEngine on\nSFTPHostKey {}\nSFTPAuthorizedUserKeys file:{}\n\
                     SFTPAuthMethods publickey password\n",
                    key.display(),
                    keys.display()
                )
            }
        };
        let configuration = format!(
            "ModulePath {modules}\n\
             LoadModule mod_tls.c\n\
             LoadModule mod_sftp.c\n\
             SocketBindTight on\n\
             DefaultAddress {ip}\n\
             Port 0\n\
             DelayTable none\n\
             PidFile {folder}/proftpd.pid\n\
             ScoreboardFile {folder}/scoreboard\n\
             SystemLog {folder}/system.log\n\
             TransferLog none\n\
             WtmpLog off\n\
             UseReverseDNS off\n\
             <Global>\n\
             AuthUserFile {folder}/passwd\n\
             AuthOrder mod_auth_file.c\n\
             RequireValidShell off\n\
             DefaultRoot ~\n\
             AllowOverwrite on\n\
             AllowStoreRestart on\n\
             </Global>\n\
             <VirtualHost {ip}>\n\
             Port {port}\n\
             {protection}\
             </VirtualHost>\n",
            modules = modules.display(),
            ip = address.ip(),
            port = address.port(),
            folder = folder.display(),
        );
        let file = folder.join("proftpd.conf");
        fs::write(&file, configuration)?;
        let mut command = isolated(place, folder, &home, &program)?;
        command.args(["--nodaemon", "--config"]).arg(&file);
        let mut process = Running::start("proftpd", &mut command, &folder.join("output.log"))?;
        process.wait_until_listening(address.port())?;
        Ok(Self {
            address,
            home,
            certificate,
            host_key,
            process,
            _scratch: scratch,
        })
    }
}

impl Protocol {
    fn port(self) -> u16 {
        match self {
            Self::Ftp | Self::Ftps | Self::Ftps13 => 21,
            Self::FtpsImplicit => 990,
            Self::Sftp => 22,
        }
    }
}

/// mod_sftp reads keys in the form of RFC 4716.
fn authorized_keys(folder: &Path, user_key: Option<&Path>) -> Result<PathBuf> {
    let file = folder.join("authorized_keys");
    let keys = match user_key {
        None => String::new(),
        Some(key) => succeed(
            Command::new("ssh-keygen")
                .args(["-e", "-m", "RFC4716", "-f"])
                .arg(key.with_extension("pub")),
        )?,
    };
    fs::write(&file, keys)?;
    Ok(file)
}
