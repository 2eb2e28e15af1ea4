//! The SSH edge: the only user of the SSH library besides the upstream backend.

pub mod negotiation;
pub mod stream;
