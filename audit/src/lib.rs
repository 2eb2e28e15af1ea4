//! What is done with a log after it was written: questions to it, and its way to other systems.
//!
//! Everything here reads segments and writes none; it holds no lock and may run beside the daemon that writes.

#![forbid(unsafe_code)]

pub mod format;
