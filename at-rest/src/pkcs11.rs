//! Key-encryption keys that stay in a PKCS#11 token: the token wraps and unwraps by AES-256-GCM, and nobody ever sees the key.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11},
    error::{Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use zeroize::Zeroizing;

use crate::{
    DataKey,
    kek::{KekError, KekId, KeyEncryptionKey, NONCE, WRAPPED},
    key_file::{Destroyed, KeyFileError, read_secret},
};

const TAG_BITS: u64 = 128;
const ID_DOMAIN: &[u8] = b"portcullis at-rest token key v1";

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKey {
    /// The shared library of the token's maker.
    pub module: PathBuf,
    pub token_label: String,
    pub key_label: String,
    /// A file with the user's PIN in one line; its rights are those of a key file.
    pub pin_file: PathBuf,
}

/// Why a token's key can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    #[error("the PKCS#11 module {} can't be loaded", .module.display())]
    Module { module: PathBuf, source: Error },
    #[error("the PKCS#11 module {} has no token {label:?}; it has {found:?}", .module.display())]
    NoToken {
        module: PathBuf,
        label: String,
        found: Vec<String>,
    },
    #[error("more than one token is named {label:?}; give one of them another label")]
    SeveralTokens { label: String },
    #[error("the PIN can't be read")]
    Pin(#[source] KeyFileError),
    #[error("{} holds no PIN in UTF-8", .0.display())]
    NotAPin(PathBuf),
    #[error("the token {label:?} refuses the PIN in {}", .pin_file.display())]
    Login {
        label: String,
        pin_file: PathBuf,
        source: Error,
    },
    #[error(
        "the token {label:?} has refused the PIN in {}, which is not tried again: put the right one there", .pin_file.display()
    )]
    Refused { label: String, pin_file: PathBuf },
    #[error("the token {token:?} has no secret key {key:?}")]
    NoKey { token: String, key: String },
    #[error(
        "the token {token:?} has more than one secret key {key:?}; give one of them another label"
    )]
    SeveralKeys { token: String, key: String },
    #[error("the key {key:?} is not an AES key of 256 bits that encrypts and decrypts")]
    NotAes256 { key: String },
    #[error(
        "the key {key:?} can leave its token; make one with CKA_SENSITIVE true and CKA_EXTRACTABLE false"
    )]
    Extractable { key: String },
    #[error("the token says that it destroyed the key {key:?}, and still has it")]
    StillThere { key: String },
    #[error("the token failed to {what}")]
    Failed { what: &'static str, source: Error },
}

/// A key in a token. One call at a time goes to the token; a session that ended, because the token was taken out or its
/// module began anew, is opened again.
pub struct TokenKek {
    place: TokenKey,
    id: KekId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// SHA-256 of a PIN that was wrong: after a few more the token would be locked.
    refused: Option<[u8; 32]>,
}

struct Open {
    session: Session,
    key: ObjectHandle,
    /// Of the module, in which the two numbers have their meaning.
    run: u64,
}

impl fmt::Debug for TokenKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TokenKey {
            token_label,
            key_label,
            ..
        } = &self.place;
        write!(
            f,
            "TokenKek({} is {key_label:?} of {token_label:?})",
            self.id
        )
    }
}

impl TokenKek {
    /// Logs in and looks at the key.
    ///
    /// # Errors
    /// If there is no such token or key, or the key is not one that stays there.
    pub fn open(place: TokenKey) -> Result<Self, TokenError> {
        let mut state = State::default();
        let id = place.open(&mut state)?;
        Ok(Self {
            place,
            id,
            state: Mutex::new(state),
        })
    }

