//! The place where packets are judged, as the daemon sees it.

pub mod fake;
pub mod mode;
pub mod pins;
pub mod xdp;

use std::{collections::BTreeMap, net::IpAddr};

use agent_ebpf::{
    layout::{self, DropEvent},
    verdict::{VERDICTS, Verdict},
};
use serde::{Deserialize, Serialize};

use crate::{interface::AttachedMode, reconcile::Lists};

/// Something that drops packets by a set of lists.
pub trait Datapath: Send {
    /// Puts `lists` in force, all of them at once for each packet; gives the new generation. When this returns, every packet that
    /// is still to come is judged by them.
    ///
    /// # Errors
    /// If the kernel refuses; then the lists in force are as before.
    fn switch(&mut self, lists: &Lists) -> Result<u64, DatapathError>;

    /// Bans an address; `expires` is kept for a later daemon, nothing here acts on it.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn ban(&mut self, address: IpAddr, expires: u64) -> Result<(), DatapathError>;

    /// Lifts the ban of an address, if there is one.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn unban(&mut self, address: IpAddr) -> Result<(), DatapathError>;

    /// The addresses banned in the kernel.
    fn host_bans(&self) -> BTreeMap<IpAddr, u64>;

    /// The generation in force; 0 before the first.
    fn generation(&self) -> u64;

    /// Looks at every interface and puts the program where it is not; never takes another program's place.
    fn tend(&mut self) -> Vec<InterfaceStatus>;

    /// Counters since the maps were made.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn counters(&self) -> Result<Counters, DatapathError>;

    /// Allows the next events; to be called every [`EVENT_WINDOW`].
    ///
    /// # Errors
    /// If the kernel refuses.
    fn open_event_window(&mut self) -> Result<(), DatapathError>;

    /// The events that wait, oldest first, at most `limit`.
    fn events(&mut self, limit: usize) -> Vec<DropEvent>;
}

/// The time for which a CPU has one allowance of events.
pub const EVENT_WINDOW: std::time::Duration = std::time::Duration::from_millis(100);

/// An interface that is to be enforced on, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    #[serde(flatten)]
    pub state: InterfaceState,
}

impl InterfaceStatus {
    /// Whether this daemon's program runs on it, or nothing does.
    pub(crate) fn is_settled(&self) -> bool {
        match self.state {
            InterfaceState::Enforcing { .. } | InterfaceState::Gone => true,
            InterfaceState::Occupied { .. } | InterfaceState::Failed { .. } => false,
        }
    }
}

/// Whether packets of an interface are judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum InterfaceState {
    /// Every packet is judged.
    Enforcing {
        index: u32,
        mode: RunsAs,
        program: u32,
    },
    /// There is no such interface; it is taken when it comes.
    Gone,
    /// Another program is on the hook and is left alone: nothing is judged.
    Occupied {
        index: u32,
        program: u32,
        program_name: String,
    },
    /// The kernel refuses: nothing is judged.
    Failed { index: u32, error: String },
}

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunsAs {
    /// In the driver, before the network stack allocates anything.
    Native,
    /// In the network stack, after it has allocated a buffer: slower, the same verdicts.
    Generic,
}

impl From<AttachedMode> for RunsAs {
    fn from(mode: AttachedMode) -> Self {
        match mode {
            AttachedMode::Native | AttachedMode::Offloaded => Self::Native,
            AttachedMode::Generic => Self::Generic,
        }
    }
}

/// Packets by what became of them, over all CPUs and interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub passed: BTreeMap<String, u64>,
    pub dropped: BTreeMap<String, u64>,
    /// Drops that monitor mode counted and did not carry out.
    pub would_drop: BTreeMap<String, u64>,
    /// Odd packets, whatever became of them.
    pub odd: BTreeMap<String, u64>,
}

impl Counters {
    /// Names the counters; `value` gives the sum of the one at an index of the layout.
    pub(crate) fn collect<E>(mut value: impl FnMut(u32) -> Result<u64, E>) -> Result<Self, E> {
        let mut counters = Self::default();
        for index in 0..VERDICTS {
            let Some(verdict) = Verdict::from_index(index) else {
                continue;
            };
            let carried_out = value(layout::verdict_counter(index, false))?;
            let name = verdict.name().to_owned();
            match verdict {
                Verdict::Pass(_) => drop(counters.passed.insert(name, carried_out)),
                Verdict::Drop(_) => {
                    counters
                        .would_drop
                        .insert(name.clone(), value(layout::verdict_counter(index, true))?);
                    counters.dropped.insert(name, carried_out);
                }
            }
        }
        for (name, oddity) in [
            ("fragment", agent_ebpf::packet::Oddity::Fragment),
            (
                "long_extension_chain",
                agent_ebpf::packet::Oddity::LongExtensionChain,
            ),
        ] {
            if let Some(index) = layout::oddity_counter(oddity) {
                counters.odd.insert(name.to_owned(), value(index)?);
            }
        }
        Ok(counters)
    }
}

/// Why the kernel does not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    #[error("build list of {entries} prefixes")]
    BuildList {
        entries: usize,
        source: aya::maps::MapError,
    },
    #[error("{action}")]
    Map {
        action: &'static str,
        source: aya::maps::MapError,
    },
    #[error("the kernel holds {limit} banned addresses of a family at most")]
    BansFull { limit: u32 },
}
