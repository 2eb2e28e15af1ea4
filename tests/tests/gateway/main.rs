//! The proxy against real clients and servers on loopback.

mod backends;
mod bad_input;
mod clients;
mod peers;
mod promises;
mod ssh_audit;
mod wire;
