use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _};

use tempfile::TempDir;

use super::*;
use crate::{
    auth::ldap::{GroupSource, People},
    config::{
        Fault,
        section::{Faults, Section},
    },
};

/// A folder with secrets and a certificate, and the configuration that names it as DIR.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("good", "0123456789abcdef\nnot this line\n", 0o600);
    write("short", "0123456789abcde\n", 0o600);
    write("exposed", "0123456789abcdef\n", 0o644);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap();
    write("ca.pem", &certificate.pem(), 0o644);
    folder
}

fn parse(text: &str, folder: &TempDir) -> Result<AuthConfig, Vec<Fault>> {
    let text = text.replace("DIR", &folder.path().display().to_string());
    let table = text.parse().unwrap();
    let faults = Faults::default();
    let config = auth(Section::root(&table, &faults), NaiveDate::MAX);
    let faults = faults.into_vec();
    if faults.is_empty() {
        Ok(config)
    } else {
        Err(faults)
    }
}

/// The keys of the faults, which there have to be.
fn faulty(text: &str, folder: &TempDir) -> String {
    let faults = parse(text, folder).unwrap_err();
    let mut keys = String::new();
    for Fault { key, .. } in &faults {
        write!(keys, "{key} ").unwrap();
    }
    keys.trim_end().to_owned()
}

const RADIUS: &str = "[radius]\n\
    [radius.servers.one]\naddress = \"192.0.2.10\"\nsecret_file = \"DIR/good\"\n";

const LDAP: &str = "[ldap]\nservers = [\"ldaps://dc1.example.org\"]\nca_file = \"DIR/ca.pem\"\n\
    bind_dn = \"cn=gateway\"\nbind_password_file = \"DIR/good\"\nbase = \"dc=example\"\n\
    user_filter = \"(uid={name})\"\n";

#[test]
fn a_radius_server_has_the_registered_port_and_its_own_secret() {
    let folder = folder();
    let radius = parse(RADIUS, &folder).unwrap().radius.unwrap();
    assert_eq!(radius.servers[0].address.to_string(), "192.0.2.10:1812");
    assert_eq!(radius.servers[0].secret.expose(), b"0123456789abcdef");
}

#[test]
fn several_radius_servers_are_asked_in_the_order_that_is_given() {
    let folder = folder();
    let second =
        "[radius.servers.two]\naddress = \"[2001:db8::1]:1645\"\nsecret_file = \"DIR/good\"\n";
    let with = |order: &str| RADIUS.replace("[radius]\n", &format!("[radius]\n{order}\n")) + second;
    let radius = parse(&with("order = [\"two\", \"one\"]"), &folder).unwrap();
    let names = radius.radius.unwrap().servers;
    assert_eq!(names[0].name, "two");
    for order in [
        "",
        "order = [\"one\"]",
        "order = [\"one\", \"one\", \"two\"]",
        "order = [\"one\", \"two\", \"three\"]",
    ] {
        assert_eq!(faulty(&with(order), &folder), "radius.order", "{order}");
    }
}

#[test]
fn radius_is_refused_with_what_is_wrong() {
    let folder = folder();
    for (from, to, key) in [
        (
            "192.0.2.10",
            "radius.example.org",
            "radius.servers.one.address",
        ),
        ("DIR/good", "DIR/short", "radius.servers.one.secret_file"),
        ("DIR/good", "DIR/exposed", "radius.servers.one.secret_file"),
        ("DIR/good", "DIR/missing", "radius.servers.one.secret_file"),
        (
            "[radius]\n",
            "[radius]\nuser_name = \"{user}\"\n",
            "radius.user_name",
        ),
        (
            "[radius]\n",
            "[radius]\ntransmissions = 0\n",
            "radius.transmissions",
        ),
        (
            "[radius]\n",
            "[radius]\ntransmissions = 10\ntimeout_milliseconds = 9000\n",
            "radius.timeout_milliseconds",
        ),
        ("[radius]\n", "[radius]\nunknown = 1\n", "radius.unknown"),
    ] {
        assert!(RADIUS.contains(from));
        assert_eq!(faulty(&RADIUS.replace(from, to), &folder), key, "{to}");
    }
    assert_eq!(faulty("[radius]\n", &folder), "radius.servers");
}

