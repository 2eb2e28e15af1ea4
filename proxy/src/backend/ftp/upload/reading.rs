//! An upload whose staging file is read by the layer that wrote it.

use bytes::Bytes;

use super::Upload;
use crate::{
    backend::ftp::{download::Download, fault::Fault, unsupported},
    operation::Attributes,
};

impl Upload {
    /// Reads what is on the server: what an interrupted upload left, before the first write to it; or all that was written, after
    /// which no write is taken any more.
    pub(in crate::backend::ftp) async fn read(
        &mut self,
        offset: u64,
        length: u32,
    ) -> Result<Bytes, Fault> {
        if !self.pool.is_beneath_a_layer() {
            return Err(unsupported("reading a file while it is written"));
        }
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let read = self.read_staged(offset, length).await;
        if let Err(fault) = &read
            && self.found.is_none()
        {
            self.fail(fault.clone());
        }
        read
    }

    async fn read_staged(&mut self, offset: u64, length: u32) -> Result<Bytes, Fault> {
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                if self.found.is_none() && !self.is_settled {
                    drop(self.settle().await?);
                }
                let staged = Attributes {
                    size: Some(self.found.unwrap_or(self.next)),
                    ..Attributes::default()
                };
                let path = self.staged.path().clone();
                Box::new(Download::of(&self.pool, path, staged))
            }
        };
        let read = reading.read(offset, length).await;
        self.reading = Some(reading);
        read
    }

    /// Fetches ahead of the reads of a settled upload; may never return.
    pub(super) async fn read_ahead(&mut self) {
        match &mut self.reading {
            Some(reading) if self.is_settled => reading.read_ahead().await,
            Some(_) | None => std::future::pending().await,
        }
    }
}
