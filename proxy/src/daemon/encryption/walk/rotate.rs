//! Files are wrapped to the keys that new ones are wrapped to, and which keys nobody needs then.

use std::collections::BTreeSet;

use portcullis_at_rest::{Head, kek::KekId};

use super::{super::Kept, ATTEMPTS, Look, Walk};
use crate::{
    backend::ErrorKind,
    encryption::Answer,
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
    /// Which retired keys nobody needs.
    pub(super) fn judge_keys(&self, answer: &mut Answer) {
        let rings = || self.vaults.by_name.values().map(|kept| &kept.keys.ring);
        let active: BTreeSet<KekId> = rings().map(|ring| ring.active().id()).collect();
        let retired: BTreeSet<KekId> = rings()
            .flat_map(|ring| ring.retired().collect::<Vec<_>>())
            .filter(|key| !active.contains(key))
            .collect();
        if retired.is_empty() {
            return;
        }
        let because = if answer.failed > 0 {
            "not all files could be looked at"
        } else if self.request.backend.is_some() && self.vaults.by_name.len() > 1 {
            "other backends were not looked at"
        } else if self.vaults.by_name.values().any(Kept::has_outdated_names) {
            "the key of a backend's names is not wrapped to the new key yet; the log says why"
        } else if retired.iter().any(|key| self.vaults.is_written_to(*key)) {
            "sessions that began before the keys were changed are still open; ask again when they have ended"
        } else {
            answer.unneeded_keys = retired.iter().map(KekId::to_string).collect();
            return;
        };
        answer.keys_unknown = Some(because.to_owned());
    }
}
