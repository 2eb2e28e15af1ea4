//! Which cells of a table are free.

/// The longest run of cells that is allocated at once.
const LONGEST: usize = 64;

/// Free cells, and those that a reader may still be looking at.
#[derive(Debug)]
pub(super) struct Space {
    /// Never used from here.
    next: u32,
    end: u32,
    /// First cells of free runs, by length.
    free: [Vec<u32>; LONGEST + 1],
    quarantine: Vec<(u32, u32)>,
    quarantined: u32,
    used: u32,
}

impl Space {
    /// The cells `next..end` are free, and those below are in use.
    pub(super) fn new(next: u32, end: u32) -> Self {
        Self {
            next,
            end,
            free: std::array::from_fn(|_| Vec::new()),
            quarantine: Vec::new(),
            quarantined: 0,
            used: next,
        }
    }

    /// The first cell of a run of this length, at most 64.
    pub(super) fn allocate(&mut self, length: u32) -> Option<u32> {
        let first = self.find(length)?;
        self.used += length;
        Some(first)
    }

    fn find(&mut self, length: u32) -> Option<u32> {
        if let Some(first) = self.free.get_mut(length as usize)?.pop() {
            return Some(first);
        }
        if length <= self.end - self.next {
            let first = self.next;
            self.next += length;
            return Some(first);
        }
        let (longer, first) = (length as usize + 1..=LONGEST)
            .find_map(|longer| Some((longer, self.free.get_mut(longer)?.pop()?)))?;
        let rest = longer - length as usize;
        self.free.get_mut(rest)?.push(first + length);
        Some(first)
    }

    /// Gives back a run that no reader can have seen.
    pub(super) fn free(&mut self, first: u32, length: u32) {
        self.used -= length;
        self.put(first, length);
    }

    /// Gives back a run that readers may still see until [`Space::reclaim`].
    pub(super) fn retire(&mut self, first: u32, length: u32) {
        if length > 0 {
            self.used -= length;
            self.quarantined += length;
            self.quarantine.push((first, length));
        }
    }

    /// Cells that a grace period would free.
    pub(super) fn quarantined(&self) -> u32 {
        self.quarantined
    }

    /// Frees what was retired. Call after a grace period.
    pub(super) fn reclaim(&mut self) {
        self.quarantined = 0;
        for (first, length) in std::mem::take(&mut self.quarantine) {
            self.put(first, length);
        }
    }

    fn put(&mut self, first: u32, length: u32) {
        if let Some(runs) = self.free.get_mut(length as usize) {
            runs.push(first);
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
        assert_eq!(space.allocate(4), Some(10));
        assert_eq!(space.used(), 14);
    }

    #[test]
    fn a_longer_run_is_split_when_no_other_is_left() {
        let mut space = Space::new(0, 8);
        assert_eq!(space.allocate(8), Some(0));
        space.free(0, 8);
        assert_eq!(space.allocate(3), Some(0));
        assert_eq!(space.allocate(5), Some(3));
        assert_eq!(space.allocate(1), None);
    }
}
