//! In what order the bytes of an upload came: that decides whether it can be resumed, and where its digest comes from.

use crate::operation::Access;

/// What an upload began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    Nothing,
    /// The first bytes of an earlier upload to the same path that was interrupted.
    Partial,
    /// A copy of the file that it will replace.
    Copy,
}

/// Where a WRITE lands, seen from all that came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// Where the last one ended.
    InOrder,
    /// Within the partial that this upload continues: the client knows better how much it has sent, so the staging file
    /// is cut to this length first.
    Cut(u64),
    /// Elsewhere, and it is the first one to do so: from here on the staging file may have holes, and must get a name under
    /// which no resume finds it.
    FirstOutOfOrder,
    /// Elsewhere, as others before it.
    OutOfOrder,
}

/// How the bytes of one upload have come so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    beginning: Beginning,
    /// Bytes in the staging file; without holes as long as `in_order` is true.
    length: u64,
    in_order: bool,
    touched: bool,
    resized: bool,
}

impl Progress {
    pub fn new(beginning: Beginning, length: u64) -> Self {
        Self {
            beginning,
            length,
            in_order: beginning != Beginning::Copy,
            touched: false,
            resized: false,
        }
    }

    /// The length of the staging file once all that was asked for is done; where an append lands.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// True once something was written or the size was set.
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    pub fn beginning(&self) -> Beginning {
        self.beginning
    }

    /// Books a WRITE of `length` bytes.
    pub fn write(&mut self, offset: u64, length: u64) -> Landing {
        let is_first = !std::mem::replace(&mut self.touched, true);
        let end = offset.saturating_add(length);
        let landing = if !self.in_order {
            Landing::OutOfOrder
        } else if offset == self.length {
            Landing::InOrder
        } else if is_first && self.beginning == Beginning::Partial && offset < self.length {
            Landing::Cut(offset)
        } else {
            self.in_order = false;
            Landing::FirstOutOfOrder
        };
        self.length = match landing {
            Landing::InOrder | Landing::Cut(_) => end,
            Landing::FirstOutOfOrder | Landing::OutOfOrder => self.length.max(end),
        };
        landing
    }

    /// Books that the size is set: what a partial was is then not known any more.
    pub fn resize(&mut self, size: u64) -> Landing {
        self.touched = true;
        self.resized = true;
        self.length = size;
        if std::mem::replace(&mut self.in_order, false) {
            Landing::FirstOutOfOrder
        } else {
            Landing::OutOfOrder
        }
    }

    /// True if what is there are the first bytes of what the client sends, without a hole, and enough of them to be worth
    /// keeping: see [`shown_length`].
    pub fn is_resumable(&self) -> bool {
        self.in_order && shown_length(self.length).is_some()
    }

    /// True if the bytes that passed through are not the whole content: its digest then comes from reading the staging
    /// file again. What opens a file with `access` and writes it in order from the first byte on is digested on the way.
    pub fn needs_reread(&self, access: Access) -> bool {
        let begins_empty = access.truncate || access.exclusive && !access.append;
        !begins_empty || self.beginning != Beginning::Nothing || !self.in_order || self.resized
    }
}

/// Bytes of an upload that is kept when it is interrupted: see [`shown_length`].
pub const LEAST_RESUMABLE: u64 = 2;

/// How long a partial of `length` bytes is said to be, and made when it is continued: one byte less, so that a client which
/// had sent everything but lost the connection before CLOSE has something left to send, and does not take a file for
/// complete that was never published. `None` if that leaves nothing to continue.
pub fn shown_length(length: u64) -> Option<u64> {
    length.checked_sub(1).filter(|&shown| shown > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLACE: Access = Access {
        read: false,
        write: true,
        append: false,
        create: true,
        truncate: true,
        exclusive: false,
    };

    #[test]
    fn writes_in_order_leave_an_upload_resumable_and_one_gap_ends_that_for_good() {
        let mut progress = Progress::new(Beginning::Nothing, 0);
        assert!(!progress.is_resumable(), "nothing to continue");
        assert_eq!(progress.write(0, 10), Landing::InOrder);
        assert_eq!(progress.write(10, 5), Landing::InOrder);
        assert!(progress.is_resumable() && progress.length() == 15);
        assert_eq!(progress.write(16, 1), Landing::FirstOutOfOrder);
        assert_eq!(progress.write(15, 1), Landing::OutOfOrder);
        assert!(!progress.is_resumable() && progress.length() == 17);
    }

    #[test]
    fn a_partial_is_continued_at_its_end_or_cut_by_the_first_write_and_no_later_one() {
        let partial = || Progress::new(Beginning::Partial, 100);
        assert_eq!(partial().write(100, 1), Landing::InOrder);
        assert_eq!(partial().write(101, 1), Landing::FirstOutOfOrder);
        let mut progress = partial();
        assert_eq!(progress.write(40, 10), Landing::Cut(40));
        assert_eq!(progress.length(), 50);
        assert!(progress.is_resumable());
        assert_eq!(progress.write(0, 1), Landing::FirstOutOfOrder);
    }

    #[test]
    fn a_copy_of_an_existing_file_is_never_resumed() {
        let mut progress = Progress::new(Beginning::Copy, 10);
        assert_eq!(progress.write(10, 2), Landing::OutOfOrder);
        assert!(!progress.is_resumable() && progress.length() == 12);
    }

    #[test]
    fn only_what_came_in_order_into_an_empty_file_was_digested_on_the_way() {
        let whole = |beginning, access| {
            let mut progress = Progress::new(beginning, 0);
            progress.write(0, 4);
            progress.needs_reread(access)
        };
        assert!(!whole(Beginning::Nothing, REPLACE));
        assert!(whole(Beginning::Partial, REPLACE));
        let exclusive = Access {
            truncate: false,
            exclusive: true,
            ..REPLACE
        };
        assert!(!whole(Beginning::Nothing, exclusive));
        for access in [
            Access {
                exclusive: false,
                ..exclusive
            },
            Access {
                append: true,
                ..exclusive
            },
        ] {
            assert!(whole(Beginning::Nothing, access), "{access:?}");
        }
        let mut resized = Progress::new(Beginning::Nothing, 0);
        resized.write(0, 4);
        resized.resize(4);
        assert!(resized.needs_reread(REPLACE) && !resized.is_resumable());
        let mut gap = Progress::new(Beginning::Nothing, 0);
        gap.write(1, 4);
        assert!(gap.needs_reread(REPLACE));
    }

    #[test]
    fn a_partial_is_shown_shorter_so_that_a_client_has_something_to_send() {
        for (length, shown) in [(0, None), (1, None), (2, Some(1)), (1000, Some(999))] {
            assert_eq!(shown_length(length), shown);
        }
    }
}
