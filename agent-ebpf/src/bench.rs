//! The programs of `cargo xtask bench xdp`: the agent's verdict and its floor, fed with addresses drawn before.
//!
//! Built for the BPF target only; elsewhere it is empty, so that the workspace builds as a whole.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[expect(dead_code, reason = "what goes out is not measured")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod measured;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
