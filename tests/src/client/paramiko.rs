//! Python's paramiko: the library does what its documentation shows.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

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

/// The SHA-256 of a remote file, as the server tells it for `check-file`.
///
/// # Errors
/// When the login or the request fails.
pub fn remote_digest(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    remote: &str,
) -> Result<String> {
    let printed = alone(place, proxy, account, json!(["check", remote]))?;
    Ok(printed.trim().to_owned())
}

/// Sets the size of a remote file by its name, which is a SETSTAT.
///
/// # Errors
/// When the login or the request fails.
pub fn set_size(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    remote: &str,
    size: u64,
) -> Result<()> {
    alone(place, proxy, account, json!(["truncate", remote, size])).map(drop)
}

/// Uploads a file and sets its size by its name, in one session.
///
/// # Errors
/// When the login or a request fails.
pub fn put_and_set_size(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    (local, remote): (&Path, &str),
    size: u64,
) -> Result<()> {
    let script = Script::Python(include_str!("paramiko.py"));
    let steps = vec![
        json!(["put", local, remote]),
        json!(["truncate", remote, size]),
    ];
    let factors = Factors::KeyThenPassword;
    script::run(script, place, proxy, account, factors, steps).map(drop)
}

fn alone(place: Place<'_>, proxy: &Proxy, account: &mut Account, step: Value) -> Result<String> {
    let script = Script::Python(include_str!("paramiko.py"));
    let factors = Factors::KeyThenPassword;
    script::run(script, place, proxy, account, factors, vec![step])
}
