//! A proxy before it starts: what its configuration says.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::disk::SmallDisk;
use crate::files::{self, KeyKind};
use crate::locate;
use crate::place::Place;
use crate::process::succeed;
use crate::server::azurite::{ACCOUNT, Azurite, CONTAINER};
use crate::server::openssh::Openssh;
use crate::server::proftpd::Proftpd;
use crate::server::seaweed::{BUCKET, Seaweed};
use crate::server::vsftpd::Vsftpd;
use crate::server::{PASSWORD, USER};

use super::{Proxy, start_at};

/// What lets tests look at the files that lie on a backend.
pub const UNENCRYPTED: &str = "encryption = \"off\"\n\
    unencrypted_exception = { reason = \"lab\", approver = \"J. Doe\", expires = \"2099-12-31\" }\n";

/// Where a mount's files are, in the words of the configuration.
#[derive(Debug, Clone)]
pub struct Backend(String);

impl Backend {
    /// A folder of this machine.
    #[must_use]
    pub fn local(directory: &Path) -> Self {
        Self(format!(
            "kind = \"local\"\ndirectory = \"{}\"\n{UNENCRYPTED}",
            directory.display()
        ))
    }

    /// The same, with its files encrypted at rest.
    #[must_use]
    pub fn encrypted(mut self) -> Self {
        self.0 = self.0.replace(UNENCRYPTED, "");
        self
    }

    /// vsftpd, with the protection that it was started with.
    #[must_use]
    pub fn vsftpd(server: &Vsftpd) -> Self {
        Self::ftp(
            server.address,
            server
                .certificate
                .as_ref()
                .map(|made| made.certificate.as_path()),
        )
    }

    /// ProFTPD over FTP, with the protection that it was started with.
    #[must_use]
    pub fn proftpd(server: &Proftpd) -> Self {
        Self::ftp(
            server.address,
            server
                .certificate
                .as_ref()
                .map(|made| made.certificate.as_path()),
        )
    }

    /// An SFTP server with its host key pinned.
    #[must_use]
    pub fn sftp(address: SocketAddr, host_key: &str, user_key: &Path) -> Self {
        Self(format!(
            "kind = \"sftp\"\naddress = \"{address}\"\nuser = \"{USER}\"\n\
             host_key = \"{host_key}\"\nkey_file = \"{}\"\ntimeout_seconds = 20\n",
            user_key.display()
        ))
    }

    /// OpenSSH's sshd.
    #[must_use]
    pub fn openssh(server: &Openssh, user_key: &Path) -> Self {
        Self::sftp(server.address, &server.host_key, user_key)
    }

    /// A bucket of SeaweedFS.
    ///
    /// # Errors
    /// When the files with its access key can't be written.
    pub fn seaweed(server: &Seaweed) -> Result<Self> {
        let (id, secret) = server.key_files()?;
        Ok(Self(format!(
            "kind = \"s3\"\nendpoint = \"{}\"\nbucket = \"{BUCKET}\"\naccess_key_file = \"{}\"\n\
             secret_key_file = \"{}\"\ntimeout_seconds = 20\n{UNENCRYPTED}",
            server.endpoint(),
            id.display(),
            secret.display()
        )))
    }

    /// A container of Azurite.
    ///
    /// # Errors
    /// When the file with its key can't be written.
    pub fn azurite(server: &Azurite) -> Result<Self> {
        Ok(Self(format!(
            "kind = \"azure\"\naccount = \"{ACCOUNT}\"\ncontainer = \"{CONTAINER}\"\nendpoint = \"{}\"\n\
             key_file = \"{}\"\ntimeout_seconds = 20\n{UNENCRYPTED}",
            server.endpoint(),
            server.key_file()?.display()
        )))
    }

    fn is_encrypted(&self) -> bool {
        let has = |what| self.0.contains(what);
        let is_default = has("kind = \"local\"") || has("kind = \"s3\"") || has("kind = \"azure\"");
        has("encryption = \"on\"")
            || has("encryption = \"migrating\"")
            || is_default && !has("encryption = \"off\"")
    }

