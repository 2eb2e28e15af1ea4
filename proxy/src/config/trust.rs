//! Of `[auth]`: whose certificates let users in, and which keys count no longer.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::NaiveDate;
use portcullis_journal::AccountKind;
use ssh_key::public::KeyData;

use super::{
    exception::exception,
    files::{self, Stamp},
    section::Section,
};
use crate::{
    auth::{
        certificate::{self, Authority},
        krl::RevokedKeys,
        public_key,
    },
    exception::Exception,
};

/// Longest file with an authority's key, in bytes.
const KEY_FILE_MAX: u64 = 64 * 1024;
/// No certificate lives longer, whatever the exception says: a year and a day.
const LIFETIME_SECONDS_MAX: u64 = 366 * 24 * 3600;
/// Two minutes: the shortest that `ssh-keygen` can make.
const LIFETIME_SECONDS_MIN: u64 = 120;

/// A file with revoked keys, as it was when the configuration was read.
#[derive(Debug, Clone)]
pub struct RevokedKeysFile {
    pub path: PathBuf,
    pub keys: Arc<RevokedKeys>,
    pub stamp: Stamp,
}

/// A file that was touched and says the same is the same.
impl PartialEq for RevokedKeysFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.keys == other.keys
    }
}

pub(super) fn revoked_keys(section: &mut Section<'_>) -> Option<RevokedKeysFile> {
    section
        .text("revoked_keys", "the path of a list of revoked keys")
        .and_then(|path| match files::revoked_keys(Path::new(path)) {
            Ok((keys, stamp)) => Some(RevokedKeysFile {
                path: PathBuf::from(path),
                keys: Arc::new(keys),
                stamp,
            }),
            Err(problem) => {
                section.fault("revoked_keys", problem);
                None
            }
        })
}

pub(super) fn certificate_authorities(
    section: &mut Section<'_>,
    today: NaiveDate,
) -> Vec<Authority> {
    let mut names = BTreeSet::new();
    let mut authorities = Vec::<Authority>::new();
    for (index, table) in section
        .tables("certificate_authority")
        .into_iter()
        .enumerate()
    {
        let Some(authority) = authority(table, today) else {
            continue;
        };
        let place = format!("certificate_authority[{index}]");
        if !names.insert(authority.name.clone()) {
            section.fault(
                &place,
                format!("the name {:?} is given twice", authority.name),
            );
        }
        if let Some(other) = authorities.iter().find(|other| other.key == authority.key) {
            section.fault(
                &place,
                format!(
                    "has the key of {:?}; list both kinds in `for` of one",
                    other.name
                ),
            );
        }
        authorities.push(authority);
    }
    authorities
}

fn authority(mut section: Section<'_>, today: NaiveDate) -> Option<Authority> {
    let name = section.required_text("name", "a name for the records, such as \"staff\"");
    let key = key(&mut section);
    let kinds = kinds(&mut section);
    let range = LIFETIME_SECONDS_MIN..=LIFETIME_SECONDS_MAX;
    let seconds = section.number("max_lifetime_seconds", range, LIFETIME_SECONDS_MIN);
    let max_lifetime = section
        .has("max_lifetime_seconds")
        .then(|| Duration::from_secs(seconds));
    let exception = section
        .section("lifetime_exception")
        .map(|section| lifetime_exception(section, today));
    let cap = kinds
        .iter()
        .flatten()
        .map(|&kind| certificate::lifetime_max(kind))
        .min();
    match (max_lifetime, cap, &exception) {
        (Some(own), Some(cap), None) if own > cap => section.fault(
            "max_lifetime_seconds",
            format!(
                "{} is more than the {} that these accounts are given; a `lifetime_exception` with reason, approver and \
                 expires allows it",
                own.as_secs(),
                cap.as_secs()
            ),
        ),
        (None, _, Some(_)) => section.fault(
            "lifetime_exception",
            "changes nothing without max_lifetime_seconds",
        ),
        (Some(_) | None, _, _) => {}
    }
    section.finish();
    Some(Authority {
        name: name?.to_owned(),
        key: key?,
        kinds: kinds?,
        max_lifetime,
        exception: match exception {
            Some(exception) => Some(exception?),
            None => None,
        },
    })
}

fn key(section: &mut Section<'_>) -> Option<KeyData> {
    const EXPECTED: &str = "the authority's public key: `key = \"TYPE BASE64\"`, or `key_file` with the path of its .pub file";
    let line = section.text("key", EXPECTED).map(str::to_owned);
    let file = section.text("key_file", EXPECTED).map(Path::new);
    let (place, line) = match (line, file) {
        (Some(line), None) => ("key", line),
        (None, Some(path)) => {
            let read = files::guarded(path, KEY_FILE_MAX).and_then(|(content, _)| {
                String::from_utf8(content).map_err(|_| format!("{} is not text", path.display()))
            });
            match read {
                Ok(text) => ("key_file", text),
                Err(problem) => {
                    section.fault("key_file", problem);
                    return None;
                }
            }
        }
        (Some(_), Some(_)) => {
            section.fault("key_file", "stands beside `key`; give one of them");
            return None;
        }
        (None, None) => {
            if !section.has("key") && !section.has("key_file") {
                section.fault("key", format!("missing; expected {EXPECTED}"));
            }
            return None;
        }
    };
    match public_key::parse(&line) {
        Ok(key) => Some(key.key_data().clone()),
        Err(error) => {
            section.fault(place, error.to_string());
            None
        }
    }
}

fn kinds(section: &mut Section<'_>) -> Option<Vec<AccountKind>> {
    const KINDS: [(AccountKind, &str); 4] = [
        (AccountKind::Human, "human"),
        (AccountKind::Machine, "machine"),
        (AccountKind::Admin, "admin"),
        (AccountKind::BreakGlass, "break-glass"),
    ];
    const EXPECTED: &str = "the kinds of accounts that it certifies, such as [\"human\"]";
    if !section.has("for") {
        section.fault("for", format!("missing; expected {EXPECTED}"));
    }
    let mut kinds = Vec::new();
    for (index, text) in section.texts("for", EXPECTED)? {
        match KINDS.into_iter().find(|(_, name)| *name == text) {
            Some((kind, _)) if kinds.contains(&kind) => {
                section.fault(&format!("for[{index}]"), format!("{text:?} is given twice"));
            }
            Some((kind, _)) => kinds.push(kind),
            None => {
                let known = KINDS.map(|(_, name)| name);
                section.fault(
                    &format!("for[{index}]"),
                    format!(
                        "{text:?} is no kind of account; there are {}",
                        known.join(", ")
                    ),
                );
            }
        }
    }
    if kinds.is_empty() {
        section.fault("for", format!("names nobody; expected {EXPECTED}"));
        return None;
    }
    Some(kinds)
}

fn lifetime_exception(section: Section<'_>, today: NaiveDate) -> Option<Exception> {
    exception(
        section,
        "why shorter certificates are not possible",
        "shorten max_lifetime_seconds",
        today,
    )
}
