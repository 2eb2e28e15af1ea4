//! Embeds the programs that are measured.

#[expect(
    unreachable_pub,
    dead_code,
    reason = "the file is the agent's build script's, which uses all of it"
)]
#[path = "../agent/build/xdp_object.rs"]
mod xdp_object;

use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={}", message.replace('\n', " | "));
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../agent/build/xdp_object.rs");
    println!("cargo::rerun-if-changed=../agent-ebpf/src");
    println!("cargo::rerun-if-changed=../agent-ebpf/Cargo.toml");

    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace_root = manifest_dir
        .parent()
        .ok_or("the benchmark's directory has no parent")?;
    let toolchain = xdp_object::find_toolchain()?;
    xdp_object::compile_with(&toolchain, workspace_root, "bench-xdp", &out_dir).map(drop)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
