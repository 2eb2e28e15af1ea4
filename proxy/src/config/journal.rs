//! `[journal]`

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use portcullis_audit::hidden::{AuditorKey, HiddenKeyError, PathKey, PathVeil};
use portcullis_journal::{Options, Veil, retention::Retention};

use super::{files, section::Section};
use crate::causes::chain;
use crate::{policy::DataOps, sftp::Digests};

/// What `journal.digests` may say.
const DIGESTS: &str = "\"uploads\" or \"all\"";
/// What `journal.data_ops` may say.
const DATA_OPS: &str = "\"each\", \"extent\" or \"summary\"";
/// What `journal.path_mode` may say.
const PATH_MODES: &str = "\"clear\", \"hmac\" or \"sealed\"";
/// Six years: 45 CFR 164.316(b)(2)(i) wants documentation of security kept as long.
const LEAST_DAYS: u64 = 2190;
/// A century.
const MOST_DAYS: u64 = 36_525;
/// zstd's highest level that takes no more memory than the others.
const MOST_COMPRESSION: u64 = 19;
const MOST_SEGMENT_MIB: u64 = 1024;
const MOST_VERIFY_DAYS: u64 = 366;

/// `[journal]`
#[derive(Debug, Clone, PartialEq)]
pub struct JournalConfig {
    pub directory: PathBuf,
    pub signing_key: PathBuf,
    /// Name of this machine in the records.
    pub node: String,
    pub digests: Digests,
    pub data_ops: DataOps,
    /// A segment is closed once it is longer.
    pub segment_bytes: u64,
    /// zstd's level for closed segments; `None` leaves them as they are.
    pub compression_level: Option<i32>,
    /// When old records are deleted; `None` keeps them for ever.
    pub keep: Option<TimeDelta>,
    pub room: RoomConfig,
    /// How often all of it is checked; `None` never.
    pub verify_every: Option<Duration>,
    /// Where sinks keep how far they are.
    pub sinks: PathBuf,
    pub paths: PathMode,
    /// Key of the tokens, which is there if [`paths`](Self::paths) are or were hidden.
    pub path_key: PathBuf,
}

/// How records name the files of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMode {
    Clear,
    /// By a token.
    Hmac,
    /// By a token, and for the auditor in clear.
    Sealed(AuditorKey),
}

/// What happens before the journal's disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomConfig {
    /// Percentage of use from which on it is warned of.
    pub warn_percent: u8,
    /// Percentage of use from which on no new sessions begin.
    pub refuse_sessions_percent: u8,
}

impl JournalConfig {
    /// Folder of the legal holds.
    pub fn holds(&self) -> PathBuf {
        let mut name = self.directory.clone().into_os_string();
        name.push(".holds");
        name.into()
    }

    /// Folder of the requests for a look at stored files.
    pub fn verification(&self) -> PathBuf {
        let mut name = self.directory.clone().into_os_string();
        name.push(".verification");
        name.into()
    }

    /// What hides paths in records; makes the key if there is none yet.
    ///
    /// # Errors
    /// If the key can't be used or made.
    pub fn veil(&self) -> Result<Option<Arc<dyn Veil>>, HiddenKeyError> {
        let auditor = match &self.paths {
            PathMode::Clear => return Ok(None),
            PathMode::Hmac => None,
            PathMode::Sealed(auditor) => Some(auditor.clone()),
        };
        let key = PathKey::open(&self.path_key)?;
        Ok(Some(Arc::new(PathVeil::new(key, auditor))))
    }

    /// How the journal is opened, but for the [`veil`](Self::veil).
    pub fn options(&self) -> Options {
        Options {
            node: self.node.clone(),
            signing_key: self.signing_key.clone(),
            segment_bytes: self.segment_bytes,
            compression_level: self.compression_level,
            retention: self.keep.map(|keep| Retention {
                keep,
                holds: self.holds(),
            }),
            ..Options::default_in(&self.directory)
        }
    }
}

