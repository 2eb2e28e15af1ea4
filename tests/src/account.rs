//! An account of the proxy and what its owner holds.

use std::path::PathBuf;

use crate::totp::Authenticator;

/// What a partner was given, made through the proxy's own command line.
#[derive(Debug, Clone)]
pub struct Account {
    /// The login name.
    pub name: String,
    /// Something known.
    pub password: String,
    /// Something had: the enrolled phone.
    pub phone: Authenticator,
    /// Something had: the private key, its public half beside it.
    pub key: PathBuf,
}

/// The two factors that a client shows, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factors {
    /// Both prompts of keyboard-interactive.
    PasswordThenCode,
    /// Public key, then one prompt of keyboard-interactive.
    KeyThenPassword,
    /// The first prompt of keyboard-interactive, an empty answer to the second, then the public key.
    PasswordThenKey,
}

/// A mount of an account.
#[derive(Debug, Clone)]
pub struct Mount {
    /// What the client sees, e.g. `/inbox`.
    pub path: String,
    /// The name of a configured backend.
    pub backend: String,
    /// The folder there.
    pub directory: String,
    /// Permission names.
    pub permissions: Vec<&'static str>,
}

impl Mount {
    /// A mount with every permission.
    #[must_use]
    pub fn all(path: &str, backend: &str, directory: &str) -> Self {
        Self {
            path: path.to_owned(),
            backend: backend.to_owned(),
            directory: directory.to_owned(),
            permissions: vec![
                "list",
                "read",
                "write",
                "overwrite",
                "rename",
                "delete",
                "mkdir",
                "rmdir",
                "setattr",
                "symlink",
            ],
        }
    }
}
