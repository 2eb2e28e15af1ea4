//! What the daemon has in memory reaches no disk: keys, passwords, and what clients transfer.

use std::{collections::BTreeMap, env::consts::ARCH, error::Error, fs, path::Path};

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tracing::warn;

/// In a dump.
pub(super) fn forbid_core_dumps() -> rustix::io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)
}

/// In a swap device, by mlockall(2) with `MCL_ONFAULT` (Linux 4.4), where the process may lock as much as it likes: with less it
/// would fail later, when it needs memory. Where it may not, and there is such a device, the log says so.
pub(super) fn lock() {
    let is_unlimited = getrlimit(Resource::Memlock).current.is_none();
    let is_privileged =
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::IPC_LOCK));
    let locked = if is_unlimited || is_privileged {
        lock_for_good()
    } else {
        Err("the limit of locked memory is too low".into())
    };
    if let Err(error) = locked
        && let Some(device) = swap_device()
        && !is_kept_from_swap()
    {
        warn!(
            device,
            error,
            "keys and what clients transfer may be swapped to a disk: memory can't be locked; set LimitMEMLOCK=infinity or \
             MemorySwapMax=0 in the unit, or switch swap off"
        );
    }
}

fn lock_for_good() -> Result<(), Box<dyn Error>> {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(all)?;
    // The SSH library unlocks the pages of each buffer that it frees (russh-cryptovec), with all else that is on them.
    let is_done = BTreeMap::from([(libc::SYS_munlock, Vec::new())]);
    let without_doing_it = SeccompAction::Errno(0);
    let filter = SeccompFilter::new(
        is_done,
        SeccompAction::Allow,
        without_doing_it,
        ARCH.try_into()?,
    )?;
    let filter: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&filter)?)
}

/// One that is in use.
fn swap_device() -> Option<String> {
    let swaps = fs::read_to_string("/proc/swaps").ok()?;
    let device = swaps.lines().nth(1)?.split_whitespace().next()?;
    Some(device.to_owned())
}

/// The process's control group (version 2) has no share of swap.
fn is_kept_from_swap() -> bool {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let limit = own.map(|own| {
        Path::new("/sys/fs/cgroup")
            .join(own)
            .join("memory.swap.max")
    });
    limit.is_some_and(|limit| fs::read_to_string(limit).is_ok_and(|most| most.trim() == "0"))
}
