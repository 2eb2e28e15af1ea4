//! Where the bytes of a stored file lie. All of it follows from lengths.

use fast_floe::{Parameters, low_level::SegmentLayout};

use crate::Head;

/// Bytes of plaintext of a segment that is not the last one.
pub const SEGMENT_PLAINTEXT: usize = 64 << 10;
/// Bytes of plaintext of an extent that is not the last one.
pub const EXTENT_PLAINTEXT: u64 = 16 << 20;
/// Bytes of the FLOE header that an extent begins with.
pub const EXTENT_HEADER: usize = 74;

/// FLOE's overhead: prefix, nonce and tag of a segment.
const SEGMENT_OVERHEAD: usize = 4 + 12 + 16;
const SEGMENT_STORED: u64 = (SEGMENT_PLAINTEXT + SEGMENT_OVERHEAD) as u64;
const SEGMENTS: u64 = EXTENT_PLAINTEXT / SEGMENT_PLAINTEXT as u64;
const EXTENT_STORED: u64 = EXTENT_HEADER as u64 + SEGMENTS * SEGMENT_STORED;
const HEAD: u64 = Head::LENGTH as u64;

/// FLOE parameters of all extents.
pub(crate) fn parameters() -> Parameters {
    match Parameters::with_segment_length(SEGMENT_STORED as u32) {
        Ok(parameters) => parameters,
        Err(_) => unreachable!("64 KiB and 32 bytes are within FLOE's bounds"),
    }
}

/// No file of this length is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no complete encrypted file has {0} bytes: it was cut off or added to")]
pub struct LayoutError(pub u64);

/// The layout of a stored file with so much plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    plaintext: u64,
}

/// One segment of a stored file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPlace {
    /// From the file's beginning.
    pub index: u64,
    /// The extent that it belongs to.
    pub extent: u64,
    /// Where it begins in the stored file.
    pub stored_offset: u64,
    pub stored_length: usize,
    /// Where its plaintext begins.
    pub offset: u64,
    /// Bytes of its plaintext.
    pub length: usize,
}

impl Layout {
    pub fn of_plaintext(plaintext: u64) -> Self {
        Self { plaintext }
    }

    /// Of a stored file of so many bytes.
    ///
    /// # Errors
    /// If no complete file has that length.
    pub fn of_stored(stored: u64) -> Result<Self, LayoutError> {
        let error = LayoutError(stored);
        let body = stored.checked_sub(HEAD).ok_or(error)?;
        let extents = body / EXTENT_STORED;
        let segments = (body % EXTENT_STORED)
            .checked_sub(EXTENT_HEADER as u64)
            .ok_or(error)?;
        let count = segments.div_ceil(SEGMENT_STORED);
        let rest = segments
            .checked_sub(count * SEGMENT_OVERHEAD as u64)
            .filter(|rest| count > 0 && (*rest > 0 || count == 1))
            .ok_or(error)?;
        let plaintext = extents * EXTENT_PLAINTEXT + rest;
        // A last segment without plaintext, behind others, is one that was cut.
        if Self::of_plaintext(plaintext).stored() == stored {
            Ok(Self { plaintext })
        } else {
            Err(error)
        }
    }

    /// Bytes of plaintext that are in whole extents of a file that was cut off at `stored`, if more than them was written; an
    /// upload can go on behind them. So there is something left to send, also of one that was cut off after its last byte.
    pub fn whole_extents(stored: u64) -> u64 {
        let empty = HEAD + EXTENT_HEADER as u64 + SEGMENT_OVERHEAD as u64;
        stored.saturating_sub(empty + 1) / EXTENT_STORED * EXTENT_PLAINTEXT
    }

    /// Length of a stored file that ends with the whole extents of so much plaintext.
    pub fn stored_extents(plaintext: u64) -> u64 {
        HEAD + plaintext / EXTENT_PLAINTEXT * EXTENT_STORED
    }

    /// In bytes.
    pub fn plaintext(self) -> u64 {
        self.plaintext
    }

    /// Bytes of the whole stored file.
    pub fn stored(self) -> u64 {
        let rest = self.plaintext % EXTENT_PLAINTEXT;
        let segments = rest.div_ceil(SEGMENT_PLAINTEXT as u64).max(1);
        HEAD + self.plaintext / EXTENT_PLAINTEXT * EXTENT_STORED
            + EXTENT_HEADER as u64
            + rest
            + segments * SEGMENT_OVERHEAD as u64
    }

