//! The few calls into the kernel that a change of the rules consists of. A trait, so that tests can make each of them fail.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
    thread,
    time::Duration,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::table::Memory;

/// A map to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewMap {
    /// `enum bpf_map_type`.
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// `BPF_MAP_TYPE_ARRAY`.
pub const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_LPM_TRIE`.
pub const LPM_TRIE: u32 = 11;

/// What the datapath asks of the kernel while it runs. Each call may fail, and then has done nothing.
pub trait Kernel: Send + Sync {
    /// Makes a map.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn create(&self, map: NewMap) -> io::Result<OwnedFd>;

    /// Maps the memory of an array into this process.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn map(&self, array: BorrowedFd<'_>, bytes: usize) -> io::Result<Mapping>;

    /// Writes an element. For a map of maps it returns after a grace period: no program that began before still runs.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn update(&self, map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()>;

    /// Removes an element, as [`Kernel::update`].
    ///
    /// # Errors
    /// If the kernel refuses.
    fn delete(&self, map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()>;

    /// The identifier of the map in a slot of a map of maps.
    ///
    /// # Errors
    /// If there is none.
    fn inner(&self, outer: BorrowedFd<'_>, slot: u32) -> io::Result<u32>;

    /// A map by its identifier.
    ///
    /// # Errors
    /// If there is none.
    fn open(&self, identifier: u32) -> io::Result<OwnedFd>;

    /// The key that follows `key`, or the first; none at the end.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn next_key(
        &self,
        map: BorrowedFd<'_>,
        key: Option<&[u8]>,
        next: &mut [u8],
    ) -> io::Result<bool>;
}

/// The kernel under this process (bpf(2)).
#[derive(Debug, Clone, Copy, Default)]
pub struct Linux;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const MAP_GET_FD_BY_ID: libc::c_int = 14;

/// The member of `union bpf_attr` for `BPF_MAP_CREATE`, up to the name.
#[repr(C)]
struct CreateAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    node: u32,
    name: [u8; 16],
}

/// The member for commands on one element.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The member for `BPF_MAP_GET_FD_BY_ID`.
#[repr(C)]
struct IdentifierAttributes {
    identifier: u32,
    next: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are those of the command, zeroed where nothing is set, and the kernel reads no more than their size. The
    // pointers in them are to memory that the caller borrows during the call, as large as the map's keys and values.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn element(map: BorrowedFd<'_>, key: *const u8, value: *const u8) -> ElementAttributes {
    ElementAttributes {
        map: map.as_raw_fd().cast_unsigned(),
        _padding: 0,
        key: key.expose_provenance() as u64,
        value: value.expose_provenance() as u64,
        flags: 0,
    }
}

impl Kernel for Linux {
    fn create(&self, map: NewMap) -> io::Result<OwnedFd> {
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(b"portcullis") {
            *to = *from;
        }
        let attributes = CreateAttributes {
            kind: map.kind,
            key_size: map.key_size,
            value_size: map.value_size,
            max_entries: map.max_entries,
            flags: map.flags,
            inner_map: 0,
            node: 0,
            name,
        };
        bpf(MAP_CREATE, &attributes).and_then(descriptor)
    }

    fn map(&self, array: BorrowedFd<'_>, bytes: usize) -> io::Result<Mapping> {
        Mapping::new(array, bytes)
    }

    fn update(&self, map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
        bpf(MAP_UPDATE_ELEM, &element(map, key.as_ptr(), value.as_ptr())).map(drop)
    }

    fn delete(&self, map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
        bpf(MAP_DELETE_ELEM, &element(map, key.as_ptr(), ptr::null())).map(drop)
    }

    fn inner(&self, outer: BorrowedFd<'_>, slot: u32) -> io::Result<u32> {
        let key = slot.to_ne_bytes();
        let mut identifier = [0; 4];
        bpf(
            MAP_LOOKUP_ELEM,
            &element(outer, key.as_ptr(), identifier.as_mut_ptr()),
        )?;
        Ok(u32::from_ne_bytes(identifier))
    }

    fn open(&self, identifier: u32) -> io::Result<OwnedFd> {
        let attributes = IdentifierAttributes {
            identifier,
            next: 0,
            flags: 0,
        };
        bpf(MAP_GET_FD_BY_ID, &attributes).and_then(descriptor)
    }

    fn next_key(
        &self,
        map: BorrowedFd<'_>,
        key: Option<&[u8]>,
        next: &mut [u8],
    ) -> io::Result<bool> {
        let key = key.map_or(ptr::null(), <[u8]>::as_ptr);
        match bpf(MAP_GET_NEXT_KEY, &element(map, key, next.as_mut_ptr())) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// An array's memory, shared with the kernel.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: the memory belongs to the value until it is dropped, and is only reached through atomic words.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(array: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel picks takes no memory from anything else.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                array,
                0,
            )
        }?;
        let start =
            NonNull::new(start).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, bytes })
    }
}

impl Memory for Mapping {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has so many bytes, begins at a page, and lasts as long as `self`. The program may write any word at any time,
        // which is what atomics are for.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing borrows from it any more.
        let _ = unsafe { munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// Calls that are made again when the kernel says that it may work later, and how long is waited in between.
const RETRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(2);

/// Makes a call again while the kernel says that it was interrupted, or busy or out of memory for the moment; a fifth of a second at most.
///
/// # Errors
/// That of the last try.
pub(super) fn retrying<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut retries = 0;
    loop {
        match call() {
            Err(error) if retries < RETRIES && is_passing(&error) => {
                retries += 1;
                if error.kind() != io::ErrorKind::Interrupted {
                    thread::sleep(PAUSE);
                }
            }
            result => return result,
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::OutOfMemory
    )
}

/// Whether the kernel lets arrays be mapped.
///
/// # Errors
/// Why it does not.
pub(super) fn check_mapping(kernel: &dyn Kernel) -> io::Result<()> {
    let array = kernel.create(NewMap {
        kind: ARRAY,
        key_size: 4,
        value_size: 64,
        max_entries: 1,
        flags: agent_ebpf::layout::MMAPABLE,
    })?;
    kernel.map(array.as_fd(), 64).map(drop)
}
