//! The maps, and the rules they hold.

use agent_ebpf::{
    layout::{
        Address4, Address6, BanValue, CONTROL_WORDS, COUNTERS as COUNTER_COUNT, Control,
        EVENT_BYTES, Family, GENERATIONS, LIST_SLOTS, LIST_TEMPLATE, MAX_HOST_BANS, PacketEvent,
        Parameters, Sampling, list_slot, parameters_slot,
    },
    packet::Source,
    verdict::{List, Policy, Rules},
};
use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
    macros::btf_map,
    programs::XdpContext,
};

type List4 = LpmTrie<Address4, u32, { LIST_TEMPLATE as usize }>;
type List6 = LpmTrie<Address6, u32, { LIST_TEMPLATE as usize }>;

#[btf_map]
static CONTROL: Array<u64, { CONTROL_WORDS as usize }> = Array::new();
#[btf_map]
static PARAMETERS: Array<Parameters, { GENERATIONS as usize }> = Array::new();
#[btf_map]
static LISTS4: ArrayOfMaps<List4, { LIST_SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
static LISTS6: ArrayOfMaps<List6, { LIST_SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
static BANS4: HashMap<Address4, BanValue, { MAX_HOST_BANS as usize }> = HashMap::new();
#[btf_map]
static BANS6: HashMap<Address6, BanValue, { MAX_HOST_BANS as usize }> = HashMap::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { COUNTER_COUNT as usize }> = PerCpuArray::new();
#[btf_map]
static SAMPLING: PerCpuArray<Sampling, 1> = PerCpuArray::new();
#[btf_map]
static EVENTS: RingBuf<PacketEvent, { EVENT_BYTES as usize }> = RingBuf::new();

/// The flag `BPF_RB_NO_WAKEUP`: the daemon reads at its own pace, and a flood must not wake it for each event.
const NO_WAKEUP: u64 = 1;

/// One generation of rules. The number is read once, so that a packet never sees two.
pub(super) struct Generation<'a> {
    number: u64,
    parameters: &'static Parameters,
    context: &'a XdpContext,
}

impl<'a> Generation<'a> {
    #[inline(always)]
    pub(super) fn in_force(context: &'a XdpContext) -> Option<Self> {
        let number = *CONTROL.get(Control::Generation as u32)?;
        let parameters = PARAMETERS.get(parameters_slot(number))?;
        Some(Self {
            number,
            parameters,
            context,
        })
    }

    #[inline(always)]
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    #[inline(always)]
    pub(super) fn monitors(&self) -> bool {
        self.parameters.monitors()
    }

    /// Whether this drop is to be reported. Counts it, so call once for each.
    #[inline(always)]
    pub(super) fn samples(&self) -> bool {
        let Some(sampling) = SAMPLING.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: the slot is this CPU's own, and an XDP program is not interrupted by another on the same CPU.
        let sampling = unsafe { &mut *sampling };
        let drop = sampling.drops;
        sampling.drops = drop.wrapping_add(1);
        if drop & u64::from(self.parameters.sample_mask) != 0 {
            return false;
        }
        let Some(window) = CONTROL.get(Control::EventWindow as u32).copied() else {
            return false;
        };
        if sampling.window != window {
            sampling.window = window;
            sampling.sent = 0;
        }
        if sampling.sent >= u64::from(self.parameters.events_per_window) {
            return false;
        }
        sampling.sent += 1;
        true
    }

    /// Reports a list that the parameters announce and the slot does not hold. Can't happen while the daemon keeps its order of writes.
    #[cold]
    fn list_is_missing(&self, list: List) -> bool {
        aya_log_ebpf::error!(
            self.context,
            "generation {} has no list {}",
            self.number,
            list as u32
        );
        false
    }
}

impl Rules for Generation<'_> {
    #[inline(always)]
    fn policy(&self) -> Policy {
        self.parameters.policy()
    }

    #[inline(always)]
    fn lists(&self, list: List, source: Source) -> bool {
        let slot = list_slot(self.number, list);
        match source {
            Source::V4(address) if self.parameters.is_present(list, Family::V4) => {
                match LISTS4.get(slot) {
                    Some(prefixes) => prefixes.get(&Key::new(32, address)).is_some(),
                    None => self.list_is_missing(list),
                }
            }
            Source::V6(address) if self.parameters.is_present(list, Family::V6) => {
                match LISTS6.get(slot) {
                    Some(prefixes) => prefixes.get(&Key::new(128, address)).is_some(),
                    None => self.list_is_missing(list),
                }
            }
            Source::V4(_) | Source::V6(_) => false,
        }
    }

    #[inline(always)]
    fn bans(&self, source: Source) -> bool {
        match source {
            Source::V4(address) => has_any(Control::HasBans4) && BANS4.get_ptr(address).is_some(),
            Source::V6(address) => has_any(Control::HasBans6) && BANS6.get_ptr(address).is_some(),
        }
    }
}

#[inline(always)]
fn has_any(word: Control) -> bool {
    CONTROL.get(word as u32).is_some_and(|word| *word != 0)
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(super) fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot is this CPU's own, and an XDP program is not interrupted by another on the same CPU.
        unsafe { *counter += 1 };
    }
}

/// Puts an event into the ring buffer; when that is full, the event is lost and the drop is still counted.
#[inline(always)]
pub(super) fn send(event: PacketEvent) {
    if let Some(mut entry) = EVENTS.reserve(0) {
        entry.write(event);
        entry.submit(NO_WAKEUP);
    }
}
