//! libcurl: the library that Python's wheel of pycurl carries, and Debian's program.

use std::process::{Command, Output};

use anyhow::{Result, bail};

use super::{
    Step,
    script::{self, Script},
};
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
    if factors != Factors::KeyThenPassword {
        bail!("libcurl shows the key first, and gives the same word to every prompt");
    }
    script::session(
        Script::Python(include_str!("curl.py")),
        place,
        proxy,
        account,
        factors,
        steps,
    )
}

/// Lists a folder with the program `curl`, a key and a password.
///
/// # Errors
/// When it can't be started or doesn't end.
pub fn list(place: Place<'_>, proxy: &Proxy, account: &Account, folder: &str) -> Result<Output> {
    let mut command: Command = place.command("curl");
    command
        .args(["--disable", "--silent", "--show-error", "--key"])
        .arg(&account.key)
        .arg("--pubkey")
        .arg(account.key.with_extension("pub"))
        .args(["--user", &format!("{}:{}", account.name, account.password)])
        .arg("--insecure")
        .arg(format!("sftp://{}{folder}/", proxy.address))
        .env("HOME", proxy.folder());
    finish_within(&mut command, PATIENCE)
}
