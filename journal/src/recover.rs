//! What a log holds when it is opened: where it ends, what is torn, which operations have no outcome.
//!
//! Only a torn end is repaired. A fault before it is refused with the record named: evidence is not tidied up.

use std::io::{self, BufRead, BufReader};

use signed_note::StandardVerifier;

use crate::{
    chain::{Chain, End},
    disk::{Disk, Reader},
    keeper::Closed,
    line::{Envelope, Found, read_line},
    operations::{OpenOperations, Step},
    position::Position,
    retention::{covers, tombstones},
    sealed::{SealedReader, SealedSegment},
    segment::{plain_name, segments},
    tree::{
        checkpoint::{Head, Judged, judge, notes},
        key::SigningKey,
    },
};

/// Why a directory can't be gone on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    #[error("read {name}")]
    Read { name: String, source: io::Error },
    #[error(
        "record {seq} ({segment}, line {line}) {why}; keep the directory as evidence, let portcullis-verify say what \
         happened to it, and go on in a new directory"
    )]
    Broken {
        seq: u64,
        segment: String,
        line: u64,
        why: &'static str,
    },
    #[error(
        "records {from} to {to} are missing: {segment} begins with record {found}; put the missing segments back, or \
         keep the directory as evidence and go on in a new one",
        to = found - 1
    )]
    MissingSegment {
        from: u64,
        found: u64,
        segment: String,
    },
    #[error(
        "the log holds {records} records, but its last checkpoint covers {covered}: the end was cut off; keep the \
         directory as evidence and go on in a new one"
    )]
    Truncated { records: u64, covered: u64 },
    #[error(
        "the log is not the one that its checkpoint over {covered} records was signed for; keep the directory as \
         evidence, let portcullis-verify say what happened to it, and go on in a new one"
    )]
    Rewritten { covered: u64 },
    #[error(
        "{tombstone} says that records were deleted, but no checkpoint signs what it says; keep the directory as evidence, \
         let portcullis-verify check it, and go on in a new one"
    )]
    Unsigned { tombstone: String },
    #[error(
        "the last checkpoint is signed by {signers}, not by {key}; put the signing key of this log back, or go on in a \
         new directory"
    )]
    OtherKey { signers: String, key: String },
    #[error(
        "the last checkpoint is damaged; keep the directory as evidence and go on in a new one"
    )]
    BadCheckpoint,
}

/// The end of a log, ready to be written on.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) chain: Chain,
    /// The segment to go on with and the length of what is good in it.
    pub(crate) last: Option<(String, u64)>,
    pub(crate) torn_bytes: u64,
    pub(crate) open: OpenOperations,
    /// Segments that are full and not sealed yet, in order.
    pub(crate) closed: Vec<Closed>,
}

/// The last checkpoint in the text of a `checkpoints` file, and how much of that text is sound.
pub(crate) fn last_checkpoint(
    text: &[u8],
    key: &SigningKey,
) -> Result<(Option<Head>, usize), RecoverError> {
    let public = [key.verifier()];
    let (all, _) = notes(text);
    let mut sound = all.iter().map(|note| note.len()).sum::<usize>();
    for note in all.into_iter().rev() {
        match judge(note, &public) {
            Judged::Good(head) => return Ok((Some(head), sound)),
            Judged::OtherKey { signers, .. } => {
                return Err(RecoverError::OtherKey {
                    signers: signers.join(", "),
                    key: key.name().to_owned(),
                });
            }
            // Blocks that never reached the disk before a power cut read as zeros, which no note holds.
            Judged::BadSignature { .. } | Judged::Malformed if note.contains(&0) => {
                sound -= note.len()
            }
            Judged::BadSignature { .. } | Judged::Malformed => {
                return Err(RecoverError::BadCheckpoint);
            }
        }
    }
    Ok((None, sound))
}

/// What the checkpoints of a log say, to one who has its keys.
pub(crate) struct Heads<'a> {
    pub(crate) text: &'a [u8],
    /// All that the log had.
    pub(crate) keys: Vec<StandardVerifier>,
    pub(crate) last: Option<Head>,
}

