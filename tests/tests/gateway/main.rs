//! The proxy against real clients and servers on loopback.

mod backends;
mod clients;
mod peers;
mod ssh_audit;
