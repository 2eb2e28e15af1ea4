//! Arguments in, exit code out, one printed error chain.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use portcullis_agent::{cli::Cli, commands};

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(output) => match io::stdout().write_all(output.text.as_bytes()) {
            Ok(()) => ExitCode::from(output.exit),
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            // Without standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "portcullis-agent: {error:#}");
            ExitCode::from(commands::exit_code(&error))
        }
    }
}