#[test]
fn a_directory_is_asked_over_tls_or_not_at_all() {
    let folder = folder();
    let ldap = parse(LDAP, &folder).unwrap().ldap.unwrap();
    assert_eq!(ldap.servers[0].to_string(), "ldaps://dc1.example.org:636");
    let clear = LDAP.replace("ldaps://", "ldap://");
    assert_eq!(faulty(&clear, &folder), "ldap.servers[0]");
    assert_eq!(
        faulty(&format!("{clear}start_tls = false\n"), &folder),
        "ldap.servers[0]"
    );
    let ldap = parse(&format!("{clear}start_tls = true\n"), &folder).unwrap();
    let ldap = ldap.ldap.unwrap();
    assert!(ldap.servers[0].start_tls);
    assert_eq!(ldap.servers[0].to_string(), "ldap://dc1.example.org:389");
}

#[test]
fn a_directory_is_refused_with_what_is_wrong() {
    let folder = folder();
    for (from, to, key) in [
        ("ca_file = \"DIR/ca.pem\"\n", "", "ldap.ca_file"),
        ("DIR/ca.pem", "DIR/good", "ldap.ca_file"),
        ("DIR/good", "DIR/exposed", "ldap.bind_password_file"),
        ("(uid={name})", "(uid=alice)", "ldap.user_filter"),
        ("(uid={name})", "(uid={name}", "ldap.user_filter"),
        (
            "(uid={name})",
            "(&(uid={name})(seeAlso={dn}))",
            "ldap.user_filter",
        ),
        (
            "bind_dn = ",
            "user_dn = \"uid={name},dc=x\"\nbind_dn = ",
            "ldap.bind_dn ldap.bind_password_file ldap.base ldap.user_filter",
        ),
        (
            "base = ",
            "group_attribute = \"memberOf\"\nbase = ",
            "ldap.groups",
        ),
        (
            "base = ",
            "group_base = \"dc=x\"\nbase = ",
            "ldap.group_attribute",
        ),
        (
            "base = ",
            "timeout_seconds = 0\nbase = ",
            "ldap.timeout_seconds",
        ),
    ] {
        assert!(LDAP.contains(from));
        assert_eq!(faulty(&LDAP.replace(from, to), &folder), key, "{to}");
    }
}

#[test]
fn people_are_found_by_template_too_but_not_rechecked() {
    let folder = folder();
    let text = "[ldap]\nservers = [\"ldaps://192.0.2.1:1636\"]\nca_file = \"DIR/ca.pem\"\n\
        user_dn = \"uid={name},ou=people,dc=example\"\n";
    let ldap = parse(text, &folder).unwrap().ldap.unwrap();
    assert!(matches!(ldap.people, People::Template(_)));
    assert_eq!(
        faulty(&format!("{text}recheck_seconds = 60\n"), &folder),
        "ldap.recheck_seconds"
    );
}

#[test]
fn groups_are_mapped_without_regard_to_case() {
    let folder = folder();
    let text = format!(
        "{LDAP}group_base = \"ou=groups\"\ngroup_filter = \"(member={{dn}})\"\n\
         [ldap.groups]\nLab = \"laboratory\"\n"
    );
    let groups = parse(&text, &folder).unwrap().ldap.unwrap().groups.unwrap();
    assert_eq!(groups.names["lab"], "laboratory");
    assert!(matches!(groups.source, GroupSource::OfGroup { attribute, .. } if attribute == "cn"));
    for names in ["lab = \"other\"", "other = \"No Name\""] {
        assert_eq!(
            faulty(&format!("{text}{names}\n"), &folder),
            "ldap.groups",
            "{names}"
        );
    }
}

#[test]
fn the_sample_shows_both_sections_without_a_fault_but_the_files() {
    let sample = include_str!("../../../../deploy/portcullis-proxy.toml");
    // Prose has a blank after the sign; of two ways to say a thing, one is left out.
    let text: String = sample
        .lines()
        .skip_while(|line| *line != "#[auth.radius]")
        .take_while(|line| *line != "[journal]")
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .filter(|line| !line.starts_with("secret_credential") && !line.starts_with("user_dn"))
        .map(|line| format!("{}\n", line.replace("[auth.", "[")))
        .collect();
    let faults = parse(&text, &folder()).unwrap_err();
    assert_eq!(faults.len(), 3, "{faults:?}");
    for fault in faults {
        assert!(fault.problem.contains("can't be read"), "{fault}");
    }
}