pub(super) fn journal(mut section: Section<'_>) -> Option<JournalConfig> {
    let directory = section.required_text("directory", "the journal's directory");
    let signing_key = section.required_text("signing_key", "the path of the journal's signing key");
    let node = section
        .text("node", "the name of this machine in the records")
        .map_or_else(files::host_name, str::to_owned);
    let digests = section
        .text("digests", DIGESTS)
        .and_then(|text| match text {
            "uploads" => Some(Digests::OfUploads),
            "all" => Some(Digests::OfAll),
            _ => {
                section.fault("digests", format!("{text:?}: expected {DIGESTS}"));
                None
            }
        })
        .unwrap_or_default();
    let data_ops = section
        .text("data_ops", DATA_OPS)
        .and_then(|text| match text {
            "each" => Some(DataOps::Each),
            "extent" => Some(DataOps::Extent),
            "summary" => Some(DataOps::Summary),
            _ => {
                section.fault("data_ops", format!("{text:?}: expected {DATA_OPS}"));
                None
            }
        })
        .unwrap_or_default();
    let usual = Options::default_in("");
    let segment_mib = section.number(
        "segment_mib",
        1..=MOST_SEGMENT_MIB,
        usual.segment_bytes >> 20,
    );
    let level = usual.compression_level.unwrap_or_default().unsigned_abs();
    let level = section.number("compression_level", 0..=MOST_COMPRESSION, level.into());
    let mut percent = |key, usual| {
        let percent = section.number(key, 1..=100, usual);
        u8::try_from(percent).unwrap_or(100)
    };
    let room = RoomConfig {
        warn_percent: percent("warn_percent", 80),
        refuse_sessions_percent: percent("refuse_sessions_percent", 90),
    };
    let verify_days = section.number("verify_days", 0..=MOST_VERIFY_DAYS, 7);
    let least = section.number("keep_days_minimum", 1..=MOST_DAYS, LEAST_DAYS);
    // 0 can't be written.
    let keep = section.number("keep_days", 1..=MOST_DAYS, 0);
    if keep > 0 && keep < least {
        section.fault(
            "keep_days",
            format!(
                "{keep} is less than the {least} days that records are kept at least; if that is meant, set \
                 keep_days_minimum too"
            ),
        );
    }
    let sinks = section.text("sinks_directory", "where sinks keep how far they are");
    let path_key = section.text("path_key_file", "the path of the key of hidden paths");
    let paths = path_mode(&mut section);
    let path_key = path_key.map(PathBuf::from).or_else(|| {
        let directory = directory?;
        Some(PathBuf::from(format!("{directory}.pathkey")))
    });
    if let Some(path_key) = path_key.as_deref().filter(|_| paths != PathMode::Clear) {
        look_at_path_key(&section, path_key);
    }
    section.finish();
    let (directory, path_key) = (directory?, path_key?);
    Some(JournalConfig {
        sinks: sinks.map_or_else(
            || PathBuf::from(format!("{directory}.sinks")),
            PathBuf::from,
        ),
        paths,
        path_key,
        directory: PathBuf::from(directory),
        signing_key: PathBuf::from(signing_key?),
        node,
        digests,
        data_ops,
        segment_bytes: segment_mib << 20,
        compression_level: i32::try_from(level).ok().filter(|&level| level > 0),
        keep: i64::try_from(keep)
            .ok()
            .filter(|&days| days > 0)
            .and_then(TimeDelta::try_days),
        room,
        verify_every: Some(Duration::from_secs(verify_days * 24 * 60 * 60))
            .filter(|every| !every.is_zero()),
    })
}

fn path_mode(section: &mut Section<'_>) -> PathMode {
    let mode = section.text("path_mode", PATH_MODES).unwrap_or("clear");
    let auditor = section.text("auditor_key", "the public key of the auditor, or its file");
    let key = auditor.and_then(|text| {
        AuditorKey::of(text)
            .inspect_err(|error| section.fault("auditor_key", chain(error)))
            .ok()
    });
    match (mode, auditor, key) {
        ("clear", None, _) => PathMode::Clear,
        ("hmac", None, _) => PathMode::Hmac,
        ("sealed", _, Some(key)) => PathMode::Sealed(key),
        ("sealed", None, None) => {
            section.fault(
                "auditor_key",
                "missing; path_mode = \"sealed\" needs the public key of the auditor, which `portcullis-proxy audit auditor-key \
                 FILE` makes on the auditor's machine",
            );
            PathMode::Clear
        }
        ("sealed", Some(_), None) => PathMode::Clear,
        ("clear" | "hmac", Some(_), _) => {
            section.fault(
                "auditor_key",
                format!("path_mode = {mode:?} seals nothing; say \"sealed\", or leave the key out"),
            );
            PathMode::Clear
        }
        _ => {
            section.fault("path_mode", format!("{mode:?}: expected {PATH_MODES}"));
            PathMode::Clear
        }
    }
}

/// One that is absent is made at the start, and one that only the daemon can read says there what is wrong with it.
fn look_at_path_key(section: &Section<'_>, path: &Path) {
    match PathKey::read(path) {
        Ok(_) | Err(HiddenKeyError::Read { .. }) => {}
        Err(error) => section.fault("path_key_file", chain(&error)),
    }
}
