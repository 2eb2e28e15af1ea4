//! The place where packets are judged, as the daemon sees it.

pub mod fake;
pub mod kernel;
pub mod mode;
pub mod pins;
pub mod xdp;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use agent_ebpf::{
    class::Class,
    layout,
    packet::Oddity,
    verdict::{Policy, VERDICTS, Verdict},
};
use serde::{Deserialize, Serialize};

pub use agent_ebpf::layout::PacketEvent;

use crate::{
    interface::AttachedMode,
    rule::{Action, Rule},
    ruleset::RulesetError,
    table::TooLarge,
};

/// Something that drops packets by rules.
pub trait Datapath: Send {
    /// Puts `rules` and `settings` in force as one new generation, and gives its number. When this returns, every packet that is
    /// still to come is judged by it. A revert that is armed stays armed, and would go back as far as before.
    ///
    /// # Errors
    /// If the kernel refuses; then the generation in force is as before.
    fn switch(&mut self, rules: Arc<[Rule]>, settings: &Settings) -> Result<u64, DatapathError>;

    /// Makes single edits of the generation in force, and gives the new number. They hold when this returns. While a revert is armed,
    /// bans made and lifted are also edited into the generation that it would go back to.
    ///
    /// # Errors
    /// If the kernel refuses; then nothing is changed, and the caller may [`switch`](Datapath::switch).
    fn edit(&mut self, edits: &[Edit]) -> Result<u64, DatapathError>;

    /// As [`switch`](Datapath::switch); and unless [`confirm`](Datapath::confirm) is called before, every packet later than `after`
    /// is judged by the generation before, whether the daemon lives or not. The clock is CLOCK_BOOTTIME: a suspended machine's time
    /// counts.
    ///
    /// # Errors
    /// As for [`switch`](Datapath::switch), and if a revert is armed already.
    fn switch_confirmed(
        &mut self,
        rules: Arc<[Rule]>,
        settings: &Settings,
        after: Duration,
    ) -> Result<u64, DatapathError>;

    /// Disarms the revert.
    ///
    /// # Errors
    /// If none is armed, or its time is over.
    fn confirm(&mut self) -> Result<(), DatapathError>;

    /// Goes back at once, or completes what the kernel did when the time was over: a new generation number with the content of the
    /// generation before the switch.
    ///
    /// # Errors
    /// If no revert is armed.
    fn revert(&mut self) -> Result<u64, DatapathError>;

    /// The number of the generation in force; 0 before the first.
    fn generation(&self) -> u64;

    /// Compares what the kernel holds with what is wanted, and repairs a difference by a new generation.
    ///
    /// # Errors
    /// If the kernel can't be asked, or the repair fails.
    fn verify(&mut self) -> Result<Readback, DatapathError>;

    /// Looks at every interface and puts the programs where they are not; never takes another program's place.
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

    /// The events that wait, oldest first, at most `limit`: drops, and passes while they are observed.
    fn events(&mut self, limit: usize) -> Vec<PacketEvent>;

    /// Also reports one in so many packets that pass (a power of two; on each CPU), or none.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn observe(&mut self, one_in: Option<u32>) -> Result<(), DatapathError>;

    /// Runs the loaded program on a made-up frame, as if it came in on the interface with this index. Counts, limits, learns and
    /// reports nothing.
    ///
    /// # Errors
    /// If the kernel refuses, as it does for a frame shorter than an Ethernet header.
    fn probe(&mut self, frame: &[u8], interface: Option<u32>) -> Result<Probe, DatapathError>;

    /// What the rules became.
    fn describe(&self) -> Description;
}

/// One change of the rules in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    Add(Rule),
    /// Of a rule that is there; of several equal ones, one goes.
    Remove(Rule),
}

impl Edit {
    /// The rule that is added or removed.
    pub fn rule(&self) -> &Rule {
        match self {
            Self::Add(rule) | Self::Remove(rule) => rule,
        }
    }

    /// Whether a ban is made or lifted.
    pub fn is_ban(&self) -> bool {
        self.rule().action == Action::Ban
    }
}

