//! Random lists, and frames that hit them. The same seed gives the same ones.

mod lists;
mod packets;

pub use fastrand::Rng;
pub use lists::{edit, list};
pub use packets::frame;
