//! Proofs that stand alone: that one record is in a log, and that a log has only grown since a checkpoint.
//!
//! Whoever holds the public key checks them without the log. The first has the form of C2SP tlog-proof, with the record as
//! its extra data; the second that of a request to a witness (C2SP tlog-witness, `add-checkpoint`).

mod excerpt;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use signed_note::StandardVerifier;
use tlog_tiles::{Hash, check_record, check_tree, record_hash};

use crate::{
    passage::{PassageError, Visitor, pass},
    read::ReadError,
    retention::Tombstone,
    tree::{
        Tree,
        checkpoint::{CHECKPOINTS, Head, Judged, judge, notes},
        keyring::Keyring,
        ranges::Ranges,
    },
};

pub use excerpt::{ProvedExcerpt, check_excerpt, is_excerpt, provable, write_excerpt};

const RECORD: &str = "c2sp.org/tlog-proof@v1";
/// Longest text that is taken for a proof, in bytes: the longest record in base64, and its path.
const MAX_PROOF: usize = 2 << 20;

/// Why there is no proof, or it proves nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    #[error(transparent)]
    List(#[from] ReadError),
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "no checkpoint of these keys covers record {record}: they cover {signed} record(s); wait for the next, at most a minute, or check the number"
    )]
    NotCovered { record: u64, signed: u64 },
    #[error("no checkpoint in {place} is signed with one of these keys")]
    NoCheckpoint { place: String },
    #[error(
        "the log has been signed for {signed} records only, the checkpoint for {old}: it was cut, or these are two logs; let portcullis-verify check it"
    )]
    Shorter { old: u64, signed: u64 },
    #[error(
        "the log does not have the {size} records that its checkpoint covers as they were signed; let portcullis-verify say where it was altered"
    )]
    Altered { size: u64 },
    #[error(
        "records up to {last} were deleted, as a tombstone says: there is no proof of one of them, nor of growth from among them; a copy that has them can give it"
    )]
    Deleted { last: u64 },
    #[error("not a proof: {why}")]
    NotAProof { why: &'static str },
    #[error("the proof is wrong: {what}")]
    Wrong { what: &'static str },
    #[error("record {record} is not proved: {what}{}", if *all > 1 { format!(" ({all} records of the excerpt are not proved)") } else { String::new() })]
    WrongRecord {
        record: u64,
        what: &'static str,
        /// Of the excerpt, this one included.
        all: usize,
    },
    #[error("write the excerpt")]
    Write(#[source] io::Error),
}

/// A record that is proved to be in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvedRecord {
    /// Its place, which is its sequence number.
    pub index: u64,
    /// The line, without its newline.
    pub line: Vec<u8>,
    /// Records that the checkpoint covers.
    pub size: u64,
}

/// A log that is proved to have grown without a change of what it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvedGrowth {
    /// Records that the old checkpoint covers.
    pub old: u64,
    /// Records that the new one covers.
    pub size: u64,
}

/// Proves that record `index` is in the log in `directory`, by the first checkpoint that covers it.
///
/// # Errors
/// If no checkpoint of `keys` covers it, or the log can't be read or is not what was signed.
pub fn prove_record(
    directory: &Path,
    index: u64,
    keys: &[StandardVerifier],
) -> Result<String, ProofError> {
    let text = read(&directory.join(CHECKPOINTS))?;
    let good = good_notes(&text, keys);
    let (head, note) = good
        .iter()
        .filter(|(head, _)| head.size > index)
        .min_by_key(|(head, _)| head.size)
        .ok_or_else(|| ProofError::NotCovered {
            record: index,
            signed: good.iter().map(|(head, _)| head.size).max().unwrap_or(0),
        })?;
    let mut record = Vec::new();
    let hashes = follow(
        directory,
        head,
        Ranges::of_inclusion(index, head.size),
        |tree, line| {
            if tree.size() == index {
                record.extend_from_slice(line);
            }
        },
    )?;
    // The tree can be known without it.
    if record.is_empty() {
        return Err(ProofError::Deleted { last: index });
    }
    let extra = BASE64.encode(record);
    Ok(format!(
        "{RECORD}\nextra {extra}\nindex {index}\n{}\n{}",
        lines(&hashes),
        String::from_utf8_lossy(note)
    ))
}