    /// Does `work` on an open session, and once more on a new one if an old one has ended.
    fn with<T>(&self, work: impl Fn(&Open) -> Result<T, Error>) -> Result<T, KekError> {
        // A panic meanwhile leaves a session that is tried and, if it fails, replaced.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let module = Module::at(&self.place.module).map_err(token)?;
        if let Some(done) = state.try_open(&module, &work) {
            return done;
        }
        let id = self.place.open(&mut state).map_err(token)?;
        if id != self.id {
            state.open = None;
            return Err(KekError::Token(format!(
                "the key {:?} of the token {:?} is another one than at the start",
                self.place.key_label, self.place.token_label
            )));
        }
        let run = module.run();
        let open = match state.open.take() {
            Some(open) if open.run == *run => open,
            stale => {
                std::mem::forget(stale);
                return Err(KekError::Token(
                    "its module was begun anew meanwhile".to_owned(),
                ));
            }
        };
        match work(&open) {
            Ok(done) => {
                state.open = Some(open);
                Ok(done)
            }
            Err(error) if is_refusal(&error) || (is_decryption(&error) && open.works()) => {
                Err(KekError::NotAuthentic)
            }
            Err(source) => Err(token(TokenError::Failed {
                what: "do its work",
                source,
            })),
        }
    }
}

impl State {
    /// `None` unless the session that is open does it.
    fn try_open<T>(
        &mut self,
        module: &Module,
        work: impl Fn(&Open) -> Result<T, Error>,
    ) -> Option<Result<T, KekError>> {
        let run = module.run();
        let open = self.open.take()?;
        if open.run != *run {
            // What its number says by now is another session, which must neither be used nor closed.
            std::mem::forget(open);
            return None;
        }
        match work(&open) {
            Ok(done) => {
                self.open = Some(open);
                Some(Ok(done))
            }
            Err(error) if is_refusal(&error) => Some(Err(KekError::NotAuthentic)),
            // It may have ended: what it was in the middle of goes with it.
            Err(_) => None,
        }
    }
}

impl Open {
    /// True if the token decrypts what it has just encrypted: then what it did not decrypt was not its own.
    fn works(&self) -> bool {
        const PROBE: &[u8] = b"portcullis at-rest token probe";
        let mut nonce = [0; NONCE];
        if getrandom::fill(&mut nonce).is_err() {
            return false;
        }
        let mut again = nonce;
        let mut probe = || {
            let mechanism = Mechanism::AesGcm(gcm(&mut nonce, PROBE)?);
            let sealed = self.session.encrypt(&mechanism, self.key, PROBE)?;
            let mechanism = Mechanism::AesGcm(gcm(&mut again, PROBE)?);
            self.session.decrypt(&mechanism, self.key, &sealed)
        };
        probe().is_ok_and(|found| found == PROBE)
    }
}

impl KeyEncryptionKey for TokenKek {
    fn id(&self) -> KekId {
        self.id
    }

    fn waits(&self) -> bool {
        true
    }

    fn wrap(&self, key: &DataKey, context: &[u8]) -> Result<[u8; WRAPPED], KekError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| KekError::NoRandomness)?;
        let sealed = self.with(|open| {
            // The module may write to its copy.
            let mut used = nonce;
            let parameters = gcm(&mut used, context)?;
            let sealed =
                open.session
                    .encrypt(&Mechanism::AesGcm(parameters), open.key, key.as_bytes())?;
            if used == nonce {
                Ok(sealed)
            } else {
                Err(Error::InvalidValue)
            }
        })?;
        [&nonce[..], &sealed]
            .concat()
            .try_into()
            .map_err(|_| KekError::Token("it gives wraps of another length".to_owned()))
    }

    fn unwrap(&self, wrapped: &[u8; WRAPPED], context: &[u8]) -> Result<DataKey, KekError> {
        let (nonce, sealed) = wrapped.split_at(NONCE);
        let key = self.with(|open| {
            let mut nonce = nonce.to_vec();
            let parameters = gcm(&mut nonce, context)?;
            open.session
                .decrypt(&Mechanism::AesGcm(parameters), open.key, sealed)
                .map(Zeroizing::new)
        })?;
        DataKey::from_bytes(&key).ok_or(KekError::NotAuthentic)
    }
}

fn gcm<'a>(nonce: &'a mut [u8], context: &'a [u8]) -> Result<GcmParams<'a>, Error> {
    GcmParams::new(nonce, context, TAG_BITS.into())
}

/// What the standard gives for a tag that does not fit.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange,
            _
        )
    )
}

/// Modules differ in what they say about a tag that does not fit; SoftHSM calls it a general error.
fn is_decryption(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(_, Function::Decrypt))
}

fn token(error: TokenError) -> KekError {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text.push_str(&format!(": {source}"));
    }
    KekError::Token(text)
}

