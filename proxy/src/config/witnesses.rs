//! `[[witness]]`: other nodes that cosign the journal.

use std::time::Duration;

use hyper::Uri;
use portcullis_journal::tree::cosignature::WitnessKey;

use super::{
    backends::{TrustAnchor, trust_anchor},
    section::Section,
};

/// As often as a quiet gateway signs its journal.
const INTERVAL_SECONDS: u64 = 60;
const TIMEOUT_SECONDS: u64 = 15;

/// A witness of the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct WitnessPeer {
    /// Its submission prefix, without a slash at the end.
    pub url: String,
    pub key: WitnessKey,
    /// Of `https` addresses.
    pub trust: Option<TrustAnchor>,
    /// The least time between two heads.
    pub interval: Duration,
    pub timeout: Duration,
}

/// All witnesses. One with a fault is left out, and so is the second with a key.
pub(super) fn witnesses(sections: Vec<Section<'_>>) -> Vec<WitnessPeer> {
    let mut found: Vec<WitnessPeer> = Vec::new();
    for mut section in sections {
        let url = url(&mut section);
        let key = key(&mut section);
        if let Some(key) = &key
            && found.iter().any(|other| other.key.name() == key.name())
        {
            let name = key.name();
            section.fault("key", format!("another witness has the name {name:?} too"));
        }
        let trust = trust(&mut section, url.as_deref());
        let interval = section.number("interval_seconds", 1..=3600, INTERVAL_SECONDS);
        let timeout = section.number("timeout_seconds", 1..=600, TIMEOUT_SECONDS);
        section.finish();
        if let (Some(url), Some(key), Some(trust)) = (url, key, trust) {
            found.push(WitnessPeer {
                url,
                key,
                trust,
                interval: Duration::from_secs(interval),
                timeout: Duration::from_secs(timeout),
            });
        }
    }
    found
}

fn url(section: &mut Section<'_>) -> Option<String> {
    const URL: &str = "an address such as \"https://witness.example.org:2025\"";
    let text = section.required_text("url", URL)?;
    let url = text.trim_end_matches('/');
    let is_address = url.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.query().is_none()
            && uri
                .authority()
                .is_some_and(|authority| !authority.as_str().contains('@'))
    });
    if !is_address {
        section.fault("url", format!("expected {URL}, found {text:?}"));
    }
    is_address.then(|| url.to_owned())
}

fn key(section: &mut Section<'_>) -> Option<WitnessKey> {
    let text = section.required_text(
        "key",
        "the witness's verifier key, which `portcullis-proxy witness key` prints there",
    )?;
    WitnessKey::parse(text)
        .map_err(|error| section.fault("key", error.to_string()))
        .ok()
}

/// `Some(None)` for an address in clear: nothing that is sent or answered is secret, and all of it is signed.
fn trust(section: &mut Section<'_>, url: Option<&str>) -> Option<Option<TrustAnchor>> {
    let authorities = section.text("ca_file", "the path of a PEM file");
    let pin = section.text(
        "pinned_certificate_sha256",
        "64 hexadecimal digits: `openssl x509 -in cert.pem -outform DER | sha256sum`",
    );
    if url.is_some_and(|url| url.starts_with("http:")) {
        for key in ["ca_file", "pinned_certificate_sha256"] {
            if section.has(key) {
                section.fault(key, "has no use with an http address; remove it");
            }
        }
        return Some(None);
    }
    trust_anchor(section, authorities, pin).map(Some)
}
