//! What an operator says about an FTP server.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use zeroize::Zeroizing;

use crate::backend::staging::UploadSettings;

/// An FTP server and the account that the gateway uses there.
#[derive(Debug, Clone)]
pub struct FtpSettings {
    /// `host:port` or `[v6]:port`.
    pub address: String,
    pub user: String,
    pub password: Password,
    pub tls: FtpTls,
    /// Longest wait for a connection, a reply, or for a transfer to move.
    pub timeout: Duration,
    /// How often an idle control connection says NOOP; no more than one of a session is kept so.
    pub keepalive: Duration,
    pub charset: Charset,
    pub uploads: UploadSettings,
    /// The largest file, in bytes, that may be continued or changed: it passes through the gateway for that.
    pub copy_limit: u64,
}

/// How the connections are protected.
#[derive(Debug, Clone)]
pub enum FtpTls {
    /// Not at all: names, contents and the password cross the network as they are.
    None,
    /// `AUTH TLS` and `PROT P` (RFC 4217): control and data connections. There is no way back to plain text.
    Explicit {
        /// The name that the certificate must carry; with [`TlsTrust::Pinned`] it is only sent (SNI).
        server_name: String,
        trust: TlsTrust,
    },
    /// TLS from the first byte on, mostly on port 990. RFC 4217 dropped it; old servers know nothing else.
    Implicit {
        server_name: String,
        trust: TlsTrust,
    },
}

/// What the bytes of names on the server stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8 or whatever else: clients see the server's bytes.
    AsTheyAre,
    /// UTF-8. Names of other bytes are refused: there are servers that take them and store another name.
    Utf8,
    /// ISO 8859-1. Clients see names in UTF-8.
    Latin1,
}

/// Which certificate is the server's.
#[derive(Debug, Clone)]
pub enum TlsTrust {
    /// One that the usual public certificate authorities vouch for.
    WebRoots,
    /// One that these certificate authorities vouch for. A self-signed server certificate is none: pin it.
    Authorities(Vec<CertificateDer<'static>>),
    /// Exactly this one: the SHA-256 of its DER form. For self-signed certificates; names and dates in it do not count.
    Pinned([u8; 32]),
}

impl TlsTrust {
    /// The certificate authorities in a PEM file.
    ///
    /// # Errors
    /// If the file can't be read, is not PEM, or has no certificate.
    pub fn authorities_in(file: &Path) -> Result<Self, AuthoritiesError> {
        let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|error| AuthoritiesError::Read {
                file: file.to_owned(),
                message: error.to_string(),
            })?;
        if certificates.is_empty() {
            return Err(AuthoritiesError::Empty {
                file: file.to_owned(),
            });
        }
        Ok(Self::Authorities(certificates))
    }
}

/// Why a file is no trust anchor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthoritiesError {
    #[error("read certificates from {}: {message}", file.display())]
    Read { file: PathBuf, message: String },
    #[error("there is no certificate in {}", file.display())]
    Empty { file: PathBuf },
}

/// A password that no log shows.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    pub fn new(password: impl Into<String>) -> Self {
        Self(Zeroizing::new(password.into()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}
