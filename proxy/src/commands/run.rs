//! `run`: the daemon.

use crate::cli::RunArgs;

pub(super) fn run(arguments: &RunArgs) -> anyhow::Result<()> {
    let _ = arguments;
    anyhow::bail!("not yet")
}
