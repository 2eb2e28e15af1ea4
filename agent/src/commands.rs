//! One file for each command. They return what to print; `main` prints it.

mod allow;
mod ban;
mod check;
mod doctor;
mod run;
mod status;
mod top;
mod unload;
mod watch;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    cli::{Cli, Command},
    control::client::Client,
};

/// Runs the command and gives what goes to standard output.
///
/// # Errors
/// If it fails.
pub fn run(cli: Cli) -> Result<String> {
    let Cli {
        socket,
        json,
        command,
    } = cli;
    let client = Client::new(&socket);
    match command {
        Command::Run(file) => run::run(&file.config).map(|()| String::new()),
        Command::Check(file) => check::check(&file.config, json),
        Command::Unload(arguments) => unload::unload(&arguments, json),
        Command::Doctor(arguments) => doctor::doctor(&arguments, json),
        Command::Status => block_on(status::status(&client, json)),
        Command::Allow(command) => block_on(allow::allow(&client, command, json)),
        Command::Ban(arguments) => block_on(ban::ban(&client, arguments, json)),
        Command::Unban { source } => block_on(ban::unban(&client, source, json)),
        Command::Bans => block_on(ban::bans(&client, json)),
        Command::Top(arguments) => block_on(top::top(&client, &arguments, json)),
        Command::Watch(arguments) => {
            block_on(watch::watch(&client, arguments, json)).map(|()| String::new())
        }
    }
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