fn failed(what: &'static str) -> impl Fn(Error) -> TokenError {
    move |source| TokenError::Failed { what, source }
}

/// A module is one per process, whoever uses it.
struct Module {
    client: Pkcs11,
    /// Counts how often it was begun. Held while it is used: it must not end meanwhile.
    run: RwLock<u64>,
    /// When it was last begun anew.
    begun: Mutex<Option<Instant>>,
}

/// Time between two beginnings of a module: others that use it lose their sessions each time.
const PAUSE: Duration = Duration::from_secs(2);

impl Module {
    fn at(path: &Path) -> Result<Arc<Self>, TokenError> {
        static LOADED: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let error = |source| TokenError::Module {
            module: path.to_owned(),
            source,
        };
        let module = match loaded.get(path) {
            Some(module) => Arc::clone(module),
            None => {
                let module = Arc::new(Self {
                    client: Pkcs11::new(path).map_err(error)?,
                    run: RwLock::new(0),
                    begun: Mutex::default(),
                });
                loaded.insert(path.to_owned(), Arc::clone(&module));
                module
            }
        };
        module.begin().map_err(error)?;
        Ok(module)
    }

    fn begin(&self) -> Result<(), Error> {
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match self.client.initialize(arguments) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
            Err(source) => Err(source),
        }
    }

    fn run(&self) -> RwLockReadGuard<'_, u64> {
        self.run.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some look for tokens when they begin, and never again. False if it was not begun anew, since it is in use or was
    /// a moment ago.
    fn begin_anew(&self) -> bool {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(mut run) = self.run.try_write() else {
            return false;
        };
        if begun.is_some_and(|begun| begun.elapsed() < PAUSE) {
            return false;
        }
        *begun = Some(Instant::now());
        *run += 1;
        // Whatever it says, its sessions count as ended.
        let _ = self.client.clone().finalize();
        self.begin().is_ok()
    }
}

impl TokenKey {
    /// Opens a session, and begins the module anew if there is no such token or key.
    fn open(&self, state: &mut State) -> Result<KekId, TokenError> {
        let module = Module::at(&self.module)?;
        match self.open_in(&module, state) {
            Err(
                TokenError::NoToken { .. } | TokenError::NoKey { .. } | TokenError::Failed { .. },
            ) if module.begin_anew() => self.open_in(&module, state),
            opened => opened,
        }
    }

    /// A PIN is not tried that was refused.
    fn open_in(&self, module: &Module, state: &mut State) -> Result<KekId, TokenError> {
        let run = module.run();
        let refused = &mut state.refused;
        let (slot, serial) = self.slot(&module.client)?;
        let session = module
            .client
            .open_ro_session(slot)
            .map_err(failed("open a session"))?;
        self.log_in(&session, refused)?;
        let (key, id) = self.key(&session, &serial)?;
        state.open = Some(Open {
            session,
            key,
            run: *run,
        });
        Ok(id)
    }

    /// Destroys the key of that id in the token.
    ///
    /// # Errors
    /// If there is no such token, or it refuses.
    pub fn destroy(&self, id: KekId) -> Result<Destroyed, TokenError> {
        let module = Module::at(&self.module)?;
        let _run = module.run();
        let (slot, serial) = self.slot(&module.client)?;
        let session = module
            .client
            .open_rw_session(slot)
            .map_err(failed("open a session that writes"))?;
        self.log_in(&session, &mut None)?;
        let look = || match self.key(&session, &serial) {
            Ok((key, found)) if found == id => Ok(Ok(key)),
            Ok(_) => Ok(Err(Destroyed::Other)),
            Err(TokenError::NoKey { .. }) => Ok(Err(Destroyed::Gone)),
            Err(error) => Err(error),
        };
        let key = match look()? {
            Ok(key) => key,
            Err(destroyed) => return Ok(destroyed),
        };
        session
            .destroy_object(key)
            .map_err(failed("destroy the key"))?;
        match look()? {
            Ok(_) => Err(TokenError::StillThere {
                key: self.key_label.clone(),
            }),
            Err(destroyed) => Ok(destroyed),
        }
    }

