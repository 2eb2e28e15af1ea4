//! A set of keys is destroyed: first it is on record which, by whose word and why; then the gateway forgets them at once; then they are destroyed
//! where they lie. What a kill leaves undone is done when somebody asks again.

use std::{io, path::Path};

use chrono::Utc;
use portcullis_at_rest::{Keyring, kek::KekId};
use portcullis_audit::{search::SearchError, time::as_recorded};
use portcullis_journal::{
    AppendError, Event, EventKind, Journal, Verdict,
    read::{ReadError, records},
};
use serde_json::Value;

use super::Vaults;
use crate::{
    config::{EncryptionConfig, JournalConfig},
    daemon::rest::{RunError, reader},
    encryption::{Answer, DestroyedKeys, Left},
    tombs::{Entry, Place, Tomb, Tombs},
};

/// Why a set of keys is not destroyed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShredKeysError {
    #[error(
        "there is no [encryption.{set}] in force; there are: {}. The keys of [encryption] itself are destroyed by hand", known.join(", ")
    )]
    NoSuchSet { set: String, known: Vec<String> },
    #[error("a reason and an approver are needed")]
    Unfounded,
    #[error(
        "[{other}] has key {key} too: files that are wrapped to it would stay readable. Rotate the keys of the set's backends (encryption rotate), remove the key from retired_key_files, reload, and ask again"
    )]
    Shared { other: String, key: KekId },
    #[error(
        "backend {backend} says encryption = \"migrating\": what is not encrypted there would stay readable. Migrate it (encryption migrate), set \"on\", reload, and ask again"
    )]
    Migrating { backend: String },
    #[error(
        "sessions that have backend {backend} with other keys, from before a reload, are still open: ask again when they have ended"
    )]
    OtherKeys { backend: String },
    #[error("keep at hand which keys are destroyed, in {}; they are not", folder.display())]
    Kept {
        folder: std::path::PathBuf,
        source: io::Error,
    },
    #[error("prepare the look into the journal")]
    Prepare(#[from] RunError),
    #[error("read the journal")]
    Journal(#[from] SearchError),
    #[error("record that they are destroyed; nothing was done")]
    Unrecorded(#[source] AppendError),
    #[error("record what became of the keys; they are out of use. Ask again")]
    EndUnrecorded(#[source] AppendError),
}

pub(super) struct ShredKeys<'a> {
    pub(super) journal: &'a Journal,
    pub(super) config: &'a JournalConfig,
    pub(super) vaults: &'a Vaults,
    pub(super) set: &'a str,
    pub(super) reason: &'a str,
    pub(super) approver: &'a str,
    pub(super) asked_by: u32,
}

impl ShredKeys<'_> {
    pub(super) async fn carry_out(&self) -> Result<Answer, ShredKeysError> {
        let texts = [self.reason, self.approver];
        if texts.iter().any(|text| text.trim().is_empty()) {
            return Err(ShredKeysError::Unfounded);
        }
        let folder = self.config.verification();
        let mut tombs = Tombs::read(&folder).map_err(kept(&folder))?;
        let sets = &self.vaults.sets;
        let live = sets
            .iter()
            .find(|keys| keys.set.as_deref() == Some(self.set) && !keys.ring.is_destroyed());
        let (tomb, files) = match live {
            Some(keys) => {
                let (tomb, files) = self.bury(keys, &mut tombs, &folder).await?;
                (tomb, Some(files))
            }
            None => match tombs.of(self.set) {
                Some(tomb) => (tomb.clone(), None),
                None => return Err(self.no_such_set()),
            },
        };
        Keyring::destroy(&tomb.ids(), &tomb.epitaph());
        self.end(tomb, files).await
    }

    fn no_such_set(&self) -> ShredKeysError {
        let sets = self.vaults.sets.iter();
        ShredKeysError::NoSuchSet {
            set: self.set.to_owned(),
            known: sets.filter_map(|keys| keys.set.clone()).collect(),
        }
    }

    /// Puts it on record, after which the gateway does not use the keys again. Gives the number of files too.
    async fn bury(
        &self,
        keys: &EncryptionConfig,
        tombs: &mut Tombs,
        folder: &Path,
    ) -> Result<(Tomb, u64), ShredKeysError> {
        let backends = self.backends(keys)?;
        let files = self.known_files(&backends)?;
        let mut tomb = Tomb {
            set: self.set.to_owned(),
            keys: keys.sources.clone(),
            escrow: hex::encode(keys.recipient),
            approver: self.approver.to_owned(),
            after: self.journal.status().durable,
            record: None,
        };
        // Without it, a kill behind the record would leave keys in use that are destroyed on record.
        tombs.put(tomb.clone());
        tombs.write(folder).map_err(kept(folder))?;
        let mut event = Event::new(EventKind::RestTombstone);
        event.outcome = Some(Verdict::Allow);
        let ids: Vec<_> = tomb.keys.iter().map(|key| key.id.clone()).collect();
        for (field, value) in [
            ("set", Value::from(self.set)),
            ("kek_ids", ids.into()),
            ("escrow_id", tomb.escrow.clone().into()),
            ("backends", backends.into()),
            ("files", files.into()),
            ("why", self.reason.into()),
            ("approver", self.approver.into()),
            ("asked_by_uid", self.asked_by.into()),
        ] {
            event.body.insert(field.to_owned(), value);
        }
        let time = as_recorded(Utc::now());
        let recorded = self.journal.append(event).await;
        let seq = recorded.map_err(ShredKeysError::Unrecorded)?.0;
        tomb.record = Some(Entry { seq, time });
        tombs.put(tomb.clone());
        tombs.write(folder).map_err(kept(folder))?;
        tracing::warn!(
            set = self.set,
            approver = self.approver,
            files,
            "a set of keys is destroyed: its files can't be read any more"
        );
        Ok((tomb, files))
    }

    /// Those with the set, if nothing but the set opens their files.
    fn backends(&self, keys: &EncryptionConfig) -> Result<Vec<String>, ShredKeysError> {
        for other in self
            .vaults
            .sets
            .iter()
            .filter(|other| other.set != keys.set)
        {
            let own = std::iter::once(keys.ring.active()).chain(keys.ring.retired());
            if let Some(key) = own.into_iter().find(|key| other.has_key(*key)) {
                let other = other.section();
                return Err(ShredKeysError::Shared { other, key });
            }
        }
        let mut backends = Vec::new();
        for (name, kept) in &self.vaults.by_name {
            if kept.keys.set != keys.set {
                continue;
            }
            let backend = name.clone();
            if kept.is_migrating {
                return Err(ShredKeysError::Migrating { backend });
            }
            let is_foreign = |active: Option<KekId>| !active.is_some_and(|key| keys.has_key(key));
            if self
                .vaults
                .outdated()
                .any(|outdated| outdated.name == *name && is_foreign(outdated.active))
            {
                return Err(ShredKeysError::OtherKeys { backend });
            }
            backends.push(backend);
        }
        Ok(backends)
    }

    fn known_files(&self, backends: &[String]) -> Result<u64, ShredKeysError> {
        let mut reader = reader(self.config, &self.vaults.stored)?;
        reader.advance()?;
        let catalogue = &reader.catalogue;
        let counts = backends.iter().map(|name| {
            let root = catalogue.place(name, b"/");
            catalogue.known_below(&root).len() as u64
        });
        Ok(counts.sum())
    }

    /// Destroys the keys where they are, as far as that can be done.
    async fn end(&self, tomb: Tomb, files: Option<u64>) -> Result<Answer, ShredKeysError> {
        let keys = tomb.keys.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = keys.into_iter().map(|key| (key.destroy(), key));
            done.collect::<Vec<_>>()
        });
        let (mut destroyed, mut left) = (Vec::new(), Vec::new());
        for (done, key) in done.await.unwrap_or_default() {
            match done {
                Ok(()) => destroyed.push(key),
                Err(because) => left.push(Left { key, because }),
            }
        }
        let is_whole = left.is_empty() && destroyed.len() == tomb.keys.len();
        let mut event = Event::new(EventKind::RestTombstone);
        event.outcome = Some(if is_whole {
            Verdict::Success
        } else {
            Verdict::Failure
        });
        event.reason = (!is_whole).then(|| "left".to_owned());
        let places = |places: &mut dyn Iterator<Item = &Place>| {
            places.map(ToString::to_string).collect::<Value>()
        };
        let record = tomb.record.as_ref().map_or(0, |record| record.seq);
        for (field, value) in [
            ("set", Value::from(self.set)),
            ("of_record", record.into()),
            (
                "destroyed",
                places(&mut destroyed.iter().map(|key| &key.place)),
            ),
            ("left", places(&mut left.iter().map(|left| &left.key.place))),
            ("asked_by_uid", self.asked_by.into()),
        ] {
            event.body.insert(field.to_owned(), value);
        }
        let ended = self.journal.append(event).await;
        ended.map_err(ShredKeysError::EndUnrecorded)?;
        Ok(Answer {
            keys: Some(DestroyedKeys {
                set: self.set.to_owned(),
                record,
                files,
                escrow: tomb.escrow,
                destroyed,
                left,
            }),
            ..Answer::default()
        })
    }
}

