//! Mutual TLS: whom a certificate lets in, and to what.

use std::{collections::BTreeSet, net::SocketAddr};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    SanType,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::TcpControl;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate with this common name and DNS name, and its key.
fn certificate(issuer: &Issuer, name: &str) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::DnsName(
        format!("{name}.example").try_into().unwrap(),
    )];
    (params.signed_by(&key, issuer).unwrap(), key)
}

/// The interface over TLS, with the authority of its clients and of its own certificate.
struct Gateway {
    daemon: Daemon,
    address: SocketAddr,
    issuer: Issuer,
}

impl Gateway {
    async fn new() -> Self {
        let daemon = Daemon::new("");
        let issuer = authority("authority");
        let folder = daemon.socket.parent().unwrap();
        let (own, key) = certificate(&issuer, "gateway");
        let path = |name: &str| folder.join(name);
        fs::write(path("own.pem"), own.pem()).unwrap();
        fs::write(path("ca.pem"), issuer.pem()).unwrap();
        fs::write(path("own.key"), key.serialize_pem()).unwrap();
        let names = |name: &str| BTreeSet::from([name.to_owned()]);
        let settings = TcpControl {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate: path("own.pem"),
            key: path("own.key"),
            client_ca: path("ca.pem"),
            admins: names("CN=admin"),
            banners: names("DNS:banner.example"),
            readers: names("CN=reader"),
        };
        let listener = TcpListener::bind(settings.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Tls::new(settings).unwrap();
        tokio::spawn(serve_tls(listener, tls, daemon.service.clone()));
        Self {
            daemon,
            address,
            issuer,
        }
    }

    /// The status of a request with a certificate, or `None` if there is no connection.
    async fn ask(
        &self,
        identity: Option<(Certificate, KeyPair)>,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Option<StatusCode> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                config
                    .with_client_auth_cert(vec![certificate.der().clone()], key)
                    .unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("gateway.example").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = HttpRequest::builder()
            .method(method)
            .uri(path)
            .header("host", "gateway.example")
            .body(Full::new(Bytes::from(serde_json::to_vec(body).unwrap())))
            .unwrap();
        sender
            .send_request(request)
            .await
            .ok()
            .map(|response| response.status())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificates_name_gives_its_role_and_not_its_neighbours() {
    let gateway = Gateway::new().await;
    let ban = json!({ "source": "198.51.100.7", "lifetime_seconds": 60 });
    let list = entries(&["198.51.100.0/24"]);
    for (name, wanted) in [
        ("admin", [200, 201, 200]),
        ("banner", [403, 201, 403]),
        ("reader", [200, 403, 403]),
        ("nobody", [403, 403, 403]),
    ] {
        for ((method, path, body), wanted) in [
            (Method::GET, "/v1/status", &Value::Null),
            (Method::POST, "/v1/bans", &ban),
            (Method::POST, "/v1/allow", &list),
        ]
        .into_iter()
        .zip(wanted)
        {
            let identity = certificate(&gateway.issuer, name);
            let status = gateway.ask(Some(identity), method, path, body).await;
            assert_eq!(
                status.map(|status| status.as_u16()),
                Some(wanted),
                "{name} {path}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_and_another_authoritys_are_not_let_in() {
    let gateway = Gateway::new().await;
    let foreign = certificate(&authority("authority"), "admin");
    for identity in [None, Some(foreign)] {
        let status = gateway
            .ask(identity, Method::GET, "/v1/status", &Value::Null)
            .await;
        assert_eq!(status, None);
    }
    let own = certificate(&gateway.issuer, "admin");
    let status = gateway
        .ask(Some(own), Method::GET, "/v1/status", &Value::Null)
        .await;
    assert_eq!(status, Some(StatusCode::OK));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_over_tls_can_not_cut_its_own_address() {
    let gateway = Gateway::new().await;
    let own = || Some(certificate(&gateway.issuer, "admin"));
    let with = |prefix| entries(&[prefix, "198.51.100.0/24"]);
    let replace = async |list: Value| gateway.ask(own(), Method::PUT, "/v1/allow", &list).await;
    assert_eq!(replace(with("127.0.0.0/8")).await, Some(StatusCode::OK));
    assert_eq!(
        replace(entries(&["198.51.100.0/24"])).await,
        Some(StatusCode::CONFLICT)
    );
    assert_eq!(replace(with("127.0.0.1")).await, Some(StatusCode::OK));
    let allowed = gateway.daemon.datapath.told();
    assert_eq!(allowed.with(&crate::rule::Action::Allow(None)).len(), 2);
}
