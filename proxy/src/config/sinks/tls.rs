//! How collector and gateway prove themselves to each other, or don't.

use std::path::Path;

use chrono::NaiveDate;
use portcullis_audit::sink::server_name;
use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{
    config::{
        backends::{TrustAnchor, trust_anchor},
        exception::exception,
        files::{self, Secret},
        section::Section,
    },
    exception::Exception,
};

/// How a connection for syslog is protected.
#[derive(Debug, PartialEq)]
pub enum SinkTransport {
    Tls(SinkTls),
    /// In clear, for as long as the exception lasts.
    Plaintext(Exception),
}

/// How collector and gateway prove themselves to each other.
#[derive(Debug, PartialEq)]
pub struct SinkTls {
    /// Name that the certificate must have.
    pub server_name: String,
    pub trust: TrustAnchor,
    pub identity: Option<Identity>,
}

/// A certificate of one's own.
#[derive(Debug, PartialEq)]
pub struct Identity {
    pub certificates: Vec<CertificateDer<'static>>,
    /// PEM.
    pub key: Secret,
}

pub(super) fn transport(
    section: &mut Section<'_>,
    host: Option<String>,
    today: NaiveDate,
) -> Option<SinkTransport> {
    const CHOICE: &str = "\"required\", or \"none\" with a plaintext_exception";
    let mode = section.text("tls", CHOICE).unwrap_or("required");
    let allowed = plaintext_exception(section, today);
    match mode {
        "required" => {
            if allowed.is_some() {
                section.fault(
                    "plaintext_exception",
                    "has no use with tls = \"required\"; remove it",
                );
            }
            tls(section, host).map(SinkTransport::Tls)
        }
        "none" => no_tls(section, allowed).map(SinkTransport::Plaintext),
        other => {
            section.fault("tls", format!("expected {CHOICE}, found {other:?}"));
            None
        }
    }
}

/// The exception that is there; `Some(None)` for one with a fault.
pub(super) fn plaintext_exception(
    section: &mut Section<'_>,
    today: NaiveDate,
) -> Option<Option<Exception>> {
    section.section("plaintext_exception").map(|section| {
        exception(
            section,
            "why the collector can't use TLS",
            "give the collector a certificate",
            today,
        )
    })
}

/// The exception that a connection in clear needs.
pub(super) fn no_tls(
    section: &mut Section<'_>,
    allowed: Option<Option<Exception>>,
) -> Option<Exception> {
    for key in [
        "server_name",
        "ca_file",
        "pinned_certificate_sha256",
        "client_certificate_file",
        "client_key_file",
    ] {
        if section.has(key) {
            section.fault(key, "has no use with tls = \"none\"; remove it");
            // Known, though of no use.
            let _ = section.text(key, "a text");
        }
    }
    if allowed.is_none() {
        section.fault(
            "plaintext_exception",
            "missing; tls = \"none\" sends names of users and files in clear and needs { reason, approver, expires }",
        );
    }
    allowed.flatten()
}

pub(super) fn tls(section: &mut Section<'_>, host: Option<String>) -> Option<SinkTls> {
    let name = section.text("server_name", "the name in the collector's certificate");
    let authorities = section.text("ca_file", "the path of a PEM file");
    let pin = section.text(
        "pinned_certificate_sha256",
        "64 hexadecimal digits: `openssl x509 -in cert.pem -outform DER | sha256sum`",
    );
    let identity = identity(section, "client_certificate_file", "client_key_file");
    let trust = trust_anchor(section, authorities, pin);
    if let Some(TrustAnchor::Authorities { file, .. }) = &trust
        && let Err(problem) = certificates(file)
    {
        section.fault("ca_file", problem);
    }
    let name = name.map(str::to_owned).or(host)?;
    if server_name(&name).is_err() {
        section.fault(
            "server_name",
            format!("{name:?} is neither a host name nor an IP address"),
        );
        return None;
    }
    Some(SinkTls {
        server_name: name,
        trust: trust?,
        identity: identity?,
    })
}

/// A certificate and its key, in files that two keys of the section name; `Some(None)` if there are none.
pub(in crate::config) fn identity(
    section: &mut Section<'_>,
    chain_file: &'static str,
    key_file: &'static str,
) -> Option<Option<Identity>> {
    const PAIR: &str = "missing; a certificate needs its key, and a key its certificate";
    let chain = section.text(chain_file, "the path of a PEM file");
    let key = section.text(key_file, "the path of a PEM file with the key");
    let (chain, path) = match (chain, key) {
        (None, None) => {
            let is_wrong = section.has(chain_file) || section.has(key_file);
            return (!is_wrong).then_some(None);
        }
        (Some(chain), Some(key)) => (chain, key),
        (Some(_), None) => {
            section.fault(key_file, PAIR);
            return None;
        }
        (None, Some(_)) => {
            section.fault(chain_file, PAIR);
            return None;
        }
    };
    let chain = certificates(Path::new(chain))
        .map_err(|problem| section.fault(chain_file, problem))
        .ok();
    let key = files::secret(Path::new(path))
        .map_err(|problem| section.fault(key_file, problem))
        .ok();
    let (chain, key) = (chain?, key?);
    let Ok(parsed) = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()) else {
        section.fault(
            key_file,
            format!("{path} is not a private key in PEM format without a passphrase"),
        );
        return None;
    };
    if let Err(error) =
        CertifiedKey::from_der(chain.clone(), parsed, &aws_lc_rs::default_provider())
    {
        section.fault(key_file, format!("does not go with {chain_file}: {error}"));
        return None;
    }
    Some(Some(Identity {
        certificates: chain,
        key,
    }))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{}: can't be read: {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("there is no certificate in {}", path.display()));
    }
    Ok(certificates)
}
