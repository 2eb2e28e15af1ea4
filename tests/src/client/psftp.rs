//! PuTTY's `psftp` and `pscp`. They ask two questions only on a terminal, which `expect` provides.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, bail};

use super::{Step, openssh};
use crate::account::{Account, Factors};
use crate::files;
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
    let scratch = files::folder("psftp")?;
    let batch = scratch.path().join("batch");
    fs::write(&batch, openssh_to_psftp(&openssh::batch(steps)))?;
    let mut words = server(proxy)?;
    words.extend(["-b".to_owned(), batch.display().to_string()]);
    let mut command = match factors {
        Factors::KeyThenPassword => {
            words.extend(key_and_password(account, scratch.path())?);
            let mut command = place.command("psftp");
            command.args(&words);
            command
        }
        Factors::PasswordThenKey => bail!("psftp shows the key first"),
        Factors::PasswordThenCode => {
            let script = scratch.path().join("answers.exp");
            fs::write(
                &script,
                format!(
                    "set timeout 100\n\
                     spawn psftp {} {}@{}\n\
                     expect \"Password: \" {{ send \"{}\\r\" }} timeout {{ exit 3 }} eof {{ exit 3 }}\n\
                     expect \"One-time password: \" {{ send \"{}\\r\" }} timeout {{ exit 4 }} eof {{ exit 4 }}\n\
                     expect eof\n\
                     lassign [wait] pid spawned failed code\n\
                     exit $code\n",
                    words.join(" "),
                    account.name,
                    proxy.address.ip(),
                    account.password,
                    account.phone.next_code()?,
                ),
            )?;
            let mut command = place.command("expect");
            command.arg(&script);
            command
        }
    };
    if factors == Factors::KeyThenPassword {
        command.arg(format!("{}@{}", account.name, proxy.address.ip()));
    }
    // It keeps host keys and a random seed below HOME.
    command.env("HOME", scratch.path());
    let output = finish_within(&mut command, 4 * PATIENCE)?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !output.status.success() {
        bail!("psftp ended with {}\n{printed}", output.status);
    }
    Ok(printed)
}

/// `pscp -scp` with a key and a password; `HOST:` in an argument stands for the account at the proxy.
///
/// # Errors
/// When it can't start or isn't done in time.
pub fn pscp(
    place: Place<'_>,
    proxy: &Proxy,
    account: &Account,
    arguments: &[&str],
) -> Result<Output> {
    let scratch = files::folder("pscp")?;
    let host = format!("{}@{}:", account.name, proxy.address.ip());
    let mut command = place.command("pscp");
    command
        .arg("-scp")
        .args(server(proxy)?)
        .args(key_and_password(account, scratch.path())?)
        .args(
            arguments
                .iter()
                .map(|argument| argument.replacen("HOST:", &host, 1)),
        )
        .env("HOME", scratch.path());
    finish_within(&mut command, 4 * PATIENCE)
}

fn server(proxy: &Proxy) -> Result<Vec<String>> {
    Ok(vec![
        "-P".to_owned(),
        proxy.address.port().to_string(),
        "-hostkey".to_owned(),
        proxy.host_key_fingerprint()?,
        "-noagent".to_owned(),
    ])
}

fn key_and_password(account: &Account, scratch: &Path) -> Result<Vec<String>> {
    let key = scratch.join("key.ppk");
    succeed(
        Command::new("puttygen")
            .arg(&account.key)
            .args(["-O", "private", "-o"])
            .arg(&key),
    )?;
    Ok(vec![
        "-batch".to_owned(),
        "-i".to_owned(),
        key.display().to_string(),
        "-pw".to_owned(),
        account.password.clone(),
    ])
}

/// psftp's commands are OpenSSH's, but for `mv` and a plain `ls`.
fn openssh_to_psftp(batch: &str) -> String {
    batch.replace("ls -l ", "ls ").replace("rename ", "mv ")
}
