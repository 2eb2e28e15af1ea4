//! Tests of the XDP program and the agent in a real kernel: loaded programs fed with bytes, and veth pairs in namespaces.
//!
//! They need root, and fail without it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what sets a test's stage fails the test too"
)]
#![expect(clippy::print_stdout, reason = "a proof says how much it looked at")]

mod answers;
mod bad_host;
mod bad_input;
mod confirm;
mod control;
mod differential;
mod doctor;
mod drills;
mod egress;
mod facts;
mod faults;
mod flows;
mod hammer;
mod handover;
mod interfaces;
mod limits;
mod list_change;
mod loaded;
mod matrix;
mod preload;
mod refusals;
mod sources;
mod stage;
mod store;
mod traffic;
mod wire;
