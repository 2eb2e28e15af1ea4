//! Stored files, read and written by a program that knows docs/at-rest.md and none of this crate's code: other libraries
//! (RustCrypto, floe-rs), and the numbers of that page.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "the outsider's program stops at the first thing that is not as the page says"
)]

use std::{path::Path, sync::Arc};

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{Aead as _, Payload},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use curve25519_dalek::MontgomeryPoint;
use floe_rs::gcm::{FloeDecryptor, FloeEncryptor, FloeKey, Header, Segment};
use hmac::{Hmac, Mac as _};
use portcullis_at_rest::{
    DataKey, ExtentReaders, Head, Keyring, Layout, Realm, Sealer,
    escrow::Identity,
    kek::{KeyEncryptionKey as _, SoftwareKek},
    key_file::{write_kek, write_share},
    shares,
};
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

const SEGMENT: usize = 65_536;
const EXTENT: usize = 16_777_216;
const STORED_SEGMENT: u32 = 65_568;
const FLOE_HEADER: usize = 74;
const BACKEND: &str = "archive";

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

/// The key for heads, or for names of key-encryption keys.
fn head_key(key: &[u8]) -> Vec<u8> {
    hmac(key, b"portcullis at-rest head v1\x01")
}

fn context(head: &[u8]) -> Vec<u8> {
    [b"portcullis at-rest\x00\x01", &head[16..64]].concat()
}

/// The file's key, after all that the page wants to be checked.
fn unwrap(kek: &[u8], head: &[u8]) -> Vec<u8> {
    assert_eq!(head[..8], *b"\x89PCREST\n");
    assert_eq!(head[8..16], [0, 1, 2, 0, 0, 0, 0, 0]);
    assert_eq!(head[32..64], Sha256::digest(BACKEND)[..]);
    assert_eq!(
        head[64..80],
        hmac(&head_key(kek), b"key-encryption key")[..16]
    );
    let key = Aes256Gcm::new_from_slice(kek)
        .unwrap()
        .decrypt(
            head[80..92].try_into().unwrap(),
            Payload {
                msg: &head[92..140],
                aad: &context(head),
            },
        )
        .unwrap();
    assert_eq!(head[480..512], hmac(&head_key(&key), &head[..480]));
    key
}

fn associated(head: &[u8], extent: usize) -> Vec<u8> {
    [&context(head)[..], &(extent as u64).to_be_bytes()].concat()
}

fn decrypt(kek: &[u8], stored: &[u8]) -> Vec<u8> {
    let (head, body) = stored.split_at(512);
    let key = FloeKey::try_from(&unwrap(kek, head)[..]).unwrap();
    let whole = FLOE_HEADER + EXTENT / SEGMENT * STORED_SEGMENT as usize;
    let mut plaintext = Vec::new();
    let mut extents = body.chunks(whole).enumerate().peekable();
    while let Some((number, extent)) = extents.next() {
        assert_eq!(extents.peek().is_some(), extent.len() == whole);
        let data = associated(head, number);
        let header = Header::from_bytes(&extent[..FLOE_HEADER]).unwrap();
        let decryptor = FloeDecryptor::<STORED_SEGMENT>::new(&key, &data, &header).unwrap();
        let segments = extent[FLOE_HEADER..].chunks(STORED_SEGMENT as usize);
        let count = segments.len();
        for (at, segment) in segments.enumerate() {
            let segment = Segment::from_bytes(segment).unwrap();
            let begins = plaintext.len();
            plaintext.resize(begins + segment.plaintext_size(), 0);
            decryptor
                .decrypt_segment(
                    &segment,
                    &mut plaintext[begins..],
                    at as u64,
                    at + 1 == count,
                )
                .unwrap();
        }
    }
    plaintext
}

/// What follows the head.
fn encrypt(key: &[u8], head: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let key = FloeKey::try_from(key).unwrap();
    let mut stored = Vec::new();
    for number in 0..=plaintext.len() / EXTENT {
        let extent = &plaintext[number * EXTENT..plaintext.len().min((number + 1) * EXTENT)];
        let data = associated(head, number);
        let encryptor = FloeEncryptor::<STORED_SEGMENT>::new(&key, &data);
        stored.extend_from_slice(encryptor.header().as_bytes());
        let count = extent.len().div_ceil(SEGMENT).max(1);
        for at in 0..count {
            let segment = &extent[at * SEGMENT..extent.len().min((at + 1) * SEGMENT)];
            let begins = stored.len();
            stored.resize(begins + encryptor.output_size(segment), 0);
            encryptor
                .encrypt_segment(segment, &mut stored[begins..], at as u64, at + 1 == count)
                .unwrap();
        }
    }
    stored
}

