//! The servers that are measured against each other, as a client sees them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::USER;
use portcullis_tests::server::mod_proxy::ModProxy;
use portcullis_tests::server::openssh::Openssh;
use tempfile::TempDir;

use super::client::Login;
use super::lab::{CIPHER, Lab};
use super::processor;

/// The proxy under measurement and an account of it.
pub(super) struct Gateway {
    pub(super) proxy: Proxy,
    pub(super) account: Account,
}

impl Gateway {
    /// Starts it with one backend, whose folder `directory` is the account's `/files`.
    pub(super) fn start(lab: &Lab, backend: Backend, directory: &str) -> Result<Self> {
        let proxy = Plan::of(lab.place(), lab.program().to_path_buf())?
            .backend("files", backend)
            .start()?;
        let account = proxy.account("bench", &[Mount::all("/files", "files", directory)])?;
        Ok(Self { proxy, account })
    }

    /// Starts it on a folder of this machine.
    pub(super) fn local(lab: &Lab) -> Result<(Self, TempDir)> {
        let storage = files::folder("bench-storage")?;
        let gateway = Self::start(lab, Backend::local(storage.path()), "/")?;
        Ok((gateway, storage))
    }

    /// Starts it before an sshd, in the home of the sshd's account.
    pub(super) fn before(lab: &Lab, upstream: &Openssh) -> Result<Self> {
        let directory = upstream.home.display().to_string();
        // A connection that is kept would hide what its process took: that is counted once it has ended.
        let backend = Backend::openssh(upstream, lab.key()).with("idle_seconds = 0");
        Self::start(lab, backend, &directory)
    }

    /// The account's files, which are in `stored` on this machine.
    pub(super) fn side(&self, stored: &Path) -> Side<'_> {
        Side {
            server: Server::Portcullis(self),
            remote: "/files".to_owned(),
            stored: stored.to_path_buf(),
            detour: None,
            options: Vec::new(),
        }
    }

    /// Checks the journal of all that was measured.
    pub(super) fn verify(&self) -> Result<()> {
        let verified = self.proxy.verify(&self.proxy.journal)?;
        ensure!(
            verified.status.success(),
            "portcullis-verify: {}",
            String::from_utf8_lossy(&verified.stdout)
        );
        Ok(())
    }
}

/// The home of an sshd's account.
pub(super) fn sshd<'a>(server: &'a Openssh, key: &'a Path) -> Side<'a> {
    Side {
        remote: server.home.display().to_string(),
        stored: server.home.clone(),
        server: Server::Sshd { server, key },
        detour: None,
        options: Vec::new(),
    }
}

/// The home of the upstream's account, through mod_proxy.
pub(super) fn mod_proxy<'a>(server: &'a ModProxy, upstream: &Openssh) -> Side<'a> {
    Side {
        remote: upstream.home.display().to_string(),
        stored: upstream.home.clone(),
        server: Server::ModProxy(server),
        detour: None,
        options: Vec::new(),
    }
}

/// One server, and where its files are.
pub(super) struct Side<'a> {
    server: Server<'a>,
    /// The folder as the client names it.
    pub(super) remote: String,
    /// The same folder on this machine's disk.
    pub(super) stored: PathBuf,
    detour: Option<SocketAddr>,
    options: Vec<&'static str>,
}

enum Server<'a> {
    Portcullis(&'a Gateway),
    Sshd { server: &'a Openssh, key: &'a Path },
    ModProxy(&'a ModProxy),
}

impl Side<'_> {
    /// The same files where the folder isn't the server's own but one behind it.
    pub(super) fn with_files_of(mut self, other: &Side<'_>) -> Self {
        self.remote.clone_from(&other.remote);
        self.stored.clone_from(&other.stored);
        self
    }

    /// With one more option of OpenSSH's client.
    pub(super) fn option(mut self, option: &'static str) -> Self {
        self.options.push(option);
        self
    }

    /// The same server, reached by way of another address.
    pub(super) fn by_way_of(mut self, address: SocketAddr) -> Self {
        self.detour = Some(address);
        self
    }

    /// Where the server itself listens.
    pub(super) fn address(&self) -> SocketAddr {
        match &self.server {
            Server::Portcullis(gateway) => gateway.proxy.address,
            Server::Sshd { server, .. } => server.address,
            Server::ModProxy(server) => server.address,
        }
    }

    /// How OpenSSH's client gets in.
    pub(super) fn connection(&self) -> Result<OpensshConnection> {
        let connection = match &self.server {
            Server::Portcullis(gateway) => OpensshConnection::with_answers(
                &gateway.proxy,
                &gateway.account,
                Factors::KeyThenPassword,
                &gateway.account.password,
                "",
            )?,
            Server::Sshd { server, key } => {
                OpensshConnection::to_peer(server.address, &server.host_key, key)?
            }
            Server::ModProxy(server) => {
                OpensshConnection::to_peer_by_password(server.address, &server.host_key)?
            }
        };
        let connection = self
            .options
            .iter()
            .fold(connection, |connection, option| connection.option(option))
            .option(&format!("Ciphers={CIPHER}"));
        Ok(match self.detour {
            None => connection,
            Some(detour) => {
                let own = self.address();
                connection
                    .option(&format!("Port={}", detour.port()))
                    .option(&format!("HostKeyAlias=[{}]:{}", own.ip(), own.port()))
            }
        })
    }

    /// How `portcullis-bench-client` gets in.
    ///
    /// # Errors
    /// Where the server wants what that client doesn't have.
    pub(super) fn login(&self) -> Result<Login<'_>> {
        Ok(match &self.server {
            Server::Portcullis(gateway) => Login {
                address: gateway.proxy.address,
                user: &gateway.account.name,
                key: &gateway.account.key,
                password: Some(&gateway.account.password),
            },
            Server::Sshd { server, key } => Login {
                address: server.address,
                user: USER,
                key,
                password: None,
            },
            Server::ModProxy(_) => bail!("mod_proxy takes no key"),
        })
    }

    /// The process that the harness started: the daemon, or the guard of a peer.
    pub(super) fn process(&self) -> u32 {
        match &self.server {
            Server::Portcullis(gateway) => gateway.proxy.process.id(),
            Server::Sshd { server, .. } => server.process.id(),
            Server::ModProxy(server) => server.process.id(),
        }
    }

    /// Seconds of processor time since the server started, ended sessions included.
    pub(super) fn processor(&self) -> Result<f64> {
        match &self.server {
            Server::Portcullis(_) => processor::of_process(self.process()),
            Server::Sshd { .. } | Server::ModProxy(_) => processor::of_peer(self.process()),
        }
    }
}
