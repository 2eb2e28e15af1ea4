//! `cargo xtask fuzz [TARGET...]`: lets libFuzzer look for bytes that break a reader, and keeps those that reach new code.
//!
//! Works with the stable compiler: coverage comes from LLVM's own pass, and memory safety needs no sanitizer where there
//! is no unsafe code. `cargo xtask test` reads every kept input again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_tests::locate;

use crate::{process, setup};

/// As libFuzzer wants the code: a counter for each edge, and the values that comparisons saw.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Longest input in bytes; the longest packet is 260 KiB, and long ones teach little.
const LONGEST: u32 = 2048;
/// A reader takes microseconds; one that takes seconds is a finding.
const SLOWEST_SECONDS: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Readers to try, by the names below fuzz/targets; all of them if none is named
    targets: Vec<String>,
    /// How long each is tried
    #[arg(long, default_value_t = 600)]
    seconds: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::For::Build)?;
    let folder = process::workspace().join("fuzz");
    let known = known_targets(&folder)?;
    let unknown = arguments.targets.iter().find(|name| !known.contains(name));
    ensure!(
        unknown.is_none(),
        "no fuzz target {}; there are {}",
        unknown.map_or("", String::as_str),
        known.join(", ")
    );
    let chosen = if arguments.targets.is_empty() {
        known
    } else {
        arguments.targets.clone()
    };
    let programs = build(&folder)?;
    for name in chosen {
        println!("fuzz {name} for {} s", arguments.seconds);
        let work = locate::target_folder().join("fuzz-corpus").join(&name);
        let kept = folder.join("corpus").join(&name);
        fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
        fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
        let findings = locate::target_folder().join(format!("fuzz-finding-{name}-"));
        process::run(
            Command::new(programs.join(&name))
                .arg(format!("-max_total_time={}", arguments.seconds))
                .arg(format!("-max_len={LONGEST}"))
                .arg(format!("-timeout={SLOWEST_SECONDS}"))
                .arg(format!("-artifact_prefix={}", findings.display()))
                .args(["-print_final_stats=1", "-verbosity=0"])
                .args([&work, &kept]),
        )
        .with_context(|| {
            format!(
                "{name} is broken by the input {}*; make a test of it",
                findings.display()
            )
        })?;
        let count = keep(&programs.join(&name), &work, &kept)?;
        println!("{} keeps {count} inputs", kept.display());
    }
    Ok(())
}

/// Leaves in `kept` the fewest inputs that reach all that is reached, and returns how many there are.
fn keep(program: &Path, work: &Path, kept: &Path) -> Result<usize> {
    let chosen = tempfile::tempdir().context("make a folder for the chosen inputs")?;
    process::run_quietly(
        Command::new(program)
            // How often an edge is taken makes no input worth keeping.
            .args(["-merge=1", "-use_counters=0", "-verbosity=0"])
            .arg(format!("-max_len={LONGEST}"))
            .args([chosen.path(), work, kept]),
    )?;
    fs::remove_dir_all(kept).with_context(|| format!("clear {}", kept.display()))?;
    fs::create_dir_all(kept)?;
    let mut count = 0;
    for input in fs::read_dir(chosen.path())? {
        let input = input?;
        fs::copy(input.path(), kept.join(input.file_name()))?;
        count += 1;
    }
    Ok(count)
}

fn known_targets(folder: &Path) -> Result<Vec<String>> {
    let targets = folder.join("targets");
    let mut known: Vec<String> = fs::read_dir(&targets)
        .with_context(|| format!("list {}", targets.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    known.sort();
    Ok(known)
}

/// Returns the folder of the built targets.
fn build(folder: &Path) -> Result<PathBuf> {
    let about = process::ask("rustc", &["-vV"]).context("rustc is not found")?;
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc names no host")?;
    let target_folder = locate::target_folder().join("fuzz");
    // With a target named, build scripts and macros are built without the instrumentation.
    process::run(
        process::cargo()
            .args(["build", "--release", "--locked", "--target", host])
            .arg("--manifest-path")
            .arg(folder.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target_folder)
            .env("RUSTFLAGS", INSTRUMENTATION),
    )?;
    Ok(target_folder.join(host).join("release"))
}
