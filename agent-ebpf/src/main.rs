//! The XDP program `agent-xdp`.
//!
//! Built for the BPF target only; elsewhere it is empty, so that the workspace builds as a whole.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
