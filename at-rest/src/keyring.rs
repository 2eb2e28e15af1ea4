//! The keys of one gateway.

use std::sync::Arc;

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
}

/// Why a stored file can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnwrapError {
    #[error("its key is wrapped to the key-encryption key {0}, which is not configured")]
    NoSuchKek(KekId),
    #[error("the key-encryption key {0} does not open it")]
    Kek(KekId, #[source] KekError),
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// One key that new files are wrapped to, others that still open old ones, and whom an emergency has.
#[derive(Debug, Clone)]
pub struct Keyring {
    active: Arc<dyn KeyEncryptionKey>,
    retired: Vec<Arc<dyn KeyEncryptionKey>>,
    escrow: Option<Recipient>,
}

impl Keyring {
    pub fn new(
        active: Arc<dyn KeyEncryptionKey>,
        retired: Vec<Arc<dyn KeyEncryptionKey>>,
        escrow: Option<Recipient>,
    ) -> Self {
        Self {
            active,
            retired,
            escrow,
        }
    }

    /// What new files are wrapped to.
    pub fn active(&self) -> Arc<dyn KeyEncryptionKey> {
        Arc::clone(&self.active)
    }

    /// Those that only open what was wrapped to them before.
    pub fn retired(&self) -> impl Iterator<Item = KekId> + '_ {
        self.retired.iter().map(|kek| kek.id())
    }

    /// True if [`create`](Self::create) may have to wait for a device.
    pub fn waits_to_create(&self) -> bool {
        self.active.waits()
    }

    /// True if [`unwrap`](Self::unwrap) may have to wait for a device.
    pub fn waits_to_unwrap(&self, head: &Head) -> bool {
        self.of(head.kek()).is_some_and(|kek| kek.waits())
    }

    fn of(&self, id: KekId) -> Option<&Arc<dyn KeyEncryptionKey>> {
        std::iter::once(&self.active)
            .chain(&self.retired)
            .find(|kek| kek.id() == id)
    }

    /// A new file's key and head.
    ///
    /// # Errors
    /// If there is no randomness, or a key fails.
    pub fn create(&self, realm: &Realm) -> Result<(DataKey, Head), WrapError> {
        let key = DataKey::random().map_err(|_| WrapError::NoRandomness)?;
        let object = ObjectId::random().map_err(|_| WrapError::NoRandomness)?;
        let head = self.wrap(&key, object, *realm)?;
        Ok((key, head))
    }

    /// The key of a file that belongs to `realm`.
    ///
    /// # Errors
    /// If the key that it is wrapped to is not here, or the head is not as it was made.
    pub fn unwrap(&self, head: &Head, realm: &Realm) -> Result<DataKey, UnwrapError> {
        if head.realm() != *realm {
            return Err(HeadError::OtherRealm.into());
        }
        let id = head.kek();
        let kek = self.of(id).ok_or(UnwrapError::NoSuchKek(id))?;
        let key = kek
            .unwrap(head.wrapped(), &head.context())
            .map_err(|error| UnwrapError::Kek(id, error))?;
        head.authenticate(&key)?;
        Ok(key)
    }

    /// True unless new files get other wraps than this one has.
    pub fn is_current(&self, head: &Head) -> bool {
        head.kek() == self.active.id()
            && head.escrow().map(|(id, _)| id) == self.escrow.as_ref().map(Recipient::id)
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
        let wrapped = self
            .active
            .wrap(key, &context)
            .map_err(|error| WrapError::Kek(self.active.id(), error))?;
        let escrow = match &self.escrow {
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
            self.active.id(),
            &wrapped,
            escrow,
        ))
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
