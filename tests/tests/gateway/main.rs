//! The proxy against real clients and servers on loopback.

mod access;
mod backends;
mod bad_input;
mod clients;
mod edge;
mod explain;
mod factors;
mod forwarded;
mod keys;
mod limits;
mod login;
mod peers;
mod permissions;
mod promises;
mod raw;
mod reload;
mod resume;
mod russh_client;
mod scp;
mod sessions;
mod ssh_audit;
mod stalls;
mod tree;
mod whole_folders;
mod wire;
