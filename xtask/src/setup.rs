//! `cargo xtask setup`: finds what the build, the demo and the tests need, and installs what is missing.
//!
//! Every requirement says why it is wanted, looks before it acts, and can print the commands
//! for a system that this program can't change itself.

mod apt;
mod clients;
mod node;
mod peers;
mod python;
mod toolchain;

use anyhow::{Result, bail};

/// One thing that must be there.
trait Requirement {
    fn name(&self) -> String;
    fn why(&self) -> &'static str;
    /// What is absent, in words for a person; empty when all is there.
    fn missing(&self) -> Vec<String>;
    /// Puts what is missing there.
    fn install(&self) -> Result<()>;
    /// What a person would type to do the same.
    fn commands(&self) -> Vec<String>;
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only say what is there and what is missing (exit code 1 if anything is)
    #[arg(long)]
    check: bool,
}

/// What the caller is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Compiling the workspace with its XDP program.
    Build,
    /// Format, lints, documentation, dependencies.
    Check,
    /// Demo and tests with real servers and clients.
    Everything,
    /// Benchmarks, with what they measure against.
    Bench,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let requirements = requirements(For::Everything);
    if arguments.check {
        return report(&requirements);
    }
    satisfy(&requirements, Verbosity::EachStep)
}

/// Makes sure that everything for `purpose` is there; silent when nothing is missing.
pub(crate) fn ensure(purpose: For) -> Result<()> {
    satisfy(&requirements(purpose), Verbosity::ChangesOnly)
}

fn requirements(purpose: For) -> Vec<Box<dyn Requirement>> {
    let mut list: Vec<Box<dyn Requirement>> = Vec::new();
    list.extend(toolchain::requirements());
    if purpose != For::Build {
        list.push(Box::new(python::tools()));
    }
    if matches!(purpose, For::Everything | For::Bench) {
        list.push(Box::new(clients::clients()));
        list.push(Box::new(peers::Libraries));
        list.push(Box::new(peers::Unpacked));
        list.push(Box::new(node::azurite()));
        list.push(Box::new(node::ssh2()));
    }
    if purpose == For::Bench {
        list.push(Box::new(clients::filters()));
    }
    list
}

#[derive(PartialEq, Eq)]
enum Verbosity {
    EachStep,
    ChangesOnly,
}

fn satisfy(requirements: &[Box<dyn Requirement>], verbosity: Verbosity) -> Result<()> {
    let missing: Vec<_> = requirements
        .iter()
        .filter(|requirement| !requirement.missing().is_empty())
        .collect();
    if !missing.is_empty()
        && let Err(reason) = apt::usable()
    {
        eprintln!(
            "setup can't install anything here: {reason}. Run this as root on Debian 12 or newer,"
        );
        eprintln!("or do the same with your system's own means:\n");
        for requirement in &missing {
            eprintln!("  # {}: {}", requirement.name(), requirement.why());
            for command in requirement.commands() {
                eprintln!("  {command}");
            }
        }
        bail!("{} requirements are missing", missing.len());
    }
    for requirement in requirements {
        let absent = requirement.missing();
        if absent.is_empty() {
            if verbosity == Verbosity::EachStep {
                println!("ok       {}", requirement.name());
            }
            continue;
        }
        println!("install  {}: {}", requirement.name(), requirement.why());
        println!("         missing: {}", absent.join(", "));
        requirement.install()?;
        let still = requirement.missing();
        if !still.is_empty() {
            bail!(
                "{} is installed but not usable, still missing: {}",
                requirement.name(),
                still.join(", ")
            );
        }
    }
    Ok(())
}

fn report(requirements: &[Box<dyn Requirement>]) -> Result<()> {
    let mut absent = 0;
    for requirement in requirements {
        let missing = requirement.missing();
        if missing.is_empty() {
            println!("ok       {}", requirement.name());
        } else {
            absent += 1;
            println!("missing  {}: {}", requirement.name(), missing.join(", "));
            println!("         {}", requirement.why());
        }
    }
    if absent > 0 {
        bail!("{absent} requirements are missing; `cargo xtask setup` installs them");
    }
    Ok(())
}
