//! Checks of the files that a configuration names. Each problem is one sentence that says the way out.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use ssh_key::PrivateKey;
use zeroize::Zeroizing;

use super::server::signs_with;
use crate::{
    auth::{
        krl::{self, RevokedKeys},
        public_key::{RSA_BITS_MIN, modulus_bits},
    },
    cipher_policy::CipherPolicy,
};

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

/// A key that the gateway may prove itself with under a policy; any, while the policy itself has a fault.
pub(super) fn host_key(path: &Path, policy: Option<&CipherPolicy>) -> Result<PrivateKey, String> {
    let key = private_key(path)?;
    if let Some(bits) = key.public_key().key_data().rsa().map(modulus_bits)
        && bits < RSA_BITS_MIN
    {
        return Err(format!(
            "{} is an RSA key of {bits} bits; at least {RSA_BITS_MIN} are needed: make another one with `ssh-keygen -t rsa -b {RSA_BITS_MIN} -N '' -f FILE`",
            path.display()
        ));
    }
    let Some(policy) = policy else {
        return Ok(key);
    };
    let offered = policy.host_keys();
    if signs_with(&key)
        .iter()
        .any(|own| offered.contains(&own.as_str()))
    {
        return Ok(key);
    }
    let way_out = if offered.contains(&"ssh-ed25519") {
        "portcullis-proxy host-key generate FILE"
    } else {
        "ssh-keygen -t ecdsa -b 384 -N '' -f FILE"
    };
    Err(format!(
        "{} is a key for {}, and {} offers only {}: make one with `{way_out}`",
        path.display(),
        key.algorithm(),
        policy.name(),
        offered.join(", ")
    ))
}

/// Which version of a file was read: any change of it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    node: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that is at `path`.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        fs::metadata(path).map(|about| Self::from(&about))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(about: &fs::Metadata) -> Self {
        Self {
            node: (about.dev(), about.ino()),
            size: about.size(),
            // The status change time: unlike the modification time, nobody sets it.
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// The content of a file that says who may log in: nobody but its owner may write it.
pub(super) fn guarded(path: &Path, longest: u64) -> Result<(Vec<u8>, Stamp), String> {
    let unreadable = |error: std::io::Error| format!("{}: can't be read: {error}", path.display());
    // Before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(format!(
            "{} can be changed by others (mode {mode:04o}); run `chmod go-w {}`",
            path.display(),
            path.display()
        ));
    }
    let mut content = Vec::new();
    file.take(longest.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > longest {
        return Err(format!("{} has more than {longest} bytes", path.display()));
    }
    Ok((content, Stamp::from(&about)))
}

/// Keys that count no longer: a key revocation list, or a text with a public key a line.
///
/// # Errors
/// One sentence, if it can't be read to its last byte.
pub fn revoked_keys(path: &Path) -> Result<(RevokedKeys, Stamp), String> {
    let (content, stamp) = guarded(path, krl::BYTES_MAX)?;
    let keys = RevokedKeys::parse(&content)
        .map_err(|error| format!("{} is no list of revoked keys: {error}", path.display()))?;
    Ok((keys, stamp))
}

/// The machine's name as the kernel has it.
pub(super) fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
