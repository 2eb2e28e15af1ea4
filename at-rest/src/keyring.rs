//! The keys of one gateway.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

use crate::{
    DataKey,
    escrow::{EscrowError, Recipient},
    head::{Head, HeadError, ObjectId, Realm},
    kek::{KekError, KekId, KeyEncryptionKey},
};

/// Why the key of a new file was not wrapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrapError {
    #[error("the system has no randomness to give")]
    NoRandomness,
    #[error("the key-encryption key {0} failed")]
    Kek(KekId, #[source] KekError),
    #[error("the escrow recipient failed")]
    Escrow(#[source] EscrowError),
    #[error("{0}")]
    Destroyed(Arc<str>),
}

/// Why a stored file can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnwrapError {
    #[error("its key is wrapped to the key-encryption key {0}, which is not configured")]
    NoSuchKek(KekId),
    #[error("the key-encryption key {0} does not open it")]
    Kek(KekId, #[source] KekError),
    #[error("{0}")]
    Destroyed(Arc<str>),
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// What holds keys that a ring has opened, and has to wipe them when the ring is destroyed.
pub trait Holder: Send + Sync {
    fn wipe(&self);
}

/// One key that new files are wrapped to, others that still open old ones, and whom an emergency has. Clones are the same ring.
#[derive(Clone)]
pub struct Keyring(Arc<Ring>);

struct Ring {
    active: KekId,
    retired: Vec<KekId>,
    state: RwLock<State>,
    /// Keys of others that were destroyed, and what is on record of it.
    destroyed: Vec<(KekId, Arc<str>)>,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

enum State {
    Whole(Keys),
    /// What is on record of it.
    Destroyed(Arc<str>),
}

struct Keys {
    active: Arc<dyn KeyEncryptionKey>,
    retired: Vec<Arc<dyn KeyEncryptionKey>>,
    escrow: Option<Recipient>,
}

/// All of this process.
static RINGS: Mutex<Vec<Weak<Ring>>> = Mutex::new(Vec::new());

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("active", &self.0.active)
            .field("retired", &self.0.retired)
            .field("is_destroyed", &self.is_destroyed())
            .finish_non_exhaustive()
    }
}

impl Keyring {
    pub fn new(
        active: Arc<dyn KeyEncryptionKey>,
        retired: Vec<Arc<dyn KeyEncryptionKey>>,
        escrow: Option<Recipient>,
    ) -> Self {
        Self::knowing(active, retired, escrow, Vec::new())
    }

    /// As [`new`](Self::new); files of the keys in `destroyed` are known to be lost, and what is on record of it is said.
    pub fn knowing(
        active: Arc<dyn KeyEncryptionKey>,
        retired: Vec<Arc<dyn KeyEncryptionKey>>,
        escrow: Option<Recipient>,
        destroyed: Vec<(KekId, Arc<str>)>,
    ) -> Self {
        let ring = Ring {
            active: active.id(),
            retired: retired.iter().map(|kek| kek.id()).collect(),
            state: RwLock::new(State::Whole(Keys {
                active,
                retired,
                escrow,
            })),
            destroyed,
            holders: Mutex::default(),
        };
        Self::registered(ring)
    }

    /// One whose keys were destroyed before; `record` is what is on record of it.
    pub fn lost(active: KekId, retired: Vec<KekId>, record: Arc<str>) -> Self {
        Self::registered(Ring {
            active,
            retired,
            state: RwLock::new(State::Destroyed(record)),
            destroyed: Vec::new(),
            holders: Mutex::default(),
        })
    }

    fn registered(ring: Ring) -> Self {
        let ring = Arc::new(ring);
        let mut rings = RINGS.lock().unwrap_or_else(PoisonError::into_inner);
        rings.retain(|ring| ring.strong_count() > 0);
        rings.push(Arc::downgrade(&ring));
        Self(ring)
    }

    /// Wipes the keys of every ring of this process whose active key is one of these, and what was opened with them. `record` is
    /// what is on record of it.
    pub fn destroy(active: &[KekId], record: &Arc<str>) {
        let rings: Vec<_> = {
            let rings = RINGS.lock().unwrap_or_else(PoisonError::into_inner);
            rings.iter().filter_map(Weak::upgrade).collect()
        };
        for ring in rings.iter().filter(|ring| active.contains(&ring.active)) {
            ring.destroy(record);
        }
    }

    /// What new files are wrapped to.
    pub fn active(&self) -> KekId {
        self.0.active
    }

    /// Those that only open what was wrapped to them before.
    pub fn retired(&self) -> impl Iterator<Item = KekId> + '_ {
        self.0.retired.iter().copied()
    }

    pub fn is_destroyed(&self) -> bool {
        self.record().is_some()
    }

    /// What is on record of its destruction.
    pub fn record(&self) -> Option<Arc<str>> {
        match &*self.0.state() {
            State::Whole(_) => None,
            State::Destroyed(record) => Some(Arc::clone(record)),
        }
    }

    /// Has `holder` [wiped](Holder::wipe) when the ring is destroyed; at once, if it is.
    pub fn hold(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.0.holders();
        holders.retain(|holder| holder.strong_count() > 0);
        if !self.is_destroyed() {
            holders.push(holder);
        } else if let Some(holder) = holder.upgrade() {
            holder.wipe();
        }
    }

    /// True if [`create`](Self::create) may have to wait for a device.
    pub fn waits_to_create(&self) -> bool {
        match &*self.0.state() {
            State::Whole(keys) => keys.active.waits(),
            State::Destroyed(_) => false,
        }
    }

    /// True if [`unwrap`](Self::unwrap) may have to wait for a device.
    pub fn waits_to_unwrap(&self, head: &Head) -> bool {
        self.of(head.kek()).is_ok_and(|kek| kek.waits())
    }

    fn of(&self, id: KekId) -> Result<Arc<dyn KeyEncryptionKey>, UnwrapError> {
        let is_own = self.0.active == id || self.0.retired.contains(&id);
        let kek = match &*self.0.state() {
            State::Destroyed(record) if is_own => {
                return Err(UnwrapError::Destroyed(Arc::clone(record)));
            }
            State::Destroyed(_) => None,
            State::Whole(keys) => std::iter::once(&keys.active)
                .chain(&keys.retired)
                .find(|kek| kek.id() == id)
                .map(Arc::clone),
        };
        kek.ok_or_else(|| {
            let mut destroyed = self.0.destroyed.iter();
            match destroyed.find(|(other, _)| *other == id) {
                Some((_, record)) => UnwrapError::Destroyed(Arc::clone(record)),
                None => UnwrapError::NoSuchKek(id),
            }
        })
    }

    /// A new file's key and head.
    ///
    /// # Errors
    /// If there is no randomness, a key fails, or the keys were destroyed.
    pub fn create(&self, realm: &Realm) -> Result<(DataKey, Head), WrapError> {
        let key = DataKey::random().map_err(|_| WrapError::NoRandomness)?;
        let object = ObjectId::random().map_err(|_| WrapError::NoRandomness)?;
        let head = self.wrap(&key, object, *realm)?;
        Ok((key, head))
    }

    /// The key of a file that belongs to `realm`.
    ///
    /// # Errors
    /// If the key that it is wrapped to is not here or was destroyed, or the head is not as it was made.
    pub fn unwrap(&self, head: &Head, realm: &Realm) -> Result<DataKey, UnwrapError> {
        if head.realm() != *realm {
            return Err(HeadError::OtherRealm.into());
        }
        let id = head.kek();
        let key = self
            .of(id)?
            .unwrap(head.wrapped(), &head.context())
            .map_err(|error| UnwrapError::Kek(id, error))?;
        head.authenticate(&key)?;
        Ok(key)
    }

    /// True unless new files get other wraps than this one has.
    pub fn is_current(&self, head: &Head) -> bool {
        let escrow = match &*self.0.state() {
            State::Whole(keys) => keys.escrow.as_ref().map(Recipient::id),
            State::Destroyed(_) => return true,
        };
        head.kek() == self.0.active && head.escrow().map(|(id, _)| id) == escrow
    }

    /// The same file's head, wrapped as new ones are.
    ///
    /// # Errors
    /// As [`unwrap`](Self::unwrap) for the head as it is; a key that fails.
    pub fn rewrap(&self, head: &Head, realm: &Realm) -> Result<Head, RewrapError> {
        let key = self.unwrap(head, realm)?;
        Ok(self.wrap(&key, head.object(), *realm)?)
    }

    fn wrap(&self, key: &DataKey, object: ObjectId, realm: Realm) -> Result<Head, WrapError> {
        let context = Head::context_of(object, realm);
        // A token may take its time, and a lock is not held meanwhile.
        let (active, escrow) = match &*self.0.state() {
            State::Whole(keys) => (Arc::clone(&keys.active), keys.escrow.clone()),
            State::Destroyed(record) => return Err(WrapError::Destroyed(Arc::clone(record))),
        };
        let wrapped = active
            .wrap(key, &context)
            .map_err(|error| WrapError::Kek(self.0.active, error))?;
        let escrow = match escrow {
            None => None,
            Some(recipient) => {
                let sealed = recipient.seal(key, &context).map_err(WrapError::Escrow)?;
                Some((recipient.id(), sealed))
            }
        };
        Ok(Head::new(
            key,
            object,
            realm,
            self.0.active,
            &wrapped,
            escrow,
        ))
    }
}

impl Ring {
    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn holders(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn Holder>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn destroy(&self, record: &Arc<str>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = State::Destroyed(Arc::clone(record));
        drop(state);
        let holders = std::mem::take(&mut *self.holders());
        for holder in holders.iter().filter_map(Weak::upgrade) {
            holder.wipe();
        }
    }
}

/// Why a head was not wrapped anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewrapError {
    #[error(transparent)]
    Unwrap(#[from] UnwrapError),
    #[error(transparent)]
    Wrap(#[from] WrapError),
}