    /// With another line of the configuration file.
    #[must_use]
    pub fn with(self, line: &str) -> Self {
        Self(format!("{}{line}\n", self.0))
    }

    /// A backend in the words of the configuration file.
    #[must_use]
    pub fn custom(toml: &str) -> Self {
        Self(toml.to_owned())
    }

    fn ftp(address: SocketAddr, trusted: Option<&Path>) -> Self {
        let mut text = format!(
            "kind = \"ftp\"\naddress = \"{address}\"\nuser = \"{USER}\"\n\
             password_file = \"PASSWORD_FILE\"\ntimeout_seconds = 20\n"
        );
        match trusted {
            Some(anchor) => {
                let _ = writeln!(
                    text,
                    "tls = \"explicit\"\nca_file = \"{}\"\nserver_name = \"localhost\"",
                    anchor.display()
                );
            }
            None => text.push_str(
                "tls = \"none\"\nplaintext_exception = { reason = \"the test's legacy server has no TLS\", \
                 approver = \"test\", expires = \"2099-12-31\" }\n",
            ),
        }
        Self(text)
    }
}

/// When the proxy asks the agent for a ban.
#[derive(Debug, Clone)]
pub struct Bans {
    /// The agent's control socket.
    pub agent_socket: PathBuf,
    /// Failed authentications from one source until it is banned.
    pub failures: u32,
    /// How long a ban lasts.
    pub lifetime_seconds: u32,
}

/// A proxy before it starts.
#[derive(Debug)]
pub struct Plan<'a> {
    place: Place<'a>,
    program: PathBuf,
    host_keys: Vec<KeyKind>,
    user_keys: KeyKind,
    today: Option<&'static str>,
    server: Vec<(&'static str, String)>,
    backends: Vec<(String, Backend)>,
    bans: Option<Bans>,
    metrics: Option<SocketAddr>,
    sections: String,
    journal_disk: Option<u64>,
    scratch: TempDir,
}

impl<'a> Plan<'a> {
    /// A proxy of this build that listens at the place.
    ///
    /// # Errors
    /// When it wasn't built.
    pub fn new(place: Place<'a>) -> Result<Self> {
        Self::of(place, locate::binary("portcullis-proxy")?)
    }

    /// The given binary.
    ///
    /// # Errors
    /// When the file system refuses a folder.
    pub fn of(place: Place<'a>, program: PathBuf) -> Result<Self> {
        Ok(Self {
            place,
            program,
            host_keys: vec![KeyKind::Ed25519],
            user_keys: KeyKind::Ed25519,
            today: None,
            server: Vec::new(),
            backends: Vec::new(),
            bans: None,
            metrics: None,
            sections: String::new(),
            journal_disk: None,
            scratch: files::folder("proxy")?,
        })
    }

    /// Adds a backend.
    #[must_use]
    pub fn backend(mut self, name: &str, backend: Backend) -> Self {
        self.backends.push((name.to_owned(), backend));
        self
    }

    /// Proves itself with these keys. [`Proxy::host_key`] is the first.
    #[must_use]
    pub fn host_keys(mut self, kinds: &[KeyKind]) -> Self {
        self.host_keys = kinds.to_vec();
        self
    }

    /// Gives accounts keys of this kind.
    #[must_use]
    pub fn user_keys(mut self, kind: KeyKind) -> Self {
        self.user_keys = kind;
        self
    }

    /// Starts at this time of the present day, UTC, as `23:59:40`, by the daemon's own clock.
    #[must_use]
    pub fn at(mut self, time: &'static str) -> Self {
        self.today = Some(time);
        self
    }

    /// Sets a key of `[server]`; the value is TOML.
    #[must_use]
    pub fn server(mut self, key: &'static str, value: &str) -> Self {
        self.server.push((key, value.to_owned()));
        self
    }

    /// Asks an agent for bans.
    #[must_use]
    pub fn bans(mut self, bans: Bans) -> Self {
        self.bans = Some(bans);
        self
    }

    /// Adds sections to the configuration, as they are.
    #[must_use]
    pub fn sections(mut self, toml: &str) -> Self {
        self.sections.push_str(toml);
        self
    }

