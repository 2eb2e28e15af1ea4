//! `[auth]`

use super::*;
use crate::auth::public_key::samples;

/// The minimal configuration with this after it.
fn with(text: &str) -> String {
    format!("{MINIMAL}\n{text}")
}

fn authority(lines: &str) -> String {
    with(&format!(
        "[[auth.certificate_authority]]\nname = \"staff\"\nkey_file = \"%/ca.pub\"\nfor = [\"human\"]\n{lines}"
    ))
}

fn files() -> Files {
    let files = Files::new();
    files.write("ca.pub", samples::ED25519, 0o644);
    files.write("revoked", samples::ED25519_OTHER, 0o644);
    files
}

#[test]
fn without_the_section_nobody_certifies_and_nothing_is_revoked() {
    let config = files().parse(&with("")).unwrap();
    assert_eq!(config.auth, AuthConfig::default());
}

#[test]
fn an_authority_has_a_name_a_key_and_kinds_of_accounts() {
    let files = files();
    let config = files.parse(&authority("")).unwrap();
    let authorities = &config.auth.certificate_authorities;
    assert_eq!(authorities[0].name, "staff");
    assert_eq!(
        authorities[0].kinds,
        [portcullis_journal::AccountKind::Human]
    );
    for (text, expected) in [
        (
            "[[auth.certificate_authority]]",
            "auth.certificate_authority[0].name: missing",
        ),
        (
            "[[auth.certificate_authority]]\nname = \"a\"\nkey = \"/etc/ca.pub\"\nfor = [\"human\"]",
            "certificate_authority[0].key: not an OpenSSH",
        ),
        (
            "[[auth.certificate_authority]]\nname = \"a\"\nkey_file = \"%/none\"\nfor = [\"human\"]",
            "can't be read",
        ),
        (
            "[[auth.certificate_authority]]\nname = \"a\"\nkey_file = \"%/ca.pub\"\nfor = []",
            "names nobody",
        ),
        (
            "[[auth.certificate_authority]]\nname = \"a\"\nkey_file = \"%/ca.pub\"\nfor = [\"people\"]",
            "no kind of account",
        ),
        (
            "[auth]\ncertificate_authority = \"ca.pub\"",
            "expected a list of tables",
        ),
        ("[auth]\nrevoked = \"x\"", "unknown key"),
    ] {
        let faults = files.faults(&with(text));
        assert!(
            faults.iter().any(|fault| fault.contains(expected)),
            "{text}: {faults:?}"
        );
    }
    let twice = format!(
        "{}\n{}",
        authority(""),
        authority("").replace(&with(""), "")
    );
    let faults = files.faults(&twice).join("\n");
    assert!(
        faults.contains("given twice") && faults.contains("has the key of"),
        "{faults}"
    );
}

#[test]
fn an_authoritys_key_is_one_that_could_log_in_and_nobody_else_can_write_its_file() {
    let files = files();
    for weak in [samples::RSA_2048, samples::CERTIFICATE, samples::DSA] {
        files.write("ca.pub", weak, 0o644);
        assert_eq!(files.faults(&authority("")).len(), 1);
    }
    files.write("ca.pub", samples::RSA_3072, 0o666);
    assert!(files.faults(&authority(""))[0].contains("chmod go-w"));
    files.write("ca.pub", samples::RSA_3072, 0o640);
    assert!(files.parse(&authority("")).is_ok());
}

#[test]
fn a_lifetime_beyond_that_of_the_kind_needs_a_dated_exception() {
    let files = files();
    let exception = |day: &str| {
        format!("lifetime_exception = {{ reason = \"r\", approver = \"a\", expires = \"{day}\" }}")
    };
    assert!(
        files
            .parse(&authority("max_lifetime_seconds = 43200"))
            .is_ok()
    );
    assert!(
        files.faults(&authority("max_lifetime_seconds = 43201"))[0].contains("lifetime_exception")
    );
    let long = |day: &str| authority(&format!("max_lifetime_seconds = 86400\n{}", exception(day)));
    assert!(files.parse(&long("2026-11-22")).is_ok());
    assert!(files.faults(&long("2026-11-21"))[0].contains("ended on 2026-11-21"));
    assert!(files.faults(&authority(&exception("2026-11-22")))[0].contains("changes nothing"));
    let machines = authority("max_lifetime_seconds = 86400").replace("\"human\"", "\"machine\"");
    assert!(files.parse(&machines).is_ok());
    let both = authority("max_lifetime_seconds = 86400")
        .replace("[\"human\"]", "[\"machine\", \"human\"]");
    assert!(files.parse(&both).is_err(), "the shorter of the two counts");
}

#[test]
fn revoked_keys_are_read_whole_or_the_configuration_is_refused() {
    let files = files();
    let text = with("[auth]\nrevoked_keys = \"%/revoked\"");
    let config = files.parse(&text).unwrap();
    let revoked = config.auth.revoked_keys.unwrap();
    assert_eq!(revoked.keys.entries(), 1);
    for (content, mode, expected) in [
        ("", 0o644, "is empty"),
        ("alice", 0o644, "line 1"),
        ("SSHKRL\n\0", 0o644, "malformed at byte 8"),
        (samples::ED25519, 0o664, "chmod go-w"),
    ] {
        files.write("revoked", content, mode);
        let faults = files.faults(&text);
        assert!(faults[0].contains(expected), "{faults:?}");
    }
    let directory = with("[auth]\nrevoked_keys = \"%/data\"");
    assert!(files.faults(&directory)[0].contains("not a file"));
}
