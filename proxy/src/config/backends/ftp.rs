//! `kind = "ftp"`.

use std::time::Duration;

use chrono::NaiveDate;

use super::{
    BackendConfig, copy_limit,
    server::{
        ServerAddress, TrustAnchor, password, plaintext_exception, server_address, trust_anchor,
    },
    timeout, uploads,
};
use crate::{config::section::Section, exception::Exception};

/// How often an idle FTP connection says NOOP: well below the five minutes after which vsftpd hangs up.
const KEEPALIVE_SECONDS: u64 = 60;
const TLS_CHOICE: &str = "\"explicit\", \"implicit\", or \"none\" with a plaintext_exception";

/// How an FTP connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FtpTls {
    /// `AUTH TLS` before the login (RFC 4217), data connections protected too.
    Explicit {
        /// Name that the certificate must have.
        server_name: String,
        trust: TrustAnchor,
    },
    /// TLS from the first byte on.
    Implicit {
        /// Name that the certificate must have.
        server_name: String,
        trust: TrustAnchor,
    },
    /// In clear, for as long as the exception lasts.
    Plaintext(Exception),
}

/// What the bytes of names on an FTP server stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Also for servers that never thought about it: clients see their bytes.
    Utf8,
    /// Other names are refused.
    Utf8Only,
    /// ISO 8859-1; clients see names in UTF-8.
    Latin1,
}

pub(super) fn ftp(mut section: Section<'_>, today: NaiveDate) -> Option<BackendConfig> {
    let mode = section.required_text("tls", TLS_CHOICE);
    let port = if mode == Some("implicit") { 990 } else { 21 };
    let address = server_address(&mut section, port);
    let user = section.required_text("user", "the gateway's user on the server");
    let password = password(&mut section, true);
    let timeout = timeout(&mut section);
    let tls = ftp_tls(&mut section, mode, address.as_ref(), today);
    let uploads = uploads(&mut section);
    let charset = ftp_charset(&mut section);
    let copy_limit = copy_limit(&mut section);
    let keepalive =
        Duration::from_secs(section.number("keepalive_seconds", 5..=3600, KEEPALIVE_SECONDS));
    section.finish();
    Some(BackendConfig::Ftp {
        address: address?,
        user: user?.to_owned(),
        password: password?,
        tls: tls?,
        uploads,
        charset: charset?,
        copy_limit,
        keepalive,
        timeout,
    })
}

fn ftp_tls(
    section: &mut Section<'_>,
    mode: Option<&str>,
    address: Option<&ServerAddress>,
    today: NaiveDate,
) -> Option<FtpTls> {
    let server_name = section.text("server_name", "the name in the server's certificate");
    let authorities = section.text("ca_file", "the path of a PEM file");
    let pin = section.text(
        "pinned_certificate_sha256",
        "64 hexadecimal digits: `openssl x509 -in cert.pem -outform DER | sha256sum`",
    );
    let exception = section
        .section("plaintext_exception")
        .map(|exception| plaintext_exception(exception, today));
    match mode? {
        mode @ ("explicit" | "implicit") => {
            if exception.is_some() {
                section.fault(
                    "plaintext_exception",
                    format!("has no use with tls = {mode:?}; remove it"),
                );
            }
            let trust = trust_anchor(section, authorities, pin)?;
            let server_name = server_name
                .map(str::to_owned)
                .or_else(|| address.map(|address| address.host.clone()))?;
            Some(if mode == "implicit" {
                FtpTls::Implicit { server_name, trust }
            } else {
                FtpTls::Explicit { server_name, trust }
            })
        }
        "none" => {
            for key in ["server_name", "ca_file", "pinned_certificate_sha256"] {
                if section.has(key) {
                    section.fault(key, "has no use with tls = \"none\"; remove it");
                }
            }
            if exception.is_none() {
                section.fault(
                    "plaintext_exception",
                    "missing; tls = \"none\" sends patients' files in clear and needs { reason, approver, expires }",
                );
            }
            exception.flatten().map(FtpTls::Plaintext)
        }
        other => {
            section.fault("tls", format!("expected {TLS_CHOICE}, found {other:?}"));
            None
        }
    }
}

fn ftp_charset(section: &mut Section<'_>) -> Option<Charset> {
    const CHOICE: &str = "\"utf-8\", \"utf-8-only\" or \"latin1\"";
    match section.text("charset", CHOICE) {
        None | Some("utf-8") => Some(Charset::Utf8),
        Some("utf-8-only") => Some(Charset::Utf8Only),
        Some("latin1") => Some(Charset::Latin1),
        Some(other) => {
            section.fault("charset", format!("expected {CHOICE}, found {other:?}"));
            None
        }
    }
}
