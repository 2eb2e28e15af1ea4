//! The maps of fixed size, in this process's memory.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use agent_ebpf::{
    class::SCOPE_SETS,
    flow,
    layout::{Active, CPU_WORDS, Control, FlowTimeouts, Parameters, SLOTS},
    scope::ScopeSet,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    datapath::kernel::{Kernel, Mapping, retrying},
    table::Memory as _,
};

/// The maps that are neither tables nor events.
pub(super) struct Page {
    control: Mapping,
    parameters: Mapping,
    scopes: Mapping,
    cpus: Mapping,
    flows: Mapping,
}

/// The descriptors of those maps.
pub(super) struct PageMaps {
    pub(super) control: OwnedFd,
    pub(super) parameters: OwnedFd,
    pub(super) scopes: OwnedFd,
    pub(super) cpus: OwnedFd,
    pub(super) flows: OwnedFd,
    /// Elements of `cpus`.
    pub(super) cpu_count: usize,
}

/// The index of a word in the control map.
macro_rules! word {
    ($field:ident) => {
        std::mem::offset_of!(Control, $field) / 8
    };
}

impl Page {
    pub(super) fn map(kernel: &Arc<dyn Kernel>, maps: &PageMaps) -> io::Result<Self> {
        let map = |map: &OwnedFd, bytes: usize| retrying(|| kernel.map(map.as_fd(), bytes));
        let slots = SLOTS as usize;
        Ok(Self {
            control: map(&maps.control, size_of::<Control>())?,
            parameters: map(&maps.parameters, slots * size_of::<Parameters>())?,
            scopes: map(
                &maps.scopes,
                slots * SCOPE_SETS as usize * size_of::<ScopeSet>(),
            )?,
            cpus: map(&maps.cpus, maps.cpu_count * CPU_WORDS * 8)?,
            flows: map(
                &maps.flows,
                flow::FLOW_BUCKETS as usize * size_of::<flow::Bucket>(),
            )?,
        })
    }

    fn control(&self, index: usize) -> Option<&AtomicU64> {
        self.control.words().get(index)
    }

    fn load(&self, index: usize) -> u64 {
        self.control(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.control(index) {
            word.store(value, Ordering::Release);
        }
    }

    pub(super) fn active(&self) -> Active {
        Active(self.load(word!(active)))
    }

    pub(super) fn previous(&self) -> Active {
        Active(self.load(word!(previous)))
    }

    /// Boot time in nanoseconds, 0 for none.
    pub(super) fn deadline(&self) -> u64 {
        self.load(word!(deadline))
    }

    /// From here on this word judges every packet.
    pub(super) fn activate(&self, active: Active) {
        // What the word leads to is written before.
        fence(Ordering::SeqCst);
        self.store(word!(active), active.0);
    }

    /// From `deadline` on, `previous` judges every packet.
    pub(super) fn arm(&self, previous: Active, deadline: u64) {
        self.store(word!(previous), previous.0);
        self.store(word!(deadline), deadline);
    }

    pub(super) fn set_previous(&self, previous: Active) {
        fence(Ordering::SeqCst);
        self.store(word!(previous), previous.0);
    }

    pub(super) fn disarm(&self) {
        self.store(word!(deadline), 0);
    }

    pub(super) fn open_event_window(&self) {
        if let Some(word) = self.control(word!(event_window)) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn set_observe(&self, one_in: u64) {
        self.store(word!(observe), one_in);
    }

    pub(super) fn set_probe(&self, nonce: u64) {
        self.store(word!(probe), nonce);
    }

    /// Draws the key of the hashes, if there is none yet.
    pub(super) fn ensure_key(&self) -> Result<(), getrandom::Error> {
        let first = word!(key);
        if self.load(first) == 0 {
            self.store(first + 1, getrandom::u64()?);
            self.store(first, getrandom::u64()? | 1);
        }
        Ok(())
    }

    /// Writes parameters and scope sets into a slot.
    pub(super) fn write(&self, slot: u32, parameters: &Parameters, scopes: &[ScopeSet]) {
        let size = size_of::<Parameters>();
        write_at(&self.parameters, slot as usize * size, bytes_of(parameters));
        self.write_scopes(slot, scopes);
    }

    /// Writes scope sets into a slot, which may be in use: those that a class stands for already are the same.
    pub(super) fn write_scopes(&self, slot: u32, scopes: &[ScopeSet]) {
        for (index, set) in scopes.iter().enumerate().take(SCOPE_SETS as usize) {
            let at = (slot as usize * SCOPE_SETS as usize + index) * size_of::<ScopeSet>();
            write_at(&self.scopes, at, bytes_of(set));
        }
    }

    /// Whether a slot holds these.
    pub(super) fn holds(&self, slot: u32, parameters: &Parameters, scopes: &[ScopeSet]) -> bool {
        let size = size_of::<Parameters>();
        let mut is_same = is_at(&self.parameters, slot as usize * size, bytes_of(parameters));
        for (index, set) in scopes.iter().enumerate().take(SCOPE_SETS as usize) {
            let at = (slot as usize * SCOPE_SETS as usize + index) * size_of::<ScopeSet>();
            is_same &= is_at(&self.scopes, at, bytes_of(set));
        }
        is_same
    }

    /// The sum of a counter over all CPUs.
    pub(super) fn counter(&self, index: u32) -> u64 {
        self.cpus
            .words()
            .chunks_exact(CPU_WORDS)
            .filter_map(|cpu| cpu.get(index as usize))
            .map(|word| word.load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// Removes flows that nothing refers to any more: their 16 bits of time would make them look fresh once in 19 hours.
    pub(super) fn sweep_flows(&self, timeouts: FlowTimeouts) {
        let longest = timeouts.tcp.max(timeouts.udp).max(timeouts.icmp);
        let now = coarse_units();
        for word in self.flows.words() {
            let entry = word.load(Ordering::Relaxed);
            let age = now.wrapping_sub((entry & 0xffff) as u16);
            // An entry that the clock's rounding puts into the future is fresh.
            if entry != 0 && age > longest && age < u16::MAX {
                // Lost only if the program has refreshed it just now.
                let _ = word.compare_exchange(entry, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

/// CLOCK_MONOTONIC in the units of flows.
fn coarse_units() -> u16 {
    let now = nanoseconds(ClockId::Monotonic);
    ((now >> 30) & 0xffff) as u16
}

/// CLOCK_BOOTTIME.
pub(super) fn boot_time() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// CLOCK_BOOTTIME, that much later.
pub(super) fn boot_time_after(duration: Duration) -> u64 {
    boot_time().saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn bytes_of<T: aya::Pod>(value: &T) -> &[u8] {
    // SAFETY: a `Pod` has no padding, so all of its bytes are set.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn words_at<'a>(
    mapping: &'a Mapping,
    at: usize,
    bytes: &'a [u8],
) -> impl Iterator<Item = (&'a AtomicU64, u64)> {
    let words = mapping.words().get(at / 8..).unwrap_or_default();
    let values = bytes
        .as_chunks()
        .0
        .iter()
        .map(|chunk| u64::from_ne_bytes(*chunk));
    words.iter().zip(values)
}

fn write_at(mapping: &Mapping, at: usize, bytes: &[u8]) {
    for (word, value) in words_at(mapping, at, bytes) {
        // What is the same already is left: the slot may be in use.
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Release);
        }
    }
}

fn is_at(mapping: &Mapping, at: usize, bytes: &[u8]) -> bool {
    words_at(mapping, at, bytes).all(|(word, value)| word.load(Ordering::Relaxed) == value)
}
