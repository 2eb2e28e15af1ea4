//! `[[witness]]`

use portcullis_journal::tree::cosignature::CosigningKey;

use super::*;
use crate::config::WitnessPeer;

impl Files {
    /// The configuration with these keys of a witness.
    fn witness(&self, text: &str) -> String {
        let key = CosigningKey::open(&self.0.path().join("w1.key"), "w.example/1").unwrap();
        let text = text.replace("KEY", &key.public().to_string());
        format!("{MINIMAL}{text}")
    }
}

#[test]
fn a_witness_has_an_address_and_a_key() {
    let files = Files::new();
    let text = "[[witness]]\nurl = \"https://w.example.org/1/\"\nkey = \"KEY\"\n";
    let config = files.parse(&files.witness(text)).unwrap();
    let [
        WitnessPeer {
            url,
            key,
            trust: Some(TrustAnchor::WebRoots),
            interval,
            ..
        },
    ] = config.witnesses.as_slice()
    else {
        panic!("{:?}", config.witnesses)
    };
    assert_eq!(
        (url.as_str(), key.name()),
        ("https://w.example.org/1", "w.example/1")
    );
    assert_eq!(interval.as_secs(), 60);
}

#[test]
fn every_fault_of_a_witness_is_named() {
    let files = Files::new();
    let good = "[[witness]]\nurl = \"http://192.0.2.9:2025\"\nkey = \"KEY\"\n";
    assert!(files.parse(&files.witness(good)).is_ok());
    let twice = good.repeat(2);
    for (text, fault) in [
        (
            twice.as_str(),
            "witness[1].key: another witness has the name",
        ),
        ("[[witness]]\nkey = \"KEY\"\n", "witness[0].url: missing"),
        (
            "[[witness]]\nurl = \"ftp://w\"\nkey = \"KEY\"\n",
            "witness[0].url: expected an address",
        ),
        (
            "[[witness]]\nurl = \"https://a:b@w\"\nkey = \"KEY\"\n",
            "witness[0].url: expected an address",
        ),
        (
            "[[witness]]\nurl = \"https://w\"\nkey = \"w1+00000000+AAAA\"\n",
            "witness[0].key: it is no verifier key of a witness",
        ),
        (
            "[[witness]]\nurl = \"http://w\"\nkey = \"KEY\"\nca_file = \"/ca.pem\"\n",
            "witness[0].ca_file: has no use",
        ),
        (
            "[[witness]]\nurl = \"https://w\"\nkey = \"KEY\"\nquorum = 2\n",
            "witness[0].quorum: unknown key",
        ),
    ] {
        let faults = files.faults(&files.witness(text));
        assert!(
            faults.len() == 1 && faults[0].starts_with(fault),
            "{faults:?}"
        );
    }
}
