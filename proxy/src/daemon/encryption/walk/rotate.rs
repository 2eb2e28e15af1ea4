//! Files are wrapped to the keys that new ones are wrapped to, and which keys nobody needs then.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_at_rest::{Head, kek::KekId};

use super::{super::Kept, ATTEMPTS, Coverage, Look, PAUSE, Walk, is_lost, shown};
use crate::{
    backend::{
        BackendError, ErrorKind,
        encrypted::{Pending, Place},
    },
    encryption::{Answer, RetiredKeys},
    gate::verify::Verified,
    operation::{Care, Tended},
    path::VirtualPath,
};

impl Look<'_> {
    /// Ends what a lost server or a kill has left half done. False if that can't be yet: it comes before all others.
    pub(super) async fn settle(&mut self, (name, kept): (&str, &Kept), pending: &Pending) -> bool {
        let Ok(Some(place)) = pending.place() else {
            return true;
        };
        let tended = kept
            .tend_left(self.walk.journal, name, &place, &self.pace)
            .await;
        let settled = settled(&tended, pending);
        if let Err(error) = &settled {
            let path = [b"/", name.as_bytes(), place.path.as_bytes()].concat();
            self.fail(shown(&path), error.message.clone());
        }
        settled.is_ok()
    }

    /// False if nothing more can be done on this backend.
    pub(super) async fn rewrap(
        &mut self,
        verified: &Verified,
        path: &VirtualPath,
        pending: &Pending,
    ) -> bool {
        self.pace.take(Head::LENGTH as u64).await;
        let mut tended = verified.tend(path, Care::Rewrap).await;
        for _ in 1..ATTEMPTS {
            match &tended {
                // Somebody has just put another one there.
                Err(error) if error.kind == ErrorKind::Failure => {}
                Err(error) if is_lost(error) => tokio::time::sleep(PAUSE).await,
                Err(_) | Ok(_) => break,
            }
            tended = verified.tend(path, Care::Rewrap).await;
        }
        let goes_on = (!is_left(pending, verified, path) || settled(&tended, pending).is_ok())
            && !matches!(&tended, Err(error) if is_lost(error));
        let new = u64::from(self.is_first);
        match tended {
            Err(error) if error.kind == ErrorKind::NotFound => return goes_on,
            Err(error) => self.not_written_anew(path, &error),
            // What that moved is in the pace.
            Ok(Tended::Rewrapped { bytes: _ }) => self.answer.rewrapped += 1,
            Ok(
                Tended::Current
                | Tended::Encrypted { .. }
                | Tended::Identified { .. }
                | Tended::Shredded,
            ) => self.answer.current += new,
            Ok(Tended::Plain) => self.answer.plain += new,
        }
        self.answer.files += new;
        goes_on
    }
}

/// True if the head of that file may be half written.
fn is_left(pending: &Pending, verified: &Verified, path: &VirtualPath) -> bool {
    let below = path.below(&verified.mount.at);
    let is_it = |left: &Place| {
        *left.directory == *verified.mount.directory
            && below == left.path.below(&VirtualPath::root())
    };
    pending
        .place()
        .is_ok_and(|left| left.as_ref().is_some_and(is_it))
}

/// Forgets the head that was being written, if what a look has found makes it needless.
///
/// # Errors
/// If it may be needed.
pub(in crate::daemon::encryption) fn settled<'a>(
    tended: &'a Result<Tended, BackendError>,
    pending: &Pending,
) -> Result<(), &'a BackendError> {
    match tended {
        // What stands there now, if anything, is not what it was kept for.
        Err(error) if !matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotAuthentic) => {
            Err(error)
        }
        Ok(_) | Err(_) => {
            // What stays says nothing of any other file.
            let _ = pending.clear();
            Ok(())
        }
    }
}

impl Walk<'_> {
    /// Which retired keys nobody needs, set by set.
    pub(super) fn judge_keys(&self, coverage: &Coverage, answer: &mut Answer) {
        let mut sets: BTreeMap<Option<&str>, BTreeMap<&str, &Kept>> = BTreeMap::new();
        let kept = self.vaults.by_name.iter();
        for (name, kept) in kept.filter(|(_, kept)| !kept.keys.ring.is_destroyed()) {
            let set = sets.entry(kept.keys.set.as_deref()).or_default();
            set.insert(name, kept);
        }
        for (set, backends) in sets {
            let Some(judged) = self.judge_set(&backends, coverage) else {
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
        coverage: &Coverage,
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
        let because = if coverage.failed_on.iter().any(|name| is_of(name)) {
            "not all files could be looked at"
        } else if let Some(doubt) = coverage.doubt(is_of) {
            doubt
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
