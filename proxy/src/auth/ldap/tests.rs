use std::{fs, net::SocketAddr, path::Path};

use portcullis_tests::{
    place::Place,
    server::slapd::{BASE, PASSWORD, SERVICE_DN, Slapd},
};
use rustls::pki_types::pem::PemObject as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;

/// Generous: the machine that runs tests is loaded.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what is waited for in vain.
const IMPATIENCE: Duration = Duration::from_millis(700);

fn authorities(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn server(address: SocketAddr, start_tls: bool) -> LdapServer {
    LdapServer {
        host: address.ip().to_string(),
        port: address.port(),
        start_tls,
    }
}

fn people() -> People {
    People::Search {
        account: ServiceAccount {
            dn: SERVICE_DN.to_owned(),
            password: Secret::from(PASSWORD),
        },
        base: BASE.to_owned(),
        filter: Filter::parse("(&(objectClass=inetOrgPerson)(uid={name}))").unwrap(),
    }
}

fn settings(slapd: &Slapd) -> LdapSettings {
    LdapSettings {
        servers: vec![server(slapd.ldaps, false)],
        authorities: authorities(&slapd.authority),
        people: people(),
        groups: None,
        timeout: PATIENCE,
        rest: Duration::from_secs(3600),
        at_once: 4,
        recheck: None,
    }
}

fn names() -> BTreeMap<String, String> {
    [
        ("transfer", "movers"),
        ("cn=transfer,dc=example,dc=org", "movers"),
    ]
    .map(|(theirs, ours)| (theirs.to_owned(), ours.to_owned()))
    .into()
}

fn directory(settings: LdapSettings) -> Directory {
    Directory::new(settings).unwrap()
}

async fn check(settings: LdapSettings, login: &str, password: &str) -> DirectoryVerdict {
    directory(settings)
        .check(login, &Secret::from(password))
        .await
}

fn right() -> DirectoryVerdict {
    DirectoryVerdict::Right {
        groups: BTreeSet::new(),
    }
}

/// One for all tests that only read.
fn slapd() -> &'static Slapd {
    Slapd::shared()
}

#[tokio::test]
async fn over_ldaps_and_start_tls_the_right_password_alone_is_right() {
    let slapd = slapd();
    let both = [
        settings(slapd),
        LdapSettings {
            servers: vec![server(slapd.start_tls, true)],
            ..settings(slapd)
        },
    ];
    for settings in both {
        assert_eq!(check(settings.clone(), "alice", PASSWORD).await, right());
        assert_eq!(
            check(settings, "alice", "correct horse batterY").await,
            DirectoryVerdict::Wrong(Refusal::Credentials)
        );
    }
}

#[tokio::test]
async fn by_a_template_the_right_password_alone_is_right() {
    let template = DnTemplate::parse("uid={name},ou=people,dc=example,dc=org").unwrap();
    let settings = LdapSettings {
        people: People::Template(template),
        groups: Some(Groups {
            source: GroupSource::OfPerson {
                attribute: "memberOf".to_owned(),
            },
            names: names(),
        }),
        ..settings(slapd())
    };
    let movers = DirectoryVerdict::Right {
        groups: ["movers".to_owned()].into(),
    };
    assert_eq!(check(settings.clone(), "alice", PASSWORD).await, movers);
    for (login, password) in [
        ("alice", "wrong"),
        ("nobody", PASSWORD),
        // Would be Carol among the guests, if the comma were not escaped.
        ("carol,ou=guests,dc=example,dc=org", PASSWORD),
    ] {
        assert_eq!(
            check(settings.clone(), login, password).await,
            DirectoryVerdict::Wrong(Refusal::Credentials),
            "{login}"
        );
    }
}

#[tokio::test]
async fn an_empty_password_is_wrong_though_the_directory_might_take_it() {
    for password in ["", "\0", "\0correct horse battery"] {
        assert_eq!(
            check(settings(slapd()), "alice", password).await,
            DirectoryVerdict::Wrong(Refusal::EmptyPassword),
            "{password:?}"
        );
    }
}

#[tokio::test]
async fn a_name_finds_exactly_its_own_entry() {
    for (login, refusal) in [
        ("nobody", Refusal::NoEntry),
        ("carol", Refusal::SeveralEntries),
        ("*", Refusal::NoEntry),
        ("alic*", Refusal::NoEntry),
        ("*)(uid=*", Refusal::NoEntry),
        ("alice)(|(uid=*", Refusal::NoEntry),
        ("", Refusal::NoEntry),
        ("\0", Refusal::NoEntry),
    ] {
        assert_eq!(
            check(settings(slapd()), login, PASSWORD).await,
            DirectoryVerdict::Wrong(refusal),
            "{login:?}"
        );
    }
}

