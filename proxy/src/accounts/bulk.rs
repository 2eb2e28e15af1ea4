//! Many accounts at once, as CSV or JSON: export without secrets, import whole or not at all.
//!
//! [`read()`] turns a file into [`Entry`]s and finds its faults, [`apply`] writes them, [`write()`] is the way back. Groups are
//! named and have to exist; passwords, authenticators and login counters stay where they are.

mod apply;
mod entry;
mod read;
mod write;

pub use apply::{Counts, Mode};
pub use entry::{Entry, FIELDS};
pub use read::{Located, read};
pub use write::write;

use std::fmt;

/// The two forms of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line of column names, then a line for each account.
    Csv,
    /// A list of objects.
    Json,
}

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// From 1 on.
    pub line: u64,
    /// From 1 on: the number of the cell in CSV, of the byte in the line in JSON.
    pub column: u64,
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            problem,
        } = self;
        write!(f, "line {line}, column {column}: {problem}")
    }
}

#[cfg(test)]
mod tests;
