//! `[encryption.NAME]`, and backends that name one.

use std::fs;

use portcullis_at_rest::{DataKey, escrow::Identity, key_file};

use super::{super::*, ENCRYPTION, Files, MINIMAL};
use crate::tombs::{Entry, Tomb};

const ACME: &str = "
[encryption.acme]
key_file = \"%/acme.kek\"
escrow_recipient_file = \"%/acme.pub\"
";

fn files() -> Files {
    let files = Files::new();
    make(&files, "acme");
    files
}

fn make(files: &Files, name: &str) {
    let at = |end: &str| files.0.path().join(format!("{name}.{end}"));
    key_file::write_kek(&at("kek"), &DataKey::random().unwrap()).unwrap();
    let escrow = Identity::generate().unwrap();
    key_file::write_recipient(&at("pub"), escrow.recipient()).unwrap();
    fs::create_dir(files.0.path().join(name)).unwrap();
}

fn local(name: &str, directory: &str, lines: &str) -> String {
    format!("[backends.{name}]\nkind = \"local\"\ndirectory = \"%/{directory}\"\n{lines}\n")
}

/// Two backends, of which one has its own keys.
fn two() -> String {
    let own = local("acme", "acme", "keys = \"acme\"");
    format!("{MINIMAL}{ENCRYPTION}{ACME}{}{own}", local("a", "data", ""))
}

fn faults(files: &Files, text: &str) -> Vec<String> {
    let directory = format!("{}/", files.0.path().display());
    let found = files.parse_alone(text).unwrap_err();
    let shown = found.into_iter().map(|fault| fault.to_string());
    shown.map(|fault| fault.replace(&directory, "")).collect()
}

fn set_of<'a>(config: &'a Config, backend: &str) -> &'a EncryptionConfig {
    config.at_rest[backend].keys().unwrap()
}

#[test]
fn a_backend_has_the_keys_that_it_names_and_otherwise_those_of_the_section_itself() {
    let files = files();
    let config = files.parse_alone(&two()).unwrap();
    let (standard, own) = (set_of(&config, "a"), set_of(&config, "acme"));
    assert_eq!((&standard.set, own.set.as_deref()), (&None, Some("acme")));
    let id = |keys: &EncryptionConfig| keys.ring.active();
    assert_ne!(id(standard), id(own));
    assert_eq!(own.spool_directory, files.0.path(), "said once for all");
    assert_eq!(config.key_sets.len(), 2);
    assert!(config.notes_on_keys().is_empty());
}

#[test]
fn there_may_be_sets_alone_and_then_each_backend_names_one() {
    let files = files();
    let alone = format!("{MINIMAL}{ACME}");
    let named = local("acme", "acme", "keys = \"acme\"");
    assert!(files.parse_alone(&format!("{alone}{named}")).is_ok());
    let found = faults(&files, &format!("{alone}{}", local("a", "data", "")));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("backends.a.encryption: files of this backend are encrypted")
            && found[0].contains("names no other set"),
        "{found:?}"
    );
}

#[test]
fn a_set_that_is_named_and_not_there_is_a_fault_and_so_is_one_where_it_has_no_use() {
    let files = files();
    let with = |line: &str| two().replace("keys = \"acme\"", line);
    let list = "[backends.l]\nkind = \"failover\"\nmembers = [\"a\", \"acme\"]\nkeys = \"acme\"\n";
    for (text, fault) in [
        (
            with("keys = \"acne\""),
            "backends.acme.keys: there is no [encryption.acne]; there are acme",
        ),
        (
            with(
                "keys = \"acme\"\nencryption = \"off\"\nunencrypted_exception = { reason = \"r\", approver = \"a\", expires = \"2026-11-22\" }",
            ),
            "backends.acme.keys: has no use where files are not encrypted",
        ),
        (
            format!("{}{list}", two()),
            "backends.l.keys: it is said in the sections of the members",
        ),
        (
            two().replace(
                "[encryption.acme]",
                "[encryption.acme]\nupdate_limit_bytes = 1",
            ),
            "encryption.acme.update_limit_bytes: unknown key",
        ),
        (
            two().replace("%/acme.kek", "%/nowhere"),
            "encryption.acme.key_file: nowhere can't be opened",
        ),
        (
            format!("{}[encryption.\"a b\"]\n", two()),
            "encryption.a b: this is no name for keys",
        ),
    ] {
        let found = faults(&files, &text);
        assert!(found[0].starts_with(fault), "{found:?}");
    }
}

#[test]
fn no_active_and_no_escrow_key_is_in_two_sets_but_a_retired_one_may_be_for_a_while() {
    let files = files();
    let found = faults(&files, &two().replace("%/acme.kek", "%/kek"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("encryption.acme: its key_file or token is that of [encryption] too"),
        "{found:?}"
    );
    let found = faults(&files, &two().replace("%/acme.pub", "%/escrow.pub"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with(
            "encryption.acme.escrow_recipient_file: the escrow key is that of [encryption] too"
        ),
        "{found:?}"
    );
    let retired = "[encryption.acme]\nretired_key_files = [\"%/kek\"]";
    let config = files.parse_alone(&two().replace("[encryption.acme]", retired));
    let notes = config.unwrap().notes_on_keys();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].contains("of [encryption] is retired in [encryption.acme] too"),
        "{notes:?}"
    );
}

