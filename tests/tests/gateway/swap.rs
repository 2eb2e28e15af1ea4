//! What a gateway has in memory, on a machine that swaps.

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::process::{Running, succeed};
use portcullis_tests::proxy::Backend;
use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::at_rest::Gateway;
use crate::key_shredding::{found_in_memory, key};

/// A file that the machine swaps to while this lives.
struct Swap {
    file: PathBuf,
    _folder: TempDir,
}

impl Swap {
    fn begin() -> Result<Self> {
        let folder = files::folder("swap")?;
        let file = folder.path().join("swap");
        fs::write(&file, vec![0; 64 << 20])?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        File::open(&file)?.sync_all()?;
        succeed(Command::new("mkswap").arg(&file))?;
        succeed(Command::new("swapon").arg(&file))?;
        Ok(Self {
            file,
            _folder: folder,
        })
    }

    /// What is on the disk: the kernel swaps past its cache of the file.
    fn content(&self) -> Result<Vec<u8>> {
        fadvise(File::open(&self.file)?, 0, None, Advice::DontNeed)?;
        Ok(fs::read(&self.file)?)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.file).status();
    }
}

/// Has the kernel swap out what it may of a process's own memory.
fn page_out(process: u32) -> Result<()> {
    let id = Pid::from_raw(i32::try_from(process)?).context("a process")?;
    let descriptor: OwnedFd = pidfd_open(id, PidfdFlags::empty())?;
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().context("a range")?;
        if !words.next().is_some_and(|rights| rights.starts_with("rw")) {
            continue;
        }
        let (from, to) = range.split_once('-').context("two ends")?;
        let (from, to) = (
            usize::from_str_radix(from, 16)?,
            usize::from_str_radix(to, 16)?,
        );
        let range = libc::iovec {
            iov_base: std::ptr::without_provenance_mut(from),
            iov_len: to - from,
        };
        // Refused where memory is locked.
        // SAFETY: process_madvise(2) reads one iovec, which lives; the addresses are another process's.
        unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                descriptor.as_raw_fd(),
                &raw const range,
                1,
                libc::MADV_PAGEOUT,
                0,
            );
        }
    }
    Ok(())
}

/// Bytes of a process that are in swap.
fn swapped(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSwap:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kibibytes.context("VmSwap")?.parse::<u64>()? << 10)
}

#[test]
fn no_key_reaches_a_swap_device_unless_the_daemon_may_not_lock_its_memory() -> Result<()> {
    let swap = Swap::begin()?;
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    let key = key(&gateway.proxy.folder().join("at-rest.kek"))?;
    let warning = "may be swapped to a disk";
    for is_allowed in [true, false] {
        if !is_allowed {
            gateway.proxy.process.kill()?;
            // As root, but without what lets root lock.
            let mut restricted = Command::new("setpriv");
            restricted
                .args(["--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"])
                .args(["prlimit", "--memlock=65536"])
                .arg(locate::binary("portcullis-proxy")?)
                .arg("run")
                .arg("--config")
                .arg(&gateway.proxy.config);
            let log = gateway.proxy.folder().join("restricted.log");
            gateway.proxy.process = Running::start("portcullis-proxy", &mut restricted, &log)?;
            let port = gateway.proxy.address.port();
            gateway.proxy.process.wait_until_listening(port)?;
        }
        fs::write(gateway.local("a"), "what clients transfer")?;
        gateway.succeed("put a\nget a back")?;
        let process = gateway.proxy.process.id();
        ensure!(
            !found_in_memory(process, &key)?.is_empty(),
            "it has the key"
        );
        page_out(process)?;
        let content = swap.content()?;
        let is_swapped = memchr::memmem::find(&content, &key).is_some();
        let bytes = swapped(process)?;
        ensure!(
            is_swapped != is_allowed && (bytes > 0) != is_allowed,
            "may lock: {is_allowed}; {bytes} bytes are swapped, the key too: {is_swapped}"
        );
        ensure!(gateway.proxy.process.log().contains(warning) != is_allowed);
        gateway.succeed("get a back")?;
    }
    gateway.proxy.journal_is_sound()
}
