//! `kind = "s3"`, `"azure"` and `"gcs"`: buckets of object stores.

use std::{net::IpAddr, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::NaiveDate;
use serde::Deserialize;

use super::{
    server::{ServerAddress, TrustAnchor, parse_server_address, plaintext_exception, trust_anchor},
    timeout,
};
use crate::{
    config::{
        files::{self, Secret},
        section::Section,
    },
    exception::Exception,
};

/// What requests are signed for where the server has no regions.
const REGION: &str = "us-east-1";
const GCS_ENDPOINT: &str = "https://storage.googleapis.com";

/// A bucket of an object store.
#[derive(Debug, PartialEq)]
pub struct BucketConfig {
    /// `http://` or `https://` with a host and maybe a port; for Azure maybe with the account as its path.
    pub endpoint: String,
    /// Of the bucket; Azure calls it a container.
    pub name: String,
    /// Above the mounts' directories; empty for none.
    pub prefix: String,
    pub access: BucketAccess,
    pub transport: BucketTransport,
    pub timeout: Duration,
}

/// Which service it is, and what lets the gateway in.
#[derive(Debug, PartialEq)]
pub enum BucketAccess {
    S3 {
        region: String,
        id: Secret,
        secret: Secret,
    },
    AzureKey {
        account: String,
        /// In base64.
        key: Secret,
    },
    AzureSignature {
        account: String,
        /// The query of a URL.
        signature: Secret,
    },
    Gcs {
        /// The key file as it is.
        service_account: Secret,
    },
}

impl BucketConfig {
    /// The host and port of the endpoint.
    pub fn address(&self) -> Option<ServerAddress> {
        let (scheme, rest) = self.endpoint.split_once("://")?;
        let authority = rest.split('/').next().unwrap_or(rest);
        parse_server_address(authority, if scheme == "http" { 80 } else { 443 })
    }
}

/// How the connections are protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketTransport {
    Tls(TrustAnchor),
    /// In clear, on this machine.
    Loopback,
    /// In clear, for as long as the exception lasts.
    Plaintext(Exception),
}

pub(super) fn s3(mut section: Section<'_>, today: NaiveDate) -> Option<BucketConfig> {
    let endpoint = endpoint(&mut section, None, "");
    let region = section
        .text("region", "a region, such as \"eu-central-1\"")
        .unwrap_or(REGION);
    if !is_word(region, b"-") {
        section.fault(
            "region",
            format!("{region:?} is not a region such as \"eu-central-1\""),
        );
    }
    let name = any_bucket(&mut section);
    let id = first_line(&mut section, "access_key_file");
    let secret = first_line(&mut section, "secret_key_file");
    let access = id.zip(secret).map(|(id, secret)| BucketAccess::S3 {
        region: region.to_owned(),
        id,
        secret,
    });
    finish(section, endpoint, name, access, today)
}

pub(super) fn azure(mut section: Section<'_>, today: NaiveDate) -> Option<BucketConfig> {
    let account = account(&mut section);
    let default = account.map(|account| format!("https://{account}.blob.core.windows.net"));
    let endpoint = default
        .as_deref()
        .and_then(|default| endpoint(&mut section, Some(default), account.unwrap_or_default()));
    let name = container(&mut section);
    let access = account.and_then(|account| azure_access(&mut section, account));
    finish(section, endpoint, name, access, today)
}

pub(super) fn gcs(mut section: Section<'_>, today: NaiveDate) -> Option<BucketConfig> {
    let endpoint = endpoint(&mut section, Some(GCS_ENDPOINT), "");
    let name = any_bucket(&mut section);
    let access =
        service_account(&mut section).map(|service_account| BucketAccess::Gcs { service_account });
    finish(section, endpoint, name, access, today)
}

/// Reads what all services have in common.
fn finish(
    mut section: Section<'_>,
    endpoint: Option<Endpoint>,
    name: Option<&str>,
    access: Option<BucketAccess>,
    today: NaiveDate,
) -> Option<BucketConfig> {
    let prefix = section
        .text("prefix", "the beginning of all keys, such as \"partners\"")
        .unwrap_or_default();
    let timeout = timeout(&mut section);
    let protection = endpoint.as_ref().map(|endpoint| endpoint.protection);
    let transport = protection.and_then(|protection| transport(&mut section, protection, today));
    section.finish();
    Some(BucketConfig {
        endpoint: endpoint?.text,
        name: name?.to_owned(),
        prefix: prefix.to_owned(),
        access: access?,
        transport: transport?,
        timeout,
    })
}

/// The name of a storage account ("Naming rules and restrictions for Azure resources").
fn account<'a>(section: &mut Section<'a>) -> Option<&'a str> {
    let account = section.required_text("account", "the name of a storage account")?;
    let is_one = (3..=24).contains(&account.len())
        && account
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !is_one {
        section.fault(
            "account",
            format!(
                "{account:?} is not the name of a storage account: 3 to 24 small letters and digits"
            ),
        );
    }
    is_one.then_some(account)
}

