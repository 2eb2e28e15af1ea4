//! Signed tree heads (C2SP tlog-checkpoint in C2SP signed-note form), and the file that keeps them.
//!
//! `checkpoints` holds one note after the other. A note is its text, an empty line, and lines that begin with an em dash;
//! the first other line begins the next note.

use std::io;

use signed_note::{Note, NoteError, StandardVerifier, VerificationError, Verifier, Verifiers};
use tlog_tiles::{Checkpoint, Hash};

use super::{Tree, key::SigningKey, keyring::SUCCESSOR};
use crate::disk::{Disk, DiskFile, write_all};

/// Name of the file that keeps all checkpoints of a log.
pub const CHECKPOINTS: &str = "checkpoints";

/// What a signature line begins with.
const SIGNATURE: &[u8] = "\u{2014} ".as_bytes();

/// A tree head as a note says it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// Records that it covers.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

/// What a note is worth.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged {
    /// Signed with one of the keys.
    Good(Head),
    /// A checkpoint of another key; its signature can't be checked.
    OtherKey { head: Head, signers: Vec<String> },
    /// It names one of the keys, but that key did not sign this text.
    BadSignature { size: Option<u64> },
    /// Not a checkpoint.
    Malformed,
}

/// Signs the head of `tree`.
pub(crate) fn sign(tree: &Tree, key: &SigningKey) -> Vec<u8> {
    let head = Checkpoint::new(key.name(), tree.size(), tree.root(), "")
        .expect("a key name is a valid origin");
    let mut note = Note::new(&head.to_bytes(), &[]).expect("a checkpoint is a valid note text");
    note.add_sigs(&[key.signer()])
        .expect("signing with Ed25519 does not fail");
    note.to_bytes()
}

/// Signs the head of `tree` with two keys: the second takes over from the first.
pub(crate) fn sign_over(tree: &Tree, key: &SigningKey, next: &SigningKey) -> Vec<u8> {
    let extension = format!("{SUCCESSOR}{}\n", next.public_text());
    let head = Checkpoint::new(key.name(), tree.size(), tree.root(), &extension)
        .expect("a key name is a valid origin");
    let mut note = Note::new(&head.to_bytes(), &[]).expect("a checkpoint is a valid note text");
    note.add_sigs(&[key.signer(), next.signer()])
        .expect("signing with Ed25519 does not fail");
    note.to_bytes()
}

/// Says what a note is worth to somebody who holds `keys`.
pub fn judge(note: &[u8], keys: &[StandardVerifier]) -> Judged {
    let Ok(note) = Note::from_bytes(note) else {
        return Judged::Malformed;
    };
    let checkpoint = Checkpoint::from_bytes(note.text());
    let head = checkpoint.as_ref().ok().map(|c| Head {
        size: c.size(),
        root: *c.hash(),
    });
    match (note.verify(&Keys(keys)), head) {
        // The origin is part of what is signed: a key that signs for several logs can't lend one log's head to another.
        (Ok((good, _)), Some(head)) => {
            let origin = checkpoint
                .as_ref()
                .map(Checkpoint::origin)
                .unwrap_or_default();
            if good.iter().any(|signature| signature.name() == origin) {
                Judged::Good(head)
            } else {
                Judged::OtherKey {
                    head,
                    signers: vec![origin.to_owned()],
                }
            }
        }
        (Err(NoteError::UnverifiedNote), Some(head)) => Judged::OtherKey {
            head,
            signers: signers(&note),
        },
        (Ok(_), None) | (Err(NoteError::UnverifiedNote), None) => Judged::Malformed,
        (Err(_), head) => Judged::BadSignature {
            size: head.map(|head| head.size),
        },
    }
}

fn signers(note: &Note) -> Vec<String> {
    String::from_utf8_lossy(&note.to_bytes())
        .lines()
        .filter_map(|line| {
            Some(
                line.strip_prefix("\u{2014} ")?
                    .split(' ')
                    .next()?
                    .to_owned(),
            )
        })
        .collect()
}

pub(super) struct Keys<'a>(pub(super) &'a [StandardVerifier]);

