//! Where the programs under test and their peers are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Cargo's target folder that holds the running program.
///
/// # Panics
/// When the running program was moved out of a target folder: nothing built could be found then.
#[must_use]
pub fn target_folder() -> PathBuf {
    let program = std::env::current_exe().expect("the system knows the running program");
    program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .expect("a test or xtask runs from cargo's target folder, which has a CACHEDIR.TAG")
        .to_path_buf()
}

/// A binary of this workspace, in the same build profile as the running test.
///
/// # Errors
/// When it wasn't built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe().context("find the running program")?;
    let target = target_folder();
    let profile = program
        .strip_prefix(&target)
        .ok()
        .and_then(|inside| inside.components().next())
        .context("find the build profile of the running program")?;
    existing(target.join(profile).join(name), "cargo build --workspace")
}

/// A binary of this workspace as users get it: built with optimisation.
///
/// # Errors
/// When it wasn't built.
pub fn release_binary(name: &str) -> Result<PathBuf> {
    existing(
        target_folder().join("release").join(name),
        "cargo build --release",
    )
}

/// A file of an unpacked peer server, e.g. `("vsftpd", "usr/sbin/vsftpd")`.
///
/// # Errors
/// When it isn't there.
pub fn peer(folder: &str, file: &str) -> Result<PathBuf> {
    existing(
        target_folder().join("peers").join(folder).join(file),
        "cargo xtask setup",
    )
}

/// The virtual environment with the Python clients and tools.
#[must_use]
pub fn python_environment() -> PathBuf {
    target_folder().join("python")
}

/// A program of the Python environment, e.g. `ssh-audit`.
///
/// # Errors
/// When it isn't there.
pub fn python_tool(name: &str) -> Result<PathBuf> {
    existing(
        python_environment().join("bin").join(name),
        "cargo xtask setup",
    )
}

/// The folder from which Node.js loads ssh2.
///
/// # Errors
/// When it isn't there.
pub fn node_packages() -> Result<PathBuf> {
    peer("ssh2", "node_modules/ssh2/package.json")?;
    Ok(target_folder().join("peers/ssh2/node_modules"))
}

fn existing(path: PathBuf, remedy: &str) -> Result<PathBuf> {
    if !Path::new(&path).is_file() {
        bail!("{} is missing: `{remedy}` makes it", path.display());
    }
    Ok(path)
}
