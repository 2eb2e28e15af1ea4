//! Transport headers, as far as a verdict asks.

use super::{Bytes, Headers, SCTP, TCP, UDP};

/// Offset of the two bytes in a TCP header whose second is the flags. One byte alone at an offset that varies can't be read in the
/// kernel: LLVM's check of the end would be one that the verifier learns nothing from.
pub(crate) const TCP_FLAGS: usize = 12;

/// The destination port, for a scope. `None` in a later fragment. Protocols without ports, and headers that end before it, have
/// port 0: a scope that permits it permits every port.
#[inline(always)]
pub fn scope_port<B: Bytes + ?Sized>(packet: &B, headers: &Headers) -> Option<u16> {
    let at = headers.transport_at as usize;
    if !matches!(headers.protocol, TCP | UDP | SCTP) {
        return Some(0);
    }
    if at == 0 {
        return None;
    }
    match packet.read::<2>(at + 2) {
        Some(port) => Some(u16::from_be_bytes(port)),
        None => Some(0),
    }
}

/// Whether it is the first packet of a TCP connection.
#[inline(always)]
pub fn is_connection_attempt<B: Bytes + ?Sized>(packet: &B, headers: &Headers) -> bool {
    let at = headers.transport_at as usize;
    headers.protocol == TCP
        && at != 0
        && match packet.read::<2>(at + TCP_FLAGS) {
            Some(flags) => opens_connection(flags),
            None => false,
        }
}

/// Whether the flags at [`TCP_FLAGS`] have SYN and not ACK.
#[inline(always)]
pub(crate) fn opens_connection([_, flags]: [u8; 2]) -> bool {
    flags & 0x12 == 0x02
}
