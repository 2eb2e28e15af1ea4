//! Backends that reach each other's files and have other keys. What is uploaded through one of them would be nobody's by the other, and
//! would outlive the keys that it seems to have.

use std::path::PathBuf;

use super::{super::backends::BackendConfig, AtRest, EncryptionConfig};

type Parsed = (String, Option<(BackendConfig, AtRest)>);

/// What is wrong with such backends, as key and problem.
pub(in crate::config) fn overlaps(backends: &[Parsed]) -> Vec<(String, String)> {
    let kept: Vec<_> = backends.iter().filter_map(Kept::of).collect();
    let mut faults = Vec::new();
    for (at, one) in kept.iter().enumerate() {
        let others = kept.iter().take(at);
        for other in others.filter(|other| other.keys.set != one.keys.set) {
            let how = match (one.place.is_at(&other.place), other.place.is_at(&one.place)) {
                (true, true) => "the same files as",
                (true, false) => "a part of the files of",
                (false, true) => "all files of",
                (false, false) => continue,
            };
            let problem = format!(
                "it reaches {how} [backends.{}], whose keys are those of [{}] and not of [{}]: name the same keys, or another place",
                other.name,
                other.keys.section(),
                one.keys.section()
            );
            faults.push((format!("backends.{}.keys", one.name), problem));
        }
    }
    faults
}

/// Pairs of backends with different keys that log in as one user to one server. Whether their directories are apart, mounts say.
pub(in crate::config) fn joint_logins<'a>(
    backends: impl Iterator<Item = (&'a str, &'a BackendConfig, &'a AtRest)>,
) -> Vec<(String, String)> {
    let logins: Vec<_> = backends
        .filter_map(|(name, config, at_rest)| Some((name, login(config)?, at_rest.keys()?)))
        .collect();
    let mut found = Vec::new();
    for (at, (name, server, keys)) in logins.iter().enumerate() {
        for (other, before, own) in logins.iter().take(at) {
            if before == server && own.set != keys.set {
                found.push(((*other).to_owned(), (*name).to_owned()));
            }
        }
    }
    found
}

fn login(config: &BackendConfig) -> Option<String> {
    match config {
        BackendConfig::Ftp { address, user, .. } => Some(format!("ftp {user} {address}")),
        BackendConfig::Sftp { address, user, .. } => Some(format!("sftp {user} {address}")),
        BackendConfig::Local { .. } | BackendConfig::Bucket(_) | BackendConfig::Failover { .. } => {
            None
        }
    }
}

/// A backend whose files are encrypted.
struct Kept<'a> {
    name: &'a str,
    keys: &'a EncryptionConfig,
    place: Place<'a>,
}

/// What a backend reaches, with all below it.
enum Place<'a> {
    Directory(PathBuf),
    Bucket {
        endpoint: &'a str,
        name: &'a str,
        prefix: &'a str,
    },
}

impl<'a> Kept<'a> {
    fn of((name, parsed): &'a Parsed) -> Option<Self> {
        let (config, at_rest) = parsed.as_ref()?;
        let place = match config {
            BackendConfig::Local { directory, .. } => {
                let whole = directory.canonicalize();
                Place::Directory(whole.unwrap_or_else(|_| directory.clone()))
            }
            BackendConfig::Bucket(bucket) => Place::Bucket {
                endpoint: &bucket.endpoint,
                name: &bucket.name,
                prefix: bucket.prefix.trim_matches('/'),
            },
            BackendConfig::Ftp { .. }
            | BackendConfig::Sftp { .. }
            | BackendConfig::Failover { .. } => return None,
        };
        let keys = at_rest.keys()?;
        Some(Self { name, keys, place })
    }
}

impl Place<'_> {
    /// True if it is the other one, or lies in it.
    fn is_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory(own), Self::Directory(above)) => own.starts_with(above),
            (
                Self::Bucket {
                    endpoint,
                    name,
                    prefix,
                },
                Self::Bucket {
                    endpoint: other_endpoint,
                    name: other_name,
                    prefix: above,
                },
            ) => {
                let rest = prefix.strip_prefix(above);
                let is_below =
                    |rest: &str| above.is_empty() || rest.is_empty() || rest.starts_with('/');
                endpoint == other_endpoint && name == other_name && rest.is_some_and(is_below)
            }
            (Self::Directory(_), Self::Bucket { .. })
            | (Self::Bucket { .. }, Self::Directory(_)) => false,
        }
    }
}
