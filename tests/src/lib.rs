//! The harness of the integration tests, compiled once.
#![forbid(unsafe_code)]

pub mod netns;
