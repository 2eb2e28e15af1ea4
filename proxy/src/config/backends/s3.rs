//! `kind = "s3"`.

use std::{net::IpAddr, path::Path, time::Duration};

use chrono::NaiveDate;

use super::{
    PlaintextException, ServerAddress, TrustAnchor, parse_server_address, plaintext_exception,
    timeout, trust_anchor,
};
use crate::config::{
    files::{self, Secret},
    section::Section,
};

/// What requests are signed for where the server has no regions.
const REGION: &str = "us-east-1";

/// A bucket of an object store.
#[derive(Debug, PartialEq)]
pub struct S3Config {
    /// `http://` or `https://` with a host and maybe a port.
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    /// Above the mounts' directories; empty for none.
    pub prefix: String,
    pub access_key_id: Secret,
    pub secret_key: Secret,
    pub transport: S3Transport,
    pub timeout: Duration,
}

impl S3Config {
    /// The host and port of the endpoint.
    pub fn address(&self) -> Option<ServerAddress> {
        let (scheme, authority) = self.endpoint.split_once("://")?;
        parse_server_address(authority, if scheme == "http" { 80 } else { 443 })
    }
}

/// How the connections are protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Transport {
    Tls(TrustAnchor),
    /// In clear, on this machine.
    Loopback,
    /// In clear, for as long as the exception lasts.
    Plaintext(PlaintextException),
}

pub(super) fn s3(mut section: Section<'_>, today: NaiveDate) -> Option<S3Config> {
    let endpoint = endpoint(&mut section);
    let region = section
        .text("region", "a region, such as \"eu-central-1\"")
        .unwrap_or(REGION);
    if !is_word(region, b"-") {
        section.fault(
            "region",
            format!("{region:?} is not a region such as \"eu-central-1\""),
        );
    }
    let bucket = bucket(&mut section);
    let prefix = section
        .text("prefix", "the beginning of all keys, such as \"partners\"")
        .unwrap_or_default();
    let access_key_id = key_file(&mut section, "access_key_file");
    let secret_key = key_file(&mut section, "secret_key_file");
    let timeout = timeout(&mut section);
    let transport =
        endpoint.and_then(|endpoint| transport(&mut section, endpoint.protection, today));
    section.finish();
    Some(S3Config {
        endpoint: endpoint?.text.to_owned(),
        region: region.to_owned(),
        bucket: bucket?.to_owned(),
        prefix: prefix.to_owned(),
        access_key_id: access_key_id?,
        secret_key: secret_key?,
        transport: transport?,
        timeout,
    })
}

#[derive(Debug, Clone, Copy)]
struct Endpoint<'a> {
    text: &'a str,
    protection: Protection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    Tls,
    InClearOnThisMachine,
    InClear,
}

fn endpoint<'a>(section: &mut Section<'a>) -> Option<Endpoint<'a>> {
    const EXPECTED: &str = "a URL of a host, such as \"https://s3.eu-central-1.amazonaws.com\"";
    let text = section.required_text("endpoint", EXPECTED)?;
    let parsed = parse_endpoint(text);
    if parsed.is_none() {
        section.fault("endpoint", format!("expected {EXPECTED}, found {text:?}"));
    }
    parsed
}

fn parse_endpoint(text: &str) -> Option<Endpoint<'_>> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (scheme, authority) = text.split_once("://")?;
    let address = parse_server_address(authority, 443)?;
    let is_loopback = address.host == "localhost"
        || address
            .host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let protection = match scheme {
        "https" => Protection::Tls,
        "http" if is_loopback => Protection::InClearOnThisMachine,
        "http" => Protection::InClear,
        _ => return None,
    };
    Some(Endpoint { text, protection })
}

fn bucket<'a>(section: &mut Section<'a>) -> Option<&'a str> {
    let bucket = section.required_text("bucket", "the name of a bucket")?;
    if (3..=63).contains(&bucket.len()) && is_word(bucket, b"-._") {
        Some(bucket)
    } else {
        section.fault(
            "bucket",
            format!(
                "{bucket:?} is not the name of a bucket: 3 to 63 letters, digits, dots and hyphens"
            ),
        );
        None
    }
}

fn is_word(text: &str, besides: &[u8]) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || besides.contains(&byte))
}

fn key_file(section: &mut Section<'_>, key: &'static str) -> Option<Secret> {
    const EXPECTED: &str = "the path of a file whose first line is the key";
    let path = section.required_text(key, EXPECTED)?;
    files::password(Path::new(path))
        .map_err(|problem| section.fault(key, problem))
        .ok()
}

fn transport(
    section: &mut Section<'_>,
    protection: Protection,
    today: NaiveDate,
) -> Option<S3Transport> {
    let authorities = section.text("ca_file", "the path of a PEM file");
    let pin = section.text("pinned_certificate_sha256", "64 hexadecimal digits");
    let exception = section
        .section("plaintext_exception")
        .map(|exception| plaintext_exception(exception, today));
    if protection != Protection::Tls {
        for key in ["ca_file", "pinned_certificate_sha256"] {
            if section.has(key) {
                section.fault(key, "has no use with an http:// endpoint; remove it");
            }
        }
    }
    if protection != Protection::InClear && exception.is_some() {
        section.fault(
            "plaintext_exception",
            "has no use with https:// or on this machine; remove it",
        );
    }
    match protection {
        Protection::Tls => trust_anchor(section, authorities, pin).map(S3Transport::Tls),
        Protection::InClearOnThisMachine => Some(S3Transport::Loopback),
        Protection::InClear => {
            if exception.is_none() {
                section.fault(
                    "plaintext_exception",
                    "missing; an http:// endpoint on another machine sends patients' files in clear and needs { reason, \
                     approver, expires }",
                );
            }
            exception.flatten().map(S3Transport::Plaintext)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_of_a_host_and_in_clear_only_on_this_machine() {
        for (text, protection) in [
            ("https://s3.eu-central-1.amazonaws.com", Protection::Tls),
            ("https://store.example.org:9000/", Protection::Tls),
            ("http://127.0.0.1:8333", Protection::InClearOnThisMachine),
            ("http://[::1]:8333", Protection::InClearOnThisMachine),
            ("http://localhost:8333", Protection::InClearOnThisMachine),
            ("http://localhost.example.org", Protection::InClear),
            ("http://192.0.2.1:8333", Protection::InClear),
        ] {
            assert_eq!(
                parse_endpoint(text).unwrap().protection,
                protection,
                "{text}"
            );
        }
        for text in [
            "",
            "s3.example.org",
            "ftp://s3.example.org",
            "https://",
            "https://s3.example.org/bucket",
            "https://user:password@s3.example.org",
            "https://s3.example.org?a=b",
            "https://s3.example.org:0",
        ] {
            assert!(parse_endpoint(text).is_none(), "{text}");
        }
    }
}
