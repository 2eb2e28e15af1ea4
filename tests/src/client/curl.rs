//! libcurl: the library that Python's wheel of pycurl carries, and Debian's program.

use std::process::{Command, Output};

use anyhow::Result;

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
    script::session(
        Script::Python(include_str!("curl.py")),
        place,
        proxy,
        account,
        factors,
        steps,
    )
}

/// Lists a folder with the program `curl`, which shows the key first and gives the same word to every prompt.
///
/// # Errors
/// When it can't be started or doesn't end.
pub fn list(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    folder: &str,
) -> Result<Output> {
    let words = account.words(factors)?;
    let mut command: Command = place.command("curl");
    command.args(["--disable", "--silent", "--show-error"]);
    if factors.have_key() {
        let public = account
            .certificate()
            .unwrap_or_else(|| account.key.with_extension("pub"));
        command.arg("--key").arg(&account.key);
        command.arg("--pubkey").arg(public);
    }
    command
        .args(["--user", &format!("{}:{}", account.name, words.only())])
        .arg("--insecure")
        .arg(format!("sftp://{}{folder}/", proxy.address))
        .env("HOME", proxy.folder());
    finish_within(&mut command, PATIENCE)
}
