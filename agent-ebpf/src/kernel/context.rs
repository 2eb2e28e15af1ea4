//! The packet: the only place that follows a pointer into it.

use agent_ebpf::packet::{Bytes, Headers};
use aya_ebpf::programs::XdpContext;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The verifier takes no packet offset that could be larger than its own limit, `MAX_PACKET_OFF` (0xffff).
const MAX_OFFSET: usize = 0x3fff;

pub(super) struct Packet<'a> {
    context: &'a XdpContext,
}

impl<'a> Packet<'a> {
    #[inline(always)]
    pub(super) fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }

    #[inline(always)]
    pub(super) fn interface(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    pub(super) fn length(&self) -> u32 {
        self.context.data_end().wrapping_sub(self.context.data()) as u32
    }

    /// The destination port of TCP or UDP; zeros when there is none to be read.
    #[inline(always)]
    pub(super) fn destination_port(&self, headers: &Headers) -> [u8; 2] {
        if headers.transport_at == 0 || !matches!(headers.protocol, TCP | UDP) {
            return [0; 2];
        }
        self.read(usize::from(headers.transport_at) + 2)
            .unwrap_or([0; 2])
    }
}

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if at > MAX_OFFSET {
            return None;
        }
        // With `N` = 1 and an offset that varies, LLVM turns this into `start >= end`, from which the verifier learns nothing.
        let start = self.context.data() + at;
        if start + N > self.context.data_end() {
            return None;
        }
        // SAFETY: `start..start + N` lies before the end of the packet, as just checked; bytes have no alignment.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        end <= MAX_OFFSET && self.context.data() + end <= self.context.data_end()
    }
}
