//! What a log holds when it is opened: where it ends, what is torn, which operations have no outcome.
//!
//! Only a torn end is repaired. A fault before it is refused with the record named: evidence is not tidied up.

use std::{
    collections::HashMap,
    io::{self, BufReader},
};

use crate::{
    OperationId, SessionId,
    chain::Chain,
    disk::{Disk, Reader},
    line::{Envelope, Found, read_line},
    segment::segments,
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
    pub(crate) unknown: Vec<(SessionId, OperationId)>,
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

/// Reads all segments and compares them with the last checkpoint.
pub(crate) fn scan(disk: &dyn Disk, checkpoint: Option<Head>) -> Result<Scan, RecoverError> {
    let names = disk.names().map_err(|source| RecoverError::Read {
        name: "the directory".into(),
        source,
    })?;
    let mut found = Vec::new();
    for (first, name) in segments(names) {
        let read = |source| RecoverError::Read {
            name: name.clone(),
            source,
        };
        let length = disk.open(&name).and_then(|file| file.len()).map_err(read)?;
        found.push((first, name, length));
    }
    // A rotation that failed half-way leaves a name without records.
    let last_filled = found.iter().rposition(|(_, _, length)| *length > 0);

    let mut scan = Scan::default();
    let mut open = HashMap::new();
    for (at, (first, name, length)) in found.into_iter().enumerate() {
        if length == 0 && first < scan.chain.next() {
            continue;
        }
        if first != scan.chain.next() {
            return Err(RecoverError::MissingSegment {
                from: scan.chain.next(),
                found: first,
                segment: name,
            });
        }
        let is_last = last_filled.is_none_or(|last| at >= last);
        let good = segment(disk, &name, is_last, checkpoint, &mut scan.chain, &mut open)?;
        scan.torn_bytes += length - good;
        scan.last = Some((name, good));
    }
    let records = scan.chain.next();
    if let Some(covered) = checkpoint
        .map(|head| head.size)
        .filter(|&covered| covered > records)
    {
        return Err(RecoverError::Truncated { records, covered });
    }
    let mut unknown: Vec<_> = open.into_iter().collect();
    unknown.sort_by_key(|&(_, seq)| seq);
    scan.unknown = unknown
        .into_iter()
        .map(|(operation, _)| operation)
        .collect();
    Ok(scan)
}

/// Follows one segment; returns how many bytes of it are good.
fn segment(
    disk: &dyn Disk,
    name: &str,
    is_last: bool,
    checkpoint: Option<Head>,
    chain: &mut Chain,
    open: &mut HashMap<(SessionId, OperationId), u64>,
) -> Result<u64, RecoverError> {
    let read = |source| RecoverError::Read {
        name: name.to_owned(),
        source,
    };
    let file = disk.open(name).map_err(read)?;
    let mut input = BufReader::with_capacity(1 << 18, Reader::new(file.as_ref()));
    let mut line = Vec::new();
    let mut good = 0;
    for number in 1.. {
        let (found, taken) = read_line(&mut input, &mut line).map_err(read)?;
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
                    remember(&record, open);
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
        return Err(RecoverError::Broken {
            seq: chain.next(),
            segment: name.to_owned(),
            line: number,
            why,
        });
    }
    Ok(good)
}

fn remember(record: &Envelope<'_>, open: &mut HashMap<(SessionId, OperationId), u64>) {
    let (Some(session), Some(operation)) = (&record.session_id, record.op_id) else {
        return;
    };
    let mut id = [0; 16];
    if hex::decode_to_slice(session.as_bytes(), &mut id).is_err() {
        return;
    }
    let operation = (SessionId(id), OperationId(operation));
    match record.event.as_ref() {
        "op.intent" => drop(open.insert(operation, record.seq)),
        "op.outcome" => drop(open.remove(&operation)),
        _ => {}
    }
}
