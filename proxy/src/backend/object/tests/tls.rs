//! Who the server must be.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{directory, server, session, settings};
use crate::backend::{BackendError, ErrorKind, ftp::TlsTrust};

/// The object store behind TLS, with a certificate for `127.0.0.1` from an authority of its own.
struct TlsFront {
    port: u16,
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    _serving: JoinSet<()>,
}

impl TlsFront {
    async fn start() -> Self {
        let server = server().await.address;
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // Clients that refuse the certificate are part of the tests.
                    if let Ok(mut client) = acceptor.accept(client).await {
                        let mut upstream = TcpStream::connect(server).await.unwrap();
                        let _ = copy_bidirectional(&mut client, &mut upstream).await;
                    }
                });
            }
        });
        Self {
            port,
            authority: authority_certificate.der().clone(),
            certificate: certificate.der().clone(),
            _serving: serving,
        }
    }

    /// Puts a file and gets it back, as the host that is named.
    async fn try_with(&self, host: &str, trust: TlsTrust) -> Result<(), BackendError> {
        let mut settings = settings(format!("https://{host}:{}", self.port));
        settings.trust = trust;
        let client = session(&settings, &directory());
        client.stat("/").await?;
        let open = client.open_operation("/a", crate::backend::conformance::REPLACE);
        let handle = crate::backend::conformance::opened_handle(&open);
        client.ask(open).await?;
        client.write(handle, 0, "content").await;
        client.close(handle).await;
        assert_eq!(client.get("/a").await, b"content");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_server_that_the_settings_name_is_talked_to() {
    let front = TlsFront::start().await;
    let fingerprint: [u8; 32] = Sha256::digest(&front.certificate).into();
    let authority = || TlsTrust::Authorities(vec![front.authority.clone()]);
    front.try_with("127.0.0.1", authority()).await.unwrap();
    let pinned = TlsTrust::Pinned(fingerprint);
    front.try_with("127.0.0.1", pinned.clone()).await.unwrap();
    // A pin is about the certificate, not about its names.
    front.try_with("localhost", pinned).await.unwrap();
    for (host, trust, cause) in [
        ("127.0.0.1", TlsTrust::WebRoots, "UnknownIssuer"),
        (
            "127.0.0.1",
            TlsTrust::Pinned([7; 32]),
            "ApplicationVerificationFailure",
        ),
        ("localhost", authority(), "not valid for name"),
    ] {
        let error = front.try_with(host, trust).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(error.message.contains(cause), "{error}");
    }
}
