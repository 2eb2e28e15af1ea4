//! Records taken out of a log, with a proof for each of them, in one file.
//!
//! ```text
//! portcullis-excerpt@v1
//! records 2
//! 4711 {"body":...}
//! 4712 {"body":...}
//! hashes 3
//! 0 4096 <base64>
//! ...
//!
//! <checkpoint>
//! ```
//!
//! A hash is the root over the records from the first number up to the second, excluded (RFC 6962 section 2.1). Each hash that
//! the audit path of a record needs is there once, also where another record of the excerpt lies below it: so each record is
//! proved alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, Write},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use signed_note::StandardVerifier;
use tlog_tiles::{Hash, check_record, node_hash, record_hash};

use super::{CHECKPOINTS, ProofError, decimal, good_notes, last_good, read, signed};
use crate::{
    line::integer,
    passage::{PassageError, Visitor, pass},
    retention::Tombstone,
    tree::{Tree, ranges::inclusion},
};

const EXCERPT: &str = "portcullis-excerpt@v1";

/// The records of an excerpt, each of which is proved to be in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvedExcerpt {
    /// Their places, and their lines without a newline.
    pub records: Vec<(u64, Vec<u8>)>,
    /// Records that the checkpoint covers.
    pub size: u64,
}

/// How many records of the log in `directory` can be proved: those that its last checkpoint covers.
///
/// # Errors
/// If no checkpoint is by `keys`.
pub fn provable(directory: &Path, keys: &[StandardVerifier]) -> Result<u64, ProofError> {
    let text = read(&directory.join(CHECKPOINTS))?;
    Ok(last_good(&text, keys, CHECKPOINTS)?.0.size)
}

/// Writes an excerpt with the `chosen` records, which is at least one. Reads the log once.
///
/// # Errors
/// If no checkpoint of `keys` covers all of them, or the log can't be read or is not what was signed. Then what was written
/// proves nothing.
pub fn write_excerpt(
    directory: &Path,
    chosen: &BTreeSet<u64>,
    keys: &[StandardVerifier],
    out: &mut dyn Write,
) -> Result<(), ProofError> {
    let text = read(&directory.join(CHECKPOINTS))?;
    let good = good_notes(&text, keys);
    let last = chosen.last().copied().unwrap_or(0);
    let (head, note) = good
        .iter()
        .filter(|(head, _)| head.size > last)
        .min_by_key(|(head, _)| head.size)
        .ok_or_else(|| ProofError::NotCovered {
            record: last,
            signed: good.iter().map(|(head, _)| head.size).max().unwrap_or(0),
        })?;
    let mut visitor = Excerpter {
        chosen,
        nodes: Nodes::for_all(chosen, head.size),
        out,
    };
    writeln!(visitor.out, "{EXCERPT}\nrecords {}", chosen.len()).map_err(ProofError::Write)?;
    pass(directory, head, &mut visitor)?;
    let Excerpter { nodes, out, .. } = visitor;
    let hashes = nodes
        .into_hashes(head.size)
        .ok_or(ProofError::Deleted { last })?;
    let write = |out: &mut dyn Write| -> io::Result<()> {
        writeln!(out, "hashes {}", hashes.len())?;
        for ((first, end), hash) in &hashes {
            writeln!(out, "{first} {end} {}", BASE64.encode(hash.0))?;
        }
        writeln!(out)?;
        out.write_all(note)?;
        out.flush()
    };
    write(out).map_err(ProofError::Write)
}

/// Checks an excerpt for somebody who trusts `keys`.
///
/// # Errors
/// If it is none, or a record of it is not proved; then the first of those is named.
pub fn check_excerpt(
    excerpt: &[u8],
    keys: &[StandardVerifier],
) -> Result<ProvedExcerpt, ProofError> {
    let parts = Parts::of(excerpt)?;
    let head = signed(parts.note, keys)?;
    let mut wrong = Vec::new();
    let mut before = None;
    for &(index, line) in &parts.records {
        let verdict = if before.is_some_and(|before| before >= index) {
            Err("it stands behind one of a higher number, or twice")
        } else {
            parts.check(index, line, head.size, head.root)
        };
        before = Some(index);
        if let Err(what) = verdict {
            wrong.push((index, what));
        }
    }
    if let Some(&(record, what)) = wrong.first() {
        return Err(ProofError::WrongRecord {
            record,
            what,
            all: wrong.len(),
        });
    }
    Ok(ProvedExcerpt {
        records: parts
            .records
            .into_iter()
            .map(|(index, line)| (index, line.to_vec()))
            .collect(),
        size: head.size,
    })
}

