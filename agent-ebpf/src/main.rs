//! The programs in the kernel: `portcullis_xdp` judges what comes in, `portcullis_tc` learns from what goes out. The two whose names
//! end in `lpm` are the same over the kernel's LPM tries, for kernels that refuse the compiled tables.
//!
//! Built for the BPF target only; elsewhere it is empty, so that the workspace builds as a whole.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::TC_ACT_UNSPEC,
        macros::{classifier, xdp},
        programs::{TcContext, XdpContext},
    };

    use crate::kernel;

    #[xdp]
    fn portcullis_xdp(context: XdpContext) -> u32 {
        kernel::by_tables(&context)
    }

    #[xdp]
    fn portcullis_lpm(context: XdpContext) -> u32 {
        kernel::by_tries(&context)
    }

    /// Lets every packet go on.
    #[classifier]
    fn portcullis_tc(context: TcContext) -> i32 {
        kernel::learn_beside_tables(&context);
        TC_ACT_UNSPEC
    }

    /// Lets every packet go on.
    #[classifier]
    fn portcullis_tclpm(context: TcContext) -> i32 {
        kernel::learn_beside_tries(&context);
        TC_ACT_UNSPEC
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
