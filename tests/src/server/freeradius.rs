//! FreeRADIUS: judges codes that a test gives it, for clients that send Message-Authenticator.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::unpacked_libraries;
use crate::files;
use crate::locate;
use crate::place::Place;
use crate::process::Running;

/// The secret that it shares with its client.
pub const SECRET: &str = "a secret between two machines";

/// What Debian's FreeRADIUS has to be told, so that it proves its replies.
const PROVE_REPLIES: &str = "post-auth {
  update reply {
    Message-Authenticator := 0x00
  }
  Post-Auth-Type REJECT {
    update reply {
      Message-Authenticator := 0x00
    }
  }
}
";

/// A running FreeRADIUS.
#[derive(Debug)]
pub struct Freeradius {
    /// Where it listens, over UDP.
    pub address: SocketAddr,
    /// The process.
    pub process: Running,
    _scratch: TempDir,
}

impl Freeradius {
    /// Starts it with users and their codes, which don't change.
    ///
    /// # Errors
    /// When it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>, users: &[(&str, &str)]) -> Result<Self> {
        Self::configured(place, users, PROVE_REPLIES)
    }

    /// As [`start`](Self::start), and as the package is: its replies have no Message-Authenticator.
    ///
    /// # Errors
    /// When it isn't unpacked (`cargo xtask setup`).
    pub fn start_unproven(place: Place<'_>, users: &[(&str, &str)]) -> Result<Self> {
        Self::configured(place, users, "")
    }

    fn configured(place: Place<'_>, users: &[(&str, &str)], post_auth: &str) -> Result<Self> {
        let program = locate::peer("freeradius", "usr/sbin/freeradius")?;
        let modules = locate::peer("freeradius", "usr/lib/freeradius/rlm_pap.so")?;
        let dictionaries = locate::peer("freeradius", "usr/share/freeradius/dictionary")?;
        let scratch = files::folder("freeradius")?;
        let folder = scratch.path();
        let address = SocketAddr::new(place.address(), place.port(1812));
        let listed: String = users
            .iter()
            .map(|(user, code)| format!("{user} Cleartext-Password := \"{code}\"\n"))
            .collect();
        files::secret(&folder.join("users"), &listed)?;
        files::secret(
            &folder.join("radiusd.conf"),
            &format!(
                "logdir = {here}\n\
                 run_dir = {here}\n\
                 pidfile = {here}/radiusd.pid\n\
                 libdir = {modules}\n\
                 hostname_lookups = no\n\
                 log {{\n destination = stdout\n auth = yes\n}}\n\
                 security {{\n reject_delay = 0\n status_server = no\n}}\n\
                 thread pool {{\n start_servers = 1\n max_servers = 4\n min_spare_servers = 1\n max_spare_servers = 2\n}}\n\
                 client gateway {{\n ipaddr = {ip}\n secret = \"{SECRET}\"\n require_message_authenticator = yes\n}}\n\
                 modules {{\n files {{\n  filename = {here}/users\n }}\n pap {{\n }}\n}}\n\
                 server default {{\n\
                  listen {{\n type = auth\n ipaddr = {ip}\n port = {port}\n }}\n\
                  authorize {{\n files\n pap\n }}\n\
                  authenticate {{\n pap\n }}\n\
                  {post_auth}\
                 }}\n",
                here = folder.display(),
                modules = modules
                    .parent()
                    .context("a module is in a folder")?
                    .display(),
                ip = address.ip(),
                port = address.port(),
            ),
        )?;
        let mut command = place.command(&program.display().to_string());
        command
            .arg("-d")
            .arg(folder)
            .args(["-n", "radiusd", "-D"])
            .arg(
                dictionaries
                    .parent()
                    .context("a dictionary is in a folder")?,
            )
            .args(["-f", "-l", "stdout"])
            .env("LD_LIBRARY_PATH", unpacked_libraries("freeradius"));
        let mut process = Running::start("freeradius", &mut command, &folder.join("output.log"))?;
        process.wait_until_printed("Ready to process requests")?;
        Ok(Self {
            address,
            process,
            _scratch: scratch,
        })
    }
}