/// Whether a text is meant as an excerpt.
#[must_use]
pub fn is_excerpt(text: &[u8]) -> bool {
    text.starts_with(b"portcullis-excerpt@")
}

struct Parts<'a> {
    records: Vec<(u64, &'a [u8])>,
    hashes: HashMap<(u64, u64), Hash>,
    note: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(text: &'a [u8]) -> Result<Self, ProofError> {
        let not = |why| ProofError::NotAProof { why };
        let mut rest = text;
        let mut next = || {
            let end = memchr::memchr(b'\n', rest)?;
            let (line, behind) = rest.split_at_checked(end)?;
            rest = behind.get(1..)?;
            Some(line)
        };
        if next() != Some(EXCERPT.as_bytes()) {
            return Err(not("it does not begin with the name of the form"));
        }
        let count = |line: Option<&[u8]>, name: &str| {
            let line = std::str::from_utf8(line?).ok()?;
            decimal(line.strip_prefix(name)?)
        };
        let announced =
            count(next(), "records ").ok_or(not("the number of its records is missing"))?;
        let mut records = Vec::new();
        for _ in 0..announced {
            let record = next().and_then(|line| {
                let (index, line) = line.split_at_checked(memchr::memchr(b' ', line)?)?;
                Some((decimal(std::str::from_utf8(index).ok()?)?, line.get(1..)?))
            });
            records.push(record.ok_or(not("it has fewer records than it says"))?);
        }
        let announced = count(next(), "hashes ").ok_or(not(
            "behind its records the number of hashes is missing: it may have more records than it says",
        ))?;
        let mut hashes = HashMap::new();
        for _ in 0..announced {
            let hash = next()
                .and_then(|line| {
                    let mut words = std::str::from_utf8(line).ok()?.splitn(3, ' ');
                    let range = (decimal(words.next()?)?, decimal(words.next()?)?);
                    Some((range, Hash::parse_hash(words.next()?).ok()?))
                })
                .ok_or(not("it has fewer hashes than it says, or one is none"))?;
            hashes.insert(hash.0, hash.1);
        }
        if next() != Some(b"") {
            return Err(not("the checkpoint behind an empty line is missing"));
        }
        Ok(Self {
            records,
            hashes,
            note: rest,
        })
    }

    fn check(&self, index: u64, line: &[u8], size: u64, root: Hash) -> Result<(), &'static str> {
        #[derive(Deserialize)]
        struct Numbered {
            #[serde(deserialize_with = "integer")]
            seq: u64,
        }
        match serde_json::from_slice::<Numbered>(line) {
            Ok(numbered) if numbered.seq == index => {}
            Ok(_) => return Err("its line is that of another record"),
            Err(_) => return Err("its line is no record"),
        }
        if index >= size {
            return Err("the checkpoint does not cover it");
        }
        let path = inclusion(index, size)
            .iter()
            .map(|range| self.hashes.get(range).copied())
            .collect::<Option<Vec<_>>>()
            .ok_or("a hash of its proof is missing")?;
        check_record(&path, size, root, index, record_hash(line)).map_err(|_| {
            "its line is not the one that was signed at this place, or a hash of its proof is another"
        })
    }
}

struct Excerpter<'a> {
    chosen: &'a BTreeSet<u64>,
    nodes: Nodes,
    out: &'a mut dyn Write,
}

impl Visitor for Excerpter<'_> {
    type Error = ProofError;

    fn gone(&mut self, tombstone: &Tombstone, edge: &Tree) -> Result<(), ProofError> {
        if self
            .chosen
            .range(tombstone.first..=tombstone.last())
            .next()
            .is_some()
        {
            return Err(ProofError::Deleted {
                last: tombstone.last(),
            });
        }
        self.nodes.jump(edge);
        Ok(())
    }

    fn line(&mut self, before: &Tree, line: &[u8], leaf: Hash) -> Result<(), ProofError> {
        if self.chosen.contains(&before.size()) {
            write!(self.out, "{} ", before.size())
                .and_then(|()| self.out.write_all(line))
                .and_then(|()| self.out.write_all(b"\n"))
                .map_err(ProofError::Write)?;
        }
        self.nodes.push(leaf, 0);
        Ok(())
    }
}

