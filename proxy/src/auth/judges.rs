//! The servers elsewhere that judge factors.

use std::sync::Arc;

use super::{ldap::Directory, radius::Radius};

/// Those that the configuration names.
#[derive(Debug, Clone, Default)]
pub struct Judges {
    /// Of one-time codes.
    pub radius: Option<Arc<Radius>>,
    /// Of passwords.
    pub directory: Option<Arc<Directory>>,
}

impl Judges {
    pub(super) fn is_empty(&self) -> bool {
        self.radius.is_none() && self.directory.is_none()
    }
}
