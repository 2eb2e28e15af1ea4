//! The compiled tables: one array of cells for each address family, and how the class of an address is read from it.
//!
//! The daemon compiles all rules into an array and edits it while packets are judged. A lookup takes no lock: the writer
//! stores aligned words one at a time, in an order that leaves the old or the new class of an address to be seen, and never
//! a third. Nothing here writes; `portcullis-agent`'s module `table` does.
//!
//! Written for the kernel's verifier: loops have constant bounds, word indices are masked, and nothing panics.

pub mod v4;
pub mod v6;

/// An array of cells of `WORDS` words.
pub trait Cells<const WORDS: usize> {
    type Cell: Cell;

    /// The cell at this index; nothing beyond the end, where a lookup then reads "not listed".
    fn cell(&self, index: u32) -> Option<Self::Cell>;
}

/// One cell.
pub trait Cell {
    /// The word at this index, modulo the number of words, which is a power of two.
    fn word(&self, index: u32) -> u64;
}

impl<const WORDS: usize> Cell for &[u64; WORDS] {
    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        const { assert!(WORDS.is_power_of_two()) };
        match self.get(index as usize & (WORDS - 1)) {
            Some(word) => *word,
            None => 0,
        }
    }
}

impl<const WORDS: usize> Cell for &[core::sync::atomic::AtomicU64; WORDS] {
    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        const { assert!(WORDS.is_power_of_two()) };
        match self.get(index as usize & (WORDS - 1)) {
            Some(word) => word.load(core::sync::atomic::Ordering::Acquire),
            None => 0,
        }
    }
}

/// The 32-bit half of a word that an index of halves points at; half 0 is the low one.
#[inline(always)]
fn half(word: u64, index: u32) -> u32 {
    (word >> ((index & 1) * 32)) as u32
}

/// Bits set in a word. The BPF instruction set has no instruction for it.
#[inline(always)]
pub fn count_ones(word: u64) -> u32 {
    let pairs = word - ((word >> 1) & 0x5555_5555_5555_5555);
    let nibbles = (pairs & 0x3333_3333_3333_3333) + ((pairs >> 2) & 0x3333_3333_3333_3333);
    let bytes = (nibbles + (nibbles >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_as_the_processor_counts_them() {
        for word in [
            0,
            1,
            u64::MAX,
            1 << 63,
            0x8000_0001_0000_00ff,
            0x0123_4567_89ab_cdef,
        ] {
            assert_eq!(count_ones(word), word.count_ones(), "{word:#x}");
        }
    }
}