impl Verifiers for Keys<'_> {
    fn verifier(&self, name: &str, id: u32) -> Result<&dyn Verifier, VerificationError> {
        self.0
            .iter()
            .find(|key| key.name() == name && key.key_id() == id)
            .map(|key| key as &dyn Verifier)
            .ok_or_else(|| VerificationError::UnknownKey {
                name: name.to_owned(),
                id,
            })
    }
}

/// The notes in the text of a `checkpoints` file, and the bytes after the last whole one.
pub fn notes(mut text: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut found = Vec::new();
    while let Some(end) = end_of_note(text) {
        let (note, rest) = text.split_at(end);
        found.push(note);
        text = rest;
    }
    (found, text)
}

fn end_of_note(text: &[u8]) -> Option<usize> {
    let blank = text.windows(2).position(|pair| pair == b"\n\n")?;
    let mut end = blank + 2;
    let mut signed = false;
    while let Some(line) = text.get(end..).filter(|rest| rest.starts_with(SIGNATURE)) {
        end += line.iter().position(|&b| b == b'\n')? + 1;
        signed = true;
    }
    // An unsigned text is passed on as a note of its own, to be found malformed.
    (signed
        || text
            .get(end..)
            .is_some_and(|rest| !SIGNATURE.starts_with(rest)))
    .then_some(end)
}

/// The file of checkpoints of a log that is open for writing.
pub(crate) struct CheckpointFile {
    file: Box<dyn DiskFile>,
    length: u64,
}

impl CheckpointFile {
    /// Opens the file and reads it whole.
    pub(crate) fn open(disk: &dyn Disk) -> io::Result<(Self, Vec<u8>)> {
        let file = disk.open(CHECKPOINTS)?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut crate::disk::Reader::new(file.as_ref()), &mut text)?;
        Ok((Self { file, length: 0 }, text))
    }

    /// Goes on after the first `length` bytes; the next note overwrites what follows.
    pub(crate) fn keep(&mut self, length: u64) {
        self.length = length;
    }

    /// Adds a note. A torn one is overwritten by the next.
    pub(crate) fn append(&mut self, note: &[u8], durable: bool) -> io::Result<()> {
        let end = self.length + note.len() as u64;
        let written = write_all(self.file.as_ref(), note, self.length).and_then(|()| {
            if self.file.len()? > end {
                self.file.set_len(end)
            } else {
                Ok(())
            }
        });
        let done = written.and_then(|()| if durable { self.file.sync() } else { Ok(()) });
        match done {
            Ok(()) => self.length = end,
            Err(_) => drop(self.file.set_len(self.length)),
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::key::{public_key_path, read_verifier_keys};

    fn key(name: &str) -> (SigningKey, Vec<StandardVerifier>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let key = SigningKey::open(&path, name).unwrap();
        (key, read_verifier_keys(&public_key_path(&path)).unwrap())
    }

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.push(b"one");
        tree.push(b"two");
        tree
    }

    #[test]
    fn a_note_is_good_only_with_its_own_key_and_text() {
        let (key_a, public_a) = key("gw/a");
        let (_, public_b) = key("gw/b");
        let note = sign(&tree(), &key_a);
        assert_eq!(
            judge(&note, &public_a),
            Judged::Good(Head {
                size: 2,
                root: tree().root()
            })
        );
        assert!(
            matches!(judge(&note, &public_b), Judged::OtherKey { signers, .. } if signers == ["gw/a"])
        );
        let edited = String::from_utf8(note)
            .unwrap()
            .replacen("\n2\n", "\n1\n", 1);
        assert_eq!(
            judge(edited.as_bytes(), &public_a),
            Judged::BadSignature { size: Some(1) }
        );
        assert_eq!(judge(b"no note", &public_a), Judged::Malformed);
    }

    #[test]
    fn notes_are_told_apart_and_a_torn_one_is_left_over() {
        let (key, _) = key("gw");
        let note = sign(&tree(), &key);
        let three = note.repeat(3);
        assert_eq!(notes(&three), (vec![&note[..]; 3], &b""[..]));
        for cut in 1..note.len() {
            let (whole, torn) = notes(&three[..note.len() * 2 + cut]);
            assert_eq!((whole.len(), torn.len()), (2, cut));
        }
    }
}
