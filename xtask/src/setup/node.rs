//! Servers and clients from the npm registry: one folder below the target folder for each, with the versions that its lock file names.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use portcullis_tests::locate;

use super::{Requirement, apt};
use crate::process;

/// Debian's names; elsewhere one package often has both programs.
const PROGRAMS: &[(&str, &str)] = &[("node", "nodejs"), ("npm", "npm")];

/// A package with all that it depends on.
pub(super) struct Installed {
    folder: &'static str,
    why: &'static str,
    manifest: &'static str,
    lock: &'static str,
    /// Tells that it is there.
    program: &'static str,
}

pub(super) fn azurite() -> Installed {
    Installed {
        folder: "azurite",
        why: "Azurite, Microsoft's server with the interface of Azure Blob Storage, is a server under test",
        manifest: include_str!("azurite/package.json"),
        lock: include_str!("azurite/package-lock.json"),
        program: "node_modules/azurite/dist/src/blob/main.js",
    }
}

pub(super) fn ssh2() -> Installed {
    Installed {
        folder: "ssh2",
        why: "ssh2 for Node.js is a client under test",
        manifest: include_str!("ssh2/package.json"),
        lock: include_str!("ssh2/package-lock.json"),
        program: "node_modules/ssh2/lib/index.js",
    }
}

impl Installed {
    fn path(&self) -> PathBuf {
        locate::target_folder().join("peers").join(self.folder)
    }

    /// Written last, so that an installation that broke off is not taken for a whole one.
    fn stamp(&self) -> PathBuf {
        self.path().join("portcullis-lock.json")
    }
}

impl Requirement for Installed {
    fn name(&self) -> String {
        format!("{} in {}", self.folder, self.path().display())
    }

    fn why(&self) -> &'static str {
        self.why
    }

    fn missing(&self) -> Vec<String> {
        let installed = fs::read_to_string(self.stamp());
        let is_whole = installed.is_ok_and(|lock| lock == self.lock)
            && self.path().join(self.program).is_file();
        let mut missing: Vec<_> = absent().into_iter().map(str::to_owned).collect();
        if !is_whole {
            missing.push(self.folder.to_owned());
        }
        missing
    }

    fn install(&self) -> Result<()> {
        let absent = absent();
        if !absent.is_empty() {
            apt::install(&absent)?;
        }
        let folder = self.path();
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        fs::write(folder.join("package.json"), self.manifest)?;
        fs::write(folder.join("package-lock.json"), self.lock)?;
        process::run_quietly(
            Command::new("npm")
                .args(["ci", "--ignore-scripts", "--omit=dev", "--no-audit"])
                .args(["--no-fund", "--loglevel=error"])
                .current_dir(&folder),
        )?;
        fs::write(self.stamp(), self.lock)
            .with_context(|| format!("write {}", self.stamp().display()))
    }

    fn commands(&self) -> Vec<String> {
        let folder = self.path();
        vec![
            apt::install_command(&["nodejs", "npm"]),
            format!(
                "mkdir -p {0} && cp xtask/src/setup/{1}/package*.json {0} && (cd {0} && npm ci --ignore-scripts --omit=dev && \
                 cp package-lock.json portcullis-lock.json)",
                folder.display(),
                self.folder
            ),
        ]
    }
}

/// The packages whose programs are not there.
fn absent() -> Vec<&'static str> {
    PROGRAMS
        .iter()
        .filter(|(program, _)| process::ask(program, &["--version"]).is_none())
        .map(|(_, package)| *package)
        .collect()
}
