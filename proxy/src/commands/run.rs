//! `run`: logging, the runtime, and the daemon in it.

mod memory;

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing::{Level, Metadata, subscriber::set_global_default};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt as _};

use crate::{
    cli::{LogArgs, LogFormat, RunArgs},
    config::Config,
    daemon, ssh,
};

pub(super) fn run(arguments: &RunArgs) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config.config, super::today())?;
    log_to_stderr(&arguments.log)?;
    memory::forbid_core_dumps().context("forbid core dumps")?;
    memory::lock();
    // Connections have threads of their own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(daemon::run(config, arguments.config.config.clone()))
        .context("run the gateway")
}

pub(super) fn log_to_stderr(arguments: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log)
        .with_context(|| format!("understand the log filter {:?}", arguments.log))?;
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(shows_no_password));
    match arguments.log_format {
        LogFormat::Json => {
            set_global_default(registry.with(fmt::layer().json().with_writer(std::io::stderr)))
        }
        // systemd's journal has its own clock and no colours.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => set_global_default(
            registry.with(
                fmt::layer()
                    .without_time()
                    .with_ansi(false)
                    .with_writer(std::io::stderr),
            ),
        ),
        LogFormat::Text => set_global_default(
            registry.with(
                fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            ),
        ),
    }
    .context("begin the log")?;
    ssh::listen_to_library().context("listen to the SSH library's log")
}

/// The FTP library prints every command at TRACE, PASS among them. No log filter brings that out.
fn shows_no_password(metadata: &Metadata<'_>) -> bool {
    *metadata.level() < Level::TRACE || !metadata.target().starts_with("suppaftp")
}