#[tokio::test]
async fn only_mapped_groups_are_told() {
    let sources = [
        GroupSource::OfPerson {
            attribute: "memberOf".to_owned(),
        },
        GroupSource::OfGroup {
            base: BASE.to_owned(),
            filter: Filter::parse("(&(objectClass=groupOfNames)(member={dn}))").unwrap(),
            attribute: "cn".to_owned(),
        },
    ];
    for source in sources {
        let settings = LdapSettings {
            groups: Some(Groups {
                source,
                names: names(),
            }),
            ..settings(slapd())
        };
        assert_eq!(
            check(settings.clone(), "alice", PASSWORD).await,
            DirectoryVerdict::Right {
                groups: ["movers".to_owned()].into()
            }
        );
        assert_eq!(check(settings.clone(), "bob", PASSWORD).await, right());
        assert_eq!(
            check(settings, "dave", PASSWORD).await,
            right(),
            "a member of a group that is a member"
        );
    }
}

#[tokio::test]
async fn a_server_whose_certificate_another_authority_made_hears_no_password() {
    let other = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&other).unwrap();
    for start_tls in [false, true] {
        let address = if start_tls {
            slapd().start_tls
        } else {
            slapd().ldaps
        };
        let settings = LdapSettings {
            servers: vec![server(address, start_tls)],
            authorities: vec![certificate.der().clone()],
            ..settings(slapd())
        };
        assert_eq!(
            check(settings, "alice", PASSWORD).await,
            DirectoryVerdict::Unavailable
        );
    }
}

#[tokio::test]
async fn a_server_under_another_name_than_its_certificates_hears_no_password() {
    let mut settings = settings(slapd());
    settings.servers[0].host = "ip6-localhost".to_owned();
    assert_eq!(
        check(settings, "alice", PASSWORD).await,
        DirectoryVerdict::Unavailable
    );
}

#[tokio::test]
async fn without_its_own_account_the_gateway_gives_no_verdict() {
    let mut settings = settings(slapd());
    if let People::Search { account, .. } = &mut settings.people {
        account.password = Secret::from("wrong");
    }
    assert_eq!(
        check(settings, "alice", PASSWORD).await,
        DirectoryVerdict::Unavailable
    );
}

#[tokio::test]
async fn whoever_left_the_directory_is_gone_and_a_dead_directory_says_nothing() {
    let mut slapd = Slapd::start(Place::Loopback).unwrap();
    let directory = directory(settings(&slapd));
    assert_eq!(directory.presence("bob").await, Presence::Present);
    slapd.remove("uid=bob,ou=people,dc=example,dc=org").unwrap();
    assert_eq!(directory.presence("bob").await, Presence::Gone);
    assert_eq!(directory.presence("alice").await, Presence::Present);
    slapd.process.kill().unwrap();
    assert_eq!(directory.presence("alice").await, Presence::Unknown);
    assert_eq!(
        directory.check("alice", &Secret::from(PASSWORD)).await,
        DirectoryVerdict::Unavailable
    );
}

/// A server in clear that sends `answer` to the first bytes of each client; the task ends with what the last one sent.
async fn scripted(answer: &'static [u8]) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let mut bytes = [0; 1024];
        let length = stream.read(&mut bytes).await.unwrap();
        heard.extend(&bytes[..length]);
        stream.write_all(answer).await.unwrap();
        // Whatever follows, until the client gives up.
        let _ = stream.read_to_end(&mut heard).await;
        heard
    });
    (address, task)
}

#[tokio::test]
async fn start_tls_that_is_stripped_or_answered_with_more_ends_the_conversation() {
    // ExtendedResponse with success, message 1.
    const YES: &[u8] = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
    const NO: &[u8] = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00";
    // And a bind response in the same breath, which must not count as one over TLS.
    const MORE: &[u8] =
        b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\x00\x04\x00\x04\x00";
    for (answer, goes_on) in [(NO, false), (MORE, false), (&YES[..8], false), (YES, true)] {
        let (address, task) = scripted(answer).await;
        let settings = LdapSettings {
            servers: vec![server(address, true)],
            timeout: IMPATIENCE,
            ..settings(slapd())
        };
        assert_eq!(
            check(settings, "alice", PASSWORD).await,
            DirectoryVerdict::Unavailable
        );
        let heard = task.await.unwrap();
        let request = message::start_tls(1);
        assert!(heard.starts_with(&request));
        let rest = &heard[request.len()..];
        // A TLS handshake record, and nothing in clear.
        assert_eq!(rest.first().is_some_and(|&kind| kind == 22), goes_on);
        assert!(goes_on || rest.is_empty(), "{rest:?}");
        let password = PASSWORD.as_bytes();
        assert!(!heard.windows(password.len()).any(|part| part == password));
    }
}

