//! Keys with terms, keys in FIDO devices, and certificates, through the whole attempt.

use ssh_key::{
    PrivateKey,
    certificate::{Builder, CertType},
    private::Ed25519Keypair,
    public::KeyData,
};

use super::*;
use crate::{
    accounts::KeyTerms,
    auth::{
        certificate::Authority,
        krl::RevokedKeys,
        trust::{Trust, Withdrawn},
    },
};

fn private(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn key_of(private: &PrivateKey) -> PublicKey {
    PublicKey::from(private.public_key().key_data().clone())
}

fn authority() -> PrivateKey {
    private(1)
}

/// Trusts one authority, for people.
fn trusting() -> World {
    let world = world();
    world.authenticator.change_trust(|_| Trust {
        authorities: vec![Authority {
            name: "staff".to_owned(),
            key: authority().public_key().key_data().clone(),
            kinds: vec![AccountKind::Human],
            max_lifetime: None,
            exception: None,
        }],
        revoked: Arc::default(),
    });
    world
}

fn certificate(world: &World, key: &KeyData, principal: &str) -> Certificate {
    let now = world.seconds.load(Ordering::SeqCst) as u64;
    let mut builder = Builder::new([9; 16], key.clone(), now - 60, now + 3600).unwrap();
    builder.serial(42).unwrap();
    builder.cert_type(CertType::User).unwrap();
    builder.key_id("alice@example").unwrap();
    builder.valid_principal(principal).unwrap();
    builder.sign(&authority()).unwrap()
}

fn revoke(world: &World, line: &str) {
    let revoked = Arc::new(RevokedKeys::parse(line.as_bytes()).unwrap());
    world.authenticator.change_trust(|trust| Trust {
        revoked,
        ..trust.clone()
    });
}

/// Shows the certificate, then the password.
async fn log_in_with(world: &World, certificate: &Certificate) -> Result<Authenticated, String> {
    let mut attempt = world.attempt();
    let step = attempt.certificate_verified("alice", certificate).await;
    if is_partial(&step) {
        let step = attempt.password("alice", Secret::from(PASSWORD)).await;
        return Ok(accepted(step));
    }
    assert!(is_rejected(&step), "{step:?}");
    Err(world.log.reasons().pop().unwrap())
}

/// Shows Alice's key, then the password.
async fn log_in_with_key(world: &World) -> Result<Authenticated, String> {
    let mut attempt = world.attempt();
    if is_partial(&show_key(world, &mut attempt).await) {
        let step = attempt.password("alice", Secret::from(PASSWORD)).await;
        return Ok(accepted(step));
    }
    Err(world.log.reasons().pop().unwrap())
}

fn change_terms(world: &World, terms: &KeyTerms) {
    let fingerprint = public_key::fingerprint(&world.key);
    world
        .administer()
        .change_key(&alice(), &fingerprint, |_| terms.clone())
        .unwrap();
}

#[tokio::test]
async fn a_certificate_and_the_password_log_in_and_the_records_name_the_certificate() {
    let world = trusting();
    let certificate = certificate(&world, private(3).public_key().key_data(), "alice");
    let user = log_in_with(&world, &certificate).await.unwrap();
    assert_eq!(user.factors(), [Factor::Certificate, Factor::Password]);
    let step = &world.log.of(EventKind::AuthStep)[0];
    let result = &world.log.of(EventKind::AuthResult)[0];
    for event in [step, result] {
        assert_eq!(event.body["cert_serial"], "42");
        assert_eq!(event.body["cert_key_id"], "alice@example");
        let ca = public_key::fingerprint(authority().public_key());
        assert_eq!(event.body["ca_fp"], ca.as_str());
        let key = public_key::fingerprint(private(3).public_key());
        assert_eq!(event.body["key_fp"], key.as_str());
        assert!(
            event.body["cert_fp"]
                .as_str()
                .unwrap()
                .starts_with("SHA256:")
        );
    }
    assert_eq!(step.body["factor"], "certificate");
    assert_eq!(result.body["is_mfa"], true);
}

#[tokio::test]
async fn a_certificate_for_somebody_else_or_from_somebody_else_is_refused_and_named_on_record() {
    let world = trusting();
    let key = private(3).public_key().key_data().clone();
    let for_bob = certificate(&world, &key, "bob");
    assert_eq!(
        log_in_with(&world, &for_bob).await.unwrap_err(),
        "certificate_principal"
    );
    let refused = world.log.of(EventKind::AuthStep).pop().unwrap();
    assert_eq!(refused.body["cert_serial"], "42");
    assert_eq!(refused.user.unwrap().uid, None, "a claim proves no name");

    let good = certificate(&world, &key, "alice");
    world.authenticator.change_trust(|_| Trust::default());
    assert_eq!(
        log_in_with(&world, &good).await.unwrap_err(),
        "certificate_authority"
    );
}

#[tokio::test]
async fn a_certificate_for_a_name_without_account_is_refused() {
    let world = trusting();
    let certificate = certificate(&world, private(3).public_key().key_data(), "mallory");
    let step = world
        .attempt()
        .certificate_verified("mallory", &certificate)
        .await;
    assert!(is_rejected(&step));
    assert_eq!(world.log.reasons(), ["no_enabled_account"]);
}

#[tokio::test]
async fn a_key_that_belongs_to_another_account_is_not_certified_for_this_one() {
    let world = trusting();
    let bob: AccountName = "bob".parse().unwrap();
    let admin = world.administer();
    admin.add(&bob, AccountKind::Human, None).unwrap();
    let shared = private(3);
    admin.add_key(&bob, shared.public_key()).unwrap();
    let stolen = certificate(&world, shared.public_key().key_data(), "alice");
    assert_eq!(
        log_in_with(&world, &stolen).await.unwrap_err(),
        "key_of_another_account"
    );
    // Also while bob is disabled: it stays his.
    admin.disable(&bob).unwrap();
    assert_eq!(
        log_in_with(&world, &stolen).await.unwrap_err(),
        "key_of_another_account"
    );
    let fingerprint = public_key::fingerprint(shared.public_key());
    admin.remove_key(&bob, &fingerprint).unwrap();
    assert!(log_in_with(&world, &stolen).await.is_ok());
}

/// Sources and end of a key hold also where it comes in a certificate.
#[tokio::test]
async fn a_certificate_is_no_way_round_the_terms_of_its_key() {
    let world = trusting();
    let certified = certificate(&world, world.key.key_data(), "alice");
    assert!(log_in_with(&world, &certified).await.is_ok());
    change_terms(
        &world,
        &KeyTerms {
            sources: vec!["198.51.100.0/24".parse().unwrap()],
            expires: None,
        },
    );
    assert_eq!(
        log_in_with(&world, &certified).await.unwrap_err(),
        "key_source"
    );
}

#[tokio::test]
async fn an_authoritys_key_is_nobodys_key_to_log_in_with() {
    let world = trusting();
    let key = key_of(&authority());
    world.administer().add_key(&alice(), &key).unwrap();
    let step = world
        .attempt()
        .public_key_verified("alice", &Algorithm::Ed25519, &key)
        .await;
    assert!(is_rejected(&step));
    let of_itself = certificate(&world, key.key_data(), "alice");
    assert!(log_in_with(&world, &of_itself).await.is_err());
    assert_eq!(world.log.reasons(), ["authority_key", "authority_key"]);
}

#[tokio::test]
async fn a_key_counts_from_its_sources_alone() {
    let world = world();
    for (network, counts) in [
        ("192.0.2.0/24", true),
        ("192.0.2.7/32", true),
        ("192.0.2.8/32", false),
        ("2001:db8::/32", false),
    ] {
        change_terms(
            &world,
            &KeyTerms {
                sources: vec![network.parse().unwrap()],
                expires: None,
            },
        );
        let login = log_in_with_key(&world).await;
        assert_eq!(login.is_ok(), counts, "{network}");
        if !counts {
            assert_eq!(login.unwrap_err(), "key_source");
        }
    }
}

#[tokio::test]
async fn a_key_counts_to_before_its_end_and_its_sessions_end_with_it() {
    let world = world();
    let now = world.seconds.load(Ordering::SeqCst);
    change_terms(
        &world,
        &KeyTerms {
            sources: Vec::new(),
            expires: Utc.timestamp_opt(now + 60, 0).single(),
        },
    );
    let user = log_in_with_key(&world).await.unwrap();
    let session = {
        let authenticator = world.authenticator.clone();
        tokio::spawn(async move { authenticator.until_key_withdrawn(&user).await })
    };
    world.pass(Duration::from_secs(59));
    assert!(log_in_with_key(&world).await.is_ok());
    assert!(!session.is_finished());
    world.pass(Duration::from_secs(1));
    assert_eq!(log_in_with_key(&world).await.unwrap_err(), "key_expired");
    let withdrawn = tokio::time::timeout(DEADLINE, session).await.unwrap();
    assert_eq!(withdrawn.unwrap(), Withdrawn::Expired);
}

#[tokio::test]
async fn a_session_ends_with_its_certificate() {
    let world = trusting();
    let certificate = certificate(&world, private(3).public_key().key_data(), "alice");
    let user = log_in_with(&world, &certificate).await.unwrap();
    world.pass(Duration::from_secs(3600));
    let ended = world.authenticator.until_key_withdrawn(&user);
    let withdrawn = tokio::time::timeout(DEADLINE, ended).await.unwrap();
    assert_eq!(withdrawn, Withdrawn::Expired);
}

#[tokio::test]
async fn a_revoked_key_logs_nobody_in_and_ends_its_sessions_and_no_others() {
    let world = trusting();
    let certified = certificate(&world, private(3).public_key().key_data(), "alice");
    let by_key = log_in_with_key(&world).await.unwrap();
    let by_certificate = log_in_with(&world, &certified).await.unwrap();
    let watch = |user: Authenticated| {
        let authenticator = world.authenticator.clone();
        tokio::spawn(async move { authenticator.until_key_withdrawn(&user).await })
    };
    let (key_session, certificate_session) = (watch(by_key), watch(by_certificate));
    revoke(&world, samples::ED25519);
    let withdrawn = tokio::time::timeout(DEADLINE, key_session).await.unwrap();
    assert_eq!(withdrawn.unwrap(), Withdrawn::Revoked);
    assert!(!certificate_session.is_finished());
    assert_eq!(log_in_with_key(&world).await.unwrap_err(), "key_revoked");

    let line = authority().public_key().to_openssh().unwrap();
    revoke(&world, &line);
    let withdrawn = tokio::time::timeout(DEADLINE, certificate_session)
        .await
        .unwrap();
    assert_eq!(withdrawn.unwrap(), Withdrawn::Revoked);
    assert_eq!(
        log_in_with(&world, &certified).await.unwrap_err(),
        "certificate_revoked"
    );
    revoke(&world, "# nothing any more\n");
    assert!(log_in_with_key(&world).await.is_ok());
}

#[tokio::test]
async fn a_session_ends_when_its_authority_leaves_the_configuration() {
    let world = trusting();
    let certified = certificate(&world, private(3).public_key().key_data(), "alice");
    let user = log_in_with(&world, &certified).await.unwrap();
    world.authenticator.change_trust(|_| Trust::default());
    let ended = world.authenticator.until_key_withdrawn(&user);
    let withdrawn = tokio::time::timeout(DEADLINE, ended).await.unwrap();
    assert_eq!(withdrawn, Withdrawn::Authority);
}

#[tokio::test]
async fn a_security_key_is_one_factor_and_the_record_claims_no_touch() {
    let world = world();
    let key = public_key::parse(samples::SK_ED25519).unwrap();
    world.administer().add_key(&alice(), &key).unwrap();
    let mut attempt = world.attempt();
    for _ in 0..2 {
        let step = attempt
            .public_key_verified("alice", &Algorithm::SkEd25519, &key)
            .await;
        assert!(is_partial(&step), "it gave two factors: {step:?}");
    }
    assert!(
        is_partial(&show_key(&world, &mut attempt).await),
        "two keys are one class"
    );
    let user = accepted(attempt.password("alice", Secret::from(PASSWORD)).await);
    assert_eq!(
        user.factors(),
        [Factor::SecurityKey, Factor::PublicKey, Factor::Password]
    );
    let step = &world.log.of(EventKind::AuthStep)[0];
    assert_eq!(step.body["factor"], "security-key");
    assert_eq!(step.body["user_verified"], "unknown");
    let result = &world.log.of(EventKind::AuthResult)[0];
    assert_eq!(result.body["phishing_resistant"], false);
}

/// Under a plain algorithm's name the library hands over the certificate as if it were a key.
#[tokio::test]
async fn a_certificate_that_comes_as_a_plain_key_is_refused() {
    let world = trusting();
    let certificate = certificate(&world, world.key.key_data(), "alice");
    let disguised = PublicKey::from(KeyData::Certificate(Box::new(certificate)));
    let step = world
        .attempt()
        .public_key_verified("alice", &Algorithm::Ed25519, &disguised)
        .await;
    assert!(is_rejected(&step));
    assert_eq!(world.log.reasons(), ["certificate"]);
}
