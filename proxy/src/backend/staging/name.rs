//! Names of staging files, and which of them belong to an upload in progress.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        TryLockError,
    },
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::watch::{Changing, Watch, WatchError, Watched};
use crate::{
    backend::Owner,
    path::{RESERVED_PREFIX, RelativePath},
};

const SUFFIX: &[u8] = b".part";
const DISTINCT_BYTES: usize = 8;

/// The name of one staging file: `.portcullis-<16 hex digits>.part`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StagingName(Vec<u8>);

impl StagingName {
    /// A name that no other upload has.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut random = [0; DISTINCT_BYTES];
        getrandom::fill(&mut random)?;
        Ok(Self::with(&random))
    }

    fn with(distinct: &[u8]) -> Self {
        Self([RESERVED_PREFIX, hex::encode(distinct).as_bytes(), SUFFIX].concat())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The staging file's path beside `published`.
    pub fn beside(&self, published: &RelativePath) -> RelativePath {
        published.sibling(&self.0)
    }

    /// `name` as a staging file's, if it is one.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let middle = name.strip_prefix(RESERVED_PREFIX)?.strip_suffix(SUFFIX)?;
        let is_one = middle.len() == 2 * DISTINCT_BYTES && middle.iter().all(u8::is_ascii_hexdigit);
        is_one.then(|| Self(name.to_vec()))
    }

    /// True if `name` is a staging file's.
    pub fn matches(name: &[u8]) -> bool {
        Self::parse(name).is_some()
    }
}

/// What a backend does with uploads that were interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadSettings {
    /// They are kept, and the account that began them can continue them, unless its mount has it otherwise.
    pub resume: bool,
    /// False where the backend has nothing to continue, whatever a mount says.
    pub may_resume: bool,
    /// How long a staging file may lie untouched before it is removed.
    pub retention: Duration,
    /// Tells this gateway's staging files from another's on the same server, which may be in use there.
    pub node: String,
    /// Shared by all services that reach the same files: one that a reload replaced has uploads under way.
    pub claims: Claims,
}

/// The staging names that belong to an upload.
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    names: Mutex<HashSet<StagingName>>,
    /// Held by who changes what names stand for; as a whole by who must know that nobody does.
    turn: RwLock<()>,
    watch: Arc<Watch>,
}

impl Claims {
    fn names(&self) -> MutexGuard<'_, HashSet<StagingName>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many services, uploads and others have them.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl PartialEq for Claims {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Claims {}

impl UploadSettings {
    /// Long enough for a partner to come back the next day.
    pub const DEFAULT_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
}

impl Default for UploadSettings {
    fn default() -> Self {
        Self {
            resume: true,
            may_resume: true,
            retention: Self::DEFAULT_RETENTION,
            node: String::new(),
            claims: Claims::default(),
        }
    }
}

/// The staging names of one backend. Clones share what is in use.
#[derive(Debug, Clone)]
pub struct StagingNames {
    settings: Arc<UploadSettings>,
    era: Arc<[u8]>,
}

/// A staging name that belongs to one upload until this is dropped.
#[derive(Debug)]
pub struct Claim {
    name: StagingName,
    claims: Claims,
}

impl StagingNames {
    /// What was staged in another `era` is not found again.
    pub fn new(settings: UploadSettings, era: &[u8]) -> Self {
        Self {
            settings: Arc::new(settings),
            era: era.into(),
        }
    }

    pub fn retention(&self) -> Duration {
        self.settings.retention
    }

    /// Those of one session.
    pub fn session(&self, owner: &Owner, directory: &[u8]) -> SessionNames {
        SessionNames {
            names: self.clone(),
            owner: owner.clone(),
            directory: directory.to_vec(),
        }
    }

    /// `None` if another upload has the name.
    pub fn claim(&self, name: StagingName) -> Option<Claim> {
        let claims = &self.settings.claims;
        let is_new = claims.names().insert(name.clone());
        is_new.then(|| Claim {
            name,
            claims: claims.clone(),
        })
    }

    /// A name that nobody finds again.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn claim_random(&self) -> Result<Claim, getrandom::Error> {
        loop {
            if let Some(claim) = self.claim(StagingName::random()?) {
                return Ok(claim);
            }
        }
    }

    /// For a change of what names stand for.
    pub fn change(&self) -> RwLockReadGuard<'_, ()> {
        let turn = &self.settings.claims.0.turn;
        turn.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While nobody changes what names stand for; `None` while somebody does. Nobody is made to wait for it.
    pub fn nobody_changes(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.settings.claims.0.turn.try_write() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// For a change of what `paths` stand for, as the server is asked for them. It waits while the gateway gives another file
    /// one of them.
    pub async fn changing(&self, paths: &[&[u8]]) -> Changing {
        self.settings.claims.0.watch.changing(paths).await
    }

    /// Watches a path for such changes.
    ///
    /// # Errors
    /// If those that have begun don't come to their end.
    pub async fn watch(&self, path: &[u8]) -> Result<Watched, WatchError> {
        self.settings.claims.0.watch.watched(path).await
    }

    /// True while an upload has the name.
    pub fn is_in_use(&self, name: &StagingName) -> bool {
        self.settings.claims.names().contains(name)
    }
}

/// The staging names of one session in one mount.
#[derive(Debug, Clone)]
pub struct SessionNames {
    names: StagingNames,
    owner: Owner,
    directory: Vec<u8>,
}

impl SessionNames {
    /// The names of the whole backend.
    pub fn all(&self) -> &StagingNames {
        &self.names
    }