/// Checks such a proof for somebody who trusts `keys`.
///
/// # Errors
/// If it is no proof, or proves nothing.
pub fn check_record_proof(
    proof: &[u8],
    keys: &[StandardVerifier],
) -> Result<ProvedRecord, ProofError> {
    let (head, note) = parts(proof)?;
    let mut head = head.lines();
    if head.next() != Some(RECORD) {
        return Err(ProofError::NotAProof {
            why: "it does not begin with the name of the form",
        });
    }
    let line = head
        .next()
        .and_then(|line| BASE64.decode(line.strip_prefix("extra ")?).ok())
        .ok_or(ProofError::NotAProof {
            why: "the record is missing, which stands behind `extra`",
        })?;
    let index = head
        .next()
        .and_then(|line| decimal(line.strip_prefix("index ")?))
        .ok_or(ProofError::NotAProof {
            why: "the number of the record is missing",
        })?;
    let hashes = hashes(head)?;
    let signed = signed(note, keys)?;
    check_record(&hashes, signed.size, signed.root, index, record_hash(&line)).map_err(|_| {
        ProofError::Wrong {
            what: "the record is not the one that was signed at this place",
        }
    })?;
    Ok(ProvedRecord {
        index,
        line,
        size: signed.size,
    })
}

/// Proves that the log in `directory` begins with the records that the last checkpoint in `old` covers.
///
/// # Errors
/// If one of the checkpoints is not by `keys`, or the log can't be read or is not what was signed.
pub fn prove_growth(
    directory: &Path,
    old: &[u8],
    keys: &[StandardVerifier],
) -> Result<String, ProofError> {
    let old = last_good(old, keys, "the file of the old one")?.0;
    let text = read(&directory.join(CHECKPOINTS))?;
    let (new, note) = last_good(&text, keys, CHECKPOINTS)?;
    if new.size < old.size {
        return Err(ProofError::Shorter {
            old: old.size,
            signed: new.size,
        });
    }
    // A log that has not grown has the root that was just compared.
    let mut root = (old.size == new.size).then_some(new.root);
    let hashes = follow(
        directory,
        &new,
        Ranges::of_consistency(old.size, new.size),
        |tree, _| {
            if tree.size() == old.size {
                root = Some(tree.root());
            }
        },
    )?;
    if root != Some(old.root) {
        return Err(ProofError::Altered { size: old.size });
    }
    Ok(format!(
        "old {}\n{}\n{}",
        old.size,
        lines(&hashes),
        String::from_utf8_lossy(note)
    ))
}

/// Checks such a proof for somebody who trusts `keys` and kept a checkpoint in `old`.
///
/// # Errors
/// If it is no proof, or proves nothing.
pub fn check_growth_proof(
    proof: &[u8],
    old: &[u8],
    keys: &[StandardVerifier],
) -> Result<ProvedGrowth, ProofError> {
    let old = last_good(old, keys, "the file of the old one")?.0;
    let (head, note) = parts(proof)?;
    let mut head = head.lines();
    let size = head
        .next()
        .and_then(|line| decimal(line.strip_prefix("old ")?))
        .ok_or(ProofError::NotAProof {
            why: "it does not begin with the old number of records",
        })?;
    if size != old.size {
        return Err(ProofError::Wrong {
            what: "it begins at another checkpoint than the one that was kept",
        });
    }
    let hashes = hashes(head)?;
    let new = signed(note, keys)?;
    check_tree(&hashes, new.size, new.root, old.size, old.root).map_err(|_| ProofError::Wrong {
        what: "the old records are not the beginning of the new log",
    })?;
    Ok(ProvedGrowth {
        old: old.size,
        size: new.size,
    })
}

/// Whether a text is meant as the proof of one record.
#[must_use]
pub fn is_record_proof(proof: &[u8]) -> bool {
    proof.starts_with(RECORD.as_bytes())
}

/// Reads the log once as far as `head` covers it; gives the roots that the proof lists. `look` sees the tree before each line.
fn follow(
    directory: &Path,
    head: &Head,
    ranges: Ranges,
    look: impl FnMut(&Tree, &[u8]),
) -> Result<Vec<Hash>, ProofError> {
    let mut collector = Collector {
        size: head.size,
        ranges,
        look,
    };
    match pass(directory, head, &mut collector) {
        Ok(()) => Ok(collector.ranges.roots()),
        Err(Stopped::Passage(PassageError::List(error))) => Err(error.into()),
        Err(Stopped::Passage(PassageError::Read { path, source })) => {
            Err(ProofError::Read { path, source })
        }
        Err(Stopped::Passage(PassageError::Altered { .. })) => {
            Err(ProofError::Altered { size: head.size })
        }
        Err(Stopped::Deleted { last }) => Err(ProofError::Deleted { last }),
    }
}

