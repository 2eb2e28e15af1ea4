//! Names as they lie on a backend: each component of a path for itself, by AES-SIV (RFC 5297) and in base32hex.
//!
//! One name has one stored name, in whatever directory it stands: a file is found without a look at others, and the rename of a
//! directory changes nothing below it. The key is in a [file](FILE) of the format of all others, wrapped as theirs are.

use std::fmt;

use aes_siv::{KeyInit as _, siv::Aes256Siv};
use zeroize::Zeroizing;

use crate::{
    DataKey, EXTENT_HEADER, ExtentReaders, Head, HeadError, Keyring, Layout, LayoutError,
    OpenError, Realm, SealError, Sealer, UnwrapError, WrapError,
};

/// The stored file with the key of a backend's names, at the backend's root.
pub const FILE: &[u8] = b".portcullis-names";
/// Bytes of a stored file that holds a key of names.
pub const FILE_LENGTH: usize = Head::LENGTH + EXTENT_HEADER + 32 + NamesKey::LENGTH;
/// Longest name, in bytes: stored, it has 255.
pub const LONGEST: usize = 143;

const DOMAIN: &[u8] = b"portcullis at-rest name v1";
/// Bytes by which a name is authenticated.
const TAG: usize = 16;
const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// A name of more than [`LONGEST`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the backend's names are encrypted and have up to {LONGEST} bytes; this one has {0}")]
pub struct NameTooLong(pub usize);

/// Why there is no file with a new key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    #[error("the system has no randomness to give")]
    NoRandomness,
    #[error("the key of the names can't be wrapped")]
    Wrap(#[from] WrapError),
    #[error("the key of the names can't be encrypted")]
    Seal(#[from] SealError),
}

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenNamesError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Unwrap(#[from] UnwrapError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("it holds no key of names")]
    NotAKey,
}

/// The secret. Wiped when dropped, never shown.
#[derive(Clone)]
struct NamesKey(Zeroizing<[u8; Self::LENGTH]>);

impl NamesKey {
    const LENGTH: usize = 64;
}

/// The names of one backend.
#[derive(Clone)]
pub struct Names {
    key: NamesKey,
    realm: Realm,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    /// A [file](FILE) with a new key, for the backend of `realm`.
    ///
    /// # Errors
    /// If there is no randomness, or a key fails.
    pub fn create(ring: &Keyring, realm: &Realm) -> Result<Vec<u8>, CreateError> {
        let mut secret = Zeroizing::new([0; NamesKey::LENGTH]);
        getrandom::fill(&mut *secret).map_err(|_| CreateError::NoRandomness)?;
        let (key, head) = ring.create(&realm.of_names())?;
        let mut stored = vec![head.as_bytes().to_vec()];
        let mut sealer = Sealer::new(&key, head);
        sealer.write(&*secret, &mut stored)?;
        sealer.finish(&mut stored)?;
        Ok(stored.concat())
    }

    /// By the content of the [file](FILE).
    ///
    /// # Errors
    /// If it is not the whole file, as it was made for the backend of `realm`, or of no key in `ring`.
    pub fn open(ring: &Keyring, realm: &Realm, stored: &[u8]) -> Result<Self, OpenNamesError> {
        let head = Head::parse(stored)?;
        let key = ring.unwrap(&head, &realm.of_names())?;
        Self::read(&key, head, stored)
    }

    /// As [`open`](Self::open), with the file's own key, which must be that of `head`: it says nothing of the backend.
    ///
    /// # Errors
    /// If it is not the whole file as it was made.
    pub fn read(key: &DataKey, head: Head, stored: &[u8]) -> Result<Self, OpenNamesError> {
        let realm = head.realm();
        let layout = Layout::of_stored(stored.len() as u64)?;
        if stored.len() != FILE_LENGTH {
            return Err(OpenNamesError::NotAKey);
        }
        let (header, segment) = stored
            .get(Head::LENGTH..)
            .and_then(|body| body.split_at_checked(EXTENT_HEADER))
            .ok_or(OpenNamesError::NotAKey)?;
        let reader = ExtentReaders::new(key, head, layout).extent(0, header)?;
        let mut secret = Zeroizing::new([0; NamesKey::LENGTH]);
        reader.open(&layout.last_segment(), segment, &mut secret[..])?;
        Ok(Self {
            key: NamesKey(secret),
            realm,
        })
    }

    /// The stored name of one component. It has no uppercase letters and no other signs than letters and digits.
    ///
    /// # Errors
    /// [`NameTooLong`]
    pub fn encrypt(&self, name: &[u8]) -> Result<Vec<u8>, NameTooLong> {
        let too_long = NameTooLong(name.len());
        if name.len() > LONGEST {
            return Err(too_long);
        }
        // Fails for more headers or bytes than there can be here.
        let sealed = self.cipher().encrypt(self.headers(), name);
        Ok(encode(&sealed.map_err(|_| too_long)?))
    }

    /// The name of which `stored` is the stored one; `None` if it is of none, as [`encrypt`](Self::encrypt) writes it.
    pub fn decrypt(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let sealed = decode(stored)?;
        let name = self.cipher().decrypt(self.headers(), &sealed).ok()?;
        // Whatever a former version let pass.
        let is_one = !name.is_empty()
            && !matches!(&name[..], b"." | b"..")
            && !name.contains(&0)
            && !name.contains(&b'/');
        is_one.then_some(name)
    }

    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new((&*self.key.0).into())
    }

    fn headers(&self) -> [&[u8]; 2] {
        [DOMAIN, self.realm.as_bytes()]
    }
}

