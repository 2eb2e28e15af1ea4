//! One file for each command.

pub mod account;
mod asking;
pub mod audit;
pub mod break_glass;
mod check;
mod encryption;
mod explain;
pub mod group;
mod host_key;
mod print_policy;
mod run;
mod verify;
mod witness;

use std::process::ExitCode;

use crate::{
    cli::{Command, HostKeyCommand},
    config::Config,
};

/// Carries out a command, and gives the exit code where it has an answer of its own.
///
/// # Errors
/// If it fails; a [`ConfigError`](crate::config::ConfigError) in the chain means that the configuration is at fault.
pub fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Explain(arguments) => return explain::explain(&arguments),
        Command::Verify(arguments) => return verify::verify(&arguments),
        Command::Encryption(arguments) => return encryption::encryption(&arguments),
        Command::Witness(arguments) => return witness::witness(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Account(arguments) => {
            let config = Config::load_accounts(&arguments.config)?;
            arguments.command.run(config)
        }
        Command::Group(arguments) => {
            let config = Config::load_accounts(&arguments.config)?;
            arguments.command.run(&config)
        }
        Command::BreakGlass(arguments) => {
            let config = Config::load_accounts(&arguments.config)?;
            arguments.command.run(config)
        }
        Command::Audit(arguments) => {
            let config = Config::load_audit(&arguments.config);
            arguments.command.run(config)
        }
        Command::HostKey {
            command: HostKeyCommand::Generate { file },
        } => host_key::generate(&file),
        Command::HostKey {
            command: HostKeyCommand::Show(arguments),
        } => host_key::show(&arguments),
        Command::PrintPolicy(arguments) => print_policy::print_policy(&arguments),
        Command::Version => {
            print(concat!("portcullis-proxy ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Results go to standard output, everything else to standard error.
#[expect(
    clippy::print_stdout,
    reason = "the one place where a result is printed"
)]
fn print(text: &str) {
    println!("{text}");
}

/// Today in UTC, by which dated exceptions end.
fn today() -> chrono::NaiveDate {
    chrono::Utc::now().date_naive()
}
