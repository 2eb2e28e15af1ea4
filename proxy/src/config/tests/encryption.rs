//! `[encryption]`, and what backends say of it.

use portcullis_at_rest::Realm;

use super::{super::*, ENCRYPTION, Files, MINIMAL};

fn with(backend: &str) -> String {
    format!("{MINIMAL}[backends.a]\n{backend}\n")
}

const LOCAL: &str = "kind = \"local\"\ndirectory = \"%/data\"";
const LIST: &str = "kind = \"failover\"\nmembers = [\"b\", \"c\"]";
const FTP: &str = "kind = \"ftp\"\naddress = \"198.51.100.20:21\"\nuser = \"g\"\npassword_file = \"%/password\"\ntls = \"implicit\"";
const EXCEPTION: &str =
    r#"unencrypted_exception = { reason = "r", approver = "a", expires = "2026-11-22" }"#;

#[test]
fn names_are_encrypted_where_files_are_from_the_first_one_on_and_nowhere_else() {
    let files = Files::new();
    let of = |backend: &str| {
        let config = files.parse(&with(backend)).unwrap();
        matches!(
            config.at_rest["a"],
            AtRest::Encrypted {
                has_names: true,
                ..
            }
        )
    };
    let named = "encrypted_names = true";
    assert!(of(&format!("{LOCAL}\n{named}")));
    assert!(!of(LOCAL));
    assert!(of(&format!("{FTP}\nencryption = \"on\"\n{named}")));
    for backend in [
        format!("{LOCAL}\nencryption = \"migrating\"\n{named}"),
        format!("{LOCAL}\nencryption = \"off\"\n{EXCEPTION}\n{named}"),
        format!("{FTP}\n{named}"),
    ] {
        let faults = files.faults(&with(&backend));
        assert_eq!(faults.len(), 1, "{faults:?}");
        let expected = "backends.a.encrypted_names: needs encryption = \"on\"";
        assert!(faults[0].starts_with(expected), "{faults:?}");
    }
}

#[test]
fn local_files_are_encrypted_unless_somebody_allows_that_they_are_not() {
    let files = Files::new();
    let of = |lines: &str| {
        let config = files.parse(&with(&format!("{LOCAL}\n{lines}")))?;
        assert_eq!(
            config.unencrypted_exceptions().count(),
            usize::from(lines.contains("exception"))
        );
        Ok::<_, Vec<Fault>>(
            matches!(config.at_rest["a"], AtRest::Encrypted { is_migrating, .. }
            if is_migrating == lines.contains("migrating")),
        )
    };
    for (lines, is_encrypted) in [
        ("", true),
        ("encryption = \"on\"", true),
        ("encryption = \"migrating\"", true),
        (&format!("encryption = \"off\"\n{EXCEPTION}"), false),
    ] {
        assert_eq!(of(lines).unwrap(), is_encrypted, "{lines}");
    }
    for (lines, fault) in [
        (
            "encryption = \"off\"".to_owned(),
            "backends.a.unencrypted_exception: missing",
        ),
        (
            EXCEPTION.to_owned(),
            "backends.a.unencrypted_exception: has no use",
        ),
        (
            format!(
                "encryption = \"off\"\n{}",
                EXCEPTION.replace("22\"", "21\"")
            ),
            "backends.a.unencrypted_exception.expires: the exception ended",
        ),
        (
            "encryption = \"no\"".to_owned(),
            "backends.a.encryption: expected",
        ),
    ] {
        let faults = files.faults(&with(&format!("{LOCAL}\n{lines}")));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(fault), "{faults:?}");
    }
}

#[test]
fn legacy_servers_keep_what_they_read_themselves_unless_they_are_to_be_encrypted() {
    let files = Files::new();
    let config = files.parse_alone(&with(FTP)).unwrap();
    assert_eq!(config.at_rest["a"], AtRest::Plain(None));
    let config = files.parse(&with(&format!("{FTP}\nencryption = \"on\"")));
    assert!(matches!(
        config.unwrap().at_rest["a"],
        AtRest::Encrypted { .. }
    ));
    let list = format!("{LIST}\nencryption = \"on\"");
    assert!(
        files.faults(&with(&list))[0]
            .starts_with("backends.a.encryption: it is said in the sections")
    );
}

#[cfg(feature = "pkcs11")]
#[test]
fn new_files_are_wrapped_to_one_key_and_a_token_that_is_not_there_is_a_fault() {
    const PLACE: &str = "token_label = \"t\", key_label = \"k\", pin_file = \"%/password\" }";
    let files = Files::new();
    let faults = |keys: &str| {
        let section = ENCRYPTION.replace("key_file = \"%/kek\"\n", keys);
        let faults = files.parse_alone(&format!("{}{section}", with(LOCAL)));
        let faults = faults.unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].to_string()
    };
    for (keys, fault) in [
        (
            "".to_owned(),
            "encryption.key_file: missing; expected a key file, or token",
        ),
        (
            format!("key_file = \"%/kek\"\ntoken = {{ module = \"/none.so\", {PLACE}\n"),
            "encryption.token: key_file is said too",
        ),
        (
            format!("token = {{ module = \"none.so\", {PLACE}\n"),
            "encryption.token.module: none.so is not an absolute path",
        ),
        (
            format!("token = {{ module = \"/none.so\", {PLACE}\n"),
            "encryption.token.module: the PKCS#11 module /none.so can't be loaded",
        ),
        (
            "token = { module = \"/none.so\", token_label = \"t\", key_label = \"k\" }\n"
                .to_owned(),
            "encryption.token.pin_file: missing",
        ),
        (
            format!("key_file = \"%/kek\"\nretired_tokens = [{{ module = \"/none.so\", {PLACE}]\n"),
            "encryption.retired_tokens[0].module: the PKCS#11 module",
        ),
    ] {
        let found = faults(&keys);
        assert!(found.starts_with(fault), "{found}");
    }
}