fn azure_access(section: &mut Section<'_>, account: &str) -> Option<BucketAccess> {
    let account = account.to_owned();
    match (section.has("key_file"), section.has("sas_file")) {
        (true, false) => {
            let key = first_line(section, "key_file")?;
            if BASE64.decode(key.expose()).is_err() {
                section.fault(
                    "key_file",
                    "its first line is not the key of a storage account, which is in base64",
                );
                return None;
            }
            Some(BucketAccess::AzureKey { account, key })
        }
        (false, true) => {
            let signature = first_line(section, "sas_file")?;
            let has = |name: &str| {
                let mut pairs = signature.expose().trim_start_matches('?').split('&');
                pairs.any(|pair| pair.starts_with(name))
            };
            if !has("sig=") || !has("sv=") {
                section.fault(
                    "sas_file",
                    "its first line is not a shared access signature, such as \"sv=...&sp=racwdl&...&sig=...\"",
                );
                return None;
            }
            Some(BucketAccess::AzureSignature { account, signature })
        }
        (has_key, _) => {
            // Both are read, so that the other one is not called unknown.
            let _ = (section.text("key_file", ""), section.text("sas_file", ""));
            section.fault(
                "key_file",
                if has_key {
                    "beside sas_file: give one of the two"
                } else {
                    "missing; expected the path of a file with a key of the account, or sas_file with a shared access signature"
                },
            );
            None
        }
    }
}

/// What the gateway uses of the key file of a service account.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only that they are there is checked")]
struct ServiceAccount {
    client_email: String,
    private_key: String,
    private_key_id: String,
}

fn service_account(section: &mut Section<'_>) -> Option<Secret> {
    const KEY: &str = "service_account_file";
    let path = section.required_text(KEY, "the path of the key file of a service account")?;
    let text = files::secret(Path::new(path))
        .map_err(|problem| section.fault(KEY, problem))
        .ok()?;
    match serde_json::from_str::<ServiceAccount>(text.expose()) {
        Ok(_) => Some(text),
        Err(error) => {
            // The error names a field and a place, never the text.
            section.fault(
                KEY,
                format!("{path} is not the key file of a service account in JSON: {error}"),
            );
            None
        }
    }
}

#[derive(Debug, Clone)]
struct Endpoint {
    text: String,
    protection: Protection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    Tls,
    InClearOnThisMachine,
    InClear,
}

/// The endpoint, or `default` where the section has none. `path` is what may stand behind the host.
fn endpoint(section: &mut Section<'_>, default: Option<&str>, path: &str) -> Option<Endpoint> {
    const EXPECTED: &str = "a URL of a host, such as \"https://s3.eu-central-1.amazonaws.com\"";
    let text = match default {
        None => section.required_text("endpoint", EXPECTED)?,
        Some(default) => section.text("endpoint", EXPECTED).unwrap_or(default),
    };
    let parsed = parse_endpoint(text, path);
    if parsed.is_none() {
        section.fault("endpoint", format!("expected {EXPECTED}, found {text:?}"));
    }
    parsed
}

fn parse_endpoint(text: &str, path: &str) -> Option<Endpoint> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (scheme, rest) = text.split_once("://")?;
    let authority = match rest.split_once('/') {
        None => rest,
        Some((authority, found)) if found == path => authority,
        Some(_) => return None,
    };
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
    Some(Endpoint {
        text: text.to_owned(),
        protection,
    })
}

/// The name of a bucket: `is_allowed` says of each byte whether it may stand there, `expected` says it to a person.
fn bucket<'a>(
    section: &mut Section<'a>,
    key: &'static str,
    is_allowed: fn(u8) -> bool,
    expected: &str,
) -> Option<&'a str> {
    let bucket = section.required_text(key, "the name of a bucket")?;
    if (3..=63).contains(&bucket.len()) && bucket.bytes().all(is_allowed) {
        Some(bucket)
    } else {
        section.fault(
            key,
            format!("{bucket:?} is not the name of a {key}: 3 to 63 {expected}"),
        );
        None
    }
}

fn any_bucket<'a>(section: &mut Section<'a>) -> Option<&'a str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    bucket(
        section,
        "bucket",
        is_allowed,
        "letters, digits, dots and hyphens",
    )
}

/// Of Azure ("Naming and referencing containers, blobs, and metadata").
fn container<'a>(section: &mut Section<'a>) -> Option<&'a str> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    bucket(
        section,
        "container",
        is_allowed,
        "small letters, digits and hyphens",
    )
}

fn is_word(text: &str, besides: &[u8]) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || besides.contains(&byte))
}

fn first_line(section: &mut Section<'_>, key: &'static str) -> Option<Secret> {
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
) -> Option<BucketTransport> {
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
        Protection::Tls => trust_anchor(section, authorities, pin).map(BucketTransport::Tls),
        Protection::InClearOnThisMachine => Some(BucketTransport::Loopback),
        Protection::InClear => {
            if exception.is_none() {
                section.fault(
                    "plaintext_exception",
                    "missing; an http:// endpoint on another machine sends patients' files in clear and needs { reason, \
                     approver, expires }",
                );
            }
            exception.flatten().map(BucketTransport::Plaintext)
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
                parse_endpoint(text, "").unwrap().protection,
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
            assert!(parse_endpoint(text, "").is_none(), "{text}");
        }
        let with_account = "http://127.0.0.1:10000/account1";
        assert!(parse_endpoint(with_account, "account1").is_some());
        assert!(parse_endpoint(with_account, "account2").is_none());
    }
}
