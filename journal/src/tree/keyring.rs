//! The keys of a log: whoever trusts one trusts those that it handed over to.
//!
//! A log changes its key with a checkpoint that both keys sign and that names the new one in an extension line (C2SP
//! tlog-checkpoint). From that size on the old one counts no more: if it is stolen later, it signs nothing that is believed.

use signed_note::{Note, StandardVerifier, Verifier as _};
use tlog_tiles::Checkpoint;

use super::checkpoint::{Judged, Keys, judge};

/// What an extension line begins with that names the next key.
pub(crate) const SUCCESSOR: &str = "successor ";

/// Keys that are believed, and how far.
#[derive(Clone)]
pub struct Keyring(Vec<Member>);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keyring").field(&self.names()).finish()
    }
}

#[derive(Clone)]
struct Member {
    key: StandardVerifier,
    /// Records that a checkpoint may cover, once another key took over.
    until: Option<u64>,
}

impl Keyring {
    /// Begins with the keys that somebody was given.
    #[must_use]
    pub fn new(keys: Vec<StandardVerifier>) -> Self {
        let member = |key| Member { key, until: None };
        Self(keys.into_iter().map(member).collect())
    }

    /// Says what a note is worth, and takes in the key that it hands over to. Notes come in the order of the log.
    pub fn judge(&mut self, note: &[u8]) -> Judged {
        let checkpoint = checkpoint(note);
        let size = checkpoint.as_ref().map_or(0, Checkpoint::size);
        let judged = judge(note, &self.believed(size));
        let successor = checkpoint
            .as_ref()
            .and_then(|checkpoint| successor(checkpoint.extension()));
        if let (Judged::Good(_), Some(successor)) = (&judged, successor) {
            self.hand_over(note, size, successor);
        }
        judged
    }

    /// The keys that sign for so many records.
    fn believed(&self, size: u64) -> Vec<StandardVerifier> {
        self.0
            .iter()
            .filter(|member| member.until.is_none_or(|until| size <= until))
            .map(|member| member.key.clone())
            .collect()
    }

    /// The note over so many records with the signatures of these keys only; `None` if there is none of them.
    pub(crate) fn only_known(&self, note: &Note, size: u64) -> Option<Note> {
        let (good, _) = note.verify(&Keys(&self.believed(size))).ok()?;
        Note::new(note.text(), &good).ok()
    }

    fn hand_over(&mut self, note: &[u8], size: u64, successor: StandardVerifier) {
        let signs = |key: &StandardVerifier| {
            matches!(judge(note, std::slice::from_ref(key)), Judged::Good(_))
        };
        // Without its own signature nobody has shown to have the new key.
        if !signs(&successor) {
            return;
        }
        for member in &mut self.0 {
            if !is_same(&member.key, &successor) && member.until.is_none() && signs(&member.key) {
                member.until = Some(size);
            }
        }
        if !self.0.iter().any(|member| is_same(&member.key, &successor)) {
            self.0.push(Member {
                key: successor,
                until: None,
            });
        }
    }

    /// Names and numbers of the keys, as a signature names them.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.0.iter().map(|member| &member.key);
        names
            .map(|key| format!("{}+{:08x}", key.name(), key.key_id()))
            .collect()
    }
}

/// The keys that the notes in a `checkpoints` file hand over to, in order, as verifier keys.
#[must_use]
pub fn successors(text: &[u8], keys: Vec<StandardVerifier>) -> Vec<String> {
    let mut keyring = Keyring::new(keys);
    let mut found = Vec::new();
    for note in super::checkpoint::notes(text).0 {
        let known = keyring.0.len();
        keyring.judge(note);
        if keyring.0.len() > known {
            let named = checkpoint(note).and_then(|checkpoint| {
                let line = checkpoint
                    .extension()
                    .lines()
                    .find_map(|line| line.strip_prefix(SUCCESSOR));
                line.map(str::to_owned)
            });
            found.extend(named);
        }
    }
    found
}

/// Whether a note is one by which a log changes its key. Whoever follows the log's keys must not miss it.
#[must_use]
pub fn is_handover(note: &[u8]) -> bool {
    checkpoint(note).is_some_and(|checkpoint| names_successor(&checkpoint))
}

pub(crate) fn names_successor(checkpoint: &Checkpoint) -> bool {
    successor(checkpoint.extension()).is_some()
}

fn checkpoint(note: &[u8]) -> Option<Checkpoint> {
    Checkpoint::from_bytes(Note::from_bytes(note).ok()?.text()).ok()
}

fn successor(extension: &str) -> Option<StandardVerifier> {
    let line = extension
        .lines()
        .find_map(|line| line.strip_prefix(SUCCESSOR))?;
    StandardVerifier::new(line).ok()
}

fn is_same(one: &StandardVerifier, other: &StandardVerifier) -> bool {
    one.name() == other.name() && one.key_id() == other.key_id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{
        Tree,
        checkpoint::{sign, sign_over},
        key::{SigningKey, public_key_path, read_verifier_keys},
    };

    fn key(name: &str) -> (SigningKey, Vec<StandardVerifier>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let key = SigningKey::open(&path, name).unwrap();
        (key, read_verifier_keys(&public_key_path(&path)).unwrap())
    }

    fn tree(size: u64) -> Tree {
        let mut tree = Tree::default();
        (0..size).for_each(|n| tree.push(&n.to_be_bytes()));
        tree
    }

    #[test]
    fn who_trusts_the_first_key_trusts_the_next_and_the_first_no_more() {
        let (first, trusted) = key("gw");
        let (second, _) = key("gw");
        let mut keyring = Keyring::new(trusted);
        let is_good = |judged| matches!(judged, Judged::Good(_));
        assert!(is_good(keyring.judge(&sign(&tree(5), &first))));
        assert!(!is_good(keyring.judge(&sign(&tree(6), &second))));
        assert!(is_good(keyring.judge(&sign_over(
            &tree(7),
            &first,
            &second
        ))));
        assert!(is_good(keyring.judge(&sign(&tree(8), &second))));
        assert!(!is_good(keyring.judge(&sign(&tree(8), &first))));
        // What it signed before stays good.
        assert!(is_good(keyring.judge(&sign(&tree(5), &first))));
    }

    #[test]
    fn a_key_is_handed_over_by_both_or_not_at_all() {
        let (first, trusted) = key("gw");
        let (second, _) = key("gw");
        let (thief, _) = key("gw");
        let both = String::from_utf8(sign_over(&tree(7), &first, &second)).unwrap();
        let is_by = |line: &&str, key: &SigningKey| line.contains(&key.signature_prefix());
        for missing in [&first, &second] {
            let one: String = both
                .split_inclusive('\n')
                .filter(|line| !line.starts_with('\u{2014}') || !is_by(line, missing))
                .collect();
            let mut keyring = Keyring::new(trusted.clone());
            keyring.judge(one.as_bytes());
            assert!(!matches!(
                keyring.judge(&sign(&tree(8), &second)),
                Judged::Good(_)
            ));
        }
        // Somebody else's hand-over counts for nothing.
        let mut keyring = Keyring::new(trusted);
        keyring.judge(&sign_over(&tree(7), &thief, &second));
        assert!(!matches!(
            keyring.judge(&sign(&tree(8), &second)),
            Judged::Good(_)
        ));
        assert!(matches!(
            keyring.judge(&sign(&tree(8), &first)),
            Judged::Good(_)
        ));
    }
}
