//! An account of the proxy and what its owner holds.

use std::path::PathBuf;

use anyhow::Result;

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
    /// Public key, then a one-time code.
    KeyThenCode,
    /// One answer: the password with the code behind it.
    AppendedCode,
    /// Public key and no answer.
    KeyAlone,
}

impl Factors {
    /// True if the public key is one of them.
    #[must_use]
    pub fn have_key(self) -> bool {
        !matches!(self, Self::PasswordThenCode | Self::AppendedCode)
    }
}

/// What is answered to the prompts of one login.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// To `Password: `.
    pub password: String,
    /// To `One-time password: `.
    pub code: String,
}

impl Words {
    /// What a client gives that knows one word for all prompts.
    #[must_use]
    pub fn only(&self) -> &str {
        if self.password.is_empty() {
            &self.code
        } else {
            &self.password
        }
    }
}

impl Account {
    /// The answers of the next login with these factors; takes a code from the phone where one is needed.
    ///
    /// # Errors
    /// When the phone has none.
    pub fn words(&mut self, factors: Factors) -> Result<Words> {
        let password = self.password.clone();
        Ok(match factors {
            Factors::PasswordThenCode => Words {
                password,
                code: self.phone.next_code()?,
            },
            Factors::KeyThenPassword | Factors::PasswordThenKey => Words {
                password,
                code: String::new(),
            },
            Factors::KeyThenCode => Words {
                password: String::new(),
                code: self.phone.next_code()?,
            },
            Factors::AppendedCode => Words {
                password: password + &self.phone.next_code()?,
                code: String::new(),
            },
            Factors::KeyAlone => Words::default(),
        })
    }

    /// The certificate of the key, if one stands beside it.
    #[must_use]
    pub fn certificate(&self) -> Option<PathBuf> {
        let mut path = self.key.as_os_str().to_owned();
        path.push("-cert.pub");
        Some(PathBuf::from(path)).filter(|path| path.is_file())
    }
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
