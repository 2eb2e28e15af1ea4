//! PuTTY's `psftp` and `pscp`. They ask two questions only on a terminal, which `expect` provides.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, bail};

use super::{Step, openssh};
use crate::account::{Account, Factors, Words};
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
    let target = format!("{}@{}", account.name, proxy.address.ip());
    let answers = account.words(factors)?;
    if factors.have_key() {
        words.extend(key(account, scratch.path())?);
    }
    let mut command = dialogue(
        place,
        "psftp",
        (words, vec![target]),
        &answers,
        scratch.path(),
    )?;
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
    let factors = Factors::KeyThenPassword;
    pscp_with(place, proxy, &mut account.clone(), factors, arguments)
}

/// As [`pscp`], with other factors.
///
/// # Errors
/// As there.
pub fn pscp_with(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    arguments: &[&str],
) -> Result<Output> {
    let scratch = files::folder("pscp")?;
    let host = format!("{}@{}:", account.name, proxy.address.ip());
    let mut words = vec!["-scp".to_owned()];
    words.extend(server(proxy)?);
    let paths = arguments
        .iter()
        .map(|argument| argument.replacen("HOST:", &host, 1))
        .collect();
    let answers = account.words(factors)?;
    if factors.have_key() {
        words.extend(key(account, scratch.path())?);
    }
    let mut command = dialogue(place, "pscp", (words, paths), &answers, scratch.path())?;
    finish_within(&mut command, 4 * PATIENCE)
}

/// One of PuTTY's programs with options, what comes behind them, and the answers of a login. It shows the key first.
fn dialogue(
    place: Place<'_>,
    program: &str,
    (mut options, behind): (Vec<String>, Vec<String>),
    answers: &Words,
    scratch: &Path,
) -> Result<Command> {
    let mut command = if !answers.password.is_empty() && !answers.code.is_empty() {
        let script = scratch.join("answers.exp");
        options.extend(behind);
        fs::write(
            &script,
            format!(
                "set timeout 100\n\
                 spawn {program} {}\n\
                 expect \"Password: \" {{ send \"{}\\r\" }} timeout {{ exit 3 }} eof {{ exit 3 }}\n\
                 expect \"One-time password: \" {{ send \"{}\\r\" }} timeout {{ exit 4 }} eof {{ exit 4 }}\n\
                 expect eof\n\
                 lassign [wait] pid spawned failed code\n\
                 exit $code\n",
                options.join(" "),
                answers.password,
                answers.code,
            ),
        )?;
        let mut command = place.command("expect");
        command.arg(&script);
        command
    } else {
        options.push("-batch".to_owned());
        if !answers.only().is_empty() {
            options.extend(["-pw".to_owned(), answers.only().to_owned()]);
        }
        let mut command = place.command(program);
        command.args(&options).args(&behind);
        command
    };
    // It keeps host keys and a random seed below HOME.
    command.env("HOME", scratch);
    Ok(command)
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

fn key(account: &Account, scratch: &Path) -> Result<Vec<String>> {
    let key = scratch.join("key.ppk");
    let mut command = Command::new("puttygen");
    command.arg(&account.key);
    if let Some(certificate) = account.certificate() {
        command.arg("--certificate").arg(certificate);
    }
    succeed(command.args(["-O", "private", "-o"]).arg(&key))?;
    Ok(vec!["-i".to_owned(), key.display().to_string()])
}

/// psftp's commands are OpenSSH's, but for `mv` and a plain `ls`.
fn openssh_to_psftp(batch: &str) -> String {
    batch.replace("ls -l ", "ls ").replace("rename ", "mv ")
}
