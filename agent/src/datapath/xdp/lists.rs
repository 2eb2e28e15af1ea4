//! The lists of a generation: built aside, then put into the slots that no packet reads.

use std::{io, net::IpAddr, sync::Arc, thread, time::Duration};

use agent_ebpf::{
    layout::{Address4, Address6, Family, list_slot, parameters_slot},
    verdict::List,
};
use aya::{
    Pod,
    maps::{
        ArrayOfMaps, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use ipnet::IpNet;

use crate::{
    datapath::DatapathError,
    rule::{Action, Rule},
};

/// The prefixes of a generation by list.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists {
    protected: Vec<IpNet>,
    banned: Vec<IpNet>,
    allowed: Arc<[IpNet]>,
}

impl Lists {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let with = |is_wanted: fn(&Action) -> bool| {
            rules
                .iter()
                .filter(|rule| is_wanted(&rule.action))
                .map(|rule| rule.prefix)
                .collect::<Vec<_>>()
        };
        Self {
            protected: with(|action| *action == Action::Protect),
            banned: with(|action| *action == Action::Ban),
            allowed: with(|action| matches!(action, Action::Allow(_))).into(),
        }
    }
}

type Trie4 = LpmTrie<MapData, Address4, u32>;
type Trie6 = LpmTrie<MapData, Address6, u32>;

/// The flag `BPF_F_NO_PREALLOC`, without which the kernel makes no trie.
const NO_PREALLOC: u32 = 1;
/// Linux 6.18 may have no memory at hand for a fresh trie that is filled fast, and has it a moment later.
const NO_MEMORY_RETRIES: u32 = 2_000;
const NO_MEMORY_PAUSE: Duration = Duration::from_millis(1);

/// The outer maps, and what stands in which slot.
pub(super) struct ListSlots {
    outer4: ArrayOfMaps<MapData, Trie4>,
    outer6: ArrayOfMaps<MapData, Trie6>,
    /// For each of the two generations, each list; `None` while it is not known what the slot holds.
    filled: [[Option<Arc<Built>>; List::ALL.len()]; 2],
}

/// A list in the kernel, and what it was made from.
struct Built {
    prefixes: Arc<[IpNet]>,
    trie4: Trie4,
    trie6: Trie6,
}

impl Built {
    fn has(&self, family: Family) -> bool {
        self.prefixes
            .iter()
            .any(|prefix| family_of(prefix) == family)
    }
}

impl ListSlots {
    pub(super) fn new(
        outer4: ArrayOfMaps<MapData, Trie4>,
        outer6: ArrayOfMaps<MapData, Trie6>,
    ) -> Self {
        Self {
            outer4,
            outer6,
            filled: Default::default(),
        }
    }

    /// Puts `lists` into the slots of `generation`, which must not be in force; gives the lists that hold anything.
    ///
    /// A list that the other generation has as well is shared, and one that the slot has already is left.
    pub(super) fn fill(
        &mut self,
        generation: u64,
        lists: &Lists,
    ) -> Result<Vec<(List, Family)>, DatapathError> {
        let wanted: [(List, Arc<[IpNet]>); 3] = [
            (List::Protected, lists.protected.as_slice().into()),
            (List::Banned, lists.banned.as_slice().into()),
            (List::Allowed, Arc::clone(&lists.allowed)),
        ];
        let mut present = Vec::new();
        for (list, prefixes) in wanted {
            let built = self.place(generation, list, &prefixes)?;
            present.extend(
                [Family::V4, Family::V6]
                    .into_iter()
                    .filter(|family| built.has(*family))
                    .map(|family| (list, family)),
            );
        }
        Ok(present)
    }

    fn place(
        &mut self,
        generation: u64,
        list: List,
        prefixes: &Arc<[IpNet]>,
    ) -> Result<Arc<Built>, DatapathError> {
        let matches = |built: &&Arc<Built>| {
            Arc::ptr_eq(&built.prefixes, prefixes) || built.prefixes == *prefixes
        };
        if let Some(built) = self.slot(generation, list).as_ref().filter(matches) {
            return Ok(Arc::clone(built));
        }
        let shared = self
            .slot(generation + 1, list)
            .as_ref()
            .filter(matches)
            .map(Arc::clone);
        let built = match shared {
            Some(built) => built,
            None => Arc::new(build(Arc::clone(prefixes))?),
        };
        *self.slot(generation, list) = None;
        self.write(generation, list, &built)?;
        *self.slot(generation, list) = Some(Arc::clone(&built));
        Ok(built)
    }

    /// Returns when no packet can be judged by an earlier generation than `generation` any more.
    ///
    /// The kernel waits for all readers whenever a slot of an outer map is written, so a slot is written again as it is.
    pub(super) fn wait_for_readers(&mut self, generation: u64) -> Result<(), DatapathError> {
        let built = self.slot(generation, List::Protected).clone();
        match built {
            Some(built) => self
                .outer4
                .set(list_slot(generation, List::Protected), &built.trie4, 0)
                .map_err(|source| DatapathError::Map {
                    action: "wait for packets under way",
                    source,
                }),
            None => Ok(()),
        }
    }

    fn write(&mut self, generation: u64, list: List, built: &Built) -> Result<(), DatapathError> {
        let refused = |source| DatapathError::Map {
            action: "put a list into its slot",
            source,
        };
        let slot = list_slot(generation, list);
        self.outer4.set(slot, &built.trie4, 0).map_err(refused)?;
        self.outer6.set(slot, &built.trie6, 0).map_err(refused)
    }

    fn slot(&mut self, generation: u64, list: List) -> &mut Option<Arc<Built>> {
        let [even, odd] = &mut self.filled;
        let [protected, banned, allowed] = if parameters_slot(generation) == 0 {
            even
        } else {
            odd
        };
        match list {
            List::Protected => protected,
            List::Banned => banned,
            List::Allowed => allowed,
        }
    }
}

fn family_of(prefix: &IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

fn build(prefixes: Arc<[IpNet]>) -> Result<Built, DatapathError> {
    let entries = prefixes.len();
    let failed = |source| DatapathError::BuildList { entries, source };
    let count = |family| {
        prefixes
            .iter()
            .filter(|prefix| family_of(prefix) == family)
            .count()
    };
    let mut trie4 = create(count(Family::V4)).map_err(failed)?;
    let mut trie6 = create(count(Family::V6)).map_err(failed)?;
    for prefix in prefixes.iter() {
        let length = u32::from(prefix.prefix_len());
        match prefix.network() {
            IpAddr::V4(address) => insert(&mut trie4, Key::new(length, address.octets())),
            IpAddr::V6(address) => insert(&mut trie6, Key::new(length, address.octets())),
        }
        .map_err(failed)?;
    }
    Ok(Built {
        prefixes,
        trie4,
        trie6,
    })
}

fn create<K: Pod>(entries: usize) -> Result<LpmTrie<MapData, K, u32>, MapError> {
    LpmTrie::create(
        u32::try_from(entries).unwrap_or(u32::MAX).max(1),
        NO_PREALLOC,
    )
}

fn insert<K: Pod>(trie: &mut LpmTrie<MapData, K, u32>, key: Key<K>) -> Result<(), MapError> {
    let mut retries = 0;
    loop {
        match trie.insert(&key, 0, 0) {
            Err(error) if is_out_of_memory(&error) && retries < NO_MEMORY_RETRIES => {
                retries += 1;
                thread::sleep(NO_MEMORY_PAUSE);
            }
            result => return result,
        }
    }
}

fn is_out_of_memory(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::OutOfMemory)
}