#[tokio::test]
async fn a_server_that_hangs_costs_its_time_once_and_the_next_one_answers() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(slapd());
    settings
        .servers
        .insert(0, server(hanging.local_addr().unwrap(), false));
    // Enough for the second server on a loaded machine, too.
    settings.timeout = Duration::from_secs(3);
    let directory = directory(settings);
    let password = Secret::from(PASSWORD);
    let begun = Instant::now();
    assert_eq!(directory.check("alice", &password).await, right());
    assert!(begun.elapsed() >= Duration::from_secs(3));
    let (accepted, _) = hanging.accept().await.unwrap();
    drop(accepted);
    assert_eq!(directory.check("alice", &password).await, right());
    let again = timeout(Duration::from_millis(200), hanging.accept()).await;
    assert!(again.is_err(), "it rests and is not asked");
}

/// A server with slapd's certificate that reads requests and answers each with what `answers` has for it; then it hangs up.
async fn scripted_over_tls(answers: Vec<Vec<u8>>) -> SocketAddr {
    let folder = slapd().authority.parent().unwrap();
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let certificate = CertificateDer::from_pem_slice(&read("server.pem")).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut request = [0; 2048];
        for answer in answers {
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            stream.flush().await.unwrap();
        }
        let _ = stream.read(&mut request).await;
    });
    address
}

/// A result: message `id`, the tag of the response, the code.
fn result(id: u8, tag: u8, code: u8) -> Vec<u8> {
    vec![
        0x30, 0x0c, 0x02, 0x01, id, tag, 0x07, 0x0a, 0x01, code, 0x04, 0x00, 0x04, 0x00,
    ]
}

#[tokio::test]
async fn answers_that_do_not_fit_their_question_are_no_verdict() {
    const BIND: u8 = 0x61;
    const DONE: u8 = 0x65;
    // The service account's bind is message 1, the search 2, the user's bind 3.
    let entry = b"\x30\x18\x02\x01\x02\x64\x13\x04\x0fuid=alice,dc=ex\x30\x00".to_vec();
    let found = [entry.clone(), result(2, DONE, 0)].concat();
    let cases: [(&str, Vec<Vec<u8>>, DirectoryVerdict); 11] = [
        (
            "as it should be",
            vec![result(1, BIND, 0), found.clone(), result(3, BIND, 0)],
            right(),
        ),
        (
            "gone in the middle of the bind",
            vec![result(1, BIND, 0), found.clone()],
            DirectoryVerdict::Unavailable,
        ),
        (
            "a result for another message",
            vec![result(1, BIND, 0), found.clone(), result(4, BIND, 0)],
            DirectoryVerdict::Unavailable,
        ),
        (
            "the end of a search in place of a bind",
            vec![result(1, BIND, 0), found.clone(), result(3, DONE, 0)],
            DirectoryVerdict::Unavailable,
        ),
        (
            "a directory that is busy",
            vec![result(1, BIND, 0), found.clone(), result(3, BIND, 51)],
            DirectoryVerdict::Unavailable,
        ),
        (
            "an account that may not log in at this hour",
            vec![result(1, BIND, 0), found, result(3, BIND, 53)],
            DirectoryVerdict::Wrong(Refusal::Other),
        ),
        (
            "a referral to somewhere else",
            vec![result(1, BIND, 0), result(2, DONE, 10)],
            DirectoryVerdict::Unavailable,
        ),
        (
            "an entry without a name, whose bind would be anonymous",
            vec![
                result(1, BIND, 0),
                [
                    b"\x30\x09\x02\x01\x02\x64\x04\x04\x00\x30\x00".to_vec(),
                    result(2, DONE, 0),
                ]
                .concat(),
                result(3, BIND, 0),
            ],
            DirectoryVerdict::Unavailable,
        ),
        (
            "three entries where two are the limit",
            vec![
                result(1, BIND, 0),
                [entry.clone(), entry.clone(), entry, result(2, DONE, 0)].concat(),
            ],
            DirectoryVerdict::Unavailable,
        ),
        (
            "a message of 4 GiB",
            vec![b"\x30\x84\xff\xff\xff\xff".to_vec()],
            DirectoryVerdict::Unavailable,
        ),
        (
            "no LDAP",
            vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()],
            DirectoryVerdict::Unavailable,
        ),
    ];
    for (case, answers, verdict) in cases {
        let address = scripted_over_tls(answers).await;
        let settings = LdapSettings {
            servers: vec![server(address, false)],
            timeout: Duration::from_secs(2),
            ..settings(slapd())
        };
        assert_eq!(check(settings, "alice", PASSWORD).await, verdict, "{case}");
    }
}