impl Heads<'_> {
    /// Whether a signed head says of the log what `end` says.
    fn sign(&self, end: &End) -> bool {
        let size = end.records.to_string();
        // The number of records is the second line; only a signature that matters is worth checking.
        notes(self.text)
            .0
            .into_iter()
            .rev()
            .filter(|note| note.split(|&byte| byte == b'\n').nth(1) == Some(size.as_bytes()))
            .any(|note| matches!(judge(note, &self.keys), Judged::Good(head) if end.is_signed(&head)))
    }
}

/// Finds the end of the log: goes on from the last place that is signed, and compares the rest with the last checkpoint.
pub(crate) fn scan(disk: &dyn Disk, heads: &Heads<'_>) -> Result<Scan, RecoverError> {
    let names = disk.names().map_err(|source| RecoverError::Read {
        name: "the directory".into(),
        source,
    })?;
    let gone = tombstones(disk).map_err(|source| RecoverError::Read {
        name: "a tombstone".into(),
        source,
    })?;
    let mut found = Vec::new();
    for (first, name) in segments(names) {
        if covers(&gone, first) {
            continue;
        }
        let read = |source| RecoverError::Read {
            name: name.clone(),
            source,
        };
        let file = disk.open(&name).map_err(read)?;
        let (length, sealed) = match plain_name(&name) {
            Some(_) => {
                let sealed = SealedSegment::open(file).map_err(read)?;
                (None, Some(sealed.index().end.clone()))
            }
            None => (Some(file.len().map_err(read)?), None),
        };
        found.push(Part {
            first,
            name,
            length,
            sealed,
            is_gone: false,
        });
    }
    found.extend(gone.into_iter().map(|tombstone| Part {
        first: tombstone.first,
        name: tombstone.name(),
        length: None,
        sealed: Some(tombstone.end),
        is_gone: true,
    }));
    found.sort_by_key(|part| part.first);
    let mut scan = Scan::default();
    let from = start(disk, heads, &found, &mut scan)?;
    // A rotation that failed half-way leaves a name without records.
    let last_filled = found.iter().rposition(|part| part.length != Some(0));
    for (at, part) in found.into_iter().enumerate().skip(from.part) {
        if part.length == Some(0) && part.first < scan.chain.next() {
            continue;
        }
        let begins_at = if at == from.part { from.offset } else { 0 };
        if begins_at == 0 && part.first != scan.chain.next() {
            return Err(missing(scan.chain.next(), &part));
        }
        if let Some((name, _)) = scan.last.take() {
            scan.closed.push(Closed {
                name,
                end: scan.chain.end(&scan.open),
            });
        }
        if let Some(end) = part.sealed.as_ref().filter(|_| part.is_gone) {
            let behind = Chain::behind(end).filter(|_| heads.sign(end));
            scan.chain = behind.ok_or_else(|| RecoverError::Unsigned {
                tombstone: part.name.clone(),
            })?;
            // Those that were too many to be listed are as old as the records that are gone.
            scan.open = end.open().unwrap_or_default();
            continue;
        }
        let is_last = last_filled.is_none_or(|last| at >= last);
        let good = segment(disk, &part, begins_at, is_last, heads.last, &mut scan)?;
        if let Some(length) = part.length {
            scan.torn_bytes += length - good;
            scan.last = Some((part.name, good));
        }
    }
    let records = scan.chain.next();
    if let Some(covered) = heads
        .last
        .map(|head| head.size)
        .filter(|&covered| covered > records)
    {
        return Err(RecoverError::Truncated { records, covered });
    }
    Ok(scan)
}

/// A segment in the directory.
struct Part {
    first: u64,
    name: String,
    /// Of one that is not sealed, in bytes.
    length: Option<u64>,
    /// Of a sealed one: the log behind it.
    sealed: Option<End>,
    /// Whether only its tombstone is left.
    is_gone: bool,
}

/// Where reading begins.
#[derive(Default)]
struct From {
    part: usize,
    /// In that part, in bytes.
    offset: u64,
}

