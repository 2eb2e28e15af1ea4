//! Factors that servers elsewhere judge, with a real directory and a real FreeRADIUS.

use portcullis_tests::{
    place::Place,
    server::{
        freeradius::{Freeradius, SECRET},
        slapd::{BASE, SERVICE_DN, Slapd},
    },
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::*;
use crate::auth::{
    Judges,
    ldap::{
        Directory, Filter, GroupSource, Groups, LdapServer, LdapSettings, People, ServiceAccount,
    },
    radius::{Radius, RadiusServer, RadiusSettings},
    template::NameTemplate,
};

const CODE: &str = "246810";
const REST: Duration = Duration::from_secs(3600);

/// Whose members are `movers`, among them Alice.
fn directory(slapd: &Slapd) -> Directory {
    let authorities = CertificateDer::pem_file_iter(&slapd.authority).unwrap();
    Directory::new(LdapSettings {
        servers: vec![LdapServer {
            host: slapd.ldaps.ip().to_string(),
            port: slapd.ldaps.port(),
            start_tls: false,
        }],
        authorities: authorities.collect::<Result<_, _>>().unwrap(),
        people: People::Search {
            account: ServiceAccount {
                dn: SERVICE_DN.to_owned(),
                password: Secret::from(PASSWORD),
            },
            base: BASE.to_owned(),
            filter: Filter::parse("(&(objectClass=inetOrgPerson)(uid={name}))").unwrap(),
        },
        groups: Some(Groups {
            source: GroupSource::OfPerson {
                attribute: "memberOf".to_owned(),
            },
            names: [(format!("cn=transfer,{BASE}"), "movers".to_owned())].into(),
        }),
        timeout: DEADLINE,
        rest: REST,
        at_once: 4,
        recheck: None,
    })
    .unwrap()
}

fn radius(server: &Freeradius) -> Radius {
    Radius::new(RadiusSettings {
        servers: vec![RadiusServer {
            name: "freeradius".to_owned(),
            address: server.address,
            secret: Secret::from(SECRET),
        }],
        nas_identifier: "gateway".to_owned(),
        user_name: NameTemplate::parse("{name}").unwrap(),
        timeout: Duration::from_secs(10),
        transmissions: 1,
        rest: REST,
        at_once: 4,
    })
}

fn judged(judges: Judges) -> World {
    let mut world = world();
    world.authenticator = world.authenticator.clone().with_judges(judges);
    world
}

#[tokio::test]
async fn who_was_told_of_a_group_has_it_for_that_login_and_nobody_else_has() {
    let world = judged(Judges {
        radius: None,
        directory: Some(Arc::new(directory(Slapd::shared()))),
    });
    let admin = world.administer();
    let bob: AccountName = "bob".parse().unwrap();
    admin.add(&bob, AccountKind::Human, None).unwrap();
    let phone = totp::Authenticator::generate(totp::Algorithm::Sha1, totp::Digits::Six).unwrap();
    admin.enroll_totp(&bob, &phone).unwrap();
    for name in [&alice(), &bob] {
        admin.set_directory(name, None).unwrap();
    }
    let user = accepted(exchange(&mut world.attempt(), "alice", PASSWORD, &world.code()).await);
    assert_eq!(user.directory_groups(), Some(&["movers".to_owned()].into()));
    let code = phone.code_at(world.seconds.load(Ordering::SeqCst) as u64);
    let user = accepted(exchange(&mut world.attempt(), "bob", PASSWORD, &code).await);
    assert_eq!(user.directory_groups(), Some(&[].into()));
    let recorded: Vec<_> = world
        .log
        .of(EventKind::AuthResult)
        .iter()
        .map(|event| event.body["directory_groups"].clone())
        .collect();
    assert_eq!(
        recorded,
        [serde_json::json!(["movers"]), serde_json::json!([])]
    );

    // Her password was judged, and then it was Bob who came in.
    world.pass(Duration::from_secs(30));
    let mut attempt = world.attempt();
    attempt.keyboard_interactive("alice", None).await;
    let answer = vec![Secret::from(PASSWORD)];
    attempt.keyboard_interactive("alice", Some(answer)).await;
    let code = phone.code_at(world.seconds.load(Ordering::SeqCst) as u64);
    let user = accepted(exchange(&mut attempt, "bob", PASSWORD, &code).await);
    assert_eq!(user.directory_groups(), Some(&[].into()));
}

#[tokio::test]
async fn what_servers_accepted_lets_nobody_in_while_the_database_can_not_be_written() {
    let server = Freeradius::start(Place::Loopback, &[("alice", CODE)]).unwrap();
    let world = judged(Judges {
        radius: Some(Arc::new(radius(&server))),
        directory: Some(Arc::new(directory(Slapd::shared()))),
    });
    let admin = world.administer();
    admin.set_radius(&alice(), None).unwrap();
    let log_in = async || exchange(&mut world.attempt(), "alice", PASSWORD, CODE).await;
    world.accounts.forbid_writes(true);
    assert!(is_rejected(&log_in().await));
    assert_eq!(world.log.reasons(), ["right", "accounts_read_only"]);
    world.accounts.forbid_writes(false);
    let user = accepted(log_in().await);
    assert_eq!(user.factors(), [Factor::Password, Factor::Radius]);
    assert!(is_rejected(&log_in().await));
    assert_eq!(world.log.reasons().last().unwrap(), "code_replayed");
}

#[tokio::test]
async fn without_an_answer_from_either_server_there_is_no_login_by_other_factors_of_the_account() {
    let mut server = Freeradius::start(Place::Loopback, &[("alice", CODE)]).unwrap();
    let mut slapd = Slapd::start(Place::Loopback).unwrap();
    let world = judged(Judges {
        radius: Some(Arc::new(radius(&server))),
        directory: Some(Arc::new(directory(&slapd))),
    });
    let admin = world.administer();
    admin.set_radius(&alice(), None).unwrap();
    server.process.kill().unwrap();
    for code in [CODE.to_owned(), world.code(), String::new()] {
        let step = exchange(&mut world.attempt(), "alice", PASSWORD, &code).await;
        // No code at all leaves the password as it was: one factor.
        assert!(
            is_rejected(&step) || code.is_empty() && is_partial(&step),
            "{step:?}"
        );
    }
    assert!(
        world
            .log
            .reasons()
            .contains(&"radius_unavailable".to_owned())
    );
    admin.unset_radius(&alice()).unwrap();
    admin.set_directory(&alice(), None).unwrap();
    accepted(exchange(&mut world.attempt(), "alice", PASSWORD, &world.code()).await);
    slapd.process.kill().unwrap();
    world.pass(Duration::from_secs(30));
    let step = exchange(&mut world.attempt(), "alice", PASSWORD, &world.code()).await;
    assert!(is_rejected(&step), "{step:?}");
    let reasons = world.log.reasons();
    assert!(
        reasons.ends_with(&[
            "directory_unavailable".to_owned(),
            "after_bad_password".to_owned()
        ]),
        "{reasons:?}"
    );
}
