//! Debian packages: which are there, and installing or unpacking the rest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Why packages can't be installed on this system, if so.
pub(super) fn usable() -> Result<(), String> {
    if process::ask("apt-get", &["--version"]).is_none() {
        return Err("there is no apt-get".to_owned());
    }
    match process::ask("id", &["-u"]).as_deref().map(str::trim) {
        Some("0") => Ok(()),
        _ => Err("not run as root".to_owned()),
    }
}

/// The packages of the list that dpkg doesn't report as installed.
pub(super) fn missing(packages: &[&str]) -> Vec<String> {
    let mut query = vec!["-W", "-f", "${Package} ${db:Status-Status}\n"];
    query.extend(packages);
    // dpkg-query fails when it knows nothing of one name, and still prints the rest.
    let output = Command::new("dpkg-query").args(query).output();
    let listed = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    packages
        .iter()
        .filter(|package| {
            !listed
                .lines()
                .any(|line| line == format!("{package} installed"))
        })
        .map(|package| (*package).to_owned())
        .collect()
}

/// Installs the packages; none of their services is started.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    update()?;
    let _quiet = NoServices::hold()?;
    process::run_quietly(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    )?;
    Ok(())
}

/// Unpacks each package into its folder without installing it: its services, users and conflicts
/// stay out of the system.
pub(super) fn unpack(packages: &[(&str, PathBuf)]) -> Result<()> {
    update()?;
    let scratch = tempfile::tempdir().context("make a folder for downloads")?;
    // apt drops its privileges for the download and warns unless that user may write here.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777))?;
    for (package, folder) in packages {
        process::run_quietly(
            apt_get()
                .args(["download", package])
                .current_dir(scratch.path()),
        )?;
        let archive = archive_of(package, scratch.path())?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        process::run_quietly(Command::new("dpkg").arg("-x").arg(&archive).arg(folder))?;
    }
    Ok(())
}

pub(super) fn install_command(packages: &[&str]) -> String {
    format!(
        "apt-get update && apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

fn archive_of(package: &str, folder: &Path) -> Result<PathBuf> {
    fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(&format!("{package}_")))
        })
        .with_context(|| format!("apt-get download {package} left no archive"))
}

/// Refreshes the package lists once per process: old lists name versions that mirrors have dropped.
fn update() -> Result<()> {
    static DONE: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    if DONE.get().is_none() {
        process::run_quietly(apt_get().arg("update"))?;
        let _ = DONE.set(());
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=600"]);
    command
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Keeps maintainer scripts from starting services while it lives. A policy that is there stays.
struct NoServices {
    made: bool,
}

impl NoServices {
    fn hold() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { made: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { made: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}
