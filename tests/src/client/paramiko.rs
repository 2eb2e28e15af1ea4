//! Python's paramiko: the library does what its documentation shows.

use anyhow::Result;

use super::{Step, python};
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
    python::session(
        include_str!("paramiko.py"),
        place,
        proxy,
        account,
        factors,
        steps,
    )
}
