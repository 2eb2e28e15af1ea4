//! Frames of the change log: length, number and checksum before each record, so that a torn end is told from damage.
//!
//! ```text
//! magic 4 | meta length 4 | body length 8 | sequence 8 | CRC-32 of meta and body 4 | CRC-32 of the 28 bytes before 4 | meta | body
//! ```
//! Numbers are little-endian. The header has a checksum of its own: a damaged length is not taken for a record that was cut.

use std::io::{self, Read};

pub(super) const HEADER: usize = 32;
const MAGIC: [u8; 4] = *b"PCF1";

/// One record as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) sequence: u64,
    pub(super) meta: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Frame(Frame),
    /// The segment ends here.
    End,
    /// A record was being written when the machine stopped: nothing stands behind it.
    Torn,
    /// Something else stands here.
    Damaged,
}

/// The bytes of a frame.
pub(super) fn encode(sequence: u64, meta: &[u8], body: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER + meta.len() + body.len());
    bytes.extend(MAGIC);
    let meta_length = u32::try_from(meta.len()).map_err(io::Error::other)?;
    bytes.extend(meta_length.to_le_bytes());
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(meta);
    checksum.update(body);
    bytes.extend(checksum.finalize().to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(meta);
    bytes.extend(body);
    Ok(bytes)
}

/// Reads the frame that begins here; `left` is what the segment still has.
pub(super) fn decode(reader: &mut impl Read, left: u64) -> io::Result<Found> {
    if left == 0 {
        return Ok(Found::End);
    }
    let mut header = [0; HEADER];
    if left < HEADER as u64 {
        return Ok(Found::Torn);
    }
    reader.read_exact(&mut header)?;
    let Some(lengths) = lengths(&header) else {
        // Of a header that was being written any part may be on the disk; one behind it was written later.
        let mut rest = header.to_vec();
        reader.read_to_end(&mut rest)?;
        return Ok(if has_header(&rest) {
            Found::Damaged
        } else {
            Found::Torn
        });
    };
    let needed = u64::from(lengths.meta).checked_add(lengths.body);
    if needed.is_none_or(|needed| needed > left - HEADER as u64) {
        return Ok(Found::Torn);
    }
    let mut meta = vec![0; lengths.meta as usize];
    reader.read_exact(&mut meta)?;
    let mut body = Vec::new();
    reader.by_ref().take(lengths.body).read_to_end(&mut body)?;
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&meta);
    checksum.update(&body);
    if checksum.finalize() != lengths.checksum {
        let is_last = needed == Some(left - HEADER as u64);
        return Ok(if is_last { Found::Torn } else { Found::Damaged });
    }
    Ok(Found::Frame(Frame {
        sequence: lengths.sequence,
        meta,
        body,
    }))
}

struct Lengths {
    meta: u32,
    body: u64,
    sequence: u64,
    checksum: u32,
}

fn lengths(header: &[u8; HEADER]) -> Option<Lengths> {
    let (fields, own) = header.split_last_chunk::<4>()?;
    if crc32fast::hash(fields) != u32::from_le_bytes(*own) {
        return None;
    }
    let (magic, rest) = fields.split_first_chunk::<4>()?;
    let (meta, rest) = rest.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, _) = rest.split_first_chunk::<4>()?;
    (*magic == MAGIC).then(|| Lengths {
        meta: u32::from_le_bytes(*meta),
        body: u64::from_le_bytes(*body),
        sequence: u64::from_le_bytes(*sequence),
        checksum: u32::from_le_bytes(*checksum),
    })
}

/// Whether a sound header begins anywhere in these bytes.
fn has_header(bytes: &[u8]) -> bool {
    bytes
        .windows(HEADER)
        .filter(|window| window.starts_with(&MAGIC))
        .any(|window| {
            window
                .first_chunk()
                .is_some_and(|header| lengths(header).is_some())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Found {
        decode(&mut &*bytes, bytes.len() as u64).unwrap()
    }

    fn frame() -> Vec<u8> {
        encode(7, b"meta", b"a longer body").unwrap()
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        assert_eq!(
            read(&frame()),
            Found::Frame(Frame {
                sequence: 7,
                meta: b"meta".to_vec(),
                body: b"a longer body".to_vec()
            })
        );
        assert_eq!(read(&[]), Found::End);
    }

    #[test]
    fn a_frame_cut_anywhere_is_torn() {
        let whole = frame();
        for length in 1..whole.len() {
            assert_eq!(read(&whole[..length]), Found::Torn, "{length}");
        }
        assert_eq!(read(&[0; 100]), Found::Torn, "lengthened, never written");
    }

    #[test]
    fn a_changed_byte_before_another_frame_is_damage_and_never_a_frame() {
        let whole = frame();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes.extend(frame());
            assert_eq!(read(&bytes), Found::Damaged, "{at}");
        }
    }
}
