//! Bytes in the encoding of RFC 4251 section 5, with the place where they stand.

use super::KrlError;

/// What is left of a string, and where it is in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that was not taken.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn malformed(&self, problem: &'static str) -> KrlError {
        KrlError::Malformed {
            at: self.at,
            problem,
        }
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), KrlError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("bytes that belong to nothing"))
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], KrlError> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.malformed("the list ends in the middle"));
        };
        self.rest = rest;
        self.at += length;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], KrlError> {
        let taken = self.take(LENGTH)?;
        Ok(taken.try_into().unwrap_or([0; LENGTH]))
    }

    pub(super) fn u8(&mut self) -> Result<u8, KrlError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, KrlError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, KrlError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A `string`: four bytes of length, and so many bytes.
    pub(super) fn string(&mut self) -> Result<Self, KrlError> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let at = self.at;
        Ok(Self {
            rest: self.take(length)?,
            at,
        })
    }
}
