//! The SSH edge: the only user of the SSH library besides the upstream backend.
//!
//! [`listener`] accepts within [`limits`] and gives each connection to one of the [`workers`], [`connection`] owns one connection
//! and its timers, [`handler`] translates the library's callbacks, [`subsystem`] joins a channel to the SFTP engine, [`stream`] is
//! the socket under the library, [`overheard`] what the library tells its log alone, [`terms`] what the configuration gives to
//! connections.

mod algorithms;
mod connection;
mod forwarded;
mod handler;
pub mod limits;
pub mod listener;
mod negotiation;
mod overheard;
mod record;
mod stream;
mod subsystem;
mod terms;
mod unsent;
mod workers;

pub use algorithms::UnknownAlgorithm;
pub use listener::{ListenError, Server, bind};
pub use overheard::listen as listen_to_library;
pub(crate) use stream::Stream;
pub use terms::Terms;
