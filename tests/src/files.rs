//! Folders, keys and certificates of one test.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::succeed;

/// A folder that is removed when dropped. Servers that run under their own user may pass through it.
///
/// # Errors
/// When the file system refuses.
pub fn folder(purpose: &str) -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix(&format!("portcullis-{purpose}-"))
        .tempdir()
        .context("make a folder for the test")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// An SSH key pair: the private half at the returned path, the public half beside it with `.pub`.
///
/// # Errors
/// When `ssh-keygen` fails.
pub fn ssh_key(folder: &Path, name: &str) -> Result<PathBuf> {
    KeyKind::Ed25519.make(folder, name)
}

/// A kind of SSH key that `ssh-keygen` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519.
    Ed25519,
    /// On a NIST curve of so many bits.
    Ecdsa(u32),
    /// With a modulus of so many bits.
    Rsa(u32),
}

impl KeyKind {
    /// As in the names of key files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ecdsa(_) => "ecdsa",
            Self::Rsa(_) => "rsa",
        }
    }

    /// A key pair: the private half at the returned path, the public half beside it with `.pub`.
    ///
    /// # Errors
    /// When `ssh-keygen` fails.
    pub fn make(self, folder: &Path, name: &str) -> Result<PathBuf> {
        let path = folder.join(name);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", self.name(), "-N", "", "-C", name, "-f"]);
        command.arg(&path);
        if let Self::Ecdsa(bits) | Self::Rsa(bits) = self {
            command.args(["-b", &bits.to_string()]);
        }
        succeed(&mut command)?;
        Ok(path)
    }
}

/// The public half of an SSH key as `ssh-ed25519 AAAA...`, without its comment.
///
/// # Errors
/// When the file can't be read.
pub fn public_key(private: &Path) -> Result<String> {
    let line = fs::read_to_string(private.with_extension("pub"))
        .with_context(|| format!("read the public half of {}", private.display()))?;
    Ok(line
        .split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" "))
}

/// A TLS certificate for `localhost` and its key, self-signed.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// PEM, also the trust anchor.
    pub certificate: PathBuf,
    /// PEM, PKCS #8.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one that also names `address`, with a key that no other has.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn make(folder: &Path, address: &str) -> Result<Self> {
        let key = succeed(&mut generate_key())?;
        Self::with_key(&key, folder, address)
    }

    /// As [`make`](Self::make), with the key of all other such servers of this process: a new one for each took a quarter of
    /// the tests' time.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub(crate) fn of_server(folder: &Path, address: &str) -> Result<Self> {
        static KEY: Mutex<Option<String>> = Mutex::new(None);
        let key = printed_once(&KEY, &mut generate_key())?;
        Self::with_key(&key, folder, address)
    }

    fn with_key(key: &str, folder: &Path, address: &str) -> Result<Self> {
        let made = Self {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        };
        secret(&made.key, key)?;
        succeed(
            Command::new("openssl")
                .args(["req", "-x509", "-days", "30"])
                .args(["-subj", "/CN=localhost", "-addext"])
                .arg(format!("subjectAltName=DNS:localhost,IP:{address}"))
                // A certificate authority may not stand for a server itself.
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .arg("-key")
                .arg(&made.key)
                .arg("-out")
                .arg(&made.certificate),
        )?;
        Ok(made)
    }

    /// SHA-256 of the certificate's DER form, in lower-case hexadecimal.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn sha256(&self) -> Result<String> {
        let printed = succeed(
            Command::new("openssl")
                .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
                .arg(&self.certificate),
        )?;
        let (_, fingerprint) = printed
            .trim()
            .split_once('=')
            .context("openssl prints the fingerprint after =")?;
        Ok(fingerprint.replace(':', "").to_lowercase())
    }
}

fn generate_key() -> Command {
    let mut openssl = Command::new("openssl");
    openssl.args(["genrsa", "2048"]);
    openssl
}

/// What the command printed when it first ran in this process.
pub(crate) fn printed_once(made: &Mutex<Option<String>>, command: &mut Command) -> Result<String> {
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(made) = &*made {
        return Ok(made.clone());
    }
    Ok(made.insert(succeed(command)?).clone())
}

/// Random bytes, which no layer can compress or guess.
///
/// # Errors
/// When the system has none.
pub fn random_bytes(length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    fs::File::open("/dev/urandom")
        .context("open /dev/urandom")?
        .take(length as u64)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes an executable script.
///
/// # Errors
/// When the file system refuses.
pub fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// When the file system refuses.
pub fn secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
