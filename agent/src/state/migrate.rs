//! Takes over the state files of version 0.1: `allowlist.txt` and `bans.json`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::Utc;

use super::{StateError, content::Content, record, snapshot};
use crate::{
    bans::Ban,
    lists::{Counts, List, ListName, Lists},
    sources::format::{self, Format, Limits},
    state::Revision,
};

/// Makes the first snapshot from the old files, if there are any; they are kept beside it as `*.migrated`.
pub(super) fn migrate(directory: &Path) -> Result<(), StateError> {
    let allowlist = directory.join("allowlist.txt");
    let bans = directory.join("bans.json");
    let mut content = Content::default();
    let mut found: Vec<&PathBuf> = Vec::new();
    if let Some(text) = read(&allowlist)? {
        found.push(&allowlist);
        content.lists = lists(&allowlist, &text)?;
    }
    if let Some(text) = read(&bans)? {
        found.push(&bans);
        let bans: Vec<Ban> =
            serde_json::from_slice(&text).map_err(|error| StateError::Malformed {
                path: bans.clone(),
                message: error.to_string(),
            })?;
        content.bans = bans.into_iter().map(|ban| (ban.source, ban)).collect();
    }
    if found.is_empty() {
        return Ok(());
    }
    if !content.lists.is_empty() {
        let entries = content.lists.len();
        content.revision = Some(Revision {
            revision: 1,
            time: Utc::now(),
            by: None,
            action: "migrate".to_owned(),
            reason: Some("state files of an earlier version".to_owned()),
            ticket: None,
            counts: Counts {
                added: entries,
                ..Counts::default()
            },
            entries,
            digest: record::digest("", b"migrate"),
            confirm_by: None,
        });
    }
    snapshot::write(directory, 0, &content)?;
    for path in found {
        let aside = path.with_extension("migrated");
        fs::rename(path, &aside).map_err(|source| StateError::Write {
            path: aside,
            source,
        })?;
        tracing::info!(path = %path.display(), "taken over from an earlier version");
    }
    Ok(())
}

fn lists(path: &Path, text: &[u8]) -> Result<Lists, StateError> {
    let limits = Limits {
        allow_default_route: true,
        allow_empty: true,
        ..Limits::default()
    };
    let parsed =
        format::parse_as(Format::Text, "allowlist.txt", text, &limits).map_err(|error| {
            StateError::Malformed {
                path: path.to_owned(),
                message: error.to_string(),
            }
        })?;
    let list: List = parsed.entries.into_iter().collect();
    Ok([(ListName::manual(), list)].into_iter().collect())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}
