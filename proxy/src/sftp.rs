//! The SFTP version 3 engine: bytes of a channel in, bytes out, every request through the [gate](crate::gate).
//!
//! [`framing`], [`request`], [`reply`], [`schedule`], [`compound`], [`handles`] and [`transfer`] are values without I/O; [`channel`] drives
//! them. Nothing here knows the SSH library.

pub mod channel;
pub mod compound;
pub(crate) mod digest;
pub mod framing;
pub mod handles;
pub mod reply;
pub mod request;
pub mod schedule;
pub mod transfer;

pub use channel::{Ended, Sink, Source, serve_frames};
pub use transfer::Digests;
