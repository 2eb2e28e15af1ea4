//! `rclone`: a key and one word for keyboard-interactive, and a login for each step.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Result, bail};

use super::Step;
use crate::account::{Account, Factors};
use crate::place::Place;
use crate::process::{PATIENCE, finish_within, succeed};
use crate::proxy::Proxy;

pub(super) fn session(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    steps: &[Step],
) -> Result<String> {
    // One word for every prompt, and a code can't serve its many logins.
    let words = account.words(factors)?;
    let remote = Remote::with(proxy, account, factors, words.only())?;
    let mut printed = String::new();
    for step in steps {
        let there = |path: &str| remote.path(path);
        let words: Vec<String> = match step {
            Step::Put { local, remote } => {
                vec!["copyto".into(), local.display().to_string(), there(remote)]
            }
            Step::Resume { .. } => bail!("rclone never resumes an upload"),
            Step::Get { remote, local } => {
                vec!["copyto".into(), there(remote), local.display().to_string()]
            }
            Step::List(folder) => vec!["lsl".into(), there(folder)],
            Step::Rename { from, to } => vec!["moveto".into(), there(from), there(to)],
            Step::Remove(file) => vec!["deletefile".into(), there(file)],
            Step::MakeFolder(folder) => vec!["mkdir".into(), there(folder)],
            Step::RemoveFolder(folder) => vec!["rmdir".into(), there(folder)],
        };
        printed.push_str(&run(place, proxy, &words)?);
    }
    Ok(printed)
}

/// Where rclone finds an account's files.
#[derive(Debug)]
pub struct Remote(String);

impl Remote {
    /// A login with key and password.
    ///
    /// # Errors
    /// When rclone can't obscure the password.
    pub fn new(proxy: &Proxy, account: &Account) -> Result<Self> {
        Self::with(proxy, account, Factors::KeyThenPassword, &account.password)
    }

    fn with(proxy: &Proxy, account: &Account, factors: Factors, word: &str) -> Result<Self> {
        let mut remote = format!(
            ":sftp,host=\"{}\",port={},user={},known_hosts_file=\"{}\",shell_type=none,disable_hashcheck=true",
            proxy.address.ip(),
            proxy.address.port(),
            account.name,
            proxy.known_hosts().display(),
        );
        if factors.have_key() {
            let _ = write!(remote, ",key_file=\"{}\"", account.key.display());
            if let Some(certificate) = account.certificate() {
                let _ = write!(remote, ",pubkey_file=\"{}\"", certificate.display());
            }
        }
        if !word.is_empty() {
            let obscured = succeed(Command::new("rclone").args(["obscure", word]))?;
            let _ = write!(remote, ",pass=\"{}\"", obscured.trim());
        }
        Ok(Self(remote + ":"))
    }

    /// A path there as rclone is told it.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

/// Runs one rclone command and returns what it printed.
///
/// # Errors
/// When it fails, with its output.
pub fn run(place: Place<'_>, proxy: &Proxy, words: &[String]) -> Result<String> {
    let mut command = place.command("rclone");
    command
        .args([
            "--config",
            "/dev/null",
            "--retries",
            "1",
            "--low-level-retries",
            "1",
        ])
        .args(words)
        .env("HOME", proxy.folder())
        .env_remove("SSH_AUTH_SOCK");
    let output = finish_within(&mut command, 2 * PATIENCE)?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !output.status.success() {
        bail!(
            "rclone {} ended with {}\n{printed}",
            words.join(" "),
            output.status
        );
    }
    Ok(printed)
}
