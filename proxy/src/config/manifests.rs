//! `[manifests]`: where it is written down what each session delivered.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use chrono::TimeDelta;

use super::section::Section;

/// A century.
const MOST_DAYS: u64 = 36_525;

/// `[manifests]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestsConfig {
    pub directory: PathBuf,
    /// When old ones are removed; `None` keeps them for ever.
    pub keep: Option<TimeDelta>,
}

/// `as_journal` is how long records are kept.
pub(super) fn manifests(
    mut section: Section<'_>,
    as_journal: Option<TimeDelta>,
) -> Option<ManifestsConfig> {
    let directory = section.required_text("directory", "the directory of the manifests");
    let directory = directory.map(Path::new);
    if let Some(problem) = directory.and_then(problem) {
        section.fault("directory", problem);
    }
    let keep = if section.has("keep_days") {
        let days = section.number("keep_days", 0..=MOST_DAYS, 0);
        let days = i64::try_from(days).ok().filter(|&days| days > 0);
        days.and_then(TimeDelta::try_days)
    } else {
        as_journal
    };
    section.finish();
    Some(ManifestsConfig {
        directory: directory?.to_owned(),
        keep,
    })
}

fn problem(directory: &Path) -> Option<String> {
    let shown = directory.display();
    if !directory.is_absolute() {
        return Some(format!(
            "{shown} is not absolute; write the whole path, such as \"/var/lib/portcullis/proxy/manifests\""
        ));
    }
    if let Ok(found) = fs::metadata(directory) {
        let mode = found.permissions().mode() & 0o777;
        return if !found.is_dir() {
            Some(format!(
                "{shown} is not a directory; name one, or one that can be made"
            ))
        } else if mode & 0o077 != 0 {
            Some(format!(
                "{shown} is open to others (mode {mode:04o}), and names of files can tell much; run `chmod 0700 {shown}`"
            ))
        } else {
            None
        };
    }
    let above = directory.ancestors().skip(1).find(|above| above.exists());
    let can_be_made = above.is_some_and(Path::is_dir);
    (!can_be_made).then(|| format!("{shown} can't be made: what is above it is not a directory"))
}

/// Why the directory can't be where it is: files that clients reach, or a log.
pub(super) fn overlap<'a>(
    config: &ManifestsConfig,
    others: impl Iterator<Item = (String, &'a Path)>,
) -> Option<String> {
    let own = config.directory.as_path();
    let mut others = others;
    let (name, other) =
        others.find(|(_, other)| own.starts_with(other) || other.starts_with(own))?;
    Some(format!(
        "{} and {name}, {}, lie in each other; keep them apart",
        own.display(),
        other.display()
    ))
}
