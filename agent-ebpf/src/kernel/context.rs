//! Packets: the only place that follows a pointer into one.

use core::mem::transmute_copy;

use agent_ebpf::packet::{Bytes, Chain, extensions};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};

/// The verifier takes no packet offset that could be larger than its own limit, `MAX_PACKET_OFF` (0xffff).
const MAX_OFFSET: usize = 0x3fff;

/// The bytes between two pointers that the kernel gave.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    #[inline(always)]
    fn read<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        if at > MAX_OFFSET {
            return None;
        }
        // With `N` = 1 and an offset that varies, LLVM turns this into `start >= end`, from which the verifier learns nothing.
        let start = self.start + at;
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start..start + N` lies before the end of the packet, as just checked.
        Some(unsafe { load(start) })
    }

    #[inline(always)]
    fn known<const N: usize>(self, at: usize) -> [u8; N] {
        // SAFETY: the kernel's verifier takes the program only if it has seen that these bytes lie before the end of the packet.
        unsafe { load(self.start + at) }
    }

    #[inline(always)]
    fn reaches(self, end: usize) -> bool {
        end <= MAX_OFFSET && self.start + end <= self.end
    }
}

/// Loads bytes in as few instructions as their number allows: LLVM would load them one by one, since it knows no alignment. The kernel
/// takes such a load of a packet only where the processor makes it at any address.
///
/// # Safety
/// `start..start + N` must be readable.
#[inline(always)]
unsafe fn load<const N: usize>(start: usize) -> [u8; N] {
    // SAFETY: the caller's; and each arm copies between types of the same size, as its constant says.
    unsafe {
        match N {
            2 => transmute_copy(&(start as *const u16).read()),
            4 => transmute_copy(&(start as *const u32).read()),
            8 => transmute_copy(&(start as *const u64).read()),
            16 => transmute_copy(&(start as *const [u64; 2]).read()),
            _ => (start as *const [u8; N]).read(),
        }
    }
}

/// A packet that comes in.
pub(crate) struct Packet<'a> {
    pub(crate) context: &'a XdpContext,
}

impl Packet<'_> {
    #[inline(always)]
    pub(super) fn interface(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    pub(super) fn length(&self) -> u32 {
        self.context.data_end().wrapping_sub(self.context.data()) as u32
    }

    #[inline(always)]
    pub(super) fn pointer(&self) -> *mut xdp_md {
        self.context.as_ptr().cast()
    }

    #[inline(always)]
    fn span(&self) -> Span {
        Span {
            start: self.context.data(),
            end: self.context.data_end(),
        }
    }
}

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.span().read(at)
    }

    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        self.span().reaches(end)
    }

    #[inline(always)]
    fn known<const N: usize>(&self, at: usize) -> [u8; N] {
        self.span().known(at)
    }

    #[inline(always)]
    fn extensions(&self, at: usize, next: u8) -> Chain {
        Chain::from_word(ingress_extensions(self.pointer(), at as u64, next.into()))
    }
}

/// A packet that goes out.
pub(super) struct Outgoing<'a> {
    pub(super) context: &'a TcContext,
}

impl Bytes for Outgoing<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        span_of(self.context).read(at)
    }

    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        span_of(self.context).reaches(end)
    }

    #[inline(always)]
    fn known<const N: usize>(&self, at: usize) -> [u8; N] {
        span_of(self.context).known(at)
    }

    #[inline(always)]
    fn extensions(&self, at: usize, next: u8) -> Chain {
        let pointer = self.context.as_ptr().cast();
        Chain::from_word(egress_extensions(pointer, at as u64, next.into()))
    }
}

#[inline(always)]
fn span_of(context: &TcContext) -> Span {
    Span {
        start: context.data(),
        end: context.data_end(),
    }
}

/// Functions with external linkage are verified once, whatever they are called with. This one has the longest loop.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ingress_extensions(context: *mut xdp_md, at: u64, next: u64) -> u64 {
    let context = XdpContext::new(context);
    let packet = Packet { context: &context };
    extensions(&packet, at as usize & MAX_OFFSET, next as u8).to_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_extensions(context: *mut __sk_buff, at: u64, next: u64) -> u64 {
    let context = TcContext::new(context);
    let packet = Outgoing { context: &context };
    extensions(&packet, at as usize & MAX_OFFSET, next as u8).to_word()
}
