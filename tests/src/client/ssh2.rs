//! ssh2 for Node.js: the library does what its documentation shows.

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
        Script::Node(include_str!("ssh2.js")),
        place,
        proxy,
        account,
        factors,
        steps,
    )
}
