//! What must not reach the server, and which server it must be.

use super::{
    path,
    scripted::{Script, Scripted},
};
use crate::{
    backend::{
        BackendService as _, ErrorKind, Origin,
        conformance::{Client, READ, REPLACE},
        ftp::{FtpService, FtpTls, TlsTrust},
    },
    operation::{Attributes, Operation},
};

#[tokio::test]
async fn a_line_break_in_a_name_never_reaches_the_control_connection() {
    let server = Scripted::start(Script::default()).await;
    server.has("/victim", b"still here");
    let client = server.client();
    for name in [&b"/a\r\nDELE /victim"[..], b"/a\nDELE /victim", b"/a\rb"] {
        for operation in [
            Operation::Stat { path: path(name) },
            Operation::Remove { path: path(name) },
            Operation::Rename {
                from: path("/victim"),
                to: path(name),
            },
            Operation::Mkdir {
                path: path(name),
                attributes: Attributes::default(),
            },
            client.open_operation(name, REPLACE),
            client.open_operation(name, READ),
        ] {
            assert_eq!(client.refusal(operation).await, ErrorKind::InvalidArgument);
        }
    }
    assert_eq!(server.file("/victim").unwrap(), b"still here");
    assert!(server.commands().iter().all(|line| !line.contains("DELE")));
    client
        .done(Operation::Remove {
            path: path("/victim"),
        })
        .await;
}

#[tokio::test]
async fn the_byte_0xff_is_doubled_on_the_wire() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let _ = client
        .ask(Operation::Stat {
            path: path(b"/a\xff\xfe"),
        })
        .await;
    let disk = server.disk.lock().unwrap();
    assert!(
        disk.commands.contains(&b"SIZE /a\xff\xff\xfe".to_vec()),
        "{:?}",
        disk.commands
    );
}

#[tokio::test]
async fn a_refused_login_names_the_backend_and_is_the_gateways_fault() {
    let server = Scripted::start(Script {
        answers: [("PASS", "530 Login incorrect.")].into(),
        ..Script::default()
    })
    .await;
    let error = server.client().stat("/a").await.unwrap_err();
    assert_eq!(
        (error.kind, error.origin),
        (ErrorKind::Unavailable, Origin::Gateway)
    );
    assert!(
        error.message.contains("127.0.0.1:") && error.message.contains("530 Login incorrect."),
        "{error}"
    );
    assert!(!error.message.contains("secret"));
}

#[tokio::test]
async fn tls_that_the_server_refuses_is_not_replaced_by_plain_text() {
    let server = Scripted::start(Script::default()).await;
    let mut settings = super::settings(server.address, FtpTls::None);
    settings.tls = FtpTls::Explicit {
        server_name: "localhost".to_owned(),
        trust: TlsTrust::Pinned([0; 32]),
    };
    let service = FtpService::new(settings).unwrap();
    let error = Client::new(service.session(b"/", &crate::testing::owner()))
        .stat("/a")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.origin),
        (ErrorKind::Unavailable, Origin::Gateway)
    );
    assert!(error.message.contains("AUTH TLS"), "{error}");
    let commands = server.commands();
    assert_eq!(commands, ["AUTH TLS"], "no user name, no password");
}

#[tokio::test]
async fn a_server_in_plain_text_hears_neither_name_nor_password_where_implicit_tls_is_wanted() {
    let server = Scripted::start(Script::default()).await;
    let mut settings = super::settings(server.address, FtpTls::None);
    settings.timeout = super::scripted::TIMEOUT;
    settings.tls = FtpTls::Implicit {
        server_name: "localhost".to_owned(),
        trust: TlsTrust::Pinned([0; 32]),
    };
    let service = FtpService::new(settings).unwrap();
    let error = Client::new(service.session(b"/", &crate::testing::owner()))
        .stat("/a")
        .await
        .unwrap_err();
    assert!(error.message.contains("TLS"), "{error}");
    let commands = server.commands().concat();
    assert!(
        !commands.contains("USER") && !commands.contains("gateway"),
        "{commands}"
    );
}

#[tokio::test]
async fn an_authority_vouches_for_its_server_and_for_no_other_name_over_either_version_of_tls() {
    let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
    for (version, is_implicit) in versions
        .into_iter()
        .flat_map(|version| [(version, false), (version, true)])
    {
        let (anchor, config) = certified(version);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), anchor).unwrap();
        let server = Scripted::start(Script {
            tls: Some(std::sync::Arc::new(config)),
            implicit: is_implicit,
            ..Script::default()
        })
        .await;
        let client = |server_name: &str| {
            let mut settings = super::settings(server.address, FtpTls::None);
            settings.tls = FtpTls::Explicit {
                server_name: server_name.to_owned(),
                trust: TlsTrust::authorities_in(file.path()).unwrap(),
            };
            if is_implicit {
                settings.tls = super::implicit(settings.tls);
            }
            Client::new(
                FtpService::new(settings)
                    .unwrap()
                    .session(b"/", &crate::testing::owner()),
            )
        };
        let right = client("localhost");
        right.put("/a", "content").await;
        assert_eq!(right.get("/a").await, b"content");
        assert_eq!(right.names("/").await, [b"a"]);
        let logins = server.disk.lock().unwrap().logins;
        let error = client("other.example").stat("/a").await.unwrap_err();
        assert_eq!(
            (error.kind, error.origin),
            (ErrorKind::Unavailable, Origin::Gateway),
            "{error}"
        );
        assert_eq!(
            server.disk.lock().unwrap().logins,
            logins,
            "no password for a stranger"
        );
    }
}

#[test]
fn a_file_without_a_certificate_is_no_trust_anchor() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = TlsTrust::authorities_in(file.path()).unwrap_err();
    assert!(error.to_string().contains("no certificate in"), "{error}");
    std::fs::remove_file(file.path()).unwrap();
    assert!(TlsTrust::authorities_in(file.path()).is_err());
}

/// An authority, a certificate for `localhost` that it vouches for, and a server that shows it.
pub(super) fn certified(
    version: &'static rustls::SupportedProtocolVersion,
) -> (Vec<u8>, rustls::ServerConfig) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let anchor = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::new(authority, authority_key))
        .unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    (anchor.pem().into_bytes(), config)
}
