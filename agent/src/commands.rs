//! One file for each command. They return what to print; `main` prints it.

mod allow;
mod allow_text;
mod ban;
mod check;
mod doctor;
mod run;
mod status;
mod top;
mod unload;
mod watch;
mod why;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    cli::{Cli, Command},
    config::ConfigError,
    control::{
        Code, Failure,
        client::{Client, ClientError},
    },
};

/// `EX_CONFIG` of sysexits.h: a unit can stop restarting on it.
const BAD_CONFIGURATION: u8 = 78;
const FAILED: u8 = 1;
/// Nothing was changed, since it would cut somebody, or since something else came first.
const REFUSED: u8 = 3;
/// The daemon does not answer; what it enforced is still enforced.
const NO_DAEMON: u8 = 4;

/// The exit code of a command that failed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() {
        return BAD_CONFIGURATION;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Connect { .. }) => NO_DAEMON,
        Some(ClientError::Refused(Failure { code, .. })) => match code {
            Code::Protected | Code::Guard | Code::Conflict | Code::Precondition => REFUSED,
            Code::Invalid
            | Code::Forbidden
            | Code::NotFound
            | Code::NotAllowed
            | Code::Slow
            | Code::TooLarge
            | Code::Limit
            | Code::Reused
            | Code::Busy
            | Code::Kernel
            | Code::State
            | Code::Journal
            | Code::Stopping => FAILED,
        },
        Some(ClientError::Http(_) | ClientError::Request(_) | ClientError::Answer(_)) | None => {
            FAILED
        }
    }
}

/// What a command leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// For standard output.
    pub text: String,
    /// The exit code.
    pub exit: u8,
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Self { text, exit: 0 }
    }
}

/// Runs the command.
///
/// # Errors
/// If it fails.
pub fn run(cli: Cli) -> Result<Output> {
    let Cli {
        socket,
        json,
        command,
    } = cli;
    let client = Client::new(&socket);
    let text = match command {
        Command::Why(arguments) => return block_on(why::why(&client, arguments, json)),
        Command::Run(file) => run::run(&file.config).map(|()| String::new()),
        Command::Doctor(arguments) => doctor::doctor(&arguments, json),
        Command::Check(file) => check::check(&file.config, json),
        Command::Unload(arguments) => unload::unload(&arguments, json),
        Command::Status(file) => block_on(status::status(&client, &file.config, json)),
        Command::Allow(command) => block_on(allow::allow(&client, command, json)),
        Command::Ban(arguments) => block_on(ban::ban(&client, arguments, json)),
        Command::Unban { source, grounds } => block_on(ban::unban(&client, source, grounds, json)),
        Command::Bans => block_on(ban::bans(&client, json)),
        Command::Top(arguments) => block_on(top::top(&client, &arguments, json)),
        Command::Watch(arguments) => {
            block_on(watch::watch(&client, arguments, json)).map(|()| String::new())
        }
    };
    text.map(Output::from)
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(future)
}

/// `value` as JSON, or as `text` puts it.
fn render<T: Serialize>(value: &T, json: bool, text: impl FnOnce(&T) -> String) -> Result<String> {
    if json {
        Ok(format!("{}\n", serde_json::to_string(value)?))
    } else {
        Ok(text(value))
    }
}
