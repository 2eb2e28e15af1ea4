//! Each rule with a certificate that keeps it and its nearest neighbour that does not.

use std::sync::LazyLock;

use chrono::TimeZone as _;
use ssh_key::{PrivateKey, certificate::Builder, private::Ed25519Keypair};

use super::*;
use crate::auth::public_key::samples;

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

fn private(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

static AUTHORITY: LazyLock<PrivateKey> = LazyLock::new(|| private(1));
static OTHER_AUTHORITY: LazyLock<PrivateKey> = LazyLock::new(|| private(2));
static USER: LazyLock<PrivateKey> = LazyLock::new(|| private(3));

/// Staff is certified by one authority, machines by another.
fn authorities() -> Vec<Authority> {
    let authority = |name: &str, key: &PrivateKey, kind| Authority {
        name: name.to_owned(),
        key: key.public_key().key_data().clone(),
        kinds: vec![kind],
        max_lifetime: None,
        exception: None,
    };
    vec![
        authority("staff", &AUTHORITY, AccountKind::Human),
        authority("robots", &OTHER_AUTHORITY, AccountKind::Machine),
    ]
}

/// What a good certificate for alice says, to be changed.
struct Draft {
    key: KeyData,
    from: i64,
    until: i64,
    kind: CertType,
    key_id: String,
    principals: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Draft {
    fn good() -> Self {
        Self {
            key: USER.public_key().key_data().clone(),
            from: NOW - 60,
            until: NOW + 8 * HOUR,
            kind: CertType::User,
            key_id: "alice@example".to_owned(),
            principals: vec!["alice".to_owned()],
            options: Vec::new(),
        }
    }

    fn signed(self) -> Certificate {
        self.signed_by(&AUTHORITY)
    }

    fn signed_by(self, authority: &PrivateKey) -> Certificate {
        let seconds = |moment: i64| u64::try_from(moment).unwrap();
        let mut builder =
            Builder::new([9; 16], self.key, seconds(self.from), seconds(self.until)).unwrap();
        builder.serial(42).unwrap();
        builder.cert_type(self.kind).unwrap();
        builder.key_id(self.key_id).unwrap();
        builder.all_principals_valid().unwrap();
        for principal in self.principals {
            builder.valid_principal(principal).unwrap();
        }
        for (name, value) in self.options {
            builder.critical_option(name, value).unwrap();
        }
        builder.extension("permit-pty", "").unwrap();
        builder.sign(authority).unwrap()
    }
}

fn alice() -> Bearer<'static> {
    Bearer {
        name: "alice",
        kind: AccountKind::Human,
        source: "192.0.2.7".parse().unwrap(),
        now: Utc.timestamp_opt(NOW, 0).unwrap(),
    }
}

fn judged_for(certificate: &Certificate, bearer: Bearer<'_>) -> Result<String, CertificateError> {
    judge(certificate, &authorities(), &RevokedKeys::default(), bearer)
        .map(|authority| authority.name.clone())
}

fn judged(change: impl FnOnce(&mut Draft)) -> Result<String, CertificateError> {
    let mut draft = Draft::good();
    change(&mut draft);
    judged_for(&draft.signed(), alice())
}

#[test]
fn a_good_certificate_counts_and_its_extensions_do_not_matter() {
    assert_eq!(judged(|_| {}).as_deref(), Ok("staff"));
}

#[test]
fn only_the_authority_of_the_accounts_kind_certifies_it() {
    let by_robots = Draft::good().signed_by(&OTHER_AUTHORITY);
    assert_eq!(
        judged_for(&by_robots, alice()),
        Err(CertificateError::AuthorityKind)
    );
    let machine = Bearer {
        kind: AccountKind::Machine,
        ..alice()
    };
    assert_eq!(judged_for(&by_robots, machine).as_deref(), Ok("robots"));
    for stranger in [private(77), USER.clone()] {
        let certificate = Draft::good().signed_by(&stranger);
        assert_eq!(
            judged_for(&certificate, alice()),
            Err(CertificateError::UnknownAuthority)
        );
    }
}

/// An authority's certificate for a key does not make an authority of the key.
#[test]
fn what_an_authority_has_certified_is_no_authority() {
    let middle = Draft::good().signed();
    let wire = Draft::good().signed_by(&USER).to_bytes().unwrap();
    // The same bytes, with the middle certificate in the place of the signer's key.
    let signer = PublicKey::from(USER.public_key().key_data().clone())
        .to_bytes()
        .unwrap();
    let at = wire
        .windows(signer.len())
        .rposition(|window| window == signer)
        .unwrap();
    let certificate = middle.to_bytes().unwrap();
    let mut nested = wire[..at - 4].to_vec();
    nested.extend(u32::try_from(certificate.len()).unwrap().to_be_bytes());
    nested.extend(&certificate);
    nested.extend(&wire[at + signer.len()..]);
    let nested = Certificate::from_bytes(&nested).unwrap();
    assert!(nested.signature_key().is_certificate());
    assert_eq!(
        judged_for(&nested, alice()),
        Err(CertificateError::UnknownAuthority)
    );
    // Not even where somebody put the certificate's bytes among the authorities.
    let mut authorities = authorities();
    authorities[0].key = nested.signature_key().clone();
    let judged = judge(&nested, &authorities, &RevokedKeys::default(), alice());
    assert_eq!(judged, Err(CertificateError::UnknownAuthority));
}

#[test]
fn a_hosts_certificate_is_no_users() {
    let judged = judged(|draft| draft.kind = CertType::Host);
    assert_eq!(judged, Err(CertificateError::HostCertificate));
}

#[test]
fn a_principal_has_to_be_the_very_name_of_the_account() {
    let with = |principals: &[&str]| {
        let principals = principals.iter().map(|&name| name.to_owned()).collect();
        judged(|draft| draft.principals = principals)
    };
    assert!(with(&["bob", "alice"]).is_ok());
    for others in [
        &["bob"][..],
        &["Alice"],
        &["alice "],
        &["alice\0"],
        &["alic"],
        &["alice2"],
        &["*"],
    ] {
        assert_eq!(with(others), Err(CertificateError::Principal), "{others:?}");
    }
    assert_eq!(with(&[]), Err(CertificateError::NoPrincipals));
    for malformed in [
        &["alice,bob"][..],
        &["alice", "a,b"],
        &["alice", ""],
        &["alice", ","],
    ] {
        assert_eq!(
            with(malformed),
            Err(CertificateError::MalformedPrincipal),
            "{malformed:?}"
        );
    }
    let long = "a".repeat(64 * 1024);
    assert_eq!(
        with(&["alice", &long]),
        Err(CertificateError::MalformedPrincipal)
    );
    let many = vec!["alice"; PRINCIPALS_MAX + 1];
    assert!(with(&many[..PRINCIPALS_MAX]).is_ok());
    assert_eq!(with(&many), Err(CertificateError::MalformedPrincipal));
}

#[test]
fn a_certificate_counts_from_its_first_second_to_before_its_last() {
    let at = |now: i64| {
        let certificate = Draft::good().signed();
        let bearer = Bearer {
            now: Utc.timestamp_opt(now, 0).unwrap(),
            ..alice()
        };
        judged_for(&certificate, bearer)
    };
    assert_eq!(at(NOW - 61), Err(CertificateError::NotYetValid));
    assert!(at(NOW - 60).is_ok());
    assert!(at(NOW + 8 * HOUR - 1).is_ok());
    assert_eq!(at(NOW + 8 * HOUR), Err(CertificateError::Expired));
    assert_eq!(
        at(-1),
        Err(CertificateError::NotYetValid),
        "a clock before 1970"
    );
}

#[test]
fn people_get_twelve_hours_and_machines_twenty_four() {
    let lasting = |hours: i64| Draft {
        until: NOW + hours * HOUR,
        ..Draft::good()
    };
    assert!(judged_for(&lasting(12).signed(), alice()).is_ok());
    assert_eq!(
        judged_for(&lasting(13).signed(), alice()),
        Err(CertificateError::Lifetime)
    );
    let machine = Bearer {
        kind: AccountKind::Machine,
        ..alice()
    };
    assert!(judged_for(&lasting(24).signed_by(&OTHER_AUTHORITY), machine).is_ok());
    assert_eq!(
        judged_for(&lasting(25).signed_by(&OTHER_AUTHORITY), machine),
        Err(CertificateError::Lifetime)
    );
    let forever = Draft {
        from: 0,
        until: i64::MAX,
        ..Draft::good()
    };
    assert_eq!(
        judged_for(&forever.signed(), alice()),
        Err(CertificateError::Lifetime)
    );
}

#[test]
fn an_authoritys_own_limit_is_narrower_or_a_dated_exception() {
    let judge_with = |max: i64, exception: Option<&str>, hours: i64| {
        let mut authorities = authorities();
        let seconds = u64::try_from(max * HOUR).unwrap();
        authorities[0].max_lifetime = Some(Duration::from_secs(seconds));
        authorities[0].exception = exception.map(|day| Exception {
            reason: "offline ward".to_owned(),
            approver: "J. Doe".to_owned(),
            expires: day.parse().unwrap(),
        });
        let certificate = Draft {
            until: NOW + hours * HOUR,
            ..Draft::good()
        }
        .signed();
        judge(&certificate, &authorities, &RevokedKeys::default(), alice()).is_ok()
    };
    assert!(judge_with(1, None, 1));
    assert!(!judge_with(1, None, 2));
    // NOW is 2027-01-15.
    assert!(judge_with(48, Some("2027-01-15"), 48));
    assert!(!judge_with(48, Some("2027-01-15"), 49));
    assert!(
        !judge_with(48, Some("2027-01-14"), 48),
        "the exception is over"
    );
    assert!(judge_with(48, Some("2027-01-14"), 12));
    assert!(!judge_with(48, None, 48));
}

#[test]
fn the_source_address_is_enforced_and_other_critical_options_are_refused() {
    let with = |name: &'static str, value: &str| {
        let option = (name, value.to_owned());
        judged(|draft| draft.options.push(option))
    };
    for inside in [
        "192.0.2.7",
        "192.0.2.0/24",
        "198.51.100.0/24,192.0.2.7/32",
        "2001:db8::/32,192.0.2.0/24",
    ] {
        assert!(with("source-address", inside).is_ok(), "{inside}");
    }
    for outside in ["192.0.2.8", "192.0.3.0/24", "2001:db8::/32"] {
        assert_eq!(
            with("source-address", outside),
            Err(CertificateError::SourceAddress)
        );
    }
    for nonsense in [
        "",
        "anywhere",
        "192.0.2.0/24,",
        "192.0.2.0/33",
        "192.0.2.7/24",
        "!192.0.2.8",
        "*",
    ] {
        assert_eq!(
            with("source-address", nonsense),
            Err(CertificateError::CriticalOption),
            "{nonsense}"
        );
    }
    for (name, value) in [
        ("verify-required", ""),
        ("force-command", "internal-sftp"),
        ("force-command", "/bin/sh"),
        ("Source-Address", "192.0.2.7"),
        ("permit-pty", ""),
        ("name@example.com", "anything"),
    ] {
        assert_eq!(
            with(name, value),
            Err(CertificateError::CriticalOption),
            "{name}"
        );
    }
}

