//! What the XDP program and the daemon share: the boundary between them, the parser and the verdict.
//!
//! No clock, map or pointer is known here; the kernel's side of those lives in the program's `kernel` module.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

#[cfg(test)]
extern crate std;

pub mod class;
pub mod flow;
#[cfg(test)]
mod frames;
pub mod layout;
pub mod limit;
pub mod packet;
pub mod scope;
pub mod table;
pub mod verdict;
