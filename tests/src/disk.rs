//! File systems in memory that are soon full.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::{Running, succeed};

/// A file system in memory; unmounted when dropped, or gone with the server that alone sees it.
#[derive(Debug)]
pub struct SmallDisk {
    /// As those who see it name it.
    at: PathBuf,
    /// The server in whose mount namespace it is.
    server: Option<u32>,
}

impl SmallDisk {
    /// Mounts one of so many bytes over a folder.
    ///
    /// # Errors
    /// Without root.
    pub fn mount(at: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(at)?;
        let disk = Self {
            at: at.to_path_buf(),
            server: None,
        };
        disk.run(&format!("size={bytes},mode=0700"))?;
        Ok(disk)
    }

    /// The same over a folder of a running server with a mount namespace of its own. The folder keeps its owner.
    ///
    /// # Errors
    /// Without root.
    pub fn inside(server: &Running, at: &Path, bytes: u64) -> Result<Self> {
        let (uid, gid) = {
            let about = fs::metadata(at)?;
            (about.uid(), about.gid())
        };
        let disk = Self {
            at: at.to_path_buf(),
            server: Some(server.id()),
        };
        disk.run(&format!("size={bytes},mode=0755,uid={uid},gid={gid}"))?;
        Ok(disk)
    }

    /// Gives it another size, in bytes.
    ///
    /// # Errors
    /// When what is there has no room in that.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        self.run(&format!("remount,size={bytes}"))
    }

    /// Leaves room for so many bytes.
    ///
    /// # Errors
    /// When it can't be looked at.
    pub fn leave(&self, bytes: u64) -> Result<()> {
        let status = rustix::fs::statvfs(self.path())?;
        let used = status.f_blocks.saturating_sub(status.f_bfree) * status.f_frsize;
        self.resize(used + bytes)
    }

    /// As this process reaches it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self.server {
            None => self.at.clone(),
            Some(server) => {
                let inside = self.at.strip_prefix("/").unwrap_or(&self.at);
                Path::new(&format!("/proc/{server}/root")).join(inside)
            }
        }
    }

    fn run(&self, options: &str) -> Result<()> {
        let mut command = match self.server {
            None => Command::new("mount"),
            Some(server) => {
                let mut command = Command::new("nsenter");
                command.args(["--target", &server.to_string(), "--mount", "--", "mount"]);
                command
            }
        };
        let tmpfs = ["-t", "tmpfs", "-o", options, "tmpfs"];
        succeed(command.args(tmpfs).arg(&self.at)).map(drop)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.server.is_none() {
            let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        }
    }
}
