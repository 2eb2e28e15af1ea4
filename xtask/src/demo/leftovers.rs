//! Leaves the machine as it was: after the demo, after Ctrl-C, and after an earlier demo that was
//! killed and couldn't clean up.
//!
//! All that the demo makes is found by name: namespaces, and one folder with everything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::ask;

/// What the names of the demo's namespaces begin with; the process id follows the role.
const NAMESPACE: &str = "pt-demo-";
const FOLDER: &str = "portcullis-demo";

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Clears up when dropped, and on Ctrl-C.
pub(super) struct Leftovers;

impl Leftovers {
    /// Clears what an earlier demo left, then guards this one.
    ///
    /// # Errors
    /// When another demo is running.
    pub(super) fn clear_and_guard() -> Result<Self> {
        if let Some(other) = namespaces().iter().find_map(|name| running_owner(name)) {
            bail!("another demo is running as process {other}; end it first");
        }
        clear();
        fs::create_dir(folder()).with_context(|| format!("make {}", folder().display()))?;
        if tempfile::env::override_temp_dir(&folder()).is_err() {
            bail!("the folder for temporary files was set before the demo began");
        }
        ctrlc::set_handler(|| {
            INTERRUPTED.store(true, Ordering::SeqCst);
            println!("\ninterrupted: cleaning up");
            clear();
            std::process::exit(130);
        })
        .context("listen for Ctrl-C")?;
        Ok(Self)
    }
}

/// Stops here for ever when the demo was interrupted: a step that failed because its hosts are being
/// cleared away is nothing to report, and the process ends when that is done.
pub(super) fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        clear();
    }
}

fn clear() {
    for namespace in namespaces() {
        let inside = ask("ip", &["netns", "pids", &namespace]).unwrap_or_default();
        for id in inside.split_whitespace().filter_map(|id| id.parse().ok()) {
            if let Some(id) = Pid::from_raw(id) {
                let _ = kill_process(id, Signal::KILL);
            }
        }
        let _ = Command::new("ip")
            .args(["netns", "delete", &namespace])
            .status();
    }
    for mount in mounts_below(&folder()) {
        let _ = Command::new("umount").arg("--lazy").arg(mount).status();
    }
    let _ = fs::remove_dir_all(folder());
}

fn namespaces() -> Vec<String> {
    ask("ip", &["netns", "list"])
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(NAMESPACE))
        .map(str::to_owned)
        .collect()
}

/// The demo that made the namespace, if it still runs: names are `pt-demo-ROLE-PROCESS-NUMBER`.
fn running_owner(namespace: &str) -> Option<u32> {
    let owner: u32 = namespace.rsplit('-').nth(1)?.parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{owner}/stat")).ok()?;
    // `1234 (xtask) S ...`; a process that was killed stays as Z until its parent looks at it.
    (stat.contains(" (xtask) ") && !stat.contains(" (xtask) Z")).then_some(owner)
}

fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    fs::read_to_string("/proc/self/mounts")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(folder))
        .collect()
}

/// `/tmp` itself, whatever TMPDIR says: a later demo must find it.
fn folder() -> PathBuf {
    Path::new("/tmp").join(FOLDER)
}