    /// The one name under which an upload to `path` can be found again, by sessions of the same owner in a mount of the
    /// same directory. `None` if uploads can't be resumed.
    pub fn resumable(&self, path: &RelativePath) -> Option<StagingName> {
        let settings = &self.names.settings;
        let mut digest = Sha256::new();
        for part in [
            settings.node.as_bytes(),
            &*self.names.era,
            self.owner.as_bytes(),
            &self.directory,
            path.as_bytes(),
        ] {
            // With its length, so that no two lists of parts are the same bytes.
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
        let digest = digest.finalize();
        let distinct = digest.get(..DISTINCT_BYTES)?;
        let resume = settings.may_resume && self.owner.resume().unwrap_or(settings.resume);
        resume.then(|| StagingName::with(distinct))
    }

    /// As [`SessionNames::resumable`], if no upload is under way under that name: what stands there was interrupted.
    pub fn interrupted(&self, path: &RelativePath) -> Option<StagingName> {
        self.resumable(path)
            .filter(|name| !self.names.is_in_use(name))
    }
}

impl Claim {
    pub fn name(&self) -> &StagingName {
        &self.name
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.names().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend::staging::is_reserved, path::VirtualPath};

    fn path(name: &str) -> RelativePath {
        let path = VirtualPath::clean(name.as_bytes()).unwrap();
        path.below(&VirtualPath::root()).unwrap()
    }

    #[test]
    fn a_staging_name_is_reserved_unique_and_beside_the_published_file() {
        let (one, two) = (
            StagingName::random().unwrap(),
            StagingName::random().unwrap(),
        );
        assert_ne!(one, two);
        assert!(is_reserved(one.as_bytes()) && StagingName::matches(one.as_bytes()));
        assert!(
            VirtualPath::clean(one.as_bytes()).is_err(),
            "no client can name it"
        );
        assert_eq!(
            one.beside(&path("/in/a.csv")).as_bytes(),
            [b"in/", one.as_bytes()].concat()
        );
        for near in [
            &b".portcullis-.part"[..],
            b".portcullis-0123456789abcdeg.part",
            b"portcullis-0123456789abcdef.part",
            b".portcullis-0123456789abcdef.par",
        ] {
            assert!(!StagingName::matches(near));
        }
    }

    #[test]
    fn an_upload_is_found_again_by_its_owner_path_mount_node_and_era_and_by_nothing_less() {
        let named = |node: &str, era: &[u8], owner: &str, directory: &[u8], name: &str| {
            let settings = UploadSettings {
                node: node.to_owned(),
                ..UploadSettings::default()
            };
            let owner = Owner::new(owner.as_bytes());
            StagingNames::new(settings, era)
                .session(&owner, directory)
                .resumable(&path(name))
                .unwrap()
        };
        let one = named("n", b"e", "o", b"d", "/p");
        assert_eq!(one, named("n", b"e", "o", b"d", "/p"));
        assert!(StagingName::matches(one.as_bytes()));
        for other in [
            named("m", b"e", "o", b"d", "/p"),
            named("n", b"f", "o", b"d", "/p"),
            named("n", b"e", "q", b"d", "/p"),
            named("n", b"e", "o", b"c", "/p"),
            named("n", b"e", "o", b"d", "/q"),
            named("n", b"e", "od", b"", "/p"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_name_belongs_to_one_upload_at_a_time() {
        let names = StagingNames::new(UploadSettings::default(), b"");
        let name = StagingName::random().unwrap();
        let claim = names.claim(name.clone()).unwrap();
        assert!(names.clone().claim(name.clone()).is_none());
        assert!(names.is_in_use(claim.name()));
        drop(claim);
        assert!(!names.is_in_use(&name) && names.claim(name).is_some());
    }

    #[test]
    fn services_that_share_claims_keep_off_each_others_uploads_and_others_do_not() {
        let settings = UploadSettings::default();
        let (one, other) = (
            StagingNames::new(settings.clone(), b""),
            StagingNames::new(settings, b""),
        );
        let elsewhere = StagingNames::new(UploadSettings::default(), b"");
        let owner = Owner::new(*b"o");
        let name = one.session(&owner, b"").resumable(&path("/p")).unwrap();
        let _claim = one.claim(name.clone()).unwrap();
        assert!(other.claim(name.clone()).is_none());
        assert_eq!(other.session(&owner, b"").interrupted(&path("/p")), None);
        assert!(elsewhere.claim(name).is_some());
    }

    #[test]
    fn a_mount_may_have_it_otherwise_than_its_backend_unless_the_backend_can_not() {
        let found = |resume, may_resume, asked| {
            let settings = UploadSettings {
                resume,
                may_resume,
                ..UploadSettings::default()
            };
            let owner = Owner::new(*b"o").resuming(asked);
            let names = StagingNames::new(settings, b"").session(&owner, b"");
            names.resumable(&path("/p")).is_some()
        };
        assert!(found(true, true, None) && !found(true, true, Some(false)));
        assert!(!found(false, true, None) && found(false, true, Some(true)));
        assert!(!found(true, false, Some(true)));
    }

    #[test]
    fn without_resume_no_name_is_found_again() {
        let settings = UploadSettings {
            resume: false,
            ..UploadSettings::default()
        };
        let names = StagingNames::new(settings, b"");
        let names = names.session(&Owner::new(*b"o"), b"");
        assert_eq!(names.resumable(&path("/p")), None);
    }
}
