//! Python's paramiko: the library does what its documentation shows.

use anyhow::Result;
use serde_json::json;

use super::{
    Step,
    script::{self, Script},
};
use crate::account::{Account, Factors};
use crate::place::Place;
use crate::proxy::Proxy;

pub(super) fn session(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    steps: &[Step],
) -> Result<String> {
    script::session(
        Script::Python(include_str!("paramiko.py")),
        place,
        proxy,
        account,
        factors,
        steps,
    )
}

/// The SHA-256 of a remote file, as the server computes it for `check-file`.
///
/// # Errors
/// When the login or the request fails.
pub fn remote_digest(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    remote: &str,
) -> Result<String> {
    let printed = script::run(
        Script::Python(include_str!("paramiko.py")),
        place,
        proxy,
        account,
        Factors::KeyThenPassword,
        vec![json!(["check", remote])],
    )?;
    Ok(printed.trim().to_owned())
}