#[test]
fn backends_with_different_keys_do_not_reach_each_others_files() {
    let files = files();
    fs::create_dir(files.0.path().join("data/below")).unwrap();
    fs::create_dir(files.0.path().join("database")).unwrap();
    std::os::unix::fs::symlink("data", files.0.path().join("link")).unwrap();
    let at = |directory: &str, lines: &str| {
        let own = local("acme", directory, lines);
        format!("{MINIMAL}{ENCRYPTION}{ACME}{}{own}", local("a", "data", ""))
    };
    for (directory, how) in [
        ("data", "the same files as"),
        ("link", "the same files as"),
        ("data/below", "a part of the files of"),
        (".", "all files of"),
    ] {
        assert!(files.parse_alone(&at(directory, "")).is_ok(), "one set");
        let found = faults(&files, &at(directory, "keys = \"acme\""));
        let expected = format!("backends.acme.keys: it reaches {how} [backends.a]");
        assert!(
            found.len() == 1 && found[0].starts_with(&expected),
            "{found:?}"
        );
    }
    for beside in ["acme", "database"] {
        let text = at(beside, "keys = \"acme\"");
        assert!(files.parse_alone(&text).is_ok(), "{beside}");
    }
    let login = |name: &str, lines: &str| {
        format!(
            "[backends.{name}]\nkind = \"ftp\"\naddress = \"198.51.100.20:21\"\nuser = \"g\"\npassword_file = \"%/password\"\ntls = \"implicit\"\nencryption = \"on\"\n{lines}\n"
        )
    };
    let ftp = format!(
        "{MINIMAL}{ENCRYPTION}{ACME}{}{}",
        login("one", ""),
        login("two", "keys = \"acme\"")
    );
    let notes = files.parse_alone(&ftp).unwrap().notes_on_keys();
    assert!(
        notes.len() == 1 && notes[0].starts_with("backends one and two log in as one user"),
        "{notes:?}"
    );
}

#[test]
fn another_key_in_one_set_changes_the_backends_of_that_set_alone() {
    let files = files();
    let before = files.parse_alone(&two()).unwrap();
    fs::remove_file(files.0.path().join("acme.kek")).unwrap();
    let key = DataKey::random().unwrap();
    key_file::write_kek(&files.0.path().join("acme.kek"), &key).unwrap();
    let after = files.parse_alone(&two()).unwrap();
    assert_eq!(before.at_rest["a"], after.at_rest["a"]);
    assert_ne!(before.at_rest["acme"], after.at_rest["acme"]);
}

/// A tomb of the keys of `[encryption.acme]`, on record or about to be.
fn tomb(files: &Files, config: &Config, record: Option<u64>) -> Tomb {
    let keys = set_of(config, "acme");
    let tomb = Tomb {
        set: "acme".to_owned(),
        keys: keys.sources.clone(),
        escrow: hex::encode(keys.recipient),
        approver: "J. Doe".to_owned(),
        after: 3,
        record: record.map(|seq| Entry {
            seq,
            time: "2026-11-22T00:00:00.000000Z".to_owned(),
        }),
    };
    let folder = files.0.path().join("journal.verification");
    fs::create_dir_all(&folder).unwrap();
    Tombs(vec![tomb.clone()]).write(&folder).unwrap();
    tomb
}

#[test]
fn keys_that_are_destroyed_on_record_are_not_used_whether_they_are_there_or_not() {
    let files = files();
    let before = files.parse_alone(&two()).unwrap();
    tomb(&files, &before, None);
    let config = files.parse_alone(&two()).unwrap();
    assert_eq!(config.at_rest, before.at_rest, "not on record");

    tomb(&files, &before, Some(7));
    let key = files.0.path().join("acme.kek");
    let copy = fs::read_to_string(&key).unwrap();
    for content in [Some(copy.as_str()), Some("half of it"), None] {
        fs::remove_file(&key).unwrap();
        if let Some(content) = content {
            files.write("acme.kek", content, 0o600);
        }
        let config = files.parse_alone(&two()).unwrap();
        let keys = set_of(&config, "acme");
        let record = keys.ring.record().unwrap();
        assert!(
            record.contains("J. Doe") && record.contains("record 7"),
            "{record}"
        );
        assert!(!set_of(&config, "a").ring.is_destroyed());
        assert_ne!(config.at_rest["acme"], before.at_rest["acme"]);
        let notes = config.notes_on_keys();
        assert!(
            notes[0].starts_with("[encryption.acme] can't be used"),
            "{notes:?}"
        );
        if content.is_none() {
            files.write("acme.kek", &copy, 0o600);
        }
    }

    // Other keys in their place are as good as any, and no other section takes them up.
    make(&files, "young");
    let young = two()
        .replace("%/acme.kek", "%/young.kek")
        .replace("%/acme.pub", "%/young.pub");
    let config = files.parse_alone(&young).unwrap();
    assert!(!set_of(&config, "acme").ring.is_destroyed());
    for (from, to, fault) in [
        (
            "%/kek",
            "%/acme.kek",
            "encryption.key_file: a destroyed key is back",
        ),
        (
            "[encryption]\n",
            "[encryption]\nretired_key_files = [\"%/acme.kek\"]\n",
            "encryption.retired_key_files: a destroyed key is back",
        ),
        (
            "%/escrow.pub",
            "%/acme.pub",
            "encryption.escrow_recipient_file: an escrow key of destroyed keys is back",
        ),
    ] {
        let found = faults(&files, &young.replace(from, to));
        assert!(found.len() == 1 && found[0].starts_with(fault), "{found:?}");
    }
    files.write("journal.verification/destroyed-keys", "{", 0o600);
    let found = faults(&files, &young);
    assert!(
        found[0].starts_with("journal.directory: which keys were destroyed"),
        "{found:?}"
    );
}
