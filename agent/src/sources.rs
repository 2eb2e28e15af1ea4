//! Where entries come from besides the control API: list files, feeds, host names.

pub mod format;
