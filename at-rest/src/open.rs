//! Decryption of single segments, in any order.

use std::{fmt, sync::Arc};

use fast_floe::{
    Header, Key,
    low_level::{SharedDecryptionContext, start_decryption},
};

use crate::{DataKey, EXTENT_HEADER, Head, Layout, SegmentPlace, layout::parameters};

/// Why stored bytes are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("the beginning of extent {0} was changed, or is not of this file")]
    Extent(u64),
    #[error("segment {0} was changed, moved or cut off")]
    Segment(u64),
}

/// What opens the segments of one file.
pub struct ExtentReaders {
    key: Key,
    head: Head,
    layout: Layout,
}

impl fmt::Debug for ExtentReaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExtentReaders({:?})", self.head)
    }
}

/// What opens the segments of one extent.
#[derive(Clone)]
pub struct ExtentReader {
    context: Arc<SharedDecryptionContext>,
    layout: Layout,
}

impl fmt::Debug for ExtentReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExtentReader")
    }
}
impl ExtentReaders {
    /// `key` must be that of the head.
    pub fn new(key: &DataKey, head: Head, layout: Layout) -> Self {
        Self {
            key: key.floe(),
            head,
            layout,
        }
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// By the bytes that the extent begins with.
    ///
    /// # Errors
    /// [`OpenError::Extent`]
    pub fn extent(&self, extent: u64, header: &[u8]) -> Result<ExtentReader, OpenError> {
        let header: [u8; EXTENT_HEADER] =
            header.try_into().map_err(|_| OpenError::Extent(extent))?;
        let header = Header::try_from(&header[..]).map_err(|_| OpenError::Extent(extent))?;
        let data = self.head.associated_data(extent);
        let state = start_decryption(&self.key, &data, parameters(), &header)
            .map_err(|_| OpenError::Extent(extent))?;
        Ok(ExtentReader {
            context: Arc::new(state.into_shared()),
            layout: self.layout,
        })
    }
}

impl ExtentReader {
    /// Decrypts the stored bytes of `place` into `plaintext`, which must have as many bytes as the place has of it.
    ///
    /// # Errors
    /// [`OpenError::Segment`]; then `plaintext` is all zeros.
    pub fn open(
        &self,
        place: &SegmentPlace,
        stored: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), OpenError> {
        let segment = self.layout.floe(place);
        let opened = segment.is_some_and(|segment| {
            plaintext.len() == place.length
                && self
                    .context
                    .fork()
                    .decrypt_segment_into(stored, segment, plaintext)
                    .is_ok()
        });
        if opened {
            Ok(())
        } else {
            plaintext.fill(0);
            Err(OpenError::Segment(place.index))
        }
    }
}
