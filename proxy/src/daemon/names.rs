//! Which encrypted file belongs under which name: the journal says it, and what it says is kept at hand.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use portcullis_at_rest::ObjectId;
use portcullis_audit::{
    catalogue::{Asker, Catalogue, Named, Reader},
    hidden::{HiddenKeyError, PathKey},
    search::SearchError,
};

use crate::{backend::encrypted::Names, causes::chain, config::JournalConfig};

/// How long an OPEN waits while the journal is read for the first time.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the journal is read on while nobody opens anything: an OPEN has little left to read then, and no old segment is
/// deleted unread.
const READ_ON: Duration = Duration::from_secs(5);

/// Where the roots of backends are, and which backends show an upload before it is closed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) roots: Vec<(String, Vec<u8>)>,
    pub(super) direct: Vec<String>,
}

impl Places {
    /// Of what should lie there. It has read nothing yet.
    ///
    /// # Errors
    /// If there is a key of hidden paths that can't be used.
    pub(super) fn catalogue(self, path_key: &Path) -> Result<Catalogue, HiddenKeyError> {
        let key = if path_key.exists() {
            Some(PathKey::read(path_key)?)
        } else {
            None
        };
        Ok(Catalogue::new(key, self.roots, self.direct))
    }
}

/// The journal's names.
#[derive(Debug)]
pub(super) struct JournalNames {
    directory: PathBuf,
    path_key: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    places: Places,
    /// Absent until it is asked for, and after a failure.
    reader: Option<Reader>,
}

/// Why names are not known.
#[derive(Debug, thiserror::Error)]
enum NamesError {
    #[error("open the key of hidden paths, journal.path_key_file")]
    PathKey(#[from] HiddenKeyError),
    #[error("read the journal")]
    Journal(#[from] SearchError),
}

impl JournalNames {
    /// Reads nothing yet.
    pub(super) fn of(config: &JournalConfig) -> Self {
        Self::beside(&config.directory, &config.path_key)
    }

    pub(super) fn beside(directory: &Path, path_key: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            path_key: path_key.to_owned(),
            state: Arc::default(),
        }
    }

    /// Goes on with other places; the journal is then read again.
    pub(super) fn place(&self, places: Places) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.places != places {
            *state = State {
                places,
                reader: None,
            };
        }
    }

    /// Reads the journal, and on from time to time.
    pub(super) async fn keep(self: Arc<Self>) {
        let begun = Instant::now();
        let mut are_known = None;
        loop {
            let names = Arc::clone(&self);
            let read = tokio::task::spawn_blocking(move || names.with(|_| ())).await;
            let Ok(read) = read else {
                // The daemon ends.
                return;
            };
            let before = are_known.replace(read.is_ok());
            match read {
                _ if before == are_known => {}
                Ok(()) => {
                    let seconds = begun.elapsed().as_secs();
                    tracing::info!(seconds, "the names of stored files are known");
                }
                Err(error) => tracing::error!(
                    error = chain(&error),
                    "the names of stored files are not known: encrypted files can't be opened"
                ),
            }
            tokio::time::sleep(READ_ON).await;
        }
    }

    /// Blocks while the journal is read on.
    fn with<T>(&self, look: impl FnOnce(&Catalogue) -> T) -> Result<T, NamesError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = match state.reader.take() {
            Some(reader) => reader,
            None => self.reader(&state.places)?,
        };
        // One that failed is not gone on with.
        reader.advance()?;
        let reader = state.reader.insert(reader);
        Ok(look(&reader.catalogue))
    }

    fn reader(&self, places: &Places) -> Result<Reader, NamesError> {
        let catalogue = places.clone().catalogue(&self.path_key)?.lean();
        Ok(Reader::of(&self.directory, catalogue)?)
    }
}

/// Of several places that lead to one file, one that knows it is enough.
fn best(
    catalogue: &Catalogue,
    asker: Asker,
    places: &[(String, Vec<u8>)],
    object: ObjectId,
) -> Named {
    let mut best = Named::Unsaid;
    for (backend, path) in places {
        let place = catalogue.place(backend, path);
        let named = catalogue.named_to(Some(asker), &place, &object.0);
        best = match (best, named) {
            (Named::Fits(own), _) | (_, Named::Fits(own)) => Named::Fits(own),
            (Named::Changing, _) | (_, Named::Changing) => Named::Changing,
            (Named::Other(record), _) | (_, Named::Other(record)) => Named::Other(record),
            (Named::Unsaid, Named::Unsaid) => Named::Unsaid,
        };
    }
    best
}

impl Names for Arc<JournalNames> {
    fn named(
        &self,
        asker: Asker,
        places: Vec<(String, Vec<u8>)>,
        object: ObjectId,
    ) -> BoxFuture<'static, Result<Named, String>> {
        let names = Self::clone(self);
        let asked = tokio::task::spawn_blocking(move || {
            names
                .with(|catalogue| best(catalogue, asker, &places, object))
                .map_err(|error| chain(&error))
        });
        async move {
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(named)) => named,
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => {
                    Err("the journal is still being read after a start: try again".to_owned())
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_journal::{Event, EventKind, Journal, Options};

    use super::*;

    #[tokio::test]
    async fn a_journal_that_can_not_be_read_is_said_and_one_that_is_there_later_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::default_in(folder.path().join("log"));
        let no_key = folder.path().join("no key");
        let names = Arc::new(JournalNames::beside(&options.directory, &no_key));
        let at = || vec![("disk".to_owned(), b"/a".to_vec())];
        let nobody = Asker {
            session: 0,
            operation: 0,
        };
        let ask = || names.named(nobody, at(), ObjectId([1; 16]));
        let unread = ask().await.unwrap_err();
        assert!(unread.starts_with("read the journal"), "{unread}");
        let (journal, _) = Journal::open(options).unwrap();
        let event = Event::new(EventKind::ConnectionOpen);
        journal.append(event).await.unwrap();
        assert_eq!(ask().await, Ok(Named::Unsaid));
    }
}
