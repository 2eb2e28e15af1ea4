//! Lists as OpenSSH makes them, and lists that it does not make.

use std::{fs, process::Command};

use proptest::prelude::*;
use ssh_key::PrivateKey;
use tempfile::TempDir;

use super::*;
use crate::auth::public_key::{self, samples};

fn key(line: &str) -> KeyData {
    public_key::parse(line).unwrap().key_data().clone()
}

/// A folder in which `ssh-keygen -k` works.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        for (name, line) in [
            ("one.pub", samples::ED25519),
            ("rsa.pub", samples::RSA_3072),
            ("authority.pub", samples::ECDSA_256),
        ] {
            desk.write(name, line);
        }
        desk
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    /// `ssh-keygen -k -f list ARGUMENTS`
    fn list(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("ssh-keygen")
            .args(["-q", "-k", "-f", "list"])
            .args(arguments)
            .current_dir(self.0.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::read(self.0.path().join("list")).unwrap()
    }

    /// The same for what a specification file says.
    fn specified(&self, specification: &str) -> RevokedKeys {
        self.write("specification", specification);
        let bytes = self.list(&["-z", "17", "-s", "authority.pub", "specification"]);
        RevokedKeys::parse(&bytes).unwrap()
    }
}

fn revokes(list: &RevokedKeys, serial: u64, key_id: &str) -> bool {
    list.revokes_certificate(Certified {
        key: &key(samples::ED25519_OTHER),
        authority: &key(samples::ECDSA_256),
        serial,
        key_id,
    })
}

#[test]
fn keys_are_revoked_by_blob_and_by_either_fingerprint_and_others_are_not() {
    let desk = Desk::new();
    for line in ["", "sha1: ", "sha256: "] {
        let specification = if line.is_empty() {
            desk.list(&["one.pub", "rsa.pub"])
        } else {
            desk.write(
                "specification",
                &format!("{line}{}{line}{}", samples::ED25519, samples::RSA_3072),
            );
            desk.list(&["specification"])
        };
        let list = RevokedKeys::parse(&specification).unwrap();
        assert_eq!(list.entries(), 2, "{line}");
        assert!(list.revokes_key(&key(samples::ED25519)), "{line}");
        assert!(list.revokes_key(&key(samples::RSA_3072)), "{line}");
        assert!(!list.revokes_key(&key(samples::ED25519_OTHER)), "{line}");
    }
}

#[test]
fn a_list_as_text_revokes_its_keys_alone() {
    let text = format!(
        "# lost laptops\n\n{}\r\n  {}",
        samples::ED25519.trim(),
        samples::RSA_2048
    );
    let list = RevokedKeys::parse(text.as_bytes()).unwrap();
    assert!(list.revokes_key(&key(samples::ED25519)));
    assert!(!list.revokes_key(&key(samples::ED25519_OTHER)));
    assert_eq!(list.entries(), 2);
}

#[test]
fn a_certificate_falls_with_its_key_and_with_its_authority() {
    let desk = Desk::new();
    let list = RevokedKeys::parse(&desk.list(&["authority.pub"])).unwrap();
    assert!(revokes(&list, 1, "alice"));
    desk.write("other.pub", samples::ED25519_OTHER);
    let list = RevokedKeys::parse(&desk.list(&["other.pub"])).unwrap();
    assert!(revokes(&list, 1, "alice"));
    let list = RevokedKeys::parse(&desk.list(&["one.pub"])).unwrap();
    assert!(!revokes(&list, 1, "alice"));
}

#[test]
fn serial_numbers_are_revoked_one_by_one_in_ranges_and_in_bitmaps() {
    let desk = Desk::new();
    let list = desk.specified("serial: 5\nserial: 1000-2000\nserial: 18446744073709551615\n");
    for (serial, revoked) in [
        (0, false),
        (4, false),
        (5, true),
        (6, false),
        (999, false),
        (1000, true),
        (1500, true),
        (2000, true),
        (2001, false),
        (u64::MAX - 1, false),
        (u64::MAX, true),
    ] {
        assert_eq!(revokes(&list, serial, "alice"), revoked, "{serial}");
    }
    assert_eq!(list.version(), 17);

    // Every third number: OpenSSH writes those as a bitmap.
    let thirds: String = (100..400)
        .step_by(3)
        .map(|serial| format!("serial: {serial}\n"))
        .collect();
    let list = desk.specified(&thirds);
    assert!(
        list.certificates
            .iter()
            .any(|section| format!("{:?}", section.serials).contains("bitmaps: [(")),
        "no bitmap in it"
    );
    for serial in 90..410 {
        let revoked = (100..400).contains(&serial) && (serial - 100) % 3 == 0;
        assert_eq!(revokes(&list, serial, "alice"), revoked, "{serial}");
    }
}