impl From<PassageError> for ProofError {
    fn from(error: PassageError) -> Self {
        match error {
            PassageError::List(error) => error.into(),
            PassageError::Read { path, source } => Self::Read { path, source },
            PassageError::Altered { size } => Self::Altered { size },
        }
    }
}

/// Keeps the roots of some subtrees, while the leaves pass.
struct Nodes {
    size: u64,
    /// Complete subtrees from left to right, with their levels.
    peaks: Vec<(u32, Hash)>,
    /// By level and number at that level.
    wanted: HashMap<(u32, u64), Option<Hash>>,
    /// Up to the end of the tree, and not complete.
    edges: BTreeSet<u64>,
}

impl Nodes {
    fn for_all(chosen: &BTreeSet<u64>, size: u64) -> Self {
        let mut nodes = Self {
            size: 0,
            peaks: Vec::new(),
            wanted: HashMap::new(),
            edges: BTreeSet::new(),
        };
        for &index in chosen {
            for (first, end) in inclusion(index, size) {
                let length = end - first;
                if length.is_power_of_two() {
                    let level = length.ilog2();
                    nodes.wanted.insert((level, first >> level), None);
                } else {
                    nodes.edges.insert(first);
                }
            }
        }
        nodes
    }

    /// The next complete subtree of 2^`level` leaves.
    fn push(&mut self, root: Hash, level: u32) {
        let (mut node, mut at) = (root, level);
        let mut number = self.size >> level;
        loop {
            if let Some(wanted) = self.wanted.get_mut(&(at, number)) {
                *wanted = Some(node);
            }
            if number & 1 == 0 {
                break;
            }
            let Some((_, left)) = self.peaks.pop() else {
                break;
            };
            node = node_hash(left, node);
            at += 1;
            number >>= 1;
        }
        self.peaks.push((at, node));
        self.size += 1 << level;
    }

    /// Goes on behind what is known by its edge only.
    fn jump(&mut self, edge: &Tree) {
        self.size = 0;
        self.peaks.clear();
        for (level, root) in edge.subtrees() {
            self.push(root, level);
        }
    }

    /// All that is wanted, by first and end; `None` if some of it was never seen.
    fn into_hashes(self, size: u64) -> Option<BTreeMap<(u64, u64), Hash>> {
        let mut hashes = BTreeMap::new();
        for ((level, number), hash) in self.wanted {
            hashes.insert((number << level, (number + 1) << level), hash?);
        }
        for first in self.edges {
            let mut from = size;
            let mut root = None;
            for &(level, peak) in self.peaks.iter().rev() {
                from = from.checked_sub(1 << level)?;
                root = Some(root.map_or(peak, |right| node_hash(peak, right)));
                if from <= first {
                    break;
                }
            }
            hashes.insert((first, size), root.filter(|_| from == first)?);
        }
        Some(hashes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_are_those_of_the_proofs_of_single_records() {
        let leaf = |at: u64| record_hash(&at.to_be_bytes());
        for size in 1..=40 {
            let chosen: BTreeSet<u64> = (0..size).filter(|at| at % 7 != 3).collect();
            let chosen = if chosen.is_empty() {
                BTreeSet::from([0])
            } else {
                chosen
            };
            let mut nodes = Nodes::for_all(&chosen, size);
            let mut tree = Tree::default();
            for at in 0..size {
                nodes.push(leaf(at), 0);
                tree.push_leaf(leaf(at));
            }
            let hashes = nodes.into_hashes(size).unwrap();
            for &index in &chosen {
                let path: Vec<Hash> = inclusion(index, size)
                    .iter()
                    .map(|range| hashes[range])
                    .collect();
                check_record(&path, size, tree.root(), index, leaf(index)).unwrap();
            }
        }
    }
}
