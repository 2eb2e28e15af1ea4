//! Where links and maps are pinned, so that they outlive the daemon.
//!
//! `PIN_DIR/links/INTERFACE` and `PIN_DIR/egress/INTERFACE` are the links, `PIN_DIR/maps-FINGERPRINT/NAME` the maps. The lock on `PIN_DIR` keeps a second daemon out.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use agent_ebpf::layout::{FINGERPRINT, MAPS, MapKind, MapSpec, PER_CPU};
use aya::maps::{MapError, MapInfo, MapType};
use rustix::{
    fs::{FlockOperation, StatVfsMountFlags, flock, statfs, statvfs},
    mount::{MountFlags, mount},
};

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const BPF_FS: &str = "/sys/fs/bpf";

/// The directory of the pins, locked.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// Open as long as the lock is to be held.
    _lock: File,
}

/// Why the pins can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinsError {
    #[error("mount the BPF file system on {BPF_FS}")]
    Mount { source: io::Error },
    #[error("{} is not on a BPF file system; mount one there (`mount -t bpf bpf DIRECTORY`) or use a pin_dir below {BPF_FS}", directory.display())]
    NotBpfFs { directory: PathBuf },
    #[error("use pin directory {}", directory.display())]
    Directory {
        directory: PathBuf,
        source: io::Error,
    },
    #[error("{} is on a BPF file system that is mounted read-only, where nothing can be pinned; `mount -o remount,rw` what it is on, or set pin_dir to another", directory.display())]
    ReadOnly { directory: PathBuf },
    #[error("another portcullis-agent already runs with pin directory {}; stop it first, or give this one a pin_dir and interfaces of its own", directory.display())]
    Locked { directory: PathBuf },
    #[error("read pinned map {}", path.display())]
    Unreadable { path: PathBuf, source: MapError },
    #[error("pinned map {} is not what this version makes ({found} where {expected} is expected); something else wrote it. `portcullis-agent unload --force` removes all pins, and with them enforcement until the next start", path.display())]
    Foreign {
        path: PathBuf,
        found: String,
        expected: String,
    },
}

impl Pins {
    /// Makes the directory, mounting the BPF file system first where it is missing, and takes the lock.
    ///
    /// # Errors
    /// If the directory can't be used, or another process holds the lock.
    pub fn lock(directory: &Path) -> Result<Self, PinsError> {
        if directory.starts_with(BPF_FS) && !is_bpf_fs(Path::new(BPF_FS)) {
            mount(
                "bpf",
                BPF_FS,
                "bpf",
                MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
                None,
            )
            .map_err(|error| PinsError::Mount {
                source: error.into(),
            })?;
            tracing::warn!(
                "the BPF file system was missing: mounted it on {BPF_FS}; pins last until it is unmounted"
            );
        }
        let at = |source: io::Error| {
            let directory = directory.to_owned();
            if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
                PinsError::ReadOnly { directory }
            } else {
                PinsError::Directory { directory, source }
            }
        };
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(error)),
            Ok(()) | Err(_) => {}
        }
        if !is_bpf_fs(directory) {
            return Err(PinsError::NotBpfFs {
                directory: directory.to_owned(),
            });
        }
        // Directories that an earlier run made hide it until something is to be pinned.
        if statvfs(directory).is_ok_and(|info| info.f_flag.contains(StatVfsMountFlags::RDONLY)) {
            return Err(PinsError::ReadOnly {
                directory: directory.to_owned(),
            });
        }
        let lock = File::open(directory).map_err(at)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                PinsError::Locked {
                    directory: directory.to_owned(),
                }
            } else {
                at(error.into())
            }
        })?;
        let pins = Self {
            directory: directory.to_owned(),
            _lock: lock,
        };
        fs::create_dir_all(pins.links()).map_err(at)?;
        fs::create_dir_all(pins.egress_links()).map_err(at)?;
        fs::create_dir_all(pins.maps()).map_err(at)?;
        Ok(pins)
    }

    fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    fn egress_links(&self) -> PathBuf {
        self.directory.join("egress")
    }

    fn maps(&self) -> PathBuf {
        self.directory.join(format!("maps-{FINGERPRINT:016x}"))
    }

    /// The pin of an interface's link.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(interface)
    }

    /// The pin of the link of an interface's egress.
    pub fn egress_link(&self, interface: &str) -> PathBuf {
        self.egress_links().join(interface)
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Interfaces that have a pinned link.
    pub fn linked(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.links()) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Checks every map that is pinned already: the loader takes whatever it finds at the path.
    ///
    /// # Errors
    /// If one is not what the program expects.
    pub fn check_maps(&self) -> Result<(), PinsError> {
        MAPS.iter().try_for_each(|spec| self.check_map(spec))
    }

    fn check_map(&self, spec: &MapSpec) -> Result<(), PinsError> {
        let path = self.map(spec.name);
        if !path.exists() {
            return Ok(());
        }
        let unreadable = |source| PinsError::Unreadable {
            path: path.clone(),
            source,
        };
        let info = MapInfo::from_pin(&path).map_err(unreadable)?;
        let found = (
            info.map_type().map_err(unreadable)?,
            info.key_size(),
            info.value_size(),
            info.max_entries(),
            info.map_flags() & CHECKED_FLAGS,
        );
        let expected = (
            map_type(spec.kind),
            spec.key_size,
            spec.value_size,
            entries(spec),
            spec.flags,
        );
        if found == expected {
            return Ok(());
        }
        let describe = |(kind, key, value, entries, flags): (MapType, u32, u32, u32, u32)| {
            format!(
                "{kind:?} of {entries} entries, {key} byte keys, {value} byte values, flags {flags:#x}"
            )
        };
        Err(PinsError::Foreign {
            path,
            found: describe(found),
            expected: describe(expected),
        })
    }

    /// Removes maps that an older or newer layout left behind. Only for when no program uses them.
    pub fn remove_stale_maps(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_stale =
                path != self.maps() && entry.file_name().to_string_lossy().starts_with("maps-");
            if is_stale {
                match fs::remove_dir_all(&path) {
                    Ok(()) => {
                        tracing::info!(pins = %path.display(), "removed the maps of another layout")
                    }
                    Err(error) => {
                        tracing::warn!(pins = %path.display(), %error, "can't remove the maps of another layout")
                    }
                }
            }
        }
    }

    /// Removes every pin. Links without a daemon end with it, and so does enforcement.
    ///
    /// # Errors
    /// If the directory can't be removed.
    pub fn remove_all(self) -> Result<(), PinsError> {
        fs::remove_dir_all(&self.directory).map_err(|source| PinsError::Directory {
            directory: self.directory.clone(),
            source,
        })
    }
}

fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|info| {
        u64::try_from(info.f_type).is_ok_and(|magic| magic & 0xffff_ffff == BPF_FS_MAGIC)
    })
}

/// Flags that a map is made with here; the kernel may report more.
const CHECKED_FLAGS: u32 = agent_ebpf::layout::MMAPABLE | agent_ebpf::layout::ANY_SIZE;

/// Entries that a map has on this machine.
pub(super) fn entries(spec: &MapSpec) -> u32 {
    if spec.max_entries == PER_CPU {
        u32::try_from(aya::util::nr_cpus().unwrap_or(1)).unwrap_or(1)
    } else {
        spec.max_entries
    }
}

fn map_type(kind: MapKind) -> MapType {
    match kind {
        MapKind::Array => MapType::Array,
        MapKind::ArrayOfMaps => MapType::ArrayOfMaps,
        MapKind::RingBuffer => MapType::RingBuf,
    }
}
