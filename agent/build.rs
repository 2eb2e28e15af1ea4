//! Embeds the XDP program: the object that `PORTCULLIS_XDP_OBJECT` names, or one compiled here.

#[expect(unreachable_pub, reason = "the file is xtask's too")]
#[path = "build/xdp_object.rs"]
mod xdp_object;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    println!("cargo::rerun-if-env-changed=PORTCULLIS_XDP_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/xdp_object.rs");
    println!("cargo::rerun-if-changed=../agent-ebpf/src");
    println!("cargo::rerun-if-changed=../agent-ebpf/Cargo.toml");

    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let embedded = out_dir.join("agent-xdp.o");
    if let Some(given) = env::var_os("PORTCULLIS_XDP_OBJECT").filter(|given| !given.is_empty()) {
        let given = Path::new(&given);
        println!("cargo::rerun-if-changed={}", given.display());
        fs::copy(given, &embedded)
            .map_err(|error| format!("copy PORTCULLIS_XDP_OBJECT {}: {error}", given.display()))?;
        return Ok(());
    }
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace_root = manifest_dir
        .parent()
        .ok_or("the agent's directory has no parent")?;
    xdp_object::compile(workspace_root, &out_dir).map(drop)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
