//! What the other side's scp sends: lines, acknowledgements and file data.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    Broken,
    protocol::{MAX_LINE, Malformed},
};
use crate::sftp::Source;

#[derive(Debug)]
pub(super) struct Input<R> {
    source: R,
    chunk: Bytes,
}

impl<R: Source> Input<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            chunk: Bytes::new(),
        }
    }

    /// The next line without its newline, or `None` at the end.
    pub(super) async fn line(&mut self) -> Result<Option<Bytes>, Broken> {
        let mut line = BytesMut::new();
        loop {
            if !self.fill().await {
                return if line.is_empty() {
                    Ok(None)
                } else {
                    Err(Malformed::Cut.into())
                };
            }
            let newline = self.chunk.iter().position(|&byte| byte == b'\n');
            let taken = newline.unwrap_or(self.chunk.len());
            if line.len() + taken > MAX_LINE {
                return Err(Malformed::TooLong.into());
            }
            line.extend_from_slice(&self.chunk.split_to(taken));
            if newline.is_some() {
                self.chunk.advance(1);
                return Ok(Some(line.freeze()));
            }
        }
    }

    pub(super) async fn byte(&mut self) -> Result<Option<u8>, Broken> {
        if !self.fill().await {
            return Ok(None);
        }
        Ok(Some(self.chunk.get_u8()))
    }

    /// At least one byte and at most `most`.
    pub(super) async fn data(&mut self, most: usize) -> Result<Bytes, Broken> {
        if !self.fill().await {
            return Err(Malformed::Cut.into());
        }
        Ok(self.chunk.split_to(self.chunk.len().min(most)))
    }

    /// False at the end.
    async fn fill(&mut self) -> bool {
        while self.chunk.is_empty() {
            match self.source.next().await {
                Some(chunk) => self.chunk = chunk,
                None => return false,
            }
        }
        true
    }
}
