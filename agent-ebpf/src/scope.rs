//! Which protocols and destination ports an allowed source may use.

/// Ranges in one [`ScopeSet`].
pub const RANGES: usize = 16;

/// One protocol, and destination ports of it where it has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ScopeRange {
    /// IP protocol number; [`ScopeRange::UNUSED`] matches none.
    pub protocol: u16,
    /// The first destination port.
    pub first: u16,
    /// The last destination port. 0 to 65535 is also what a protocol without ports has.
    pub last: u16,
    _reserved: u16,
}

impl ScopeRange {
    const NO_PROTOCOL: u16 = u16::MAX;

    /// A range that nothing lies in.
    pub const UNUSED: Self = Self::new_raw(Self::NO_PROTOCOL, 1, 0);

    const fn new_raw(protocol: u16, first: u16, last: u16) -> Self {
        Self {
            protocol,
            first,
            last,
            _reserved: 0,
        }
    }

    /// Destination ports `first..=last` of TCP, UDP or another protocol with ports.
    pub const fn ports(protocol: u8, first: u16, last: u16) -> Self {
        Self::new_raw(protocol as u16, first, last)
    }

    /// All of a protocol.
    pub const fn protocol(protocol: u8) -> Self {
        Self::new_raw(protocol as u16, 0, u16::MAX)
    }
}

/// What the sources of one scoped class may use: the sum of the scopes of all entries that cover them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ScopeSet {
    pub ranges: [ScopeRange; RANGES],
}

impl ScopeSet {
    /// The set that permits nothing.
    pub const NONE: Self = Self {
        ranges: [ScopeRange::UNUSED; RANGES],
    };

    /// Whether a packet of this protocol to this port may pass. `None` is a port that can't be read, as in a later
    /// fragment: then the protocol alone decides, since without its first fragment a later one is of no use.
    #[inline(always)]
    pub fn permits(&self, protocol: u8, port: Option<u16>) -> bool {
        let mut permitted = false;
        for range in &self.ranges {
            let in_range = match port {
                Some(port) => range.first <= port && port <= range.last,
                None => true,
            };
            permitted |= range.protocol == protocol as u16 && in_range;
        }
        permitted
    }
}

const _: () = assert!(size_of::<ScopeSet>() == 8 * RANGES, "padding");

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, no padding (asserted above), and any bits are a value.
    unsafe impl aya::Pod for super::ScopeSet {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn set(ranges: &[ScopeRange]) -> ScopeSet {
        let mut set = ScopeSet::NONE;
        set.ranges[..ranges.len()].copy_from_slice(ranges);
        set
    }

    #[test]
    fn both_ends_of_a_range_are_in_and_their_neighbours_are_not() {
        let set = set(&[ScopeRange::ports(TCP, 22, 25)]);
        for (port, expected) in [(21, false), (22, true), (25, true), (26, false)] {
            assert_eq!(set.permits(TCP, Some(port)), expected, "{port}");
            assert!(!set.permits(UDP, Some(port)), "{port}");
        }
    }

    #[test]
    fn a_later_fragment_goes_by_its_protocol() {
        let set = set(&[ScopeRange::ports(TCP, 22, 22)]);
        assert!(set.permits(TCP, None));
        assert!(!set.permits(UDP, None));
    }

    #[test]
    fn nothing_is_permitted_by_no_range() {
        for protocol in [0, TCP, UDP, 255] {
            assert!(!ScopeSet::NONE.permits(protocol, None));
            assert!(!ScopeSet::NONE.permits(protocol, Some(0)));
        }
    }

    #[test]
    fn a_protocol_is_permitted_with_any_port() {
        let set = set(&[ScopeRange::protocol(47)]);
        assert!(set.permits(47, Some(0)));
        assert!(set.permits(47, None));
        assert!(!set.permits(46, Some(0)));
    }
}
