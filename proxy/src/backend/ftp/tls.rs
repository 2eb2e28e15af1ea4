//! TLS as FTP servers want it: every data connection resumes the session of its own control connection.

mod stream;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;

pub(super) use self::stream::{BufferedConnector, BufferedTls, Unended};
use super::settings::TlsTrust;

/// Why TLS can't be set up with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsSettingsError {
    #[error("{name:?} is neither a host name nor an IP address; set server_name")]
    ServerName { name: String },
    #[error("there is no certificate in the trust anchors")]
    NoRoots,
    #[error("a trust anchor is not usable")]
    Root { source: rustls::Error },
    #[error("TLS can't be set up")]
    Setup { source: rustls::Error },
    #[error("the gateway's own certificate is not usable")]
    Identity { source: rustls::Error },
}

/// The gateway's own certificate, with what vouches for it, and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Makes the connectors of one server.
#[derive(Debug)]
pub(super) struct TlsClient {
    server_name: String,
    tls12: ClientConfig,
    tls13: ClientConfig,
    /// The server refused TLS 1.2.
    wants_tls13: AtomicBool,
}

impl TlsClient {
    pub(super) fn new(server_name: &str, trust: &TlsTrust) -> Result<Self, TlsSettingsError> {
        if ServerName::try_from(server_name).is_err() {
            return Err(TlsSettingsError::ServerName {
                name: server_name.to_owned(),
            });
        }
        // TLS 1.2 resumes a session as often as it is asked to. TLS 1.3 spends a ticket each time, and an upload's data
        // connection never reads a new one, so that servers which insist on reuse fail the third upload.
        Ok(Self {
            server_name: server_name.to_owned(),
            tls12: client_config(trust, &[&TLS12])?,
            tls13: client_config(trust, &[&TLS13])?,
            wants_tls13: AtomicBool::new(false),
        })
    }

    pub(super) fn server_name(&self) -> &str {
        &self.server_name
    }

    /// A connector for one control connection and its data connections, with sessions of its own: servers that check
    /// reuse want the session of that very control connection.
    pub(super) fn connector(&self) -> BufferedConnector {
        let mut config = if self.wants_tls13.load(Ordering::Relaxed) {
            self.tls13.clone()
        } else {
            self.tls12.clone()
        };
        config.resumption = Resumption::in_memory_sessions(4);
        BufferedConnector::new(TlsConnector::from(Arc::new(config)))
    }

    /// Learns from a failed handshake. True if another try with TLS 1.3 is worth it.
    pub(super) fn retry_with_tls13(&self, cause: &str) -> bool {
        // The FTP library hands on only the text of rustls' error, which ends in the alert's name.
        let refused_version = cause.contains("ProtocolVersion");
        refused_version && !self.wants_tls13.swap(true, Ordering::Relaxed)
    }
}

/// What a client accepts from a server.
pub(in crate::backend) fn client_config(
    trust: &TlsTrust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, TlsSettingsError> {
    client_config_as(None, trust, versions)
}

/// As [`client_config`], for a client that shows a certificate.
pub(crate) fn client_config_as(
    identity: Option<Identity>,
    trust: &TlsTrust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, TlsSettingsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|source| TlsSettingsError::Setup { source })?;
    let config = match trust {
        TlsTrust::WebRoots => builder.with_root_certificates(RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        }),
        TlsTrust::Authorities(certificates) if certificates.is_empty() => {
            return Err(TlsSettingsError::NoRoots);
        }
        TlsTrust::Authorities(certificates) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates {
                roots
                    .add(certificate.clone())
                    .map_err(|source| TlsSettingsError::Root { source })?;
            }
            builder.with_root_certificates(roots)
        }
        TlsTrust::Pinned(fingerprint) => {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(PinnedCertificate {
                    fingerprint: *fingerprint,
                    provider,
                }))
        }
    };
    match identity {
        None => Ok(config.with_no_client_auth()),
        Some((certificates, key)) => config
            .with_client_auth_cert(certificates, key)
            .map_err(|source| TlsSettingsError::Identity { source }),
    }
}

/// Accepts one certificate and no other. The handshake's signature is checked as always, so that its key is proven.
#[derive(Debug)]
struct PinnedCertificate {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Sha256::digest(end_entity.as_ref()).as_slice() == self.fingerprint.as_slice() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