    /// Serves metrics.
    #[must_use]
    pub fn metrics(mut self, address: SocketAddr) -> Self {
        self.metrics = Some(address);
        self
    }

    /// Keeps the journal on a disk of its own, of so many bytes.
    #[must_use]
    pub fn journal_disk(mut self, bytes: u64) -> Self {
        self.journal_disk = Some(bytes);
        self
    }

    /// Writes keys and configuration, starts the daemon and waits until it listens.
    ///
    /// # Errors
    /// When a key can't be made or the daemon ends; the message has its log.
    pub fn start(self) -> Result<Proxy> {
        let folder = self.scratch.path().to_path_buf();
        let address = SocketAddr::new(self.place.address(), self.place.port(22));
        let mut host_keys = Vec::new();
        for kind in &self.host_keys {
            let name = format!("host_{}", kind.name());
            let path = folder.join(&name);
            match kind {
                KeyKind::Ed25519 => {
                    succeed(
                        Command::new(&self.program)
                            .args(["host-key", "generate"])
                            .arg(&path),
                    )?;
                }
                KeyKind::Ecdsa(_) | KeyKind::Rsa(_) => drop(kind.make(&folder, &name)?),
            }
            host_keys.push(path);
        }
        let journal_key = folder.join("journal.key");
        let password_file = folder.join("backend.password");
        files::secret(&password_file, PASSWORD)?;

        let mut text = format!("[server]\nlisten = [\"{address}\"]\nhost_keys = {host_keys:?}\n");
        for (key, value) in &self.server {
            let _ = writeln!(text, "{key} = {value}");
        }
        let _ = write!(
            text,
            "\n[accounts]\ndatabase = \"{folder}/accounts.db\"\n\
             \n[journal]\ndirectory = \"{folder}/journal\"\nsigning_key = \"{key}\"\n",
            folder = folder.display(),
            key = journal_key.display(),
        );
        if self.journal_disk.is_none() {
            // How full this machine's disk is says nothing about the proxy.
            text.push_str("warn_percent = 100\nrefuse_sessions_percent = 100\n");
        }
        if let Some(bans) = &self.bans {
            let _ = write!(
                text,
                "\n[bans]\nagent_socket = \"{}\"\nfailures = {}\nwindow_seconds = 300\nlifetime_seconds = {}\n",
                bans.agent_socket.display(),
                bans.failures,
                bans.lifetime_seconds
            );
        }
        if let Some(address) = self.metrics {
            let _ = write!(text, "\n[metrics]\nlisten = \"{address}\"\n");
        }
        let _ = write!(text, "\n{}", self.sections);
        for (name, Backend(toml)) in &self.backends {
            let toml = toml.replace("PASSWORD_FILE", &password_file.display().to_string());
            let _ = write!(text, "\n[backends.{name}]\n{toml}");
        }
        if self
            .backends
            .iter()
            .any(|(_, backend)| backend.is_encrypted())
        {
            let (key, escrow) = (folder.join("at-rest.kek"), folder.join("escrow"));
            // Of the same build.
            let rescue = self.program.with_file_name("portcullis-rescue");
            succeed(Command::new(&rescue).arg("new-key").arg(&key))?;
            succeed(Command::new(&rescue).arg("new-escrow").arg(&escrow))?;
            let _ = write!(
                text,
                "\n[encryption]\nkey_file = \"{}\"\nescrow_recipient_file = \"{}/recipient\"\n",
                key.display(),
                escrow.display()
            );
        }
        let config = folder.join("proxy.toml");
        fs::write(&config, text)?;

        let disk = self
            .journal_disk
            .map(|bytes| SmallDisk::mount(&folder.join("journal"), bytes))
            .transpose()?;
        let process = start_at(self.today, self.place, &self.program, &config, address)?;
        let proxy = Proxy {
            address,
            config,
            journal: folder.join("journal"),
            process,
            disk,
            program: self.program,
            host_keys,
            user_keys: self.user_keys,
            scratch: self.scratch,
        };
        proxy.write_known_hosts()?;
        Ok(proxy)
    }
}
