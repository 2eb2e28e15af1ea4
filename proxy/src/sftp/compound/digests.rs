//! The digests of a range, one for each block.

use bytes::{BufMut as _, BytesMut};
use portcullis_audit::catalogue::OnRecord;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::operation::{Check, DigestAlgorithm, Outcome};

/// Bytes of digests in one reply, half of the longest packet: 4,096 blocks with SHA-256.
const MAX_DIGESTS: usize = 128 * 1024;

/// The range has more blocks than a reply has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the digests would be longer than {MAX_DIGESTS} bytes; ask for larger blocks or less of the file"
)]
pub(super) struct TooMany;

#[derive(Debug)]
pub(super) struct Digests {
    algorithm: DigestAlgorithm,
    block_size: Option<u64>,
    hasher: Hasher,
    /// Bytes of the block that were hashed.
    filled: u64,
    is_told: bool,
    done: BytesMut,
}

#[derive(Debug)]
enum Hasher {
    Sha256(Sha256),
    Sha384(Box<Sha384>),
    Sha512(Box<Sha512>),
}

impl Digests {
    pub(super) fn new(check: &Check) -> Self {
        Self {
            algorithm: check.algorithm,
            block_size: check.block_size.map(u64::from),
            hasher: Hasher::new(check.algorithm),
            filled: 0,
            is_told: false,
            done: BytesMut::new(),
        }
    }

    /// Whether a reply has room for the digests of so many bytes.
    pub(super) fn admits(&self, length: u64) -> Result<(), TooMany> {
        let blocks = self
            .block_size
            .map_or(1, |block_size| length.div_ceil(block_size));
        let room = (MAX_DIGESTS / self.algorithm.length()) as u64;
        if blocks <= room { Ok(()) } else { Err(TooMany) }
    }

    pub(super) fn is_sha256(&self) -> bool {
        self.algorithm == DigestAlgorithm::Sha256
    }

    /// Takes the SHA-256 of all bytes from the journal, unless they are of more than one block, or of none.
    pub(super) fn tell(&mut self, on_record: &OnRecord) -> bool {
        let is_one = |block_size| (1..=block_size).contains(&on_record.size);
        let is_told = self.is_sha256() && self.block_size.is_none_or(is_one);
        if is_told {
            self.done.put_slice(&on_record.sha256);
            self.is_told = true;
        }
        is_told
    }

    pub(super) fn add(&mut self, mut data: &[u8]) -> Result<(), TooMany> {
        while !data.is_empty() {
            let room = self
                .block_size
                .map_or(u64::MAX, |block_size| block_size - self.filled);
            let taken = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
            let (now, later) = data.split_at(taken);
            self.hasher.update(now);
            self.filled += taken as u64;
            data = later;
            if Some(self.filled) == self.block_size {
                self.end_block()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<Outcome, TooMany> {
        // One digest over nothing is a digest; a block of nothing is none.
        if !self.is_told && (self.filled > 0 || self.block_size.is_none()) {
            self.end_block()?;
        }
        Ok(Outcome::Digests {
            algorithm: self.algorithm,
            digests: self.done.split().freeze(),
        })
    }

    fn end_block(&mut self) -> Result<(), TooMany> {
        if self.done.len() + self.algorithm.length() > MAX_DIGESTS {
            return Err(TooMany);
        }
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new(self.algorithm));
        match hasher {
            Hasher::Sha256(hasher) => self.done.put_slice(&hasher.finalize()),
            Hasher::Sha384(hasher) => self.done.put_slice(&hasher.finalize()),
            Hasher::Sha512(hasher) => self.done.put_slice(&hasher.finalize()),
        }
        self.filled = 0;
        Ok(())
    }
}

impl Hasher {
    fn new(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            DigestAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            DigestAlgorithm::Sha384 => Self::Sha384(Box::default()),
            DigestAlgorithm::Sha512 => Self::Sha512(Box::default()),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(data),
            Self::Sha384(hasher) => hasher.update(data),
            Self::Sha512(hasher) => hasher.update(data),
        }
    }
}
