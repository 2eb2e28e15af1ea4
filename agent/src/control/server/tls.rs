//! Mutual TLS: who connects is the owner of a certificate that the configured authority signed.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use crate::{
    config::TcpControl,
    control::peer::{Identity, Peer, Roles},
};

/// The server's side of TLS, and what each certificate may do.
pub struct Tls {
    acceptor: TlsAcceptor,
    settings: TcpControl,
}

/// Why TLS can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error("read {} (control.tcp.{key})", path.display())]
    Pem {
        path: PathBuf,
        key: &'static str,
        source: pem::Error,
    },
    #[error("{} has no certificate (control.tcp.{key})", path.display())]
    NoCertificate { path: PathBuf, key: &'static str },
    #[error("take control.tcp.client_ca as an authority")]
    Authority(#[source] rustls::Error),
    #[error("verify clients with control.tcp.client_ca")]
    Verifier(#[from] VerifierBuilderError),
    #[error("use control.tcp.certificate with control.tcp.key")]
    Config(#[source] rustls::Error),
}

impl Tls {
    /// Reads the certificates and the key.
    ///
    /// # Errors
    /// If one of them can't be read, or they don't fit.
    pub fn new(settings: TcpControl) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(&settings.client_ca, "client_ca")? {
            authorities.add(certificate).map_err(TlsError::Authority)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(authorities),
            Arc::clone(&provider),
        )
        .build()?;
        let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|source| TlsError::Pem {
            path: settings.key.clone(),
            key: "key",
            source,
        })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Config)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&settings.certificate, "certificate")?, key)
            .map_err(TlsError::Config)?;
        // Every connection shows its certificate anew.
        config.send_tls13_tickets = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            settings,
        })
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// The owner of the certificate that the connection showed. One whose names have no role may do nothing.
    pub(super) fn peer(
        &self,
        stream: &TlsStream<TcpStream>,
        address: SocketAddr,
        port: u16,
        connection: u64,
    ) -> Option<Peer> {
        let (_, session) = stream.get_ref();
        let names = names(session.peer_certificates()?.first()?)?;
        let has = |granted: &std::collections::BTreeSet<String>| {
            names.iter().any(|name| granted.contains(name))
        };
        Some(Peer {
            identity: Identity::Certificate { address, port },
            roles: Roles {
                admin: has(&self.settings.admins),
                ban: has(&self.settings.banners),
                read: has(&self.settings.readers),
                offer: false,
            },
            name: names.into_iter().next()?,
            connection,
        })
    }
}

/// The names of a certificate, as they stand in the configuration: `CN=...`, `DNS:...`, `EMAIL:...`, `URI:...`.
fn names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut names: Vec<String> = certificate
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok())
        .map(|name| format!("CN={name}"))
        .collect();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        for name in &alternative.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(format!("DNS:{name}")),
                GeneralName::RFC822Name(name) => names.push(format!("EMAIL:{name}")),
                GeneralName::URI(name) => names.push(format!("URI:{name}")),
                // These have no form in the configuration.
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => {}
            }
        }
    }
    Some(names)
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem {
        path: path.to_owned(),
        key,
        source,
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
            key,
        });
    }
    Ok(certificates)
}