    /// The segment that holds the byte at `offset`, or the one that ends the file if there is none.
    pub fn segment_at(self, offset: u64) -> SegmentPlace {
        if offset < self.plaintext {
            self.place(offset / SEGMENT_PLAINTEXT as u64)
        } else {
            self.last_segment()
        }
    }

    /// The segment that ends the file: what shows that nothing is missing behind it.
    pub fn last_segment(self) -> SegmentPlace {
        let whole = self.plaintext / EXTENT_PLAINTEXT * SEGMENTS;
        let rest = self.plaintext % EXTENT_PLAINTEXT;
        self.place(whole + rest.div_ceil(SEGMENT_PLAINTEXT as u64).max(1) - 1)
    }

    /// Where the FLOE header of an extent lies.
    pub fn extent_header(extent: u64) -> u64 {
        HEAD + extent * EXTENT_STORED
    }

    fn place(self, index: u64) -> SegmentPlace {
        let extent = index / SEGMENTS;
        let offset = index * SEGMENT_PLAINTEXT as u64;
        let left = self.plaintext.saturating_sub(offset);
        let length =
            usize::try_from(left).map_or(SEGMENT_PLAINTEXT, |left| left.min(SEGMENT_PLAINTEXT));
        SegmentPlace {
            index,
            extent,
            stored_offset: Self::extent_header(extent)
                + EXTENT_HEADER as u64
                + index % SEGMENTS * SEGMENT_STORED,
            stored_length: length + SEGMENT_OVERHEAD,
            offset,
            length,
        }
    }

    /// FLOE's view of a segment, within its extent.
    pub(crate) fn floe(self, place: &SegmentPlace) -> Option<SegmentLayout> {
        let begins = place.extent * EXTENT_PLAINTEXT;
        let length = self.plaintext.checked_sub(begins)?.min(EXTENT_PLAINTEXT);
        let message = parameters().plaintext_layout(length).ok()?;
        message.segment_for_position(place.index % SEGMENTS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lengths() -> impl Iterator<Item = u64> {
        let segment = SEGMENT_PLAINTEXT as u64;
        [
            0,
            segment,
            2 * segment,
            EXTENT_PLAINTEXT,
            EXTENT_PLAINTEXT + segment,
            3 * EXTENT_PLAINTEXT,
        ]
        .into_iter()
        .flat_map(|about| about.saturating_sub(2)..about + 3)
    }

    #[test]
    fn lengths_lead_to_each_other() {
        for length in lengths() {
            let layout = Layout::of_plaintext(length);
            assert_eq!(Layout::of_stored(layout.stored()), Ok(layout), "{length}");
        }
    }

    #[test]
    fn every_stored_length_is_that_of_one_plaintext_or_of_none() {
        let mut plaintexts = std::collections::HashMap::new();
        for plaintext in 0..200_000 {
            let stored = Layout::of_plaintext(plaintext).stored();
            assert_eq!(plaintexts.insert(stored, plaintext), None);
        }
        for stored in 0..200_000 {
            let expected = plaintexts.get(&stored).copied();
            assert_eq!(
                Layout::of_stored(stored).ok().map(Layout::plaintext),
                expected,
                "{stored}"
            );
        }
    }

    #[test]
    fn a_file_that_ends_with_a_whole_extent_is_not_complete() {
        for extents in 0..4 {
            assert!(Layout::of_stored(HEAD + extents * EXTENT_STORED).is_err());
        }
    }

    proptest! {
        #[test]
        fn segments_follow_each_other_without_a_gap(length in 0..3 * EXTENT_PLAINTEXT) {
            let layout = Layout::of_plaintext(length);
            let last = layout.last_segment();
            let (mut offset, mut stored) = (0, HEAD);
            for index in 0..=last.index {
                let place = layout.place(index);
                if index % SEGMENTS == 0 {
                    prop_assert_eq!(Layout::extent_header(place.extent), stored);
                    stored += EXTENT_HEADER as u64;
                }
                prop_assert_eq!((place.offset, place.stored_offset), (offset, stored));
                prop_assert!(layout.floe(&place).is_some());
                if place.length > 0 {
                    prop_assert_eq!(layout.segment_at(offset), place);
                }
                offset += place.length as u64;
                stored += place.stored_length as u64;
            }
            prop_assert_eq!((offset, stored), (length, layout.stored()));
        }
    }
}