#[test]
fn key_ids_are_revoked_by_the_whole_id_and_for_their_authority() {
    let list = Desk::new().specified("id: alice 2026\n");
    assert!(revokes(&list, 1, "alice 2026"));
    assert!(!revokes(&list, 1, "alice"));
    assert!(!revokes(&list, 1, "alice 2026 "));
    let certified = Certified {
        key: &key(samples::ED25519_OTHER),
        authority: &key(samples::RSA_3072),
        serial: 1,
        key_id: "alice 2026",
    };
    assert!(!list.revokes_certificate(certified), "another authority's");
}

#[test]
fn a_section_without_authority_holds_for_all_of_them() {
    let mut bytes = header();
    let mut section = string(b"");
    section.extend(string(b""));
    section.push(0x20);
    section.extend(string(&7_u64.to_be_bytes()));
    bytes.push(1);
    bytes.extend(string(&section));
    let list = RevokedKeys::parse(&bytes).unwrap();
    assert!(revokes(&list, 7, "alice"));
    assert!(!revokes(&list, 8, "alice"));
}

#[test]
fn an_empty_list_revokes_nothing_and_an_empty_file_is_refused() {
    let list = RevokedKeys::parse(&Desk::new().list(&[])).unwrap();
    assert_eq!(list.entries(), 0);
    assert!(!list.revokes_key(&key(samples::ED25519)));
    assert_eq!(RevokedKeys::parse(b""), Err(KrlError::Empty));
}

#[test]
fn a_text_with_anything_but_keys_is_refused() {
    for text in [
        "alice",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 /etc/passwd",
        "\\\\server\\share\\key.pub",
        "SSHKRL",
        samples::CERTIFICATE,
        &samples::ED25519.replace("ssh-ed25519 ", "ssh-rsa "),
    ] {
        let parsed = RevokedKeys::parse(text.as_bytes());
        assert!(
            matches!(parsed, Err(KrlError::Line { line: 1, .. })),
            "{text}: {parsed:?}"
        );
    }
    let binary = RevokedKeys::parse(b"ssh-ed25519 \xff");
    assert!(matches!(binary, Err(KrlError::Malformed { at: 12, .. })));
}

