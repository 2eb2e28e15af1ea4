//! The SFTP clients that partners use, unmodified and without a person in front of them.

mod asyncssh;
mod curl;
mod lftp;
mod openssh;
mod paramiko;
mod psftp;
mod rclone;
mod script;
mod ssh2;
mod sshfs;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::account::{Account, Factors};
use crate::place::Place;
use crate::proxy::Proxy;

pub use curl::list as curl_list;
pub use lftp::script as lftp_script;
pub use openssh::{Connection as OpensshConnection, Terminal, scan as ssh_answers};
pub use paramiko::{
    put_and_set_size as paramiko_put_and_set_size, remote_digest as paramiko_digest,
    set_size as paramiko_set_size,
};
pub use psftp::{pscp, pscp_with};
pub use rclone::{Remote as RcloneRemote, run as rclone};
pub use sshfs::Mounted as SshfsMount;

/// One thing that a client does in a session. Remote paths are absolute and need no quoting.
#[derive(Debug, Clone)]
pub enum Step {
    /// Upload.
    Put {
        /// The file here.
        local: PathBuf,
        /// Its name there.
        remote: String,
    },
    /// Go on with an upload that was interrupted.
    Resume {
        /// The whole file here.
        local: PathBuf,
        /// Its name there.
        remote: String,
    },
    /// Download.
    Get {
        /// The file there.
        remote: String,
        /// Its name here.
        local: PathBuf,
    },
    /// List a folder.
    List(String),
    /// Rename.
    Rename {
        /// The old name.
        from: String,
        /// The new one.
        to: String,
    },
    /// Remove a file.
    Remove(String),
    /// Make a folder.
    MakeFolder(String),
    /// Remove an empty folder.
    RemoveFolder(String),
}

/// A client program or library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// OpenSSH's `sftp`.
    Openssh,
    /// `lftp`, which runs `ssh` and answers one prompt.
    Lftp,
    /// PuTTY's `psftp`.
    Psftp,
    /// Python's paramiko.
    Paramiko,
    /// Python's asyncssh.
    Asyncssh,
    /// `rclone`, which logs in once for each step.
    Rclone,
    /// libcurl with a libssh2 from 1.11 on.
    Curl,
    /// ssh2 for Node.js.
    Ssh2,
}

impl Client {
    /// Logs in with both factors, takes the steps and returns what the client printed, listings
    /// included.
    ///
    /// # Errors
    /// When the login or any step fails, with the client's output and what the proxy refused. A client that can't show these
    /// factors tries what it can.
    pub fn session(
        self,
        place: Place<'_>,
        proxy: &Proxy,
        account: &mut Account,
        factors: Factors,
        steps: &[Step],
    ) -> Result<String> {
        let outcome = match self {
            Self::Openssh => openssh::session(place, proxy, account, factors, steps),
            Self::Lftp => lftp::session(place, proxy, account, factors, steps),
            Self::Psftp => psftp::session(place, proxy, account, factors, steps),
            Self::Paramiko => paramiko::session(place, proxy, account, factors, steps),
            Self::Asyncssh => asyncssh::session(place, proxy, account, factors, steps),
            Self::Rclone => rclone::session(place, proxy, account, factors, steps),
            Self::Curl => curl::session(place, proxy, account, factors, steps),
            Self::Ssh2 => ssh2::session(place, proxy, account, factors, steps),
        };
        outcome.with_context(|| refusals(proxy))
    }
}

/// What the journal says of operations that were refused, for the message of a failed test.
fn refusals(proxy: &Proxy) -> String {
    let refused: Vec<String> = proxy
        .records()
        .unwrap_or_default()
        .iter()
        .filter(|record| {
            let outcome = record.get("outcome").and_then(Value::as_str);
            matches!(outcome, Some("deny" | "failure"))
        })
        .map(Value::to_string)
        .collect();
    format!("the proxy refused: {refused:#?}")
}