/// True for what has the form of a stored name; whether it is one, only the key tells.
pub fn resembles_one(name: &[u8]) -> bool {
    decode(name).is_some_and(|sealed| sealed.len() > TAG)
}

/// In base32hex (RFC 4648) with lowercase letters and without padding.
fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut digits = Vec::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut waiting, mut bits) = (0_u32, 0);
    let mut put = |value: u32| digits.extend(DIGITS.get((value & 31) as usize));
    for byte in bytes {
        waiting = waiting << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            put(waiting >> bits);
        }
        waiting &= (1 << bits) - 1;
    }
    if bits > 0 {
        put(waiting << (5 - bits));
    }
    digits
}

/// What [`encode`] gave; `None` for anything else.
fn decode(digits: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(digits.len() * 5 / 8);
    let (mut waiting, mut bits) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'v' => digit - b'a' + 10,
            _ => return None,
        };
        waiting = waiting << 5 | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(waiting >> bits).ok()?);
        }
        waiting &= (1 << bits) - 1;
    }
    // One text for each value: no digit too many, and nothing in what is left of the last one.
    (bits < 5 && waiting == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{escrow::Identity, kek::SoftwareKek};

    fn ring(escrow: Option<&Identity>) -> Keyring {
        let kek = SoftwareKek::new(&DataKey::random().unwrap());
        let recipient = escrow.map(|identity| identity.recipient().clone());
        Keyring::new(Arc::new(kek), Vec::new(), recipient)
    }

    fn names(ring: &Keyring) -> Names {
        let realm = Realm::named("archive");
        Names::open(ring, &realm, &Names::create(ring, &realm).unwrap()).unwrap()
    }

    fn fixed(realm: &Realm) -> Names {
        let mut secret = [0; 64];
        for (at, byte) in secret.iter_mut().enumerate() {
            *byte = at as u8;
        }
        Names {
            key: NamesKey(Zeroizing::new(secret)),
            realm: realm.of_names(),
        }
    }

    #[test]
    fn the_key_comes_back_for_its_backend_by_its_keys_and_by_escrow_and_for_nothing_else() {
        let escrow = Identity::generate().unwrap();
        let (keys, realm) = (ring(Some(&escrow)), Realm::named("archive"));
        let stored = Names::create(&keys, &realm).unwrap();
        assert_eq!(stored.len(), FILE_LENGTH);
        let names = Names::open(&keys, &realm, &stored).unwrap();
        let one = names.encrypt(b"a").unwrap();
        assert_eq!(
            Names::open(&keys, &realm, &stored)
                .unwrap()
                .decrypt(&one)
                .unwrap(),
            b"a"
        );
        let head = Head::parse(&stored).unwrap();
        let key = head.rescue(&escrow).unwrap().unwrap();
        let rescued = Names::read(&key, head.clone(), &stored).unwrap();
        assert_eq!(rescued.decrypt(&one).unwrap(), b"a");

        let other = Realm::named("other");
        assert!(Names::open(&keys, &other, &stored).is_err());
        assert!(Names::open(&ring(None), &realm, &stored).is_err());
        for at in 0..stored.len() {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(Names::open(&keys, &realm, &changed).is_err(), "byte {at}");
            assert!(
                Names::open(&keys, &realm, &stored[..at]).is_err(),
                "cut {at}"
            );
        }
        let rewrapped = keys.rewrap(&head, &realm.of_names()).unwrap();
        let stored = [&rewrapped.as_bytes()[..], &stored[Head::LENGTH..]].concat();
        let names = Names::open(&keys, &realm, &stored).unwrap();
        assert_eq!(names.decrypt(&one).unwrap(), b"a");
    }

    #[test]
    fn a_file_that_a_client_wrote_is_no_key_of_names() {
        let (keys, realm) = (ring(None), Realm::named("archive"));
        let (key, head) = keys.create(&realm).unwrap();
        let mut stored = vec![head.as_bytes().to_vec()];
        let mut sealer = Sealer::new(&key, head);
        sealer.write(&[7; 64], &mut stored).unwrap();
        sealer.finish(&mut stored).unwrap();
        let opened = Names::open(&keys, &realm, &stored.concat());
        assert!(matches!(
            opened,
            Err(OpenNamesError::Unwrap(UnwrapError::Head(
                HeadError::OtherRealm
            )))
        ));
    }

    #[test]
    fn the_longest_name_fits_and_a_longer_one_is_refused() {
        let names = names(&ring(None));
        let longest = names.encrypt(&[b'x'; LONGEST]).unwrap();
        assert_eq!(longest.len(), 255);
        assert_eq!(names.decrypt(&longest).unwrap(), [b'x'; LONGEST]);
        assert_eq!(
            names.encrypt(&[b'x'; LONGEST + 1]),
            Err(NameTooLong(LONGEST + 1))
        );
    }

    #[test]
    fn names_of_two_backends_or_keys_differ_and_none_is_read_as_the_others() {
        let keys = ring(None);
        let (one, other) = (names(&keys), names(&keys));
        let stored = one.encrypt(b"Jane Doe").unwrap();
        assert_eq!(one.encrypt(b"Jane Doe").unwrap(), stored);
        assert_eq!(other.decrypt(&stored), None);
        let (here, there) = (
            fixed(&Realm::named("archive")),
            fixed(&Realm::named("other")),
        );
        let stored = here.encrypt(b"Jane Doe").unwrap();
        assert_ne!(stored, there.encrypt(b"Jane Doe").unwrap());
        assert_eq!(there.decrypt(&stored), None);
    }

    #[test]
    fn the_cipher_is_that_of_rfc_5297() {
        // Appendix A.1 has a key of 256 bits; this is its construction with 512, by the cryptography package of Python.
        let names = fixed(&Realm::named("archive"));
        assert_eq!(
            String::from_utf8(names.encrypt(b"report.csv").unwrap()).unwrap(),
            "3ir3fma3nnmiha17cgd3u0bkigd5g8rk7mko9p4sok"
        );
    }

    #[test]
    fn a_stored_name_that_was_changed_or_cut_is_none() {
        let names = names(&ring(None));
        for name in [&b"a"[..], b".hidden", b"report 2026.csv", b"\xff\xfe"] {
            let stored = names.encrypt(name).unwrap();
            assert!(resembles_one(&stored));
            for at in 0..stored.len() {
                assert_eq!(names.decrypt(&stored[..at]), None);
                for digit in DIGITS {
                    let mut changed = stored.clone();
                    changed[at] = *digit;
                    if changed != stored {
                        assert_eq!(names.decrypt(&changed), None);
                    }
                }
            }
            assert_eq!(names.decrypt(&stored.to_ascii_uppercase()), None);
            assert_eq!(names.decrypt(&[&stored[..], b"0"].concat()), None);
        }
        for none in [
            &b""[..],
            b"report.csv",
            b"lost+found",
            b"00000000000000000000000000",
        ] {
            assert_eq!(names.decrypt(none), None);
            assert!(!resembles_one(none), "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_comes_back_and_fits_on_any_server(
            name in proptest::collection::vec(
                any::<u8>().prop_filter("no name", |byte| !matches!(byte, 0 | b'/')), 1..=LONGEST)
        ) {
            prop_assume!(!matches!(&name[..], b"." | b".."));
            let names = fixed(&Realm::named("archive"));
            let stored = names.encrypt(&name).unwrap();
            prop_assert!(stored.len() <= 255);
            prop_assert!(stored.iter().all(|byte| DIGITS.contains(byte)));
            prop_assert_eq!(names.decrypt(&stored), Some(name));
        }

        #[test]
        fn each_text_has_one_value(bytes in proptest::collection::vec(any::<u8>(), 0..40), digits in "[0-9a-v]{0,40}") {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
            if let Some(bytes) = decode(digits.as_bytes()) {
                prop_assert_eq!(encode(&bytes), digits.as_bytes());
            }
        }
    }
}
