//! `cargo xtask build-xdp`: compiles the XDP program alone, as the agent's build script does.

use std::fs;

use anyhow::{Context, Result, anyhow};
use portcullis_tests::locate;

use crate::{process, setup};

#[expect(
    unreachable_pub,
    dead_code,
    reason = "the file is the agent's build script's, which uses all of it"
)]
#[path = "../../agent/build/xdp_object.rs"]
pub(crate) mod xdp_object;

pub(crate) fn run() -> Result<()> {
    setup::ensure(setup::For::Build)?;
    let toolchain = xdp_object::find_toolchain().map_err(|reason| anyhow!(reason))?;
    println!("compile agent-xdp with {toolchain}");
    let folder = locate::target_folder().join("xdp-object");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let object = xdp_object::compile_with(
        &toolchain,
        &process::workspace(),
        xdp_object::PROGRAM,
        &folder,
    )
    .map_err(|reason| anyhow!(reason))?;
    println!("{}", object.display());
    println!(
        "build without a BPF toolchain: PORTCULLIS_XDP_OBJECT={} cargo build",
        object.display()
    );
    Ok(())
}