    fn log_in(&self, session: &Session, refused: &mut Option<[u8; 32]>) -> Result<(), TokenError> {
        let (pin, digest) = self.pin()?;
        if *refused == Some(digest) {
            return Err(TokenError::Refused {
                label: self.token_label.clone(),
                pin_file: self.pin_file.clone(),
            });
        }
        match session.login(UserType::User, Some(&pin)) {
            // Being logged in is the token's state, not the session's.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                *refused = None;
                Ok(())
            }
            Err(source) => {
                if matches!(source, Error::Pkcs11(RvError::PinIncorrect, _)) {
                    *refused = Some(digest);
                }
                Err(TokenError::Login {
                    label: self.token_label.clone(),
                    pin_file: self.pin_file.clone(),
                    source,
                })
            }
        }
    }

    fn slot(&self, module: &Pkcs11) -> Result<(Slot, String), TokenError> {
        let slots = module
            .get_slots_with_initialized_token()
            .map_err(failed("list its slots"))?;
        let mut labels = Vec::new();
        let mut found = None;
        for slot in slots {
            let token = module
                .get_token_info(slot)
                .map_err(failed("say what it is"))?;
            if token.label() != self.token_label {
                labels.push(token.label().to_owned());
            } else if found.is_some() {
                return Err(TokenError::SeveralTokens {
                    label: self.token_label.clone(),
                });
            } else {
                found = Some((slot, token.serial_number().to_owned()));
            }
        }
        found.ok_or_else(|| TokenError::NoToken {
            module: self.module.clone(),
            label: self.token_label.clone(),
            found: labels,
        })
    }

    /// With its SHA-256.
    fn pin(&self) -> Result<(AuthPin, [u8; 32]), TokenError> {
        let text = read_secret(&self.pin_file).map_err(TokenError::Pin)?;
        let pin = std::str::from_utf8(text.trim_ascii())
            .ok()
            .filter(|pin| !pin.is_empty())
            .ok_or_else(|| TokenError::NotAPin(self.pin_file.clone()))?;
        let mut digest = [0; 32];
        let found = digest::digest(&digest::SHA256, pin.as_bytes());
        for (to, from) in digest.iter_mut().zip(found.as_ref()) {
            *to = *from;
        }
        Ok((AuthPin::new(pin.into()), digest))
    }

    fn key(&self, session: &Session, serial: &str) -> Result<(ObjectHandle, KekId), TokenError> {
        let label = self.key_label.as_bytes();
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Label(label.to_vec()),
        ];
        let found = session
            .find_objects(&template)
            .map_err(failed("look for the key"))?;
        let (token, name) = (self.token_label.clone(), self.key_label.clone());
        let key = match *found.as_slice() {
            [key] => key,
            [] => return Err(TokenError::NoKey { token, key: name }),
            [..] => return Err(TokenError::SeveralKeys { token, key: name }),
        };
        let wanted = [
            AttributeType::KeyType,
            AttributeType::ValueLen,
            AttributeType::Encrypt,
            AttributeType::Decrypt,
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::Id,
        ];
        let about = session
            .get_attributes(key, &wanted)
            .map_err(failed("say what the key is"))?;
        let has = |attribute: Attribute| about.contains(&attribute);
        let is_aes = has(Attribute::KeyType(KeyType::AES))
            && has(Attribute::ValueLen(32.into()))
            && has(Attribute::Encrypt(true))
            && has(Attribute::Decrypt(true));
        if !is_aes {
            return Err(TokenError::NotAes256 { key: name });
        }
        if !has(Attribute::Sensitive(true)) || !has(Attribute::Extractable(false)) {
            return Err(TokenError::Extractable { key: name });
        }
        let cka_id = about.iter().find_map(|attribute| {
            if let Attribute::Id(id) = attribute {
                Some(id.as_slice())
            } else {
                None
            }
        });
        let id = id_of(serial, label, cka_id.unwrap_or_default());
        Ok((key, id))
    }
}

/// The first bytes of SHA-256 of the domain and each field behind its length.
fn id_of(serial: &str, label: &[u8], cka_id: &[u8]) -> KekId {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(ID_DOMAIN);
    for field in [serial.as_bytes(), label, cka_id] {
        context.update(&(field.len() as u64).to_be_bytes());
        context.update(field);
    }
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    KekId(id)
}
