//! The SSH/SFTP gateway: two factors, a policy, a durable record, and only then the backend.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod agent_client;
pub mod allowance;
pub mod allowlist;
pub mod auth;
pub mod backend;
pub mod causes;
pub mod cipher_policy;
pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod encryption;
pub mod exception;
pub mod explain;
pub mod extensions;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gate;
pub mod manifests;
pub mod metrics;
pub mod operation;
pub mod pace;
pub mod path;
pub mod policy;
pub mod proxy_protocol;
pub mod qr;
pub mod scp;
pub mod session;
pub mod sftp;
pub mod ssh;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod throttle_store;
pub mod tombs;
pub mod verification;
pub mod witness;
