//! The harness of the integration tests, compiled once. The demo and the benchmarks stand on it too.
//!
//! It drives the built daemons and real peers from outside, as an operator would: command lines,
//! configuration files, sockets. It knows nothing of the daemons' code.
#![forbid(unsafe_code)]

pub mod account;
pub mod agent;
pub mod client;
pub mod delay;
pub mod differential;
pub mod disk;
pub mod evidence;
pub mod files;
pub mod frames;
pub mod locate;
pub mod netns;
pub mod oracle;
pub mod place;
pub mod prefixes;
pub mod process;
pub mod proxy;
pub mod random;
pub mod raw_ssh;
pub mod report;
pub mod server;
pub mod totp;
