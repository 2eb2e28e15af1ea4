//! The measured programs, loaded over the maps of a datapath.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    ptr,
};

use agent_ebpf::layout::{FINGERPRINT, MAPS};
use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData},
    programs::{TestRun as _, TestRunOptions, Xdp},
};

use crate::lab;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-xdp.o"));

/// Sources that one array holds.
pub(crate) const SOURCES: usize = 1 << 20;

/// The programs over the maps pinned in one directory.
pub(crate) struct Programs {
    object: Ebpf,
    sources4: Shared<1>,
    sources6: Shared<2>,
}

/// An array map seen as memory: `SOURCES` elements of `WORDS` words.
struct Shared<const WORDS: usize> {
    words: *mut u64,
    _map: MapData,
}

// SAFETY: the mapping is this value's own, and memory knows no threads.
unsafe impl<const WORDS: usize> Send for Shared<WORDS> {}

impl<const WORDS: usize> Shared<WORDS> {
    const BYTES: usize = SOURCES * WORDS * size_of::<u64>();

    fn new(object: &mut Ebpf, name: &str) -> Result<Self> {
        let map = object
            .take_map(name)
            .with_context(|| format!("the object has no map {name}"))?;
        let Map::Array(map) = map else {
            bail!("{name} is no array");
        };
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice, of a map that is at least so large.
        let words = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        ensure!(words != libc::MAP_FAILED, "map {name} into memory");
        Ok(Self {
            words: words.cast(),
            _map: map,
        })
    }

    /// Fills the array by repeating `sources`.
    fn fill(&mut self, sources: &[[u64; 2]]) {
        for (index, source) in sources.iter().cycle().take(SOURCES).enumerate() {
            for (word, value) in source.iter().take(WORDS).enumerate() {
                // SAFETY: the index is below the number of words that were mapped.
                unsafe { self.words.add(index * WORDS + word).write_volatile(*value) };
            }
        }
    }
}

impl<const WORDS: usize> Drop for Shared<WORDS> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing refers to it any more.
        unsafe {
            libc::munmap(self.words.cast(), SOURCES * WORDS * size_of::<u64>());
        }
    }
}

impl Programs {
    /// Loads the programs over the maps that a datapath pinned in `pins`.
    pub(crate) fn load(pins: &Path) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            loader.map_pin_path(
                map.name,
                pins.join(format!("maps-{FINGERPRINT:016x}")).join(map.name),
            );
        }
        let mut object = loader.load(OBJECT).context("load the measured programs")?;
        Ok(Self {
            sources4: Shared::new(&mut object, "SOURCES4")?,
            sources6: Shared::new(&mut object, "SOURCES6")?,
            object,
        })
    }

    /// The program called `name`, verified.
    pub(crate) fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program: &mut Xdp = self
            .object
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?
            .try_into()?;
        if program.fd().is_err() {
            program
                .load()
                .with_context(|| format!("verify program {name}"))?;
        }
        Ok(program)
    }

    /// Sets the addresses that the programs take in turn.
    pub(crate) fn set_sources(&mut self, sources: &[[u64; 2]], is_v6: bool) -> Result<()> {
        ensure!(!sources.is_empty(), "no address of this kind");
        if is_v6 {
            self.sources6.fill(sources);
        } else {
            self.sources4.fill(sources);
        }
        Ok(())
    }

    /// Where a flood goes.
    pub(crate) fn set_out(&mut self, interface: u32) -> Result<()> {
        let mut out: Array<_, u64> = self
            .object
            .map_mut("OUT")
            .context("the object has no map OUT")?
            .try_into()?;
        out.set(0, u64::from(interface), 0)?;
        let frame = frame(false);
        let sum: u64 = frame
            .chunks_exact(2)
            .skip(7)
            .take(10)
            .filter_map(|pair| pair.try_into().ok().map(u16::from_ne_bytes))
            .map(u64::from)
            .sum();
        out.set(1, sum, 0)?;
        Ok(())
    }

    /// Runs a program `packets` times; gives the nanoseconds of CPU time for one.
    pub(crate) fn time(&mut self, name: &str, is_v6: bool, packets: u32) -> Result<f64> {
        let frame = frame(is_v6);
        let program = self.program(name)?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            ..TestRunOptions::default()
        };
        let before = lab::own_time();
        program.test_run(options)?;
        Ok((lab::own_time() - before) as f64 / f64::from(packets))
    }
}

/// A TCP segment to port 22 whose source is written by the programs.
pub(crate) fn frame(is_v6: bool) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if is_v6 {
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
        frame.extend_from_slice(&[0; 16]);
        frame.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    } else {
        frame.extend_from_slice(&[0x08, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0]);
        frame.extend_from_slice(&[0, 0, 0, 0, 192, 0, 2, 1]);
    }
    // Source and destination port, numbers, header length, ACK.
    frame.extend_from_slice(&[0x9c, 0x40, 0, 22, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 2, 0]);
    frame.extend_from_slice(&[0; 4]);
    frame
}
