//! Checks of the files that a configuration names. Each problem is one sentence that says the way out.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use ssh_key::{Algorithm, PrivateKey};
use zeroize::Zeroizing;

/// A password or key that prints as `<secret>` and is wiped when dropped.
#[derive(Clone, PartialEq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// The text of a file that only its owner and group may read.
pub(super) fn secret(path: &Path) -> Result<Secret, String> {
    let unreadable = |error: std::io::Error| format!("{}: can't be read: {error}", path.display());
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    // The usual layout is root:portcullis 0640: the daemon may read its secret and not change it.
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o037 != 0 {
        return Err(format!(
            "{} can be used by others (mode {mode:04o}); run `chmod 0600 {}`, or 0640 for the daemon's group",
            path.display(),
            path.display()
        ));
    }
    // A secret is a line or a small key file.
    if metadata.size() > 64 * 1024 {
        return Err(format!("{} is too large for a secret", path.display()));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Ok(Secret(Zeroizing::new(text)))
}

/// A password: the first line of its file.
pub(super) fn password(path: &Path) -> Result<Secret, String> {
    let text = secret(path)?;
    let line = text.expose().lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(format!(
            "{} has no password on its first line",
            path.display()
        ));
    }
    Ok(Secret(Zeroizing::new(line.to_owned())))
}

/// A private key in OpenSSH format, without passphrase.
pub(super) fn private_key(path: &Path) -> Result<PrivateKey, String> {
    let text = secret(path)?;
    let key = PrivateKey::from_openssh(text.expose().as_bytes()).map_err(|error| {
        format!(
            "{} is not a private key in OpenSSH format ({error})",
            path.display()
        )
    })?;
    if key.is_encrypted() {
        return Err(format!(
            "{} has a passphrase, which nobody can type for a daemon; remove it with `ssh-keygen -p -f {}`",
            path.display(),
            path.display()
        ));
    }
    Ok(key)
}

/// A key that the gateway may prove itself with.
pub(super) fn host_key(path: &Path) -> Result<PrivateKey, String> {
    let key = private_key(path)?;
    if key.algorithm() == Algorithm::Ed25519 {
        Ok(key)
    } else {
        Err(format!(
            "{} is a key for {}; only ssh-ed25519 is offered: make one with `portcullis-proxy host-key generate FILE`",
            path.display(),
            key.algorithm()
        ))
    }
}

/// The machine's name as the kernel has it.
pub(super) fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
