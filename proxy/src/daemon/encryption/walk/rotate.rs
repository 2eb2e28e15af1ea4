//! Files are wrapped to the keys that new ones are wrapped to, and which keys nobody needs then.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_at_rest::{Head, kek::KekId};

use super::{super::Kept, ATTEMPTS, Look, Walk};
use crate::{
    backend::ErrorKind,
    encryption::{Answer, RetiredKeys},
    gate::verify::Verified,
    operation::{Care, Tended},
    path::VirtualPath,
};

impl Look<'_> {
    pub(super) async fn rewrap(&mut self, verified: &Verified, path: &VirtualPath) {
        let length = Head::LENGTH as u64;
        self.pace.take(length).await;
        let mut tended = verified.tend(path, Care::Rewrap).await;
        for _ in 1..ATTEMPTS {
            // Somebody has just put another one there.
            if !matches!(&tended, Err(error) if error.kind == ErrorKind::Failure) {
                break;
            }
            tended = verified.tend(path, Care::Rewrap).await;
        }
        let new = u64::from(self.is_first);
        match tended {
            Err(error) if error.kind == ErrorKind::NotFound => return,
            Err(error) => self.failed(path, &error),
            Ok(Tended::Rewrapped) => {
                self.pace.take(length).await;
                self.answer.rewrapped += 1;
            }
            Ok(
                Tended::Current
                | Tended::Encrypted { .. }
                | Tended::Identified { .. }
                | Tended::Shredded,
            ) => self.answer.current += new,
            Ok(Tended::Plain) => self.answer.plain += new,
        }
        self.answer.files += new;
    }
}

impl Walk<'_> {
    /// Which retired keys nobody needs, set by set.
    pub(super) fn judge_keys(&self, failed: &BTreeSet<String>, answer: &mut Answer) {
        let mut sets: BTreeMap<Option<&str>, BTreeMap<&str, &Kept>> = BTreeMap::new();
        let kept = self.vaults.by_name.iter();
        for (name, kept) in kept.filter(|(_, kept)| !kept.keys.ring.is_destroyed()) {
            let set = sets.entry(kept.keys.set.as_deref()).or_default();
            set.insert(name, kept);
        }
        for (set, backends) in sets {
            let Some(judged) = self.judge_set(&backends, failed) else {
                continue;
            };
            match set {
                None => answer.retired = judged,
                Some(name) => drop(answer.sets.insert(name.to_owned(), judged)),
            }
        }
    }

    /// `None` if it has none.
    fn judge_set(
        &self,
        backends: &BTreeMap<&str, &Kept>,
        failed: &BTreeSet<String>,
    ) -> Option<RetiredKeys> {
        let rings = || backends.values().map(|kept| &kept.keys.ring);
        let active: BTreeSet<KekId> = rings().map(|ring| ring.active()).collect();
        let retired: BTreeSet<KekId> = rings()
            .flat_map(|ring| ring.retired().collect::<Vec<_>>())
            .filter(|key| !active.contains(key))
            .collect();
        if retired.is_empty() {
            return None;
        }
        let is_of = |name: &str| backends.contains_key(name);
        let asked = self.request.backend.as_deref();
        let unseen = |name: &&str| asked.is_some_and(|asked| asked != *name);
        let because = if failed.iter().any(|name| is_of(name)) {
            "not all files could be looked at"
        } else if backends.keys().any(unseen) {
            "other backends were not looked at"
        } else if backends.values().any(|kept| kept.has_outdated_names()) {
            "the key of a backend's names is not wrapped to the new key yet; the log says why"
        } else if retired
            .iter()
            .any(|key| self.vaults.is_written_to(*key, is_of))
        {
            "sessions that began before the keys were changed are still open; ask again when they have ended"
        } else {
            return Some(RetiredKeys {
                unneeded_keys: retired.iter().map(KekId::to_string).collect(),
                keys_unknown: None,
            });
        };
        Some(RetiredKeys {
            unneeded_keys: Vec::new(),
            keys_unknown: Some(because.to_owned()),
        })
    }
}
