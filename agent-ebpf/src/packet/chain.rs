//! IPv6 extension headers.

use super::{Bytes, Oddities, Oddity};

/// IPv6 extension headers that are read. RFC 8200 section 4.1 knows of seven in a sane packet.
pub const MAX_EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// What stands behind the IPv6 extension headers of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// The packet ends within one of them.
    pub is_short: bool,
    pub oddities: Oddities,
    /// 0 when it is not known.
    pub protocol: u8,
    /// 0 when there is no transport header to be read.
    pub transport_at: u16,
}

impl Chain {
    const SHORT: Self = Self {
        is_short: true,
        oddities: Oddities::NONE,
        protocol: 0,
        transport_at: 0,
    };

    #[inline(always)]
    pub(super) fn end(protocol: u8, at: usize, is_fragment: usize) -> Self {
        let oddities = if is_fragment == 0 {
            Oddities::NONE
        } else {
            Oddities::of(Oddity::Fragment)
        };
        // 148-252 are not assigned, 255 is reserved (IANA, "Protocol Numbers").
        if protocol >= 148 {
            Self {
                is_short: false,
                oddities: oddities.and(Oddities::of(Oddity::UnknownExtensionHeader)),
                protocol,
                transport_at: 0,
            }
        } else {
            Self {
                is_short: false,
                oddities,
                protocol,
                transport_at: at as u16,
            }
        }
    }

    /// All of it in one word.
    #[inline(always)]
    pub fn to_word(self) -> u64 {
        self.transport_at as u64
            | (self.protocol as u64) << 16
            | (self.oddities.0 as u64) << 24
            | (self.is_short as u64) << 32
    }

    /// What [`Chain::to_word`] made a word of.
    #[inline(always)]
    pub fn from_word(word: u64) -> Self {
        Self {
            is_short: word >> 32 & 1 != 0,
            oddities: Oddities((word >> 24) as u8),
            protocol: (word >> 16) as u8,
            // The kernel's side reads nothing beyond; as a mask it tells the verifier so.
            transport_at: word as u16 & 0x3fff,
        }
    }
}

/// Follows IPv6 extension headers from offset `at`, where one of type `next` begins.
#[inline(always)]
pub fn extensions<B: Bytes + ?Sized>(packet: &B, at: usize, next: u8) -> Chain {
    let mut at = at;
    let mut protocol = next;
    let mut is_fragment = 0;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(protocol) {
            return Chain::end(protocol, at, is_fragment);
        }
        // Every extension header has at least eight bytes.
        let Some([next, length, offset_high, offset_low, ..]) = packet.read::<8>(at) else {
            return Chain::SHORT;
        };
        // Arithmetic in place of branches: the kernel's verifier follows every way through every round of this loop.
        let is_authentication = equal(protocol, AUTHENTICATION);
        let is_fragment_header = equal(protocol, FRAGMENT);
        // In units of eight bytes beyond the first; RFC 4302 counts in words of four, less two. A fragment header has no length.
        let units = usize::from(length) * (1 - is_fragment_header) + 1 + is_authentication;
        let length = units << (3 - is_authentication);
        if !packet.reaches(at + length) {
            return Chain::SHORT;
        }
        at += length;
        protocol = next;
        is_fragment |= is_fragment_header;
        // RFC 8200 section 4.5: 13 bits of offset; only the first fragment has the headers that follow.
        let offset = usize::from(u16::from_be_bytes([offset_high, offset_low]) & 0xfff8);
        if offset * is_fragment_header != 0 {
            return Chain {
                is_short: false,
                oddities: Oddities::of(Oddity::Fragment),
                protocol,
                transport_at: 0,
            };
        }
    }
    if !is_extension(protocol) {
        return Chain::end(protocol, at, is_fragment);
    }
    let mut oddities = Oddities::of(Oddity::LongExtensionChain);
    if is_fragment != 0 {
        oddities = oddities.and(Oddities::of(Oddity::Fragment));
    }
    Chain {
        is_short: false,
        oddities,
        protocol: 0,
        transport_at: 0,
    }
}

/// Whether what follows is an extension header whose length can be told.
#[inline(always)]
pub(super) fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

/// 1 if they are equal, else 0, without a branch.
#[inline(always)]
fn equal(a: u8, b: u8) -> usize {
    (usize::from(a ^ b).wrapping_sub(1) >> 63) & 1
}
