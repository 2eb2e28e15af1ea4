//! What has to be done for the kernel to enforce what is wanted. Pure: two states in, steps out.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use agent_ebpf::verdict::Policy;
use ipnet::IpNet;

/// All that belongs to one generation and switches as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    pub protected: Vec<IpNet>,
    pub banned: Vec<IpNet>,
    pub allowed: Arc<[IpNet]>,
    pub policy: Policy,
}

/// What the kernel should enforce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub lists: Arc<Lists>,
    /// Banned addresses and when each ban ends, in seconds since the epoch.
    pub host_bans: BTreeMap<IpAddr, u64>,
}

/// What the kernel is known to enforce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// `None` when it is not known, as after a start: then the lists are always built anew.
    pub lists: Option<Arc<Lists>>,
    pub host_bans: BTreeMap<IpAddr, u64>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Ban { address: IpAddr, expires: u64 },
    Switch(Arc<Lists>),
    Unban { address: IpAddr },
}

/// The steps from `applied` to `wanted`: what cuts someone off comes before what lets someone in.
pub fn plan(wanted: &Wanted, applied: &Applied) -> Vec<Step> {
    let mut steps: Vec<Step> = wanted
        .host_bans
        .iter()
        .filter(|(address, expires)| applied.host_bans.get(address) != Some(expires))
        .map(|(address, expires)| Step::Ban {
            address: *address,
            expires: *expires,
        })
        .collect();
    let is_current = applied
        .lists
        .as_ref()
        .is_some_and(|lists| Arc::ptr_eq(lists, &wanted.lists) || *lists == wanted.lists);
    if !is_current {
        steps.push(Step::Switch(Arc::clone(&wanted.lists)));
    }
    steps.extend(
        applied
            .host_bans
            .keys()
            .filter(|address| !wanted.host_bans.contains_key(address))
            .map(|address| Step::Unban { address: *address }),
    );
    steps
}

impl Applied {
    /// Notes that a step was carried out.
    pub fn note(&mut self, step: &Step) {
        match step {
            Step::Ban { address, expires } => drop(self.host_bans.insert(*address, *expires)),
            Step::Switch(lists) => self.lists = Some(Arc::clone(lists)),
            Step::Unban { address } => drop(self.host_bans.remove(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn bans() -> impl Strategy<Value = BTreeMap<IpAddr, u64>> {
        btree_map(
            (0_u8..8).prop_map(|host| IpAddr::from([198, 51, 100, host])),
            0_u64..3,
            0..8,
        )
    }

    fn lists() -> impl Strategy<Value = Arc<Lists>> {
        any::<bool>().prop_map(|monitor| {
            Arc::new(Lists {
                policy: Policy {
                    monitor,
                    ..Policy::default()
                },
                ..Lists::default()
            })
        })
    }

    proptest! {
        #[test]
        fn carrying_out_the_plan_leaves_nothing_to_do(
            wanted_lists in lists(),
            wanted_bans in bans(),
            applied_lists in proptest::option::of(lists()),
            applied_bans in bans(),
        ) {
            let wanted = Wanted { lists: wanted_lists, host_bans: wanted_bans };
            let mut applied = Applied { lists: applied_lists, host_bans: applied_bans };
            for step in plan(&wanted, &applied) {
                applied.note(&step);
            }
            prop_assert_eq!(&applied.host_bans, &wanted.host_bans);
            prop_assert_eq!(plan(&wanted, &applied), []);
        }
    }

    #[test]
    fn after_a_start_the_lists_are_switched_even_if_they_could_be_the_same() {
        assert!(matches!(
            plan(&Wanted::default(), &Applied::default()).as_slice(),
            [Step::Switch(_)]
        ));
    }

    #[test]
    fn bans_come_first_and_pardons_last() {
        let [a, b] = [
            IpAddr::from([198, 51, 100, 1]),
            IpAddr::from([198, 51, 100, 2]),
        ];
        let wanted = Wanted {
            host_bans: BTreeMap::from([(a, 9)]),
            ..Wanted::default()
        };
        let applied = Applied {
            lists: None,
            host_bans: BTreeMap::from([(b, 9)]),
        };
        let steps = plan(&wanted, &applied);
        assert!(
            matches!(
                steps.as_slice(),
                [Step::Ban { .. }, Step::Switch(_), Step::Unban { .. }]
            ),
            "{steps:?}"
        );
    }
}
