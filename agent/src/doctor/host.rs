//! What the kernel and this host offer to BPF.

use std::{fs, path::PathBuf, thread};

use rustix::process::{Resource, getrlimit};

const BPF_FS: &str = "/sys/fs/bpf";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// As `uname -r` has it.
    pub(super) release: String,
    pub(super) version: (u32, u32),
    pub(super) cpus: u32,
    pub(super) bpf_fs: BpfFs,
    /// `net.core.bpf_jit_enable`; `None` if there is no such setting.
    pub(super) jit: Option<u32>,
    /// Bytes that a process may lock; `None` is no limit.
    pub(super) memlock: Option<u64>,
    pub(super) is_root: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BpfFs {
    Mounted,
    ReadOnly,
    Missing,
}

impl Host {
    pub(super) fn read() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            version: version(&release),
            release,
            cpus: thread::available_parallelism()
                .ok()
                .and_then(|cpus| u32::try_from(cpus.get()).ok())
                .unwrap_or(1),
            bpf_fs: bpf_fs(&mounts),
            jit: fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            memlock: getrlimit(Resource::Memlock).current,
            is_root: rustix::process::geteuid().is_root(),
        }
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or_default());
    (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    )
}

/// Where BPF file systems are mounted.
pub(super) fn bpf_mounts() -> Vec<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let point = before.split(' ').nth(4)?;
            after.starts_with("bpf ").then(|| PathBuf::from(point))
        })
        .collect()
}

/// From /proc/self/mountinfo (proc_pid_mountinfo(5)); the last mount covers those before it.
fn bpf_fs(mounts: &str) -> BpfFs {
    mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(4);
            let (point, options) = (fields.next()?, fields.next()?);
            (point == BPF_FS).then(|| (after.starts_with("bpf "), options))
        })
        .next_back()
        .map_or(BpfFs::Missing, |(is_bpf, options)| match is_bpf {
            true if options.split(',').any(|option| option == "ro") => BpfFs::ReadOnly,
            true => BpfFs::Mounted,
            false => BpfFs::Missing,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_have_a_version() {
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("5.15.0-1053-aws"), (5, 15));
        assert_eq!(version("5.14-rc1"), (5, 14));
        assert_eq!(version(""), (0, 0));
    }

    #[test]
    fn the_last_mount_says_what_the_bpf_file_system_is() {
        let bpf = "40 30 0:35 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700\n";
        assert_eq!(bpf_fs(bpf), BpfFs::Mounted);
        assert_eq!(
            bpf_fs(&bpf.replace("rw,nosuid", "ro,nosuid")),
            BpfFs::ReadOnly
        );
        assert_eq!(
            bpf_fs(&format!(
                "{bpf}41 40 0:36 / /sys/fs/bpf rw - tmpfs tmpfs rw\n"
            )),
            BpfFs::Missing
        );
        assert_eq!(
            bpf_fs("40 30 0:35 / /run/bpf rw - bpf bpf rw\n"),
            BpfFs::Missing
        );
    }
}
