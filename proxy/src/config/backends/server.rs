//! What is said of any server: where it is, what it proves, and what the gateway may send it in clear.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use chrono::NaiveDate;
use sha2::{Digest as _, Sha256};

use crate::{
    config::{
        exception::exception,
        files::{self, Secret},
        section::Section,
    },
    exception::Exception,
};

/// Host name or address, and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What a server's certificate is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustAnchor {
    /// The usual public authorities.
    WebRoots,
    /// Authorities in a PEM file.
    Authorities {
        file: PathBuf,
        /// Of what the file held: a reload sees that it was replaced.
        sha256: [u8; 32],
    },
    /// One certificate, by the SHA-256 of its DER form.
    Pinned([u8; 32]),
}

pub(super) fn server_address(
    section: &mut Section<'_>,
    default_port: u16,
) -> Option<ServerAddress> {
    const EXPECTED: &str = "a host with a port, such as \"ftp.example.org:21\"";
    let text = section.required_text("address", EXPECTED)?;
    let address = parse_server_address(text, default_port);
    if address.is_none() {
        section.fault("address", format!("expected {EXPECTED}, found {text:?}"));
    }
    address
}

pub(in crate::config) fn parse_server_address(
    text: &str,
    default_port: u16,
) -> Option<ServerAddress> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (
            host,
            port.strip_prefix(':').or(port.is_empty().then_some(""))?,
        )
    } else {
        text.split_once(':').unwrap_or((text, ""))
    };
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte));
    let port = if port.is_empty() {
        default_port
    } else {
        port.parse().ok().filter(|&port| port != 0)?
    };
    is_host.then(|| ServerAddress {
        host: host.to_owned(),
        port,
    })
}

pub(in crate::config) fn trust_anchor(
    section: &Section<'_>,
    authorities: Option<&str>,
    pin: Option<&str>,
) -> Option<TrustAnchor> {
    match (authorities, pin) {
        (Some(_), Some(_)) => {
            section.fault(
                "ca_file",
                "give either ca_file or pinned_certificate_sha256, not both",
            );
            None
        }
        (Some(path), None) => {
            let text = std::fs::read(path)
                .map_err(|error| {
                    section.fault("ca_file", format!("{path}: can't be read: {error}"));
                })
                .ok()?;
            Some(TrustAnchor::Authorities {
                file: PathBuf::from(path),
                sha256: Sha256::digest(&text).into(),
            })
        }
        (None, Some(digits)) => {
            let mut digest = [0; 32];
            let digits: String = digits.chars().filter(|&digit| digit != ':').collect();
            if hex::decode_to_slice(&digits, &mut digest).is_ok() {
                Some(TrustAnchor::Pinned(digest))
            } else {
                section.fault(
                    "pinned_certificate_sha256",
                    "expected 64 hexadecimal digits: `openssl x509 -in cert.pem -outform DER | sha256sum`",
                );
                None
            }
        }
        (None, None) => Some(TrustAnchor::WebRoots),
    }
}

/// A dated permission to send in clear.
pub(super) fn plaintext_exception(section: Section<'_>, today: NaiveDate) -> Option<Exception> {
    exception(
        section,
        "why the server can't use TLS",
        "move the server to TLS",
        today,
    )
}

pub(super) fn password(section: &mut Section<'_>, is_required: bool) -> Option<Secret> {
    const EXPECTED: &str = "the path of a file whose first line is the password";
    let path = if is_required {
        section.required_text("password_file", EXPECTED)
    } else {
        section.text("password_file", EXPECTED)
    }?;
    files::password(Path::new(path))
        .map_err(|problem| section.fault("password_file", problem))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_address_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("198.51.100.20:21", "198.51.100.20", 21),
            ("ftp.example.org", "ftp.example.org", 21),
            ("ftp.example.org:2121", "ftp.example.org", 2121),
            ("[2001:db8::1]:2121", "2001:db8::1", 2121),
            ("[2001:db8::1]", "2001:db8::1", 21),
        ] {
            let address = parse_server_address(text, 21).unwrap();
            assert_eq!(
                (address.host.as_str(), address.port),
                (host, port),
                "{text}"
            );
        }
        for text in [
            "",
            ":21",
            "host:0",
            "host:port",
            "host:70000",
            "[host]:21",
            "ho st:21",
            "a:1:2",
        ] {
            assert_eq!(parse_server_address(text, 21), None, "{text}");
        }
    }
}