/// Takes what needs not be read into `scan`: as much as a signed head covers.
fn start(
    disk: &dyn Disk,
    heads: &Heads<'_>,
    parts: &[Part],
    scan: &mut Scan,
) -> Result<From, RecoverError> {
    let position = Position::read(disk).filter(|position| heads.sign(&position.end));
    let mut closed = Vec::new();
    let mut from = From::default();
    let mut end: Option<&End> = None;
    for (at, part) in parts.iter().enumerate() {
        let next = end.map_or(0, |end| end.records);
        let here = position
            .as_ref()
            .filter(|position| position.segment == part.name);
        if part.length == Some(0) && here.is_none() {
            break;
        }
        if part.first != next {
            return Err(missing(next, part));
        }
        if let Some(position) = here.filter(|position| {
            part.length.is_some_and(|length| length >= position.length)
                && position.end.records >= next
        }) {
            end = Some(&position.end);
            from = From {
                part: at,
                offset: position.length,
            };
            break;
        }
        let known = position.as_ref().and_then(|position| {
            let mut closed = position.closed.iter();
            closed.find(|closed| closed.name == part.name)
        });
        end = match (&part.sealed, known) {
            (Some(sealed), _) => Some(sealed),
            (None, Some(known)) => {
                closed.push(known.clone());
                Some(&known.end)
            }
            (None, None) => break,
        };
        from = From {
            part: at + 1,
            offset: 0,
        };
    }
    let chain = end
        .filter(|end| heads.sign(end))
        .and_then(|end| Some((Chain::behind(end)?, end.open()?)));
    // Without a signature all of it is read.
    let Some((chain, open)) = chain else {
        return Ok(From::default());
    };
    scan.chain = chain;
    scan.open = open;
    scan.closed = closed;
    Ok(from)
}

fn missing(from: u64, part: &Part) -> RecoverError {
    RecoverError::MissingSegment {
        from,
        found: part.first,
        segment: part.name.clone(),
    }
}

/// Follows one segment from an offset on; returns how many bytes of it are good.
fn segment(
    disk: &dyn Disk,
    part: &Part,
    begins_at: u64,
    is_last: bool,
    checkpoint: Option<Head>,
    scan: &mut Scan,
) -> Result<u64, RecoverError> {
    let name = &part.name;
    let read = |source| RecoverError::Read {
        name: name.clone(),
        source,
    };
    let file = disk.open(name).map_err(read)?;
    let mut input: Box<dyn BufRead + '_> = if part.sealed.is_some() {
        let sealed = SealedSegment::open(file).map_err(read)?;
        Box::new(SealedReader::new(sealed))
    } else {
        let reader = Reader::starting_at(file.as_ref(), begins_at);
        Box::new(BufReader::with_capacity(1 << 18, reader))
    };
    let mut line = Vec::new();
    let mut good = begins_at;
    loop {
        let (found, taken) = read_line(input.as_mut(), &mut line).map_err(read)?;
        let chain = &mut scan.chain;
        let why = match found {
            Found::End => break,
            Found::Torn if is_last => break,
            Found::Torn => "has no end",
            Found::TooLong => "is too long to be a record",
            Found::Whole => match Envelope::parse(&line) {
                None => "is not a record",
                Some(record) if record.seq != chain.next() => "has another sequence number",
                Some(record) if !record.follows(chain.prev()) => {
                    "does not follow the record before it"
                }
                Some(record) => {
                    if let Some(step) = Step::of_record(&record) {
                        scan.open.take(step);
                    }
                    chain.follow(&line);
                    good += taken;
                    let head = checkpoint.filter(|head| head.size == chain.next());
                    if let Some(head) = head.filter(|head| chain.tree().root() != head.root) {
                        return Err(RecoverError::Rewritten { covered: head.size });
                    }
                    continue;
                }
            },
        };
        // Blocks that never reached the disk before a power cut read as zeros, which no record holds; what stands
        // behind them was not durable either.
        if is_last && line.contains(&0) {
            break;
        }
        let seq = chain.next();
        return Err(RecoverError::Broken {
            seq,
            segment: name.clone(),
            line: seq - part.first + 1,
            why,
        });
    }
    Ok(good)
}