/// All that belongs to a generation beside its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub policy: Policy,
    pub monitored: MonitoredSet,
    /// For each source that is allowed and not protected; `None` is no limit.
    pub rate: Option<RateLimit>,
    /// Whether replies to flows that this host opened pass.
    pub learn_replies: bool,
}

/// The interfaces on which drops are counted and not done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MonitoredSet {
    #[default]
    None,
    All,
    /// These, by name; at most [`layout::MONITORED_INTERFACES`].
    Interfaces(Vec<String>),
}

/// What one source may send, with a burst of one second's worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// 0 is no limit.
    pub packets_per_second: u32,
    /// TCP packets with SYN and without ACK; 0 is no limit.
    pub syns_per_second: u32,
}

/// What a comparison of the kernel with the wish found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readback {
    /// Over the content of the tables in the kernel, in hexadecimal.
    pub sha256: String,
    /// Whether it was not what was wanted; then it has been repaired.
    pub drifted: bool,
    /// How often that was so since the datapath was opened.
    pub drifts_total: u64,
}

/// What became of a made-up frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub verdict: Verdict,
    pub class: Class,
    pub generation: u64,
    /// Whether the drop would only be counted.
    pub monitored: bool,
}

/// How the rules are held in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub table: TableKind,
    /// Kernel memory of the tables of the generation in force, both families.
    pub memory_bytes: u64,
    /// Prefixes in the tables, after what changes nothing was left out.
    pub prefixes4: usize,
    pub prefixes6: usize,
}

/// The kind of table that is asked for each packet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TableKind {
    #[default]
    Compiled,
    /// The kernel's own longest-prefix match: slower, the same verdicts.
    LpmTrie { reason: String },
}

/// The time for which a CPU has one allowance of events.
pub const EVENT_WINDOW: Duration = Duration::from_millis(100);

/// An interface that is to be enforced on, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    #[serde(flatten)]
    pub state: InterfaceState,
    /// What learns the flows that this host opens, so that replies pass.
    #[serde(default)]
    pub egress: Egress,
}

/// How outgoing packets of an interface are seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Egress {
    /// Replies are not learned.
    #[default]
    Off,
    /// By a link, which outlives the daemon (Linux 6.6).
    Tcx,
    /// By a filter of a clsact queueing discipline, as older kernels have it.
    Clsact,
    /// The kernel refuses: replies of new flows are dropped.
    Failed { error: String },
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
        /// The name it has now, where it was renamed since the daemon took it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        renamed_to: Option<String>,
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
        for oddity in Oddity::ALL {
            let count = value(layout::oddity_counter(oddity))?;
            counters.odd.insert(oddity.name().to_owned(), count);
        }
        Ok(counters)
    }
}

/// Why the kernel does not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    #[error(transparent)]
    Rules(#[from] RulesetError),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("build a trie of {entries} prefixes")]
    BuildTrie { entries: usize, source: io::Error },
    #[error("{action}")]
    Kernel {
        action: &'static str,
        source: io::Error,
    },
    #[error("draw a random number")]
    Random { source: getrandom::Error },
    #[error(
        "no slot for another table is free; the kernel may not have given one back yet, try again"
    )]
    NoSlot,
    #[error("nothing is in force yet that could be edited")]
    NoGeneration,
    #[error(
        "{found} interfaces are to be monitored by name, and {} can be; monitor all of them",
        layout::MONITORED_INTERFACES
    )]
    TooManyMonitored { found: usize },
    #[error("no change waits for its confirmation")]
    NotArmed,
    #[error("the time to confirm is over; the generation before is in force")]
    TooLate,
    #[error("another change waits for its confirmation; confirm or revert it first")]
    AlreadyArmed,
    #[error("run the program on a made-up frame")]
    Probe { source: io::Error },
    /// Made by the datapath for tests.
    #[error("refused")]
    Refused,
}

/// Whether an XDP program of this name is one of this agent's, whichever table it uses.
pub fn is_ours(program: &str) -> bool {
    [layout::PROGRAM, layout::LPM_PROGRAM].contains(&program)
}
