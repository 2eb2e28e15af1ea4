//! Python's asyncssh: the library does what its documentation shows.

use anyhow::Result;

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
        Script::Python(include_str!("asyncssh.py")),
        place,
        proxy,
        account,
        factors,
        steps,
    )
}
