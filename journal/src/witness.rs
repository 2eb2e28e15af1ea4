//! What a witness does: it cosigns a log's head if that continues the one that it cosigned before (C2SP tlog-witness).
//!
//! Pure: bytes in, an answer out. Who serves this keeps [`Known::to_bytes`] on disk before a cosignature leaves, and lets no
//! two requests for a log begin at the same [`Known`].

use signed_note::{Note, StandardVerifier};
use tlog_tiles::{Checkpoint, EMPTY_HASH, Hash, check_tree};

use crate::{
    proof::{decimal, lines},
    tree::{
        checkpoint::{Head, Judged, notes},
        cosignature::{CosigningKey, WitnessKey, cosignatures},
        keyring::{Keyring, names_successor},
    },
};

/// Most bytes of a request: 63 hashes, and a note with more signatures than a verifier has to accept.
pub const MOST_BYTES: usize = 128 << 10;
/// Most hashes in a proof.
const MOST_HASHES: usize = 63;
/// A tree of more leaves has no proof of 63 hashes.
const MOST_RECORDS: u64 = 1 << 62;

/// A call of `add-checkpoint`.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<'a> {
    /// Records that the witness is thought to have cosigned.
    pub old: u64,
    pub proof: Vec<Hash>,
    /// The new head, signed.
    pub note: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads the body of a call.
    ///
    /// # Errors
    /// [`Refusal::Malformed`]
    pub fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let malformed = Refusal::Malformed;
        if body.len() > MOST_BYTES {
            return Err(malformed("it is longer than any request"));
        }
        let text = std::str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
        let (head, note) = text
            .split_once("\n\n")
            .ok_or(malformed("the checkpoint behind an empty line is missing"))?;
        let mut head = head.split('\n');
        let old = head
            .next()
            .and_then(|line| decimal(line.strip_prefix("old ")?))
            .ok_or(malformed("it does not begin with the old size"))?;
        let mut proof = Vec::new();
        for line in head {
            let hash = Hash::parse_hash(line)
                .map_err(|_| malformed("a line before the checkpoint is no hash"))?;
            if proof.len() == MOST_HASHES {
                return Err(malformed("there are more than 63 hashes"));
            }
            proof.push(hash);
        }
        Ok(Self {
            old,
            proof,
            note: note.as_bytes(),
        })
    }

    /// The body of a call.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = format!("old {}\n{}\n", self.old, lines(&self.proof)).into_bytes();
        body.extend_from_slice(self.note);
        body
    }

    /// The origin of the log, as the checkpoint says it.
    ///
    /// # Errors
    /// [`Refusal::Malformed`]
    pub fn origin(&self) -> Result<String, Refusal> {
        Ok(self.checkpoint()?.1.origin().to_owned())
    }

    fn checkpoint(&self) -> Result<(Note, Checkpoint), Refusal> {
        const WRONG: Refusal =
            Refusal::Malformed("what follows the empty line is no signed checkpoint");
        let note = Note::from_bytes(self.note).map_err(|_| WRONG)?;
        let checkpoint = Checkpoint::from_bytes(note.text()).map_err(|_| WRONG)?;
        if checkpoint.size() > MOST_RECORDS {
            return Err(Refusal::Malformed("no log has so many records"));
        }
        Ok((note, checkpoint))
    }
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("not a request: {0}")]
    Malformed(&'static str),
    #[error("this witness knows no log {origin:?}")]
    UnknownLog { origin: String },
    #[error("no key of this log that the witness knows signed the checkpoint")]
    NotSigned,
    #[error("the old size {old} is above that of the checkpoint, {size}")]
    OldAboveNew { old: u64, size: u64 },
    #[error(
        "the last checkpoint that was cosigned covers {cosigned} records, not {old}; this one covers {size}"
    )]
    Conflict { cosigned: u64, old: u64, size: u64 },
    #[error("the checkpoint over {size} records does not continue the one over {cosigned}: {why}")]
    Inconsistent {
        cosigned: u64,
        size: u64,
        why: &'static str,
    },
}

/// What a witness knows of one log.
#[derive(Debug, Clone)]
pub struct Known {
    keys: Keyring,
    cosigned: Head,
    /// The cosigned head, and before it those by which the log changed its key.
    latest: Option<Vec<u8>>,
    handovers: Vec<Vec<u8>>,
}

/// What was kept of a log is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it does not hold checkpoints of this log that this witness cosigned: another key of the log or the witness, or damage"
)]
pub struct NotKept;

