//! `[server] cipher_policy`: which host keys it needs, and the exception that a relaxation needs.

use super::*;

const EXCEPTION: &str =
    r#"cipher_policy_exception = { reason = "r", approver = "a", expires = "2026-11-22" }"#;

/// The minimal configuration with other host keys, each of which is a file, and lines of `[server]`.
fn server(host_keys: &str, lines: &str) -> String {
    MINIMAL
        .replace("[\"%/host_key\"]", host_keys)
        .replace("[accounts]", &format!("{lines}\n[accounts]"))
}

fn policy(name: &str) -> String {
    format!("cipher_policy = {name:?}")
}

/// With more host keys, by the arguments of `ssh-keygen` that make them.
fn files(keys: &[(&str, [&str; 4])]) -> Files {
    let files = Files::new();
    for (name, arguments) in keys {
        let key = ssh_keygen(&files, &[arguments.as_slice(), &["-N", ""]].concat());
        files.write(name, &key, 0o600);
    }
    files
}

const P256: (&str, [&str; 4]) = ("p256", ["-t", "ecdsa", "-b", "256"]);

#[test]
fn a_policy_is_loaded_with_a_host_key_that_it_offers_and_with_no_other() {
    let files = files(&[
        P256,
        ("p384", ["-t", "ecdsa", "-b", "384"]),
        ("p521", ["-t", "ecdsa", "-b", "521"]),
        ("rsa3072", ["-t", "rsa", "-b", "3072"]),
        ("rsa2048", ["-t", "rsa", "-b", "2048"]),
    ]);
    let host_key = r#"["%/host_key"]"#;
    for (name, host_keys) in [
        ("fips-140-3", r#"["%/p384"]"#),
        ("fips-140-3", r#"["%/p256", "%/rsa3072"]"#),
        ("pq-only", host_key),
        ("hipaa-2026", host_key),
    ] {
        let config = files.parse(&server(host_keys, &policy(name))).unwrap();
        assert_eq!(config.server.cipher_policy.name(), name);
    }
    let ecdsa = "make one with `ssh-keygen -t ecdsa -b 384 -N '' -f FILE`";
    let ed25519 = "make one with `portcullis-proxy host-key generate FILE`";
    for (name, host_keys, way_out) in [
        ("fips-140-3", host_key, ecdsa),
        ("fips-140-3", r#"["%/p521"]"#, ecdsa),
        ("pq-only", r#"["%/p384"]"#, ed25519),
        ("hipaa-2026", r#"["%/rsa3072"]"#, ed25519),
    ] {
        let faults = files.faults(&server(host_keys, &policy(name)));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].starts_with("server.host_keys[0]: ") && faults[0].ends_with(way_out),
            "{name}: {faults:?}"
        );
    }
    let faults = files.faults(&server(r#"["%/rsa2048"]"#, &policy("fips-140-3")));
    assert!(
        faults[0].contains("an RSA key of 2048 bits; at least 3072 are needed"),
        "{faults:?}"
    );
}

#[test]
fn a_relaxation_needs_an_exception_that_has_not_ended_and_nothing_else_may_have_one() {
    let files = files(&[P256]);
    let both = r#"["%/p256", "%/host_key"]"#;
    let legacy = policy("legacy-compat");
    let config = files
        .parse(&server(both, &format!("{legacy}\n{EXCEPTION}")))
        .unwrap();
    let exception = config.server.cipher_policy.exception().unwrap();
    assert_eq!(exception.expires, today());

    let ended = EXCEPTION.replace("2026-11-22", "2026-11-21");
    let incomplete = EXCEPTION.replace("approver = \"a\", ", "");
    for (lines, expected) in [
        (
            legacy.clone(),
            "server.cipher_policy_exception: missing; legacy-compat is weaker than hipaa-2026",
        ),
        (
            format!("{legacy}\n{ended}"),
            "server.cipher_policy_exception.expires: the exception ended on 2026-11-21; move to hipaa-2026 or have",
        ),
        (
            format!("{legacy}\n{incomplete}"),
            "server.cipher_policy_exception.approver: missing",
        ),
    ] {
        let faults = files.faults(&server(both, &lines));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(expected), "{faults:?}");
    }
    let faults = files.faults(&server(
        r#"["%/host_key"]"#,
        &format!("{}\n{EXCEPTION}", policy("pq-only")),
    ));
    assert!(
        faults[0].starts_with("server.cipher_policy_exception: has no use"),
        "{faults:?}"
    );
}

#[test]
fn a_relaxation_needs_the_host_key_with_which_the_gateway_goes_on_after_it() {
    let files = files(&[P256]);
    let lines = format!("{}\n{EXCEPTION}", policy("legacy-compat"));
    let faults = files.faults(&server(r#"["%/p256"]"#, &lines));
    assert!(
        faults[0].starts_with("server.host_keys: ssh-ed25519 has to be among them"),
        "{faults:?}"
    );
    let config = files
        .parse(&server(r#"["%/p256", "%/host_key"]"#, &lines))
        .unwrap();
    let policy = &config.server.cipher_policy;
    assert_eq!(policy.on(today()).name(), "legacy-compat");
    let after = policy.on(today().succ_opt().unwrap());
    assert_eq!(after.name(), "hipaa-2026");
    assert_eq!(after.exception(), None);
}

#[test]
fn commands_on_accounts_take_the_keys_of_the_policy() {
    let files = Files::new();
    let path = files.0.path().join("proxy.toml");
    for (name, bits) in [
        ("legacy-compat", 2048),
        ("fips-140-3", 3072),
        ("nonsense", 3072),
    ] {
        files.write(
            "proxy.toml",
            &server(r#"["%/host_key"]"#, &policy(name)),
            0o644,
        );
        let config = Config::load_accounts(&path).unwrap();
        assert_eq!(config.key_rules.rsa_bits_min, bits, "{name}");
    }
}
