//! `lftp`: it runs `ssh` and answers one prompt that ends in `password:`.

use anyhow::{Result, bail};

use super::{Step, openssh};
use crate::account::{Account, Factors};
use crate::place::Place;
use crate::process::{PATIENCE, finish_within};
use crate::proxy::Proxy;

pub(super) fn session(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    steps: &[Step],
) -> Result<String> {
    let mut commands = String::new();
    for step in steps {
        commands.push_str(&match step {
            Step::Put { local, remote } => format!("put {} -o {remote}\n", local.display()),
            Step::Resume { local, remote } => format!("put -c {} -o {remote}\n", local.display()),
            Step::Get { remote, local } => format!("get {remote} -o {}\n", local.display()),
            Step::List(folder) => format!("ls {folder}\n"),
            Step::Rename { from, to } => format!("mv {from} {to}\n"),
            Step::Remove(file) => format!("rm {file}\n"),
            Step::MakeFolder(folder) => format!("mkdir {folder}\n"),
            Step::RemoveFolder(folder) => format!("rmdir {folder}\n"),
        });
    }
    let words = account.words(factors)?;
    script_with(place, proxy, account, (factors, words.only()), &commands)
}

/// Logs in with key and password, runs the commands and returns what was printed.
///
/// # Errors
/// When the login or a command fails, with the output.
pub fn script(
    place: Place<'_>,
    proxy: &Proxy,
    account: &Account,
    commands: &str,
) -> Result<String> {
    let answers = (Factors::KeyThenPassword, account.password.as_str());
    script_with(place, proxy, account, answers, commands)
}

/// It gives the same word to every prompt.
fn script_with(
    place: Place<'_>,
    proxy: &Proxy,
    account: &Account,
    (factors, word): (Factors, &str),
    commands: &str,
) -> Result<String> {
    let ssh = openssh::options(
        proxy.address,
        &account.name,
        &proxy.known_hosts(),
        factors.have_key().then_some(account.key.as_path()),
    );
    let script = format!(
        "set cmd:fail-exit yes\n\
         set net:max-retries 1\n\
         set net:timeout 20\n\
         set sftp:auto-confirm no\n\
         set sftp:connect-program \"ssh -a -x {}\"\n\
         open -u {},{} -p {} sftp://{}\n{commands}",
        ssh.join(" "),
        account.name,
        word,
        proxy.address.port(),
        proxy.address.ip()
    );
    let mut command = place.command("lftp");
    command
        .arg("--norc")
        .arg("-c")
        .arg(script)
        .env("HOME", proxy.folder());
    let output = finish_within(&mut command, 4 * PATIENCE)?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !output.status.success() {
        bail!("lftp ended with {}\n{printed}", output.status);
    }
    Ok(printed)
}
