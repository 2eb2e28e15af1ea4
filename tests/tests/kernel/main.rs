//! Tests of the XDP program and the agent in a real kernel: loaded programs fed with bytes, and veth pairs in namespaces.
//!
//! They need root, and fail without it.

mod control;
mod differential;
mod handover;
mod list_change;
mod refusals;
mod stage;
mod traffic;
mod wire;
