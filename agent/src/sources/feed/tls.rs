//! Whether the server is the one that is meant.

use std::{fs, io, path::PathBuf, str::FromStr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of a server's public key (SubjectPublicKeyInfo), written `sha256//BASE64` as curl has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// Why a text is not a pin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected \"sha256//\" with 32 bytes in base64, as `curl --pinnedpubkey` takes it")]
pub struct PinError;

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let encoded = text.strip_prefix("sha256//").ok_or(PinError)?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| PinError)?;
        bytes.try_into().map(Self).map_err(|_| PinError)
    }
}

/// Which server is believed to be the one of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// One with a certificate of a public authority.
    Web,
    /// One with a certificate of an authority in this PEM file.
    Authority(PathBuf),
    /// One that has one of these keys. Its certificate's issuer, name and dates don't matter then (as with DANE-EE, RFC 7671 section 5.1).
    Keys(Vec<Pin>),
}

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    #[error("read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} has no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("set TLS up")]
    Setup {
        #[source]
        source: Error,
    },
    #[error("use the certificates of {}", path.display())]
    Authority {
        path: PathBuf,
        source: rustls::server::VerifierBuilderError,
    },
}

/// How to talk to the server.
pub(super) fn client(trust: &Trust) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| TrustError::Setup { source })?;
    let config = match trust {
        Trust::Web => builder.with_root_certificates(RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        }),
        Trust::Authority(path) => {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
                    .build()
                    .map_err(|source| TrustError::Authority {
                        path: path.clone(),
                        source,
                    })?;
            builder.with_webpki_verifier(verifier)
        }
        Trust::Keys(pins) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedKeys {
                pins: pins.clone(),
                provider,
            })),
    };
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(path: &PathBuf) -> Result<RootCertStore, TrustError> {
    let pem = fs::read(path).map_err(|source| TrustError::Unreadable {
        path: path.clone(),
        source,
    })?;
    let certificates: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(&pem).flatten().collect();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(TrustError::NoCertificate { path: path.clone() });
    }
    Ok(roots)
}

/// Accepts these keys and no others. The handshake's signature is checked as always, so that the server proves its key.
#[derive(Debug)]
struct PinnedKeys {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let key = Sha256::digest(certificate.subject_public_key_info());
        if self
            .pins
            .iter()
            .any(|pin| pin.0.as_slice() == key.as_slice())
        {
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
    ) -> Result<HandshakeSignatureValid, Error> {
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
    ) -> Result<HandshakeSignatureValid, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_has_its_form_and_its_length() {
        let good = format!("sha256//{}", BASE64_STANDARD.encode([1; 32]));
        assert_eq!(good.parse(), Ok(Pin([1; 32])));
        let short = format!("sha256//{}", BASE64_STANDARD.encode([1; 31]));
        for text in [
            "",
            "sha256//",
            &short,
            &good.replace("sha256//", "sha256/"),
            &good.replace("sha256", "sha1"),
        ] {
            assert_eq!(text.parse::<Pin>(), Err(PinError), "{text}");
        }
    }
}
