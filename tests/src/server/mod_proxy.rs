//! ProFTPD with mod_proxy: an SFTP gateway of others, which speed is compared with.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::openssh::Openssh;
use super::{home, isolated};
use crate::files;
use crate::locate;
use crate::place::Place;
use crate::process::Running;

/// A running ProFTPD that hands SFTP sessions on. Clients log in with the upstream's password, which it hands on too.
#[derive(Debug)]
pub struct ModProxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// `ssh-ed25519 AAAA...`.
    pub host_key: String,
    /// The process.
    pub process: Running,
    _scratch: TempDir,
}

impl ModProxy {
    /// Starts it before `upstream`, with one cipher on both sides.
    ///
    /// # Errors
    /// Without root, or when it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>, upstream: &Openssh, cipher: &str) -> Result<Self> {
        let program = locate::peer("proftpd", "usr/sbin/proftpd")?;
        let module = locate::peer("proftpd", "usr/lib/proftpd/mod_proxy.so")?;
        let modules = module.parent().context("the module lies in a folder")?;
        let scratch = files::folder("mod-proxy")?;
        let folder = scratch.path();
        let home = home(folder)?;
        let key = files::ssh_key(folder, "host")?;
        let tables = folder.join("tables");
        fs::create_dir(&tables)?;
        let address = SocketAddr::new(place.address(), place.port(22));
        // mod_tls brings the TLS library that mod_proxy needs.
        let configuration = format!(
            "ModulePath {modules}\n\
             LoadModule mod_tls.c\n\
             LoadModule mod_sftp.c\n\
             LoadModule mod_proxy.c\n\
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
             ProxyTables {tables}\n\
             <VirtualHost {ip}>\n\
             Port {port}\n\
             SFTPEngine on\n\
             SFTPHostKey {key}\n\
             SFTPCiphers {cipher}\n\
             SFTPAuthMethods password\n\
             ProxyEngine on\n\
             ProxyRole reverse\n\
             ProxyReverseServers sftp://{upstream}\n\
             ProxySFTPCiphers {cipher}\n\
             </VirtualHost>\n",
            modules = modules.display(),
            ip = address.ip(),
            port = address.port(),
            folder = folder.display(),
            tables = tables.display(),
            key = key.display(),
            upstream = upstream.address,
        );
        let file = folder.join("proftpd.conf");
        fs::write(&file, configuration)?;
        let mut command = isolated(place, folder, &home, &program)?;
        command.args(["--nodaemon", "--config"]).arg(&file);
        let mut process = Running::start("proftpd", &mut command, &folder.join("output.log"))?;
        process.wait_until_listening(address.port())?;
        Ok(Self {
            address,
            host_key: files::public_key(&key)?,
            process,
            _scratch: scratch,
        })
    }
}