#[test]
fn files_without_keys_are_a_fault_that_names_the_way_out_and_so_are_bad_keys() {
    let files = Files::new();
    let faults = files.parse_alone(&with(LOCAL)).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(
        faults[0].problem.contains("portcullis-rescue new-key"),
        "{faults:?}"
    );
    files.write(
        "open",
        &std::fs::read_to_string(files.0.path().join("kek")).unwrap(),
        0o644,
    );
    files.write("empty", "", 0o600);
    for (key, fault) in [
        (
            "%/open",
            "encryption.key_file: others than its owner have rights",
        ),
        ("%/empty", "encryption.key_file: empty is empty"),
        ("%/escrow.pub", "encryption.key_file: "),
        (
            "%/nowhere",
            "encryption.key_file: nowhere can't be opened: No such file",
        ),
    ] {
        let section = ENCRYPTION.replace("%/kek", key);
        let text =
            format!("{}{section}", with(LOCAL)).replace('%', &files.0.path().display().to_string());
        let faults = Config::parse(&text, super::today()).unwrap_err();
        let faults: Vec<_> = faults
            .iter()
            .map(|fault| {
                fault
                    .to_string()
                    .replace(&format!("{}/", files.0.path().display()), "")
            })
            .collect();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(fault), "{faults:?}");
    }
    let without = ENCRYPTION.replace("escrow_recipient_file = \"%/escrow.pub\"\n", "");
    let faults = files
        .parse_alone(&format!("{}{without}", with(LOCAL)))
        .unwrap_err();
    assert!(
        faults[0]
            .to_string()
            .starts_with("encryption.escrow_recipient_file: missing"),
        "{faults:?}"
    );
}

#[test]
fn the_same_keys_are_the_same_configuration_and_others_are_not() {
    let files = Files::new();
    let keys = || {
        let config = files.parse(&with(LOCAL)).unwrap();
        config.at_rest["a"].clone()
    };
    let before = keys();
    assert_eq!(before, keys());
    std::fs::remove_file(files.0.path().join("kek")).unwrap();
    let key = portcullis_at_rest::DataKey::random().unwrap();
    portcullis_at_rest::key_file::write_kek(&files.0.path().join("kek"), &key).unwrap();
    assert_ne!(before, keys());
}

#[test]
fn the_journal_answers_for_files_only_where_it_is_asked_which_they_are() {
    let files = Files::new();
    let parsed = |lines: &str| {
        let section = format!("{ENCRYPTION}{lines}\n");
        files.parse_alone(&format!("{}{section}", with(LOCAL)))
    };
    for (lines, vouches) in [
        ("", true),
        ("check_file = \"journal\"", true),
        ("check_file = \"read\"", false),
        ("check_names = false", false),
        ("check_names = false\ncheck_file = \"read\"", false),
    ] {
        let config = parsed(lines).unwrap();
        let keys = config.at_rest["a"].keys().unwrap();
        assert_eq!(keys.vouch, vouches, "{lines}");
    }
    for lines in [
        "check_names = false\ncheck_file = \"journal\"",
        "check_file = \"never\"",
    ] {
        let faults = parsed(lines).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].to_string().starts_with("encryption.check_file: "));
    }
}

#[test]
fn files_belong_to_the_backend_that_is_named_where_they_are_encrypted() {
    let files = Files::new();
    let of = |lines: &str| {
        let config = files.parse(&with(&format!("{LOCAL}\n{lines}"))).unwrap();
        match &config.at_rest["a"] {
            AtRest::Encrypted { realm, .. } => *realm,
            AtRest::Plain(_) => panic!("{lines}"),
        }
    };
    assert_eq!(of(""), Realm::named("a"));
    assert_eq!(of("files_of = \"b\""), Realm::named("b"));
    assert_ne!(of("files_of = \"b\""), of(""));
    for (backend, expected) in [
        (
            format!("{LOCAL}\nencryption = \"off\"\n{EXCEPTION}"),
            "has no use where files are not encrypted",
        ),
        (FTP.to_owned(), "has no use where files are not encrypted"),
        (LIST.to_owned(), "it is said in the sections of the members"),
    ] {
        let faults = files.faults(&with(&format!("{backend}\nfiles_of = \"b\"")));
        let expected = format!("backends.a.files_of: {expected}");
        assert!(
            faults.iter().any(|fault| fault.starts_with(&expected)),
            "{faults:?}"
        );
    }
}
