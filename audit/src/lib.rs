//! What is done with a log after it was written: questions to it, and its way to other systems.
//!
//! Everything here reads segments and writes none; it holds no lock and may run beside the daemon that writes. [`hidden`] also
//! hides what the daemon must not write.

#![forbid(unsafe_code)]

pub mod alert;
pub mod catalogue;
pub mod coverage;
pub mod file;
pub mod filter;
pub mod format;
pub mod hidden;
pub mod merge;
pub mod operations;
pub mod pattern;
mod ranges;
mod raw;
pub mod report;
pub mod search;
pub mod session;
pub mod sink;
pub mod text;
pub mod time;

#[cfg(test)]
mod testing;