#[test]
fn the_key_in_it_has_to_be_one_that_could_log_in_plainly() {
    let with = |line: &str| {
        let key = line.parse::<PublicKey>().unwrap().key_data().clone();
        judged(|draft| draft.key = key)
    };
    assert!(with(samples::RSA_3072).is_ok());
    assert!(with(samples::SK_ED25519).is_ok());
    assert_eq!(with(samples::RSA_2048), Err(CertificateError::Key));
    assert_eq!(with(samples::DSA), Err(CertificateError::Key));
}

#[test]
fn a_key_id_has_a_length_that_records_can_bear() {
    let with = |length: usize| judged(|draft| draft.key_id = "i".repeat(length));
    assert!(with(KEY_ID_BYTES_MAX).is_ok());
    assert_eq!(with(KEY_ID_BYTES_MAX + 1), Err(CertificateError::KeyId));
}

#[test]
fn a_revoked_key_or_authority_takes_the_certificate_with_it() {
    let revoking = |key: &PrivateKey| {
        let line = key.public_key().to_openssh().unwrap();
        let revoked = RevokedKeys::parse(line.as_bytes()).unwrap();
        judge(&Draft::good().signed(), &authorities(), &revoked, alice()).map(drop)
    };
    assert_eq!(revoking(&USER), Err(CertificateError::Revoked));
    assert_eq!(revoking(&AUTHORITY), Err(CertificateError::Revoked));
    assert_eq!(revoking(&OTHER_AUTHORITY), Ok(()));
}