/// A head that was cosigned.
#[derive(Debug)]
pub struct Answer {
    /// Its signature lines.
    pub lines: Vec<u8>,
    /// What the witness knows from here on.
    pub known: Known,
}

impl Known {
    /// A log of which nothing but its keys is known.
    #[must_use]
    pub fn new(keys: Vec<StandardVerifier>) -> Self {
        Self {
            keys: Keyring::new(keys),
            cosigned: Head {
                size: 0,
                root: EMPTY_HASH,
            },
            latest: None,
            handovers: Vec::new(),
        }
    }

    /// Goes on with what [`to_bytes`](Self::to_bytes) gave to a witness with the key `own`.
    ///
    /// # Errors
    /// If it is not that, which must not be taken for a log that is new.
    pub fn parse(
        text: &[u8],
        keys: Vec<StandardVerifier>,
        own: &WitnessKey,
    ) -> Result<Self, NotKept> {
        let mut known = Self::new(keys);
        let (mut kept, torn) = notes(text);
        let latest = kept.pop().filter(|_| torn.is_empty()).ok_or(NotKept)?;
        for note in kept {
            known.keys.judge(note);
            known.handovers.push(note.to_vec());
        }
        let Judged::Good(head) = known.keys.judge(latest) else {
            return Err(NotKept);
        };
        match cosignatures(latest, std::slice::from_ref(own)) {
            Ok(own) if own.len() == 1 => {}
            Ok(_) | Err(_) => return Err(NotKept),
        }
        known.cosigned = head;
        known.latest = Some(latest.to_vec());
        Ok(known)
    }

    /// What has to be kept.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let notes = self.handovers.iter().chain(&self.latest);
        notes.flatten().copied().collect()
    }

    /// Records that the last cosigned head covers; 0 if there is none.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.cosigned.size
    }

    /// The last cosigned head, with the signatures of the log and the witness.
    #[must_use]
    pub fn latest(&self) -> Option<&[u8]> {
        self.latest.as_deref()
    }

    /// Cosigns the head of a request, at a time in seconds since 1970, if it continues the last one.
    ///
    /// # Errors
    /// If it does not, or the request is not one for this log.
    pub fn cosign(
        &self,
        request: &Request<'_>,
        own: &CosigningKey,
        time: u64,
    ) -> Result<Answer, Refusal> {
        let (note, checkpoint) = request.checkpoint()?;
        let mut keys = self.keys.clone();
        let Judged::Good(head) = keys.judge(request.note) else {
            return Err(Refusal::NotSigned);
        };
        self.continues(request, &head)?;
        // What others signed is not this witness's to hand on.
        let mut note = keys
            .only_known(&note, head.size)
            .ok_or(Refusal::NotSigned)?;
        let mut handovers = self.handovers.clone();
        if names_successor(&checkpoint) && !self.has_handover(&note) {
            handovers.push(note.to_bytes());
        }
        let lines = own
            .cosign(&mut note, time)
            .ok_or(Refusal::Malformed("its text can't be signed"))?;
        Ok(Answer {
            lines,
            known: Self {
                keys,
                cosigned: head,
                latest: Some(note.to_bytes()),
                handovers,
            },
        })
    }

    fn continues(&self, request: &Request<'_>, head: &Head) -> Result<(), Refusal> {
        let (old, size, cosigned) = (request.old, head.size, self.cosigned.size);
        if old > size {
            return Err(Refusal::OldAboveNew { old, size });
        }
        if old != cosigned {
            return Err(Refusal::Conflict {
                cosigned,
                old,
                size,
            });
        }
        let inconsistent = |why| Refusal::Inconsistent {
            cosigned,
            size,
            why,
        };
        if size == 0 && head.root != EMPTY_HASH {
            return Err(inconsistent("an empty log has another root"));
        }
        if old == 0 {
            return if request.proof.is_empty() {
                Ok(())
            } else {
                Err(inconsistent("growth from nothing has no proof"))
            };
        }
        if old == size && head.root != self.cosigned.root {
            return Err(inconsistent("its root is another, so there are two logs"));
        }
        check_tree(&request.proof, size, head.root, old, self.cosigned.root)
            .map_err(|_| inconsistent("the proof does not lead from one to the other"))
    }

    fn has_handover(&self, note: &Note) -> bool {
        self.handovers
            .iter()
            .any(|kept| Note::from_bytes(kept).is_ok_and(|kept| kept.text() == note.text()))
    }
}

#[cfg(test)]
mod tests;
