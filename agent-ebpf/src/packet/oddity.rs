//! What is uncertain about a packet.

/// What makes a packet uncertain beyond its source. Each has a policy and a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Oddity {
    /// A fragment, the first or a later one.
    Fragment,
    /// More than [`MAX_EXTENSION_HEADERS`](super::MAX_EXTENSION_HEADERS) IPv6 extension headers: what follows was not looked at.
    LongExtensionChain,
    /// An IPv6 next header that is experimental (253, 254) or not assigned: what follows can't be told.
    UnknownExtensionHeader,
    /// More than [`SHALLOW_TAGS`](super::SHALLOW_TAGS) VLAN tags.
    DeepTags,
    /// Neither IP nor essential to the link.
    OtherEthernet,
}

impl Oddity {
    pub const ALL: [Self; 5] = [
        Self::Fragment,
        Self::LongExtensionChain,
        Self::UnknownExtensionHeader,
        Self::DeepTags,
        Self::OtherEthernet,
    ];

    /// Its name, as in metrics and `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fragment => "fragment",
            Self::LongExtensionChain => "long_extension_chain",
            Self::UnknownExtensionHeader => "unknown_extension_header",
            Self::DeepTags => "vlan_depth",
            Self::OtherEthernet => "other_ethernet",
        }
    }
}

/// A set of [`Oddity`], one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Oddities(pub u8);

impl Oddities {
    pub const NONE: Self = Self(0);

    /// Of this one.
    #[inline(always)]
    pub const fn of(oddity: Oddity) -> Self {
        Self(1 << oddity as u32)
    }

    /// Those of both.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    pub const fn has(self, oddity: Oddity) -> bool {
        self.0 & Self::of(oddity).0 != 0
    }
}
