//! Cosignatures: what a witness signs of another node's log, and the keys for it (C2SP tlog-cosignature, `cosignature/v1`).
//!
//! A cosignature says: at this time, this was the largest head of the log that the witness had seen, and it continued all
//! heads that it saw before.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature as Ed25519, Signer as _, VerifyingKey};
use signed_note::{
    Note, NoteError, Signature, Signer, VerificationError, Verifier, Verifiers, is_key_name_valid,
    key_id,
};

use super::key::{KeyError, key_name, make_folder, public_key_path, random_seed, write_new};

/// Algorithm byte of timestamped Ed25519 in signed-note keys.
const COSIGNATURE: u8 = 4;
/// Bytes of the time before a signature.
const TIME: usize = 8;
const PRIVATE: &str = "PRIVATE+KEY+";

/// The public key of a witness, as whoever trusts it holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    id: u32,
    key: VerifyingKey,
}

impl std::fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WitnessKey({self})")
    }
}

/// `name+id+data`
impl std::fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let data = BASE64.encode(encoded(&self.key));
        write!(f, "{}+{:08x}+{data}", self.name, self.id)
    }
}

/// Why a text is no key of a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no verifier key of a witness (name+id+data): {0}")]
pub struct BadWitnessKey(&'static str);

impl WitnessKey {
    /// Reads a verifier key.
    ///
    /// # Errors
    /// If it is none, or one for another kind of signature.
    pub fn parse(text: &str) -> Result<Self, BadWitnessKey> {
        let (name, id, data) = three_parts(text).ok_or(BadWitnessKey("a part is missing"))?;
        if data.first() == Some(&1) {
            return Err(BadWitnessKey(
                "it is the key of a log, not that of a witness",
            ));
        }
        let key = data
            .strip_prefix(&[COSIGNATURE])
            .and_then(|key| VerifyingKey::from_bytes(key.try_into().ok()?).ok())
            .ok_or(BadWitnessKey("it is not of the kind 0x04"))?;
        if id != key_id(name, &data) {
            return Err(BadWitnessKey("its id is not that of name and key"));
        }
        Ok(Self {
            name: name.to_owned(),
            id,
            key,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Verifier for WitnessKey {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        let Some((time, signature)) = timed(signature) else {
            return false;
        };
        self.key
            .verify_strict(&message(text, time), &signature)
            .is_ok()
    }
}

/// Reads the keys of witnesses in `path`, one a line.
///
/// # Errors
/// If the file can't be read, or has none, or something else.
pub fn read_witness_keys(path: &Path) -> Result<Vec<WitnessKey>, KeyError> {
    let text = fs::read_to_string(path).map_err(|source| KeyError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut keys: Vec<WitnessKey> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        let key = WitnessKey::parse(text.trim()).map_err(|error| KeyError::NotAVerifierKey {
            path: path.to_owned(),
            line,
            why: error.to_string(),
        })?;
        // The same witness twice is one.
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(KeyError::NoVerifierKey {
            path: path.to_owned(),
        });
    }
    Ok(keys)
}

/// Signs what a witness has seen.
pub struct CosigningKey {
    key: ed25519_dalek::SigningKey,
    public: WitnessKey,
}

impl std::fmt::Debug for CosigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CosigningKey({}, <secret>)", self.public.name)
    }
}

impl CosigningKey {
    /// Reads the key in `path`, or makes one for `name`. The public key is kept beside it, in `<path>.pub`.
    ///
    /// # Errors
    /// If the file is something else, or can't be read or written.
    pub fn open(path: &Path, name: &str) -> Result<Self, KeyError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(text.trim()).map_err(|why| KeyError::NotASigningKey {
                path: path.to_owned(),
                why: why.to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::generate(path, name),
            Err(source) => Err(KeyError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn generate(path: &Path, name: &str) -> Result<Self, KeyError> {
        let made = Self::of(&key_name(name), random_seed()?);
        let failed = |path: &Path| {
            let path: PathBuf = path.to_owned();
            move |source| KeyError::Write { path, source }
        };
        make_folder(path)?;
        // The public key first: a signing key without it would be used, but never handed out.
        let public = public_key_path(path);
        write_new(&public, &made.public.to_string(), 0o644).map_err(failed(&public))?;
        let data = BASE64.encode([&[COSIGNATURE], made.key.as_bytes().as_slice()].concat());
        let text = format!(
            "{PRIVATE}{}+{:08x}+{data}",
            made.public.name, made.public.id
        );
        write_new(path, &text, 0o600).map_err(failed(path))?;
        Ok(made)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text
            .strip_prefix(PRIVATE)
            .ok_or("it does not begin with PRIVATE+KEY+")?;
        let (name, id, data) = three_parts(text).ok_or("a part is missing")?;
        let seed = data
            .strip_prefix(&[COSIGNATURE])
            .and_then(|seed| seed.try_into().ok())
            .ok_or("it is not the key of a witness")?;
        let key = Self::of(name, seed);
        (key.public.id == id)
            .then_some(key)
            .ok_or("its id is not that of name and key")
    }

    fn of(name: &str, seed: [u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        let public = key.verifying_key();
        Self {
            key,
            public: WitnessKey {
                name: name.to_owned(),
                id: key_id(name, &encoded(&public)),
                key: public,
            },
        }
    }

    /// What others need to check its cosignatures.
    pub fn public(&self) -> &WitnessKey {
        &self.public
    }

    /// Adds the cosignature of this moment, in seconds since 1970, to a note; gives its line too.
    pub(crate) fn cosign(&self, note: &mut Note, time: u64) -> Option<Vec<u8>> {
        let signer = Now { key: self, time };
        let signature = signer.sign(note.text()).ok()?;
        let signature = Signature::new(self.public.name.clone(), self.public.id, signature).ok()?;
        note.add_sigs(&[&signer]).ok()?;
        Some(signature.to_bytes())
    }
}

/// A key at one moment.
struct Now<'a> {
    key: &'a CosigningKey,
    time: u64,
}

impl Signer for Now<'_> {
    fn name(&self) -> &str {
        &self.key.public.name
    }

    fn key_id(&self) -> u32 {
        self.key.public.id
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        let signature = self.key.key.try_sign(&message(text, self.time))?;
        Ok([self.time.to_be_bytes().as_slice(), &signature.to_bytes()].concat())
    }
}

/// A cosignature that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosigned {
    /// Which of the keys.
    pub witness: usize,
    /// When, in seconds since 1970.
    pub time: u64,
}

/// A witness's name stands under something that it did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} did not sign this")]
pub struct FalseCosignature {
    pub name: String,
}

/// The cosignatures under a note by witnesses in `keys`; those of others count for nothing.
///
/// # Errors
/// If one of them is not what the witness signed.
pub fn cosignatures(note: &[u8], keys: &[WitnessKey]) -> Result<Vec<Cosigned>, FalseCosignature> {
    let Ok(note) = Note::from_bytes(note) else {
        return Ok(Vec::new());
    };
    let good = match note.verify(&Witnesses(keys)) {
        Ok((good, _)) => good,
        Err(NoteError::InvalidSignature { name, .. }) => return Err(FalseCosignature { name }),
        Err(_) => return Ok(Vec::new()),
    };
    let good = good.iter().filter_map(|signature| {
        Some(Cosigned {
            witness: keys
                .iter()
                .position(|key| key.name == signature.name() && key.id == signature.id())?,
            time: timed(signature.signature())?.0,
        })
    });
    Ok(good.collect())
}

/// The note with the cosignature of a witness below it, out of the witness's answer; and its time. What else the answer has is
/// left out. `None` if the witness did not cosign the note.
#[must_use]
pub fn with_answer(note: &[u8], answer: &[u8], witness: &WitnessKey) -> Option<(Vec<u8>, u64)> {
    let answered = Note::from_bytes(&[note, answer].concat()).ok()?;
    let (good, _) = answered
        .verify(&Witnesses(std::slice::from_ref(witness)))
        .ok()?;
    let cosignature = good.first()?;
    let time = timed(cosignature.signature())?.0;
    Some(([note, &cosignature.to_bytes()].concat(), time))
}

struct Witnesses<'a>(&'a [WitnessKey]);

impl Verifiers for Witnesses<'_> {
    fn verifier(&self, name: &str, id: u32) -> Result<&dyn Verifier, VerificationError> {
        self.0
            .iter()
            .find(|key| key.name == name && key.id == id)
            .map(|key| key as &dyn Verifier)
            .ok_or_else(|| VerificationError::UnknownKey {
                name: name.to_owned(),
                id,
            })
    }
}

/// What is signed: two lines, and the text of the note.
fn message(text: &[u8], time: u64) -> Vec<u8> {
    let mut message = format!("cosignature/v1\ntime {time}\n").into_bytes();
    message.extend_from_slice(text);
    message
}

/// Time and signature; 0 is no time, and what is above 2^63 - 1 is none either.
fn timed(signature: &[u8]) -> Option<(u64, Ed25519)> {
    let (time, signature) = signature.split_at_checked(TIME)?;
    let time = u64::from_be_bytes(time.try_into().ok()?);
    let is_time = time > 0 && i64::try_from(time).is_ok();
    is_time.then_some((time, Ed25519::from_slice(signature).ok()?))
}

fn encoded(key: &VerifyingKey) -> Vec<u8> {
    [&[COSIGNATURE], key.as_bytes().as_slice()].concat()
}

fn three_parts(text: &str) -> Option<(&str, u32, Vec<u8>)> {
    let mut parts = text.splitn(3, '+');
    let (name, id, data) = (parts.next()?, parts.next()?, parts.next()?);
    let is_id = id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u32::from_str_radix(id, 16).ok().filter(|_| is_id)?;
    is_key_name_valid(name).then_some((name, id, BASE64.decode(data).ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TEXT: &[u8] = b"gw1\n2\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    fn witness(name: &str) -> CosigningKey {
        let folder = tempfile::tempdir().unwrap();
        CosigningKey::open(&folder.path().join("key"), name).unwrap()
    }

    fn cosigned(key: &CosigningKey, time: u64) -> Vec<u8> {
        let mut note = Note::new(TEXT, &[]).unwrap();
        key.cosign(&mut note, time).unwrap();
        note.to_bytes()
    }

    #[test]
    fn a_cosignature_is_right_with_its_text_its_time_and_its_key_only() {
        let (one, other) = (witness("w1"), witness("w1"));
        let keys = [other.public().clone(), one.public().clone()];
        let note = cosigned(&one, 1_679_315_147);
        let right = Cosigned {
            witness: 1,
            time: 1_679_315_147,
        };
        assert_eq!(cosignatures(&note, &keys), Ok(vec![right]));
        assert_eq!(cosignatures(&note, &keys[..1]), Ok(vec![]));
        let text = String::from_utf8(note.clone()).unwrap();
        let edited = text.replacen("\n2\n", "\n3\n", 1);
        assert!(cosignatures(edited.as_bytes(), &keys).is_err());
        // The time stands at the ninth to sixteenth byte of what is encoded.
        let at = text.rfind(' ').unwrap() + 1;
        let mut bytes = BASE64.decode(text[at..].trim()).unwrap();
        bytes[11] ^= 1;
        let other_time = format!("{}{}\n", &text[..at], BASE64.encode(bytes));
        assert!(cosignatures(other_time.as_bytes(), &keys).is_err());
    }

    #[test]
    fn the_line_is_that_of_the_specification() {
        let key = CosigningKey::of("w.example/1", [7; 32]);
        let mut note = Note::new(TEXT, &[]).unwrap();
        let line = key.cosign(&mut note, 5).unwrap();
        let line = String::from_utf8(line).unwrap();
        let data = line.strip_prefix("\u{2014} w.example/1 ").unwrap();
        let data = BASE64.decode(data.strip_suffix('\n').unwrap()).unwrap();
        let (id, rest) = data.split_at(4);
        assert_eq!(id, key.public.id.to_be_bytes());
        assert_eq!(rest[..8], [0, 0, 0, 0, 0, 0, 0, 5]);
        let signed = [b"cosignature/v1\ntime 5\n", TEXT].concat();
        assert_eq!(rest[8..], key.key.sign(&signed).to_bytes());
        assert!(note.to_bytes().ends_with(line.as_bytes()));
    }

    #[test]
    fn of_an_answer_only_the_cosignature_of_the_witness_is_kept() {
        let (one, stranger) = (witness("w1"), witness("w2"));
        let mut signed = Note::new(TEXT, &[]).unwrap();
        stranger.cosign(&mut signed, 3).unwrap();
        let note = signed.to_bytes();
        let line = |key: &CosigningKey| key.cosign(&mut Note::new(TEXT, &[]).unwrap(), 9);
        let (good, other) = (line(&one).unwrap(), line(&stranger).unwrap());
        let answer = [&*other, &*good].concat();
        let (kept, time) = with_answer(&note, &answer, one.public()).unwrap();
        assert_eq!((kept, time), ([&*note, &*good].concat(), 9));
        for answer in [&*other, b"", b"text\n", b"\n"] {
            assert_eq!(with_answer(&note, answer, one.public()), None);
        }
    }

    #[test]
    fn a_cosignature_without_a_time_is_none() {
        let key = witness("w1");
        for time in [0, 1 << 63] {
            let keys = [key.public().clone()];
            assert!(cosignatures(&cosigned(&key, time), &keys).is_err());
        }
    }

    #[test]
    fn a_key_is_made_once_private_and_with_its_public_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/witness.key");
        let made = CosigningKey::open(&path, "w 1").unwrap();
        let read = CosigningKey::open(&path, "other").unwrap();
        assert_eq!(made.public(), read.public());
        assert_eq!(made.public().name(), "w-1");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let keys = read_witness_keys(&public_key_path(&path)).unwrap();
        assert_eq!(keys, [made.public().clone()]);
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }

    #[test]
    fn the_key_of_a_log_is_no_key_of_a_witness_and_damage_shows() {
        let text = witness("w1").public().to_string();
        assert!(WitnessKey::parse(&text).is_ok());
        for wrong in [
            String::new(),
            "w1".to_owned(),
            text.replacen("w1", "w2", 1),
            text[..text.len() - 4].to_owned(),
            "gw+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k".to_owned(),
        ] {
            assert!(WitnessKey::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
