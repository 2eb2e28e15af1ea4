//! Arguments in, exit code out, one printed error chain.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use portcullis_proxy::{cli::Cli, commands, config::ConfigError};

/// Failed; the message says why.
const FAILED: u8 = 1;
/// The configuration can't be used (`EX_CONFIG` of sysexits.h). clap itself exits with 2 on wrong usage.
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::execute(cli.command) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<ConfigError>().is_some() {
        BAD_CONFIGURATION
    } else {
        FAILED
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the one place where an error is printed"
)]
fn report(error: &anyhow::Error) {
    eprintln!("portcullis-proxy: {error:#}");
}