#[test]
fn a_certificate_that_was_cut_or_changed_at_any_byte_is_no_other_good_one() {
    let wire = Draft::good().signed().to_bytes().unwrap();
    for length in 0..wire.len() {
        assert!(
            Certificate::from_bytes(&wire[..length]).is_err(),
            "{length}"
        );
    }
    for at in 0..wire.len() {
        let mut changed = wire.clone();
        changed[at] ^= 1;
        if let Ok(certificate) = Certificate::from_bytes(&changed) {
            let trusted = authorities()[0].key.fingerprint(HashAlg::Sha256);
            let now = u64::try_from(NOW).unwrap();
            assert!(
                certificate.validate_at(now, [&trusted]).is_err(),
                "byte {at}"
            );
            // Whatever it says now: no panic.
            let _ = judged_for(&certificate, alice());
        }
    }
}

/// `rsa-sha2-512` and `ssh-rsa` are two signatures of the same key.
#[test]
fn an_authority_that_signs_with_sha1_is_refused() {
    let rsa = samples::RSA_3072.parse::<PublicKey>().unwrap();
    let wire = Draft::good().signed().to_bytes().unwrap();
    let signer = AUTHORITY.public_key().to_bytes().unwrap();
    let at = wire
        .windows(signer.len())
        .rposition(|window| window == signer)
        .unwrap();
    let with = |algorithm: &str| {
        let string = |content: &[u8]| {
            [
                &u32::try_from(content.len()).unwrap().to_be_bytes(),
                content,
            ]
            .concat()
        };
        let signature = [string(algorithm.as_bytes()), string(&[7; 384])].concat();
        let bytes = [
            wire[..at - 4].to_vec(),
            string(&rsa.to_bytes().unwrap()),
            string(&signature),
        ]
        .concat();
        let mut authorities = authorities();
        authorities[0].key = rsa.key_data().clone();
        let certificate = Certificate::from_bytes(&bytes).unwrap();
        judge(&certificate, &authorities, &RevokedKeys::default(), alice()).map(drop)
    };
    // Whether the signature is right the library has found out before.
    assert_eq!(with("rsa-sha2-512"), Ok(()));
    assert_eq!(with("rsa-sha2-256"), Ok(()));
    assert_eq!(with("ssh-rsa"), Err(CertificateError::AuthoritySignature));
}

#[test]
fn the_facts_of_a_session_are_those_of_its_certificate() {
    let certificate = Draft::good().signed();
    let facts = CertificateFacts::of(&certificate);
    assert_eq!(facts.serial, 42);
    assert_eq!(facts.key_id, "alice@example");
    assert_eq!(facts.valid_before, u64::try_from(NOW + 8 * HOUR).unwrap());
    assert_eq!(
        facts.authority_fingerprint(),
        authorities()[0].fingerprint()
    );
    let digest = <sha2::Sha256 as sha2::Digest>::digest(certificate.to_bytes().unwrap());
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, digest);
    assert_eq!(facts.fingerprint, format!("SHA256:{base64}"));
}
