//! Which cells of a table are free.

/// The longest run of cells that is allocated at once.
const LONGEST: u32 = 64;

/// Free cells, and those that a reader may still be looking at.
#[derive(Debug)]
pub(super) struct Space {
    /// A bit for each cell, set when it is free.
    free: Vec<u64>,
    /// First cells of free runs; those of length `n` at index `n - 1`.
    runs: [Vec<u32>; LONGEST as usize],
    /// A bit for each length of which there are runs, by the same index.
    lengths: u64,
    /// Runs that readers may see, and how many cells they are.
    quarantine: Vec<(u32, u32)>,
    quarantined: u32,
    /// Of those, the runs that are awaited.
    awaited: Vec<(u32, u32)>,
    used: u32,
    end: u32,
}

impl Space {
    /// The cells `next..end` are free, and those below are in use.
    pub(super) fn new(next: u32, end: u32) -> Self {
        let mut space = Self {
            free: vec![0; end.div_ceil(64) as usize],
            runs: std::array::from_fn(|_| Vec::new()),
            lengths: 0,
            quarantine: Vec::new(),
            quarantined: 0,
            awaited: Vec::new(),
            used: next,
            end,
        };
        space.mark(next, end - next, true);
        space.find_runs();
        space
    }

    /// The first cell of a run of this length, at most 64.
    pub(super) fn allocate(&mut self, length: u32) -> Option<u32> {
        let wanted = length.checked_sub(1).filter(|wanted| *wanted < LONGEST)?;
        let fitting = self.lengths & u64::MAX << wanted;
        if fitting == 0 {
            return None;
        }
        let found = fitting.trailing_zeros() + 1;
        let runs = self.runs.get_mut(found as usize - 1)?;
        let first = runs.pop()?;
        if runs.is_empty() {
            self.lengths &= !(1 << (found - 1));
        }
        self.add_run(first + length, found - length);
        self.mark(first, length, false);
        self.used += length;
        Some(first)
    }

    /// Gives back a run that no reader can have seen.
    pub(super) fn free(&mut self, first: u32, length: u32) {
        self.used -= length;
        self.mark(first, length, true);
        self.add_run(first, length);
    }

    /// Gives back a run that readers may still see until [`Space::await_readers`] and then [`Space::reclaim`].
    pub(super) fn retire(&mut self, first: u32, length: u32) {
        if length > 0 {
            self.used -= length;
            self.quarantined += length;
            self.quarantine.push((first, length));
        }
    }

    /// Cells that were retired, and are not awaited yet.
    pub(super) fn quarantined(&self) -> u32 {
        self.quarantined
    }

    /// Cells that may be allocated.
    pub(super) fn free_cells(&self) -> u32 {
        let awaited: u32 = self.awaited.iter().map(|(_, length)| length).sum();
        self.end - self.used - self.quarantined - awaited
    }

    /// Whether [`Space::reclaim`] would free anything.
    pub(super) fn awaits_readers(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// What was retired until now will be free when the readers of now are through.
    pub(super) fn await_readers(&mut self) {
        self.quarantined = 0;
        self.awaited.append(&mut self.quarantine);
    }

    /// Frees what was awaited, and joins neighbouring runs.
    pub(super) fn reclaim(&mut self) {
        let mut awaited = std::mem::take(&mut self.awaited);
        for (first, length) in awaited.drain(..) {
            self.mark(first, length, true);
        }
        self.awaited = awaited;
        self.find_runs();
    }

    fn add_run(&mut self, first: u32, length: u32) {
        if let Some(index) = length.checked_sub(1)
            && let Some(runs) = self.runs.get_mut(index as usize)
        {
            runs.push(first);
            self.lengths |= 1 << index;
        }
    }

    fn mark(&mut self, first: u32, length: u32, is_free: bool) {
        let (mut cell, end) = (first, first + length);
        while cell < end {
            let count = (64 - cell % 64).min(end - cell);
            let bits = u64::MAX >> (64 - count) << (cell % 64);
            if let Some(word) = self.free.get_mut(cell as usize / 64) {
                *word = if is_free { *word | bits } else { *word & !bits };
            }
            cell += count;
        }
    }

    /// Finds the runs of free cells, from the last to the first: the first is then used first.
    fn find_runs(&mut self) {
        self.runs.iter_mut().for_each(Vec::clear);
        self.lengths = 0;
        let words = std::mem::take(&mut self.free);
        // A run that reaches down to the word last looked at.
        let (mut first, mut length) = (0, 0);
        for (index, word) in words.iter().enumerate().rev() {
            let (mut word, mut end) = (*word, 64);
            while end > 0 {
                let ones = word.leading_ones().min(end);
                if ones > 0 {
                    first = index as u32 * 64 + end - ones;
                    length += ones;
                    end -= ones;
                    word = word.checked_shl(ones).unwrap_or(0);
                    if end == 0 {
                        break;
                    }
                }
                self.add_long_run(first, length);
                length = 0;
                let zeros = word.leading_zeros().min(end);
                end -= zeros;
                word = word.checked_shl(zeros).unwrap_or(0);
            }
        }
        self.add_long_run(first, length);
        self.free = words;
    }

    fn add_long_run(&mut self, first: u32, length: u32) {
        let mut end = first + length;
        while end > first {
            let length = (end - first).min(LONGEST);
            end -= length;
            self.add_run(end, length);
        }
    }

    /// Cells in use.
    pub(super) fn used(&self) -> u32 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retired_run_is_reused_after_a_grace_period_and_not_before() {
        let mut space = Space::new(10, 14);
        assert_eq!(space.allocate(4), Some(10));
        space.retire(10, 4);
        assert_eq!(space.allocate(4), None);
        assert_eq!(space.quarantined(), 4);
        space.reclaim();
        assert_eq!(space.allocate(4), None, "nobody has waited");
        space.await_readers();
        assert_eq!(space.allocate(4), None);
        space.reclaim();
        assert_eq!(space.allocate(4), Some(10));
        assert_eq!(space.used(), 14);
    }

    #[test]
    fn what_is_retired_while_readers_are_awaited_waits_for_the_next() {
        let mut space = Space::new(0, 8);
        assert_eq!(space.allocate(8), Some(0));
        space.retire(0, 3);
        space.await_readers();
        space.retire(3, 5);
        assert_eq!((space.free_cells(), space.quarantined()), (0, 5));
        space.reclaim();
        assert_eq!((space.free_cells(), space.quarantined()), (3, 5));
        assert_eq!(space.allocate(5), None);
        assert_eq!(space.allocate(3), Some(0));
    }

    #[test]
    fn a_longer_run_is_split_and_its_parts_are_joined_again() {
        let mut space = Space::new(0, 8);
        assert_eq!(space.allocate(3), Some(0));
        assert_eq!(space.allocate(5), Some(3));
        assert_eq!(space.allocate(1), None);
        space.retire(0, 3);
        space.retire(3, 5);
        space.await_readers();
        space.reclaim();
        assert_eq!(space.allocate(8), Some(0));
    }

    #[test]
    fn runs_that_cross_words_are_found_whole() {
        let mut space = Space::new(1, 300);
        let runs: Vec<u32> = (0..4).filter_map(|_| space.allocate(64)).collect();
        let mut cells: Vec<u32> = runs.iter().flat_map(|first| *first..first + 64).collect();
        while let Some(cell) = space.allocate(1) {
            cells.push(cell);
        }
        cells.sort_unstable();
        assert!(cells.into_iter().eq(1..300));
    }
}
