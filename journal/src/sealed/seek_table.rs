//! The seek table at the end of a file of Zstandard frames.
//!
//! Layout: skippable frame magic, length, then for each frame its compressed and its uncompressed length, all 32 bits and
//! little endian; then the number of frames, a descriptor byte, and a magic number.

const SKIPPABLE: u32 = 0x184D_2A50;
/// The kind of skippable frame that the seek table is.
const TABLE: u32 = SKIPPABLE + 0xE;
const SEEKABLE: u32 = 0x8F92_EAB1;
const HEADER: usize = 8;
const ENTRY: usize = 8;
pub(super) const FOOTER: usize = 9;

/// Lengths of one frame in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) compressed: u32,
    /// 0 for a frame that decompression skips.
    pub(super) plain: u32,
}

/// A skippable frame around `content`.
pub(super) fn skippable(content: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(content.len()).ok()?;
    let mut frame = Vec::with_capacity(HEADER + content.len());
    frame.extend_from_slice(&SKIPPABLE.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(content);
    Some(frame)
}

/// The content of a skippable frame of the kind that [`skippable`] makes.
pub(super) fn skipped(frame: &[u8]) -> Option<&[u8]> {
    let (header, content) = frame.split_at_checked(HEADER)?;
    let is_whole = number(header, 0)? == SKIPPABLE && number(header, 4)? as usize == content.len();
    is_whole.then_some(content)
}

/// The table as a frame.
pub(super) fn encode(entries: &[Entry]) -> Option<Vec<u8>> {
    let length = u32::try_from(entries.len() * ENTRY + FOOTER).ok()?;
    let count = u32::try_from(entries.len()).ok()?;
    let mut table = Vec::with_capacity(HEADER + length as usize);
    table.extend_from_slice(&TABLE.to_le_bytes());
    table.extend_from_slice(&length.to_le_bytes());
    for entry in entries {
        table.extend_from_slice(&entry.compressed.to_le_bytes());
        table.extend_from_slice(&entry.plain.to_le_bytes());
    }
    table.extend_from_slice(&count.to_le_bytes());
    // No checksums: each frame has its own.
    table.push(0);
    table.extend_from_slice(&SEEKABLE.to_le_bytes());
    Some(table)
}

/// Length of the whole table, of which these are the last [`FOOTER`] bytes.
pub(super) fn length(footer: &[u8]) -> Option<u64> {
    let is_ours = footer.len() == FOOTER && footer.get(4) == Some(&0);
    (is_ours && number(footer, 5)? == SEEKABLE)
        .then(|| Some(u64::from(number(footer, 0)?) * ENTRY as u64 + (HEADER + FOOTER) as u64))?
}

/// Reads what [`encode`] made.
pub(super) fn decode(table: &[u8]) -> Option<Vec<Entry>> {
    let footer = table.get(table.len().checked_sub(FOOTER)?..)?;
    let is_whole = length(footer)? == table.len() as u64
        && number(table, 0)? == TABLE
        && number(table, 4)? as usize == table.len() - HEADER;
    if !is_whole {
        return None;
    }
    let entries = table.get(HEADER..table.len() - FOOTER)?;
    entries
        .chunks_exact(ENTRY)
        .map(|entry| {
            Some(Entry {
                compressed: number(entry, 0)?,
                plain: number(entry, 4)?,
            })
        })
        .collect()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(digits.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_back_and_no_part_of_it_is() {
        let entries = [
            Entry {
                compressed: 7,
                plain: 70,
            },
            Entry {
                compressed: 9,
                plain: 0,
            },
        ];
        let table = encode(&entries).unwrap();
        assert_eq!(
            length(&table[table.len() - FOOTER..]),
            Some(table.len() as u64)
        );
        assert_eq!(decode(&table).unwrap(), entries);
        for cut in 0..table.len() {
            assert_eq!(decode(&table[..cut]), None);
            assert_eq!(decode(&table[table.len() - cut..]), None);
        }
    }
}