struct Gateway {
    secret: DataKey,
    ring: Keyring,
    realm: Realm,
}

impl Gateway {
    fn new() -> Self {
        let secret = DataKey::random().unwrap();
        let escrow = Identity::generate().unwrap();
        let kek = Arc::new(SoftwareKek::new(&secret));
        Self {
            ring: Keyring::new(kek, Vec::new(), Some(escrow.recipient().clone())),
            secret,
            realm: Realm::named(BACKEND),
        }
    }

    fn seal(&self, plaintext: &[u8], step: usize) -> Vec<u8> {
        let (key, head) = self.ring.create(&self.realm).unwrap();
        let mut pieces = vec![head.as_bytes().to_vec()];
        let mut sealer = Sealer::new(&key, head);
        for data in plaintext.chunks(step) {
            sealer.write(data, &mut pieces).unwrap();
        }
        sealer.finish(&mut pieces).unwrap();
        pieces.concat()
    }

    fn open(&self, stored: &[u8]) -> Vec<u8> {
        let head = Head::parse(stored).unwrap();
        let key = self.ring.unwrap(&head, &self.realm).unwrap();
        let layout = Layout::of_stored(stored.len() as u64).unwrap();
        let readers = ExtentReaders::new(&key, head, layout);
        let mut plaintext = Vec::new();
        loop {
            let place = layout.segment_at(plaintext.len() as u64);
            let header = Layout::extent_header(place.extent) as usize;
            let reader = readers
                .extent(place.extent, &stored[header..header + FLOE_HEADER])
                .unwrap();
            let from = place.stored_offset as usize;
            let segment = &stored[from..from + place.stored_length];
            let mut found = vec![0; place.length];
            reader.open(&place, segment, &mut found).unwrap();
            plaintext.extend(found);
            if place == layout.last_segment() {
                return plaintext;
            }
        }
    }
}

/// A thousand lengths: around each boundary, and anywhere.
fn lengths(random: &mut fastrand::Rng) -> Vec<usize> {
    let mut lengths = Vec::new();
    for about in [0, SEGMENT, 2 * SEGMENT] {
        lengths.extend(about.saturating_sub(33)..=about + 33);
    }
    lengths.extend([EXTENT - 1, EXTENT, EXTENT + SEGMENT + 1]);
    while lengths.len() < 1000 {
        let magnitude = random.u32(3..18);
        lengths.push(random.usize(..1 << magnitude));
    }
    lengths
}

#[test]
fn a_thousand_files_are_read_alike_by_an_independent_program_in_both_directions() {
    let gateway = Gateway::new();
    let mut random = fastrand::Rng::with_seed(7);
    let lengths = lengths(&mut random);
    assert_eq!(lengths.len(), 1000);
    let mut noise = vec![0; EXTENT + 2 * SEGMENT];
    random.fill(&mut noise);
    for length in lengths {
        let from = random.usize(..noise.len() - length);
        let plaintext = &noise[from..from + length];
        let stored = gateway.seal(plaintext, random.usize(1000..300_000));
        let found = decrypt(gateway.secret.as_bytes(), &stored);
        assert!(found == plaintext, "{length} bytes, read by the other");
        let (head, body) = stored.split_at(512);
        let theirs = encrypt(&unwrap(gateway.secret.as_bytes(), head), head, plaintext);
        assert_eq!(theirs.len(), body.len(), "{length}");
        let found = gateway.open(&[head, &theirs].concat());
        assert!(found == plaintext, "{length} bytes, written by the other");
    }
}

/// Product in GF(256) with the polynomial 0x11D.
fn product(mut one: u8, mut other: u8) -> u8 {
    let mut product = 0;
    while other > 0 {
        if other & 1 == 1 {
            product ^= one;
        }
        let carry = one >> 7;
        one = (one << 1) ^ (carry * 0x1D);
        other >>= 1;
    }
    product
}

/// The value at 0 of the lines through the points of two shares.
fn join(one: &[u8], two: &[u8]) -> [u8; 32] {
    let (x, z) = (one[16], two[16]);
    let inverse = (1..=255).find(|by| product(x ^ z, *by) == 1).unwrap();
    let points = one[18..50].iter().zip(&two[18..50]);
    let secret: Vec<u8> = points
        .map(|(y, w)| product(*y, product(z, inverse)) ^ product(*w, product(x, inverse)))
        .collect();
    secret.try_into().unwrap()
}

