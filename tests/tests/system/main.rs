//! Agent and proxy together, each host in its own network namespace. Needs root.

mod allowlist;
mod bans;
