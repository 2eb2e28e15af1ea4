//! What the kernel holds against what it should.

use std::net::IpAddr;

use agent_ebpf::class::Class;
use sha2::{Digest as _, Sha256};

use super::{Keep, Store};
use crate::{
    datapath::{
        DatapathError, Readback,
        xdp::{
            family::{Family, V4, V6},
            generation::Generation,
        },
    },
    ruleset::compile,
};

impl Store {
    /// Compares, and puts a new generation in force where there is a difference.
    pub(in crate::datapath::xdp) fn verify(&mut self) -> Result<Readback, DatapathError> {
        self.complete_revert();
        let mut hash = Sha256::new();
        let drifted = !self.is_as_wanted(&mut hash)?;
        if drifted {
            self.drifts += 1;
            tracing::error!(
                "the tables in the kernel are not what they should be; building them anew"
            );
            self.repair()?;
            hash = Sha256::new();
            self.is_as_wanted(&mut hash)?;
        }
        Ok(Readback {
            sha256: hex::encode(hash.finalize()),
            drifted,
            drifts_total: self.drifts,
        })
    }

    fn is_as_wanted(&mut self, hash: &mut Sha256) -> Result<bool, DatapathError> {
        let refused = |source| DatapathError::Kernel {
            action: "read the tables back",
            source,
        };
        let Some(current) = &mut self.current else {
            return Ok(true);
        };
        let mut is_same = self.page.active() == current.active()
            && self
                .page
                .holds(current.slot, &current.parameters, &current.scopes);
        let Generation { rules, v4, v6, .. } = current;
        let index = rules.index()?;
        let mut classes = None;
        let mut compiled = || {
            classes
                .get_or_insert_with(|| compile(&index.rules()).unwrap_or_default())
                .clone()
        };
        is_same &= self
            .tables4
            .check(v4, hash, || {
                boundaries::<V4>(&compiled().v4, |address| {
                    index.class_of(IpAddr::from(address.to_be_bytes()))
                })
            })
            .map_err(refused)?;
        is_same &= self
            .tables6
            .check(v6, hash, || {
                boundaries::<V6>(&compiled().v6, |address| {
                    index.class_of(IpAddr::from(address.to_be_bytes()))
                })
            })
            .map_err(refused)?;
        Ok(is_same)
    }

    fn repair(&mut self) -> Result<(), DatapathError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let rules = current.rules.all()?;
        let settings = current.settings.clone();
        let prepared = self.prepare(rules, &settings, Keep::Nothing)?;
        self.put_in_force(prepared);
        Ok(())
    }
}

/// The addresses at which a class may begin or end, with the class that each should have.
fn boundaries<F: Family>(
    classed: &[F::Classed],
    class_of: impl Fn(F::Address) -> Class,
) -> Vec<(F::Address, Class)> {
    classed
        .iter()
        .flat_map(|prefix| [Some(F::first(prefix)), F::behind(prefix)])
        .flatten()
        .map(|address| (address, class_of(address)))
        .collect()
}