/// HPKE's LabeledExtract and LabeledExpand (RFC 9180 section 4) for at most 32 bytes.
fn extract(salt: &[u8], suite: &[u8], label: &[u8], input: &[u8]) -> Vec<u8> {
    hmac(salt, &[b"HPKE-v1", suite, label, input].concat())
}

fn expand(key: &[u8], suite: &[u8], label: &[u8], info: &[u8], length: usize) -> Vec<u8> {
    let length_bytes = (length as u16).to_be_bytes();
    let info = [&length_bytes, &b"HPKE-v1"[..], suite, label, info, b"\x01"].concat();
    hmac(key, &info)[..length].to_vec()
}

/// The file's key by the private half of the escrow.
fn open_sealed(private: [u8; 32], head: &[u8]) -> Vec<u8> {
    let public = MontgomeryPoint::mul_base_clamped(private);
    assert_eq!(head[140..156], public.as_bytes()[..16]);
    let encapsulated: [u8; 32] = head[156..188].try_into().unwrap();
    let shared = MontgomeryPoint(encapsulated).mul_clamped(private);
    let kem = b"KEM\x00\x20";
    let prk = extract(b"", kem, b"eae_prk", shared.as_bytes());
    let both = [&encapsulated[..], public.as_bytes()].concat();
    let secret = expand(&prk, kem, b"shared_secret", &both, 32);
    let suite = b"HPKE\x00\x20\x00\x01\x00\x02";
    let info = b"portcullis at-rest escrow v1";
    let schedule = [
        vec![0],
        extract(b"", suite, b"psk_id_hash", b""),
        extract(b"", suite, b"info_hash", info),
    ]
    .concat();
    let secret = extract(&secret, suite, b"secret", b"");
    let key = expand(&secret, suite, b"key", &schedule, 32);
    let nonce = expand(&secret, suite, b"base_nonce", &schedule, 12);
    Aes256Gcm::new_from_slice(&key)
        .unwrap()
        .decrypt(
            nonce[..].try_into().unwrap(),
            Payload {
                msg: &head[188..236],
                aad: &context(head),
            },
        )
        .unwrap()
}

/// What a key file says.
fn content(path: &Path, prefix: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    let bytes = STANDARD.decode(line.strip_prefix(prefix).unwrap()).unwrap();
    let (content, check) = bytes.split_at(bytes.len() - 4);
    let digest = Sha256::digest([prefix.as_bytes(), content].concat());
    assert_eq!(digest[..4], *check);
    content.to_vec()
}

#[test]
fn two_shares_open_a_file_by_the_page_alone() {
    let folder = tempfile::tempdir().unwrap();
    let escrow = Identity::generate().unwrap();
    for share in shares::split(&escrow, 2, 3).unwrap() {
        let name = share.number().to_string();
        write_share(&folder.path().join(name), &share).unwrap();
    }
    let secret = DataKey::random().unwrap();
    write_kek(&folder.path().join("kek"), &secret).unwrap();
    let kek = content(&folder.path().join("kek"), "portcullis-kek-v1:");
    let ring = Keyring::new(
        Arc::new(SoftwareKek::new(&secret)),
        Vec::new(),
        Some(escrow.recipient().clone()),
    );
    let (key, head) = ring.create(&Realm::named(BACKEND)).unwrap();
    let head = head.as_bytes();
    assert_eq!(unwrap(&kek, head), key.as_bytes());
    let share = |name| content(&folder.path().join(name), "portcullis-escrow-share-v1:");
    for (one, two) in [("1", "2"), ("3", "1"), ("2", "3")] {
        let private = join(&share(one), &share(two));
        assert_eq!(
            open_sealed(private, head),
            key.as_bytes(),
            "{one} and {two}"
        );
    }
}

#[test]
fn the_other_program_notices_a_change_too() {
    let gateway = Gateway::new();
    let mut stored = gateway.seal(b"result", 6);
    decrypt(gateway.secret.as_bytes(), &stored);
    let last = stored.len() - 1;
    stored[last] ^= 1;
    assert!(std::panic::catch_unwind(|| decrypt(gateway.secret.as_bytes(), &stored)).is_err());
    assert_eq!(
        SoftwareKek::new(&gateway.secret).id(),
        gateway.ring.active()
    );
}
