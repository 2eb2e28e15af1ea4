//! The root daemon that keeps the XDP program's rules, and its command line.
//!
//! Pure parts (`prefix`, `rule`, `entry`, `lists`, `bans`, `guard`) know no socket, file or clock; `datapath` is the only user
//! of the kernel's BPF interface, `control` of the socket; `engine` is the one task that owns the state.

pub mod answers;
pub mod bans;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod doctor;
pub mod engine;
pub mod entry;
pub mod facts;
pub mod guard;
pub mod interface;
pub mod lists;
pub mod metrics;
pub mod netlink;
pub mod prefix;
pub mod record;
pub mod rule;
pub mod ruleset;
pub mod sources;
pub mod state;
pub mod table;
pub mod traffic;
