//! Serial numbers of certificates, as ranges and as maps of bits.

/// A set of serial numbers. 0 is never in it: it stands for "no number".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Serials {
    /// First and last; once [finished](Self::finish) in order and apart from each other.
    ranges: Vec<(u64, u64)>,
    /// The number of the lowest bit, and the bits with the highest first.
    bitmaps: Vec<(u64, Vec<u8>)>,
}

impl Serials {
    pub(super) fn add(&mut self, first: u64, last: u64) -> Result<(), &'static str> {
        if first == 0 {
            Err("serial number 0 can't be revoked")
        } else if first > last {
            Err("a range that ends before it begins")
        } else {
            self.ranges.push((first, last));
            Ok(())
        }
    }

    /// `bits` is an `mpint` (RFC 4251 section 5).
    pub(super) fn add_bitmap(&mut self, offset: u64, bits: &[u8]) -> Result<(), &'static str> {
        if bits.first().is_some_and(|first| first & 0x80 != 0) {
            return Err("a negative bitmap");
        }
        let bits: Vec<u8> = bits.iter().copied().skip_while(|&byte| byte == 0).collect();
        let Some(highest) = bits.first() else {
            return Ok(());
        };
        let length = 8 * bits.len() - usize::try_from(highest.leading_zeros()).unwrap_or(0);
        let last = u64::try_from(length - 1)
            .ok()
            .and_then(|last| offset.checked_add(last));
        if last.is_none() {
            return Err("a bitmap beyond the last serial number");
        }
        if offset == 0 && bits.last().is_some_and(|lowest| lowest & 1 != 0) {
            return Err("serial number 0 can't be revoked");
        }
        self.bitmaps.push((offset, bits));
        Ok(())
    }

    /// Puts the ranges in order, for the search.
    pub(super) fn finish(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, before| {
            let joins = next.0 <= before.1.saturating_add(1);
            if joins {
                before.1 = before.1.max(next.1);
            }
            joins
        });
    }

    pub(super) fn entries(&self) -> usize {
        self.ranges.len() + self.bitmaps.len()
    }

    pub(super) fn contains(&self, serial: u64) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= serial);
        let in_range = after
            .checked_sub(1)
            .and_then(|before| self.ranges.get(before))
            .is_some_and(|&(_, last)| serial <= last);
        in_range
            || self
                .bitmaps
                .iter()
                .any(|(offset, bits)| is_set(*offset, bits, serial))
    }
}

fn is_set(offset: u64, bits: &[u8], serial: u64) -> bool {
    let Some(bit) = serial
        .checked_sub(offset)
        .and_then(|bit| usize::try_from(bit).ok())
    else {
        return false;
    };
    bits.iter()
        .nth_back(bit / 8)
        .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
}