struct Collector<L> {
    /// Records that the head covers.
    size: u64,
    ranges: Ranges,
    look: L,
}

enum Stopped {
    Passage(PassageError),
    Deleted { last: u64 },
}

impl From<PassageError> for Stopped {
    fn from(error: PassageError) -> Self {
        Self::Passage(error)
    }
}

impl<L: FnMut(&Tree, &[u8])> Visitor for Collector<L> {
    type Error = Stopped;

    fn gone(&mut self, tombstone: &Tombstone, edge: &Tree) -> Result<(), Stopped> {
        // The edge is that of the log from its beginning.
        let is_known = tombstone.first == 0
            && tombstone.end.records <= self.size
            && edge
                .subtrees()
                .all(|(level, root)| self.ranges.push_subtree(root, level));
        if is_known {
            Ok(())
        } else {
            Err(Stopped::Deleted {
                last: tombstone.last(),
            })
        }
    }

    fn line(&mut self, before: &Tree, line: &[u8], leaf: Hash) -> Result<(), Stopped> {
        (self.look)(before, line);
        self.ranges.push_leaf(leaf);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ProofError> {
    fs::read(path).map_err(|source| ProofError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The checkpoints that one of the keys signed, or one that it handed over to, without those of an empty log.
pub(crate) fn good_notes<'a>(text: &'a [u8], keys: &[StandardVerifier]) -> Vec<(Head, &'a [u8])> {
    let mut keyring = Keyring::new(keys.to_vec());
    notes(text)
        .0
        .into_iter()
        .filter_map(|note| match keyring.judge(note) {
            Judged::Good(head) if head.size > 0 => Some((head, note)),
            Judged::Good(_)
            | Judged::OtherKey { .. }
            | Judged::BadSignature { .. }
            | Judged::Malformed => None,
        })
        .collect()
}

fn last_good<'a>(
    text: &'a [u8],
    keys: &[StandardVerifier],
    place: &str,
) -> Result<(Head, &'a [u8]), ProofError> {
    good_notes(text, keys)
        .into_iter()
        .max_by_key(|(head, _)| head.size)
        .ok_or_else(|| ProofError::NoCheckpoint {
            place: place.to_owned(),
        })
}

/// Hashes as the forms write them, one a line.
pub(crate) fn lines(hashes: &[Hash]) -> String {
    hashes
        .iter()
        .map(|hash| format!("{}\n", BASE64.encode(hash.0)))
        .collect()
}

/// What stands before the empty line, and the checkpoint behind it.
fn parts(proof: &[u8]) -> Result<(&str, &[u8]), ProofError> {
    let not = |why| ProofError::NotAProof { why };
    if proof.len() > MAX_PROOF {
        return Err(not("it is longer than any proof"));
    }
    let text = std::str::from_utf8(proof).map_err(|_| not("it is not UTF-8"))?;
    let (head, note) = text
        .split_once("\n\n")
        .ok_or(not("the checkpoint behind an empty line is missing"))?;
    Ok((head, note.as_bytes()))
}

fn hashes<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Hash>, ProofError> {
    // A tree has at most 64 levels; a proof of growth has one hash more.
    lines
        .take(66)
        .map(|line| {
            Hash::parse_hash(line).map_err(|_| ProofError::NotAProof {
                why: "a line between the number and the checkpoint is not a hash",
            })
        })
        .collect()
}

/// The checkpoint behind a proof, which has to be by one of the keys.
fn signed(note: &[u8], keys: &[StandardVerifier]) -> Result<Head, ProofError> {
    match judge(note, keys) {
        Judged::Good(head) => Ok(head),
        Judged::OtherKey { .. } => Err(ProofError::Wrong {
            what: "its checkpoint is signed with none of these keys; if the log's key was changed, `portcullis-verify keys` gives the new one",
        }),
        Judged::BadSignature { .. } => Err(ProofError::Wrong {
            what: "its checkpoint is not what its key signed",
        }),
        Judged::Malformed => Err(ProofError::NotAProof {
            why: "what follows the empty line is not a checkpoint",
        }),
    }
}

/// A number as the forms write it: digits, without a zero in front.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}
