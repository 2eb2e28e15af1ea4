//! A datapath without a kernel, for tests of what stands above it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_ebpf::layout::DropEvent;

use super::{Counters, Datapath, DatapathError, InterfaceStatus};
use crate::reconcile::Lists;

/// What a fake was told; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    told: Arc<Mutex<Told>>,
}

/// The state of a [`Fake`].
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub generation: u64,
    pub lists: Lists,
    pub host_bans: BTreeMap<IpAddr, u64>,
    /// Every call fails while this is set.
    pub refuses: bool,
}

impl Fake {
    /// What it was told so far.
    pub fn told(&self) -> Told {
        self.lock().clone()
    }

    /// Makes every call fail, or work again.
    pub fn set_refuses(&self, refuses: bool) {
        self.lock().refuses = refuses;
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Told>, DatapathError> {
        let told = self.lock();
        if told.refuses {
            Err(DatapathError::BansFull { limit: 0 })
        } else {
            Ok(told)
        }
    }
}

impl Datapath for Fake {
    fn switch(&mut self, lists: &Lists) -> Result<u64, DatapathError> {
        let mut told = self.open()?;
        told.generation += 1;
        told.lists = lists.clone();
        Ok(told.generation)
    }

    fn ban(&mut self, address: IpAddr, expires: u64) -> Result<(), DatapathError> {
        self.open()?.host_bans.insert(address, expires);
        Ok(())
    }

    fn unban(&mut self, address: IpAddr) -> Result<(), DatapathError> {
        self.open()?.host_bans.remove(&address);
        Ok(())
    }

    fn host_bans(&self) -> BTreeMap<IpAddr, u64> {
        self.lock().host_bans.clone()
    }

    fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn tend(&mut self) -> Vec<InterfaceStatus> {
        Vec::new()
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Counters::collect(|_| Ok(0))
    }

    fn open_event_window(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }

    fn events(&mut self, _limit: usize) -> Vec<DropEvent> {
        Vec::new()
    }
}
