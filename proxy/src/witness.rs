//! A node that cosigns the logs of others (C2SP tlog-witness), so that a log that is rolled back or rewritten shows.
//!
//! What it decides is `portcullis_journal::witness`; here is how it keeps that and serves it. It knows no accounts, no
//! backends and no journal of its own: what it has cosigned is what it keeps.

pub mod server;
pub mod store;
