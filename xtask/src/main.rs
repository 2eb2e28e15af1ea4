//! Everything a developer or CI runs: one command each, one file each.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: its output is its result"
)]

mod bench;
mod build_xdp;
mod check;
mod clients;
mod demo;
mod fuzz;
mod process;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, checks, tests and shows Portcullis"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what the build, the demo and the tests need
    Setup(setup::Arguments),
    /// Compile the XDP program and say where the object is
    BuildXdp,
    /// Run every test: unit, property, gateway, kernel and system
    Test(test::Arguments),
    /// Try partners' clients and compare what they can with what the documentation says
    Clients(clients::Arguments),
    /// Show the product at work with real hosts, clients and servers
    Demo,
    /// Measure speed side by side with a peer
    Bench(bench::Arguments),
    /// Look for bytes that break a reader of outside bytes
    Fuzz(fuzz::Arguments),
    /// Run format, clippy, documentation and dependency checks
    Check,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::BuildXdp => build_xdp::run(),
        Command::Test(arguments) => test::run(&arguments),
        Command::Clients(arguments) => clients::run(&arguments),
        Command::Demo => demo::run(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Check => check::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
