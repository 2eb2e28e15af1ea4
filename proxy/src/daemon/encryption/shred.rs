//! One file is destroyed: first it is on record which one, by whose word and why, then the wraps of its key are overwritten where that
//! can be done, and the file removed.

use portcullis_audit::{catalogue::State, search::SearchError};
use portcullis_journal::{AppendError, Event, EventKind, Journal, Verdict, record::untrusted};
use serde_json::{Map, Value};

use super::{Kept, Vaults};
use crate::{
    backend::BackendError,
    config::JournalConfig,
    daemon::rest::{RunError, reader},
    encryption::Answer,
    gate::verify::Verified,
    operation::{Care, Tended},
    pace::Pace,
    path::{PathError, VirtualPath},
};

/// Why a file is not destroyed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShredError {
    #[error("{name} is no backend of the configuration whose files are encrypted")]
    NoSuchBackend { name: String },
    #[error("{path} is no path")]
    Path { path: String, source: PathError },
    #[error("a reason and an approver are needed")]
    Unfounded,
    #[error("look at {path}")]
    Look { path: String, source: BackendError },
    #[error(
        "{path} is not encrypted: remove it, and what the disk keeps of it is another question"
    )]
    Plain { path: String },
    #[error("prepare the look into the journal")]
    Prepare(#[from] RunError),
    #[error("read the journal")]
    Journal(#[from] SearchError),
    #[error("record that it is destroyed; nothing was done")]
    Unrecorded(#[from] AppendError),
    #[error("the journal says that {path} is destroyed, and it is not yet: ask again")]
    Left { path: String, source: BackendError },
}

pub(super) struct Shred<'a> {
    pub(super) journal: &'a Journal,
    pub(super) config: &'a JournalConfig,
    pub(super) vaults: &'a Vaults,
    pub(super) backend: &'a str,
    pub(super) path: &'a str,
    pub(super) reason: &'a str,
    pub(super) approver: &'a str,
    pub(super) asked_by: u32,
}

impl Shred<'_> {
    pub(super) async fn carry_out(&self) -> Result<Answer, ShredError> {
        let name = || self.backend.to_owned();
        let path = || self.path.to_owned();
        if [self.reason, self.approver]
            .iter()
            .any(|text| text.trim().is_empty())
        {
            return Err(ShredError::Unfounded);
        }
        let Some(kept) = self.vaults.by_name.get(self.backend) else {
            return Err(ShredError::NoSuchBackend { name: name() });
        };
        let whole = [self.backend, self.path].join("/");
        let at = VirtualPath::clean(whole.as_bytes()).map_err(|source| ShredError::Path {
            path: path(),
            source,
        })?;
        let look = |source| ShredError::Look {
            path: path(),
            source,
        };
        let is_absolute = kept.is_server && kept.names.is_none() && self.path.starts_with('/');
        let directory: &[u8] = if is_absolute { b"/" } else { b"." };
        let (journal, service) = (self.journal.clone(), &*kept.service);
        let verified = Verified::below(journal, self.backend, service, directory, &Pace::default())
            .map_err(look)?;
        let destroyed = self.destroy(&verified, kept, &at).await;
        verified.backend.end().await;
        let body = destroyed?;
        tracing::warn!(path = ?at, approver = self.approver, "a stored file was destroyed");
        Ok(Answer {
            shredded: Some(body.into()),
            ..Answer::default()
        })
    }

    async fn destroy(
        &self,
        verified: &Verified,
        kept: &Kept,
        at: &VirtualPath,
    ) -> Result<Map<String, Value>, ShredError> {
        let path = || self.path.to_owned();
        let look = |source| ShredError::Look {
            path: path(),
            source,
        };
        let object = match verified.tend(at, Care::Identify).await.map_err(look)? {
            Tended::Identified { object } => object,
            Tended::Current
            | Tended::Rewrapped { .. }
            | Tended::Plain
            | Tended::Encrypted { .. }
            | Tended::Shredded => return Err(ShredError::Plain { path: path() }),
        };
        let mut body = self.tombstone(verified, at, object)?;
        if let Some(remains) = kept.remains {
            body.insert("copies_may_remain".to_owned(), remains.into());
        }
        let mut event: Event = verified.requester.event(EventKind::RestTombstone);
        event.outcome = Some(Verdict::Allow);
        event.body.clone_from(&body);
        self.journal.append(event).await?;
        verified
            .tend(at, Care::Shred { object })
            .await
            .map_err(|source| ShredError::Left {
                path: path(),
                source,
            })?;
        Ok(body)
    }

    fn tombstone(
        &self,
        verified: &Verified,
        at: &VirtualPath,
        object: [u8; 16],
    ) -> Result<Map<String, Value>, ShredError> {
        let mut reader = reader(self.config, &self.vaults.stored)?;
        reader.advance()?;
        let below = at.below(&verified.mount.at);
        let below = below.map(|below| [b"/", below.as_bytes()].concat());
        let catalogue = &reader.catalogue;
        let place = catalogue.place(self.backend, &below.unwrap_or_default());
        let mut body = Map::new();
        let mut put = |field: &str, value: Value| {
            if !value.is_null() {
                body.insert(field.to_owned(), value);
            }
        };
        put("backend", self.backend.into());
        put("path", untrusted(&place));
        put("object", hex::encode(object).into());
        if let Some(State::Known(content)) = catalogue.state(&place) {
            put("sha256", hex::encode(content.sha256).into());
            put("size", content.size.into());
            put("uploaded_by", content.by.user.clone().into());
            put("uploaded_at", content.by.time.clone().into());
        }
        put("why", self.reason.into());
        put("approver", self.approver.into());
        put("asked_by_uid", self.asked_by.into());
        Ok(body)
    }
}
