//! The real binary: exit codes, and what is printed where.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn proxy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis-proxy"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn printed(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory with a host key and a configuration of these lines in `[server]`.
fn configured(directory: &Path, server: &str) -> PathBuf {
    let root = directory.display();
    let key = directory.join("host_key");
    if !key.exists() {
        let made = proxy(&["host-key", "generate", &key.to_string_lossy()]);
        assert_eq!(made.status.code(), Some(0), "{}", printed(&made.stderr));
    }
    let file = directory.join("proxy.toml");
    fs::write(
        &file,
        format!(
            "[server]\nhost_keys = [\"{root}/host_key\"]\n{server}\n[accounts]\ndatabase = \"{root}/state/accounts.db\"\n\
             [journal]\ndirectory = \"{root}/journal\"\nsigning_key = \"{root}/journal.key\"\n"
        ),
    )
    .expect("the directory can be written");
    file
}

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let directory = tempfile::tempdir().unwrap();
    let file = configured(directory.path(), "listen = [\"127.0.0.1:0\"]");
    let checked = proxy(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0));
    assert!(printed(&checked.stdout).contains("is good"));
    assert_eq!(printed(&checked.stderr), "");
}

#[test]
fn every_fault_is_printed_at_once_and_the_exit_code_is_78() {
    let directory = tempfile::tempdir().unwrap();
    let file = configured(
        directory.path(),
        "listen = [\"nowhere\"]\ncipher_policy = \"hipaa-2026\"\ncolour = \"red\"\nmax_connections = 0\n\
         [server.algorithms]\nciphers = [\"3des-cbc\"]",
    );
    for command in ["check", "run"] {
        let output = proxy(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(78), "{command}");
        let errors = printed(&output.stderr);
        for fault in [
            "server.listen[0]: \"nowhere\" is not an address",
            "server.colour: unknown key",
            "server.max_connections: expected a whole number from 1 to 100000, found the number 0",
            "server.algorithms.ciphers: \"3des-cbc\" can't be enabled by any configuration",
        ] {
            assert!(errors.contains(fault), "{fault}\n{errors}");
        }
        assert!(
            !directory.path().join("journal").exists(),
            "nothing was started"
        );
    }
    let output = proxy(&["check", "--config", "/nonexistent.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(printed(&output.stderr).contains("/nonexistent.toml"));
}

#[test]
fn an_unreadable_host_key_is_a_fault_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = configured(directory.path(), "listen = [\"127.0.0.1:0\"]");
    let key = directory.path().join("host_key");
    fs::write(&key, "").unwrap();
    let output = proxy(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert!(printed(&output.stderr).contains("not a private key in OpenSSH format"));
    fs::remove_file(&key).unwrap();
    let output = proxy(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert!(printed(&output.stderr).contains("can't be read"));
}

#[test]
fn wrong_usage_is_2_and_an_address_in_use_is_1() {
    assert_eq!(proxy(&["serve"]).status.code(), Some(2));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap();
    let file = configured(directory.path(), &format!("listen = [\"{address}\"]"));
    let output = proxy(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let errors = printed(&output.stderr);
    assert!(errors.contains(&format!("listen on {address}")), "{errors}");
}

#[test]
fn a_host_key_is_made_once_and_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("host_key");
    let made = proxy(&["host-key", "generate", key.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0));
    let mode = fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let before = fs::read(&key).unwrap();
    let again = proxy(&["host-key", "generate", key.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(fs::read(&key).unwrap(), before, "the key was replaced");

    let listed = Command::new("ssh-keygen")
        .arg("-lf")
        .arg(&key)
        .output()
        .unwrap();
    let fingerprint = printed(&listed.stdout);
    let fingerprint = fingerprint.split_whitespace().nth(1).unwrap();
    assert!(printed(&made.stdout).starts_with(fingerprint));
}

#[test]
fn the_policy_is_printed_for_auditors() {
    let directory = tempfile::tempdir().unwrap();
    let file = configured(directory.path(), "listen = [\"127.0.0.1:0\"]");
    let output = proxy(&["print-policy", "--config", file.to_str().unwrap()]);
    let policy: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(policy["policy"], "hipaa-2026");
    assert_eq!(policy["ciphers"][0], "aes256-gcm@openssh.com");
}
