//! `run`: the daemon.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{config::Config, daemon};

pub(super) fn run(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(daemon::run(config))
}
