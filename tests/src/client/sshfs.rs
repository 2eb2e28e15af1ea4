//! `sshfs`: a mount's folder as a folder of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::openssh::Connection;
use crate::files;
use crate::process::Running;

/// A mounted folder, unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    point: TempDir,
    program: Running,
    _connection: Connection,
}

impl Mounted {
    /// Mounts `remote`.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn new(connection: Connection, remote: &str) -> Result<Self> {
        let point = files::folder("sshfs")?;
        // sshfs knows some of ssh's options only, and parts those it knows at commas.
        let ssh = connection.scratch().join("ssh");
        files::script(
            &ssh,
            &format!(
                "#!/bin/sh\nexec ssh {} \"$@\"\n",
                connection.options().join(" ")
            ),
        )?;
        let mut command = Command::new("sshfs");
        command
            .arg("-f")
            .arg("-o")
            .arg(format!("ssh_command={}", ssh.display()))
            .arg(format!("{}:{remote}", connection.host()))
            .arg(point.path());
        connection.answering(&mut command);
        let before = device(point.path());
        let log = connection.scratch().join("sshfs.log");
        let mut program = Running::start("sshfs", &mut command, &log)?;
        program.wait_until("mounted", |_| device(point.path()) != before)?;
        Ok(Self {
            point,
            program,
            _connection: connection,
        })
    }

    /// The folder here.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.point.path().to_owned()
    }

    /// Unmounts: what was written is on the server when this returns.
    ///
    /// # Errors
    /// When it is in use, or sshfs doesn't end.
    pub fn unmount(mut self) -> Result<()> {
        crate::process::succeed(Command::new("fusermount3").arg("-u").arg(self.point.path()))?;
        self.program.wait_for_end()?;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.program.is_running() {
            let _ = Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(self.point.path())
                .output();
        }
    }
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(path).ok()?.dev())
}
