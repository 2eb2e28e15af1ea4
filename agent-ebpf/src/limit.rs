//! Rate limits: a token bucket for each source.
//!
//! A table of buckets is indexed by a hash, and a bucket belongs to whoever used it last: a source that finds another's tag
//! begins with a full one. So the table never fills, and two sources that share a bucket are limited less, not more.

/// What one source may send, with a burst of one second's worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rate {
    /// At most [`Rate::MAX`]; 0 is no limit.
    pub packets_per_second: u32,
    /// TCP packets with SYN and without ACK; at most [`Rate::MAX`]; 0 is no limit.
    pub syns_per_second: u32,
}

impl Rate {
    /// The highest rate that can be kept: a bucket counts thousandths of packets in 32 bits.
    pub const MAX: u32 = u32::MAX / 1000;

    /// Whether there is any limit.
    #[inline(always)]
    pub fn is_set(self) -> bool {
        self.packets_per_second | self.syns_per_second != 0
    }
}

/// Buckets in the table.
pub const BUCKETS: u32 = 1 << 16;

/// One bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    /// Half of the hash of the source it belongs to.
    pub tag: u32,
    /// When it was last filled, in milliseconds of a clock that wraps.
    pub filled: u32,
    /// Thousandths of packets that may still come.
    pub packets: u32,
    /// The same for SYNs.
    pub syns: u32,
}

/// The limit that a packet breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    Packets,
    Syns,
}

impl Bucket {
    /// Takes one packet out of the bucket, unless that breaks a limit.
    #[inline(always)]
    pub fn take(
        &mut self,
        tag: u32,
        now: u32,
        rate: Rate,
        is_connection_attempt: bool,
    ) -> Option<Excess> {
        // A bucket is full after one second.
        let elapsed = if self.tag == tag {
            now.wrapping_sub(self.filled).min(1000)
        } else {
            1000
        };
        let packets = fill(self.packets, elapsed, rate.packets_per_second);
        let syns = fill(self.syns, elapsed, rate.syns_per_second);
        self.tag = tag;
        self.filled = now;
        let charged = if is_connection_attempt { 1000 } else { 0 };
        let excess = if rate.packets_per_second != 0 && packets < 1000 {
            Some(Excess::Packets)
        } else if rate.syns_per_second != 0 && syns < charged {
            Some(Excess::Syns)
        } else {
            None
        };
        let taken = excess.is_none();
        self.packets = if taken {
            packets.saturating_sub(1000)
        } else {
            packets
        };
        self.syns = if taken {
            syns.saturating_sub(charged)
        } else {
            syns
        };
        excess
    }
}

#[inline(always)]
fn fill(tokens: u32, elapsed: u32, rate: u32) -> u32 {
    let full = rate as u64 * 1000;
    let filled = tokens as u64 + elapsed as u64 * rate as u64;
    if filled > full {
        full as u32
    } else {
        filled as u32
    }
}

const _: () = assert!(size_of::<Bucket>() == 16, "padding");

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, no padding (asserted above), and any bits are a value.
    unsafe impl aya::Pod for super::Bucket {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        packets_per_second: 10,
        syns_per_second: 2,
    };

    fn passed(bucket: &mut Bucket, now: u32, count: usize, is_syn: bool) -> usize {
        (0..count)
            .filter(|_| bucket.take(7, now, RATE, is_syn).is_none())
            .count()
    }

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate() {
        let mut bucket = Bucket::default();
        assert_eq!(passed(&mut bucket, 5_000, 100, false), 10);
        assert_eq!(bucket.take(7, 5_099, RATE, false), Some(Excess::Packets));
        assert_eq!(passed(&mut bucket, 5_100, 100, false), 1);
        assert_eq!(passed(&mut bucket, 5_600, 100, false), 5);
        assert_eq!(passed(&mut bucket, 60_000, 100, false), 10);
    }

    #[test]
    fn syns_have_a_limit_of_their_own_and_others_go_on() {
        let mut bucket = Bucket::default();
        assert_eq!(passed(&mut bucket, 0, 3, true), 2);
        assert_eq!(bucket.take(7, 0, RATE, true), Some(Excess::Syns));
        assert_eq!(bucket.take(7, 0, RATE, false), None);
    }

    #[test]
    fn another_source_in_the_same_bucket_begins_with_a_full_one() {
        let mut bucket = Bucket::default();
        assert_eq!(passed(&mut bucket, 0, 100, false), 10);
        assert_eq!(bucket.take(8, 0, RATE, false), None);
    }

    #[test]
    fn the_clock_may_wrap_and_the_rate_may_be_the_highest() {
        let mut bucket = Bucket::default();
        assert_eq!(passed(&mut bucket, u32::MAX, 10, false), 10);
        assert_eq!(passed(&mut bucket, 99, 10, false), 1);
        let rate = Rate {
            packets_per_second: Rate::MAX,
            syns_per_second: 0,
        };
        assert_eq!(bucket.take(9, 0, rate, true), None);
        assert!(bucket.packets > u32::MAX - 3_000);
    }
}
