//! The word that says what judges a packet.

/// Places for tables and parameters beside each other: those in force, those a revert would go back to, and those being built.
pub const SLOTS: u32 = 4;

/// The generation in force and where its tables and parameters are, in one word: a packet that reads it once sees one generation.
///
/// From the lowest bit: three bits size and two bits slot of the IPv4 table, the same of the IPv6 table, two bits slot of the
/// parameters, four bits [`Conditions`], 48 bits generation number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Active(pub u64);

/// Where a table of one family is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The size class: which of the family's outer maps.
    pub size: u32,
    /// The slot in it, below [`SLOTS`].
    pub slot: u32,
}

/// What a verdict depends on beside the class of the source, in one generation. Where that is nothing, most packets are judged without
/// a look at the parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions(pub u8);

impl Conditions {
    pub const NONE: Self = Self(0);
    /// Some interface only counts drops.
    pub const MONITORING: Self = Self(1);
    /// Replies to flows of the host's own pass.
    pub const REPLIES: Self = Self(1 << 1);
    /// Sources have a rate limit.
    pub const LIMITS: Self = Self(1 << 2);
    /// IPv6 addresses may stand for IPv4 addresses.
    pub const NAT64: Self = Self(1 << 3);

    /// Those of both.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has one of these.
    #[inline(always)]
    pub const fn has_any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }
}

const SLOT_MASK: u64 = SLOTS as u64 - 1;
const NUMBER_SHIFT: u32 = 16;

impl Active {
    /// The word for these; only the low bits of each part that have a place in it are kept.
    pub const fn new(
        number: u64,
        v4: Place,
        v6: Place,
        parameters: u32,
        conditions: Conditions,
    ) -> Self {
        Self(
            number << NUMBER_SHIFT
                | (conditions.0 as u64 & 15) << 12
                | (parameters as u64 & SLOT_MASK) << 10
                | (v6.slot as u64 & SLOT_MASK) << 8
                | (v6.size as u64 & 7) << 5
                | (v4.slot as u64 & SLOT_MASK) << 3
                | (v4.size as u64 & 7),
        )
    }

    /// The same tables and parameters under another number.
    pub const fn numbered(self, number: u64) -> Self {
        Self(self.0 & ((1 << NUMBER_SHIFT) - 1) | number << NUMBER_SHIFT)
    }

    /// The generation's number.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0 >> NUMBER_SHIFT
    }

    /// Where the IPv4 table is.
    #[inline(always)]
    pub const fn v4(self) -> Place {
        Place {
            size: (self.0 & 7) as u32,
            slot: (self.0 >> 3 & SLOT_MASK) as u32,
        }
    }

    /// Where the IPv6 table is.
    #[inline(always)]
    pub const fn v6(self) -> Place {
        Place {
            size: (self.0 >> 5 & 7) as u32,
            slot: (self.0 >> 8 & SLOT_MASK) as u32,
        }
    }

    /// The slot of the parameters and of the scope sets.
    #[inline(always)]
    pub const fn parameters(self) -> u32 {
        (self.0 >> 10 & SLOT_MASK) as u32
    }

    /// What verdicts depend on.
    #[inline(always)]
    pub const fn conditions(self) -> Conditions {
        Conditions((self.0 >> 12 & 15) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read_back_and_none_touches_another() {
        for number in [0, 1, (1 << 48) - 1] {
            for (size, slot) in [(0, 3), (4, 0), (3, 2)] {
                let v4 = Place { size, slot };
                let v6 = Place {
                    size: slot,
                    slot: (slot + 1) % SLOTS,
                };
                let conditions = Conditions::LIMITS.and(Conditions(slot as u8));
                let active = Active::new(number, v4, v6, 3 - slot, conditions);
                assert_eq!(active.conditions(), conditions);
                assert_eq!(active.number(), number);
                assert_eq!((active.v4(), active.v6()), (v4, v6));
                assert_eq!(active.parameters(), 3 - slot);
                let next = active.numbered(7);
                assert_eq!((next.number(), next.v4(), next.v6()), (7, v4, v6));
                assert_eq!(next.conditions(), conditions);
            }
        }
    }
}