#[test]
fn a_list_of_another_format_or_with_what_must_be_understood_is_refused() {
    let good = header();
    assert!(RevokedKeys::parse(&good).is_ok());
    let mut newer = good.clone();
    newer[11] = 2;
    let section = |kind: u8, content: &[u8]| {
        let mut bytes = header();
        bytes.push(kind);
        bytes.extend(string(content));
        bytes
    };
    let extension = |critical: u8| {
        let mut content = string(b"name@example.com");
        content.push(critical);
        content.extend(string(b"anything"));
        content
    };
    assert!(RevokedKeys::parse(&section(255, &extension(0))).is_ok());
    let mut signed = section(4, b"key");
    signed.extend(string(b"signature"));
    let within = |kind: u8, content: &[u8]| {
        let mut inner = string(b"");
        inner.extend(string(b""));
        inner.push(kind);
        inner.extend(string(content));
        section(1, &inner)
    };
    let range = |first: u64, last: u64| [first.to_be_bytes(), last.to_be_bytes()].concat();
    assert!(RevokedKeys::parse(&within(0x21, &range(1, 9))).is_ok());
    let bitmap = |offset: u64, bits: &[u8]| [offset.to_be_bytes().to_vec(), string(bits)].concat();
    assert!(RevokedKeys::parse(&within(0x22, &bitmap(0, &[2]))).is_ok());
    for (what, bytes) in [
        ("format", newer),
        ("critical extension", section(255, &extension(1))),
        ("signature", signed),
        ("unknown section", section(77, b"")),
        ("unknown certificate section", within(0x40, b"")),
        ("critical extension within", within(0x39, &extension(1))),
        ("short fingerprint", section(5, &string(&[0; 31]))),
        ("long fingerprint", section(3, &string(&[0; 21]))),
        ("empty key", section(2, &string(b""))),
        ("number 0", within(0x20, &0_u64.to_be_bytes())),
        ("range from 0", within(0x21, &range(0, 9))),
        ("range backwards", within(0x21, &range(9, 1))),
        (
            "two ranges",
            within(0x21, &[range(1, 2), range(3, 4)].concat()),
        ),
        ("bitmap with 0", within(0x22, &bitmap(0, &[1]))),
        ("negative bitmap", within(0x22, &bitmap(1, &[0x80]))),
        (
            "bitmap beyond the end",
            within(0x22, &bitmap(u64::MAX, &[2])),
        ),
        ("empty key id", within(0x23, &string(b""))),
        (
            "authority that is no key",
            section(1, &[string(b"key"), string(b"")].concat()),
        ),
    ] {
        let parsed = RevokedKeys::parse(&bytes);
        assert!(
            matches!(parsed, Err(KrlError::Malformed { .. })),
            "{what}: {parsed:?}"
        );
    }
}

/// A certificate within a certificate, and so on, is not followed.
#[test]
fn an_authority_that_is_a_certificate_is_refused() {
    let line = samples::CERTIFICATE;
    let blob = STANDARD
        .decode(line.split_whitespace().nth(1).unwrap())
        .unwrap();
    let mut bytes = header();
    bytes.push(1);
    bytes.extend(string(&[string(&blob), string(b"")].concat()));
    assert!(matches!(
        RevokedKeys::parse(&bytes),
        Err(KrlError::Malformed { .. })
    ));
}

#[test]
fn a_list_that_was_cut_anywhere_is_refused_or_ends_between_two_sections() {
    let desk = Desk::new();
    desk.write("specification", "serial: 5-90\nid: alice\n");
    let bytes = desk.list(&["-s", "authority.pub", "specification", "one.pub"]);
    let whole = RevokedKeys::parse(&bytes).unwrap();
    let cut: Vec<_> = (0..bytes.len())
        .filter(|&length| RevokedKeys::parse(&bytes[..length]).is_ok())
        .collect();
    assert_eq!(whole.entries(), 3);
    // After the header, and after the section of certificates.
    assert_eq!(cut.len(), 2, "{cut:?} of {}", bytes.len());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..400) {
        let _ = RevokedKeys::parse(&bytes);
        let mut list = header();
        list.extend(&bytes);
        let _ = RevokedKeys::parse(&list);
        let mut text = samples::ED25519.as_bytes().to_vec();
        for byte in bytes.iter().take(3) {
            let place = at % text.len();
            text[place] = *byte;
        }
        let _ = RevokedKeys::parse(&text);
    }

    #[test]
    fn ranges_hold_what_was_put_in(ranges in proptest::collection::vec((1_u64..60, 0_u64..9), 0..12), probe in 0_u64..80) {
        let mut serials = Serials::default();
        for &(first, length) in &ranges {
            serials.add(first, first + length).unwrap();
        }
        serials.finish();
        let expected = ranges.iter().any(|&(first, length)| (first..=first + length).contains(&probe));
        prop_assert_eq!(serials.contains(probe), expected);
    }
}

#[test]
fn the_comment_is_no_part_of_a_key() {
    let mut private = PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]));
    private.set_comment("before");
    let line = private.public_key().to_openssh().unwrap();
    let list = RevokedKeys::parse(line.replace("before", "after").as_bytes()).unwrap();
    assert!(list.revokes_key(private.public_key().key_data()));
}

fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_be_bytes());
    bytes.extend([0; 24]);
    bytes.extend(string(b""));
    bytes.extend(string(b""));
    bytes
}

fn string(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&length.to_be_bytes(), content].concat()
}
