//! What witnesses say of a log: the newest head that enough of them cosigned.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};

use super::report::{CosignedPlace, Finding, Kind};
use crate::tree::{
    checkpoint::Head,
    cosignature::{FalseCosignature, WitnessKey, cosignatures},
};

/// Who has to have cosigned a head.
#[derive(Debug, Clone)]
pub struct Witnesses {
    pub keys: Vec<WitnessKey>,
    /// So many of them; at least one.
    pub quorum: usize,
}

/// The cosignatures that were seen.
#[derive(Debug)]
pub(super) struct Cosigners {
    witnesses: Witnesses,
    /// By size and root, who cosigned when first. What lies before a head with a quorum is left out.
    seen: BTreeMap<(u64, [u8; 32]), BTreeMap<usize, u64>>,
}

impl Cosigners {
    pub(super) fn new(witnesses: Witnesses) -> Self {
        Self {
            witnesses,
            seen: BTreeMap::new(),
        }
    }

    /// Takes a note that the log signed.
    pub(super) fn hear(&mut self, note: &[u8], head: Head) -> Result<(), FalseCosignature> {
        let found = cosignatures(note, &self.witnesses.keys)?;
        if found.is_empty() {
            return Ok(());
        }
        let place = (head.size, head.root.0);
        let by = self.seen.entry(place).or_default();
        for cosigned in found {
            let time = by.entry(cosigned.witness).or_insert(cosigned.time);
            *time = cosigned.time.min(*time);
        }
        if by.len() >= self.witnesses.quorum {
            self.seen = self.seen.split_off(&(head.size, [0; 32]));
        }
        Ok(())
    }

    /// The newest place with a quorum, or what is to be said without one.
    pub(super) fn newest(&self) -> Result<CosignedPlace, Box<Finding>> {
        let quorum = self.witnesses.quorum;
        let name = |at: usize| self.witnesses.keys.get(at).map(|key| key.name().to_owned());
        let place = self.seen.iter().rev().find_map(|(place, by)| {
            let mut times: Vec<_> = by.values().copied().collect();
            times.sort_unstable();
            // When the last of the first so many had cosigned.
            let time = times.get(quorum.checked_sub(1)?)?;
            let time = DateTime::from_timestamp(i64::try_from(*time).ok()?, 0)?;
            Some(CosignedPlace {
                records: place.0,
                time: time.to_rfc3339_opts(SecondsFormat::Secs, true),
                witnesses: by.keys().copied().filter_map(name).collect(),
            })
        });
        place.ok_or_else(|| {
            let mut finding = Finding::new(Kind::NotCosigned);
            finding.signers = (0..self.witnesses.keys.len()).filter_map(name).collect();
            Box::new(finding)
        })
    }
}