fn kept(folder: &Path) -> impl Fn(io::Error) -> ShredKeysError + '_ {
    |source| ShredKeysError::Kept {
        folder: folder.to_owned(),
        source,
    }
}

/// Why it is not known whether keys were destroyed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    #[error("what is kept at hand of destroyed keys")]
    Kept(#[from] io::Error),
    #[error("read the journal")]
    Journal(#[from] ReadError),
}

/// Looks in the journal whether keys are destroyed on record, after a kill between the record and the note of it. True if some are
/// that seemed to be in use.
pub(in crate::daemon) fn settle(config: &JournalConfig) -> Result<bool, SettleError> {
    settle_in(&config.directory, &config.verification())
}

fn settle_in(log: &Path, folder: &Path) -> Result<bool, SettleError> {
    let mut tombs = Tombs::read(folder)?;
    if tombs.0.iter().all(|tomb| tomb.record.is_some()) {
        return Ok(false);
    }
    for record in records(log)? {
        let record = record?;
        if record.event != EventKind::RestTombstone.name() {
            continue;
        }
        let text = |field: &str| record.body.get(field).and_then(Value::as_str);
        let open = tombs.0.iter_mut().find(|tomb| {
            tomb.record.is_none()
                && record.seq >= tomb.after
                && text("set") == Some(&tomb.set)
                && text("escrow_id") == Some(&tomb.escrow)
        });
        if let Some(tomb) = open {
            tomb.record = Some(Entry {
                seq: record.seq,
                time: record.time.clone(),
            });
        }
    }
    let is_settled = |tomb: &Tomb| tomb.record.is_some();
    let has_unrecorded = !tombs.0.iter().all(is_settled);
    tombs.0.retain(is_settled);
    if has_unrecorded {
        tracing::warn!(
            "a set of keys was to be destroyed, and a crash came before the record: they are in use as before"
        );
    }
    tombs.write(folder)?;
    Ok(!tombs.0.is_empty())
}

/// Says in the log which keys are destroyed on record and still lie somewhere.
pub(in crate::daemon) fn tell_left(config: &JournalConfig) {
    let Ok(tombs) = Tombs::read(&config.verification()) else {
        return;
    };
    for tomb in tombs.on_record() {
        for key in &tomb.keys {
            if let Place::File(path) = &key.place
                && path.exists()
            {
                tracing::warn!(
                    set = tomb.set,
                    file = %path.display(),
                    "a key is destroyed on record, and there is still a file in its place: portcullis-proxy encryption shred-keys again"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_journal::Options;

    use super::*;
    use crate::tombs::Key;

    fn tomb(set: &str, after: u64) -> Tomb {
        Tomb {
            set: set.to_owned(),
            keys: vec![Key {
                id: "01".repeat(16),
                place: Place::File("/nonexistent/kek".into()),
            }],
            escrow: "02".repeat(16),
            approver: "J. Doe".to_owned(),
            after,
            record: None,
        }
    }

    fn tombstone(set: &str) -> Event {
        let mut event = Event::new(EventKind::RestTombstone);
        event.body.insert("set".to_owned(), set.into());
        event
            .body
            .insert("escrow_id".to_owned(), "02".repeat(16).into());
        event
    }

    #[tokio::test]
    async fn a_crash_around_the_record_leaves_keys_destroyed_if_it_is_there_and_in_use_if_not() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let (journal, _) = Journal::open(Options::default_in(&log)).unwrap();
        assert!(
            !settle_in(&log, folder.path()).unwrap(),
            "nothing was asked"
        );
        // Another set of that name, years ago.
        journal.append(tombstone("acme")).await.unwrap();
        let after = journal.status().durable;
        Tombs(vec![tomb("acme", after + 1)])
            .write(folder.path())
            .unwrap();
        assert!(!settle_in(&log, folder.path()).unwrap());
        assert_eq!(Tombs::read(folder.path()).unwrap(), Tombs::default());

        let seq = journal.append(tombstone("acme")).await.unwrap().0;
        assert!(seq >= after);
        let both = Tombs(vec![tomb("other", after), tomb("acme", after)]);
        both.write(folder.path()).unwrap();
        assert!(settle_in(&log, folder.path()).unwrap());
        let tombs = Tombs::read(folder.path()).unwrap();
        assert_eq!(tombs.0.len(), 1, "{tombs:?}");
        let record = tombs.of("acme").and_then(|tomb| tomb.record.clone());
        assert_eq!(record.map(|record| record.seq), Some(seq));
        assert!(
            !settle_in(&log, folder.path()).unwrap(),
            "it is known by then"
        );
    }
}
