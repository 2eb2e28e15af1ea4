use std::fs;

use clap::{CommandFactory as _, Parser};
use serde_json::Value;
use tempfile::TempDir;

mod factors;

use super::{factors::first_line, *};
use crate::{
    accounts::{admission::AccountDefaults, break_glass::OPEN_MAX},
    auth::{
        password::Hasher,
        public_key::{KeyRules, samples},
    },
    config::{AccountsConfig, AuthConfig},
};

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    account: AccountCommand,
}

struct Shell {
    directory: TempDir,
    accounts: Accounts,
}

impl Shell {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
        Self {
            directory,
            accounts,
        }
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run_with(arguments, b"")
    }

    fn run_with(&self, arguments: &[&str], mut input: &[u8]) -> anyhow::Result<String> {
        let line = CommandLine::try_parse_from([&["account"], arguments].concat())?;
        let config = AccountCommandsConfig {
            accounts: AccountsConfig {
                database: self.directory.path().join("accounts.db"),
                defaults: AccountDefaults::default(),
                break_glass_longest: OPEN_MAX,
            },
            backends: vec!["archive".to_owned(), "legacy".to_owned()],
            auth: Ok(AuthConfig::default()),
            key_rules: KeyRules::default(),
        };
        let mut output = Vec::new();
        line.account.action.run(
            &self.accounts,
            config,
            &mut Streams {
                input: &mut input,
                output: &mut output,
            },
        )?;
        Ok(String::from_utf8(output)?)
    }

    fn only_account(&self) -> Value {
        let listed: Value = serde_json::from_str(&self.run(&["list", "--json"]).unwrap()).unwrap();
        listed.as_array().unwrap()[0].clone()
    }
}

#[test]
fn the_commands_are_well_formed() {
    CommandLine::command().debug_assert();
}

#[test]
fn an_account_grows_from_a_name_to_three_ways_in() {
    let shell = Shell::new();
    shell
        .run(&["add", "alice", "--owner", "Radiology"])
        .unwrap();
    assert_eq!(shell.only_account()["login_with"], json!([]));
    shell
        .run_with(
            &["set-password", "alice", "--password-stdin"],
            b"correct horse battery\n",
        )
        .unwrap();
    assert_eq!(shell.only_account()["login_with"], json!([]), "one class");
    let enrolled = shell.run(&["enroll-totp", "alice", "--json"]).unwrap();
    let enrolled: Value = serde_json::from_str(&enrolled).unwrap();
    assert_eq!(enrolled["secret"].as_str().unwrap().len(), 32);
    assert_eq!(shell.only_account()["login_with"], json!(["password+code"]));
    let fingerprint = shell
        .run(&["add-key", "alice", "--key", samples::ED25519])
        .unwrap();
    let account = shell.only_account();
    assert_eq!(
        account["login_with"],
        json!(["password+code", "key+password"])
    );
    assert_eq!(account["keys"][0]["fingerprint"], fingerprint.trim());
    assert_eq!(account["keys"][0]["comment"], "alice@example");
    assert_eq!(account["owner"], "Radiology");
    shell
        .run(&[
            "policy",
            "alice",
            "possession-pair",
            "--reason",
            "scanner",
            "--approver",
            "J. Doe",
            "--expires",
            "2999-06-30",
        ])
        .unwrap();
    let account = shell.only_account();
    assert_eq!(
        account["login_with"],
        json!(["password+code", "key+password", "key+code"])
    );
    assert_eq!(account["policy"]["approver"], "J. Doe");
    shell.run(&["policy", "alice", "two-class"]).unwrap();
    assert_eq!(
        shell.only_account()["policy"],
        json!({ "name": "two-class" })
    );
    let table = shell.run(&["list"]).unwrap();
    assert!(table.contains("password+code, key+password"), "{table}");
}

#[test]
fn a_password_is_the_first_line_without_its_end() {
    let hasher = Hasher::new().unwrap();
    let set = |input: &[u8]| {
        let secret = first_line(&mut &input[..]).unwrap();
        hasher.hash(&secret).map(|_| secret.expose().to_vec())
    };
    for input in [
        "twelve chars",
        "twelve chars\n",
        "twelve chars\r\n",
        "twelve chars\nrest",
    ] {
        assert_eq!(set(input.as_bytes()).unwrap(), b"twelve chars", "{input:?}");
    }
    assert!(set(b"eleven char\n").is_err());
    assert!(set(b"\ntwelve chars").is_err());
    assert!(set(&[b'x'; 1024]).is_ok());
    assert!(set(&[b'x'; 1025]).is_err());
}

#[test]
fn enrolment_draws_a_code_that_carries_the_uri() {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    let shown = shell.run(&["enroll-totp", "alice"]).unwrap();
    let uri = shown
        .lines()
        .find(|line| line.starts_with("otpauth://totp/Portcullis:alice?secret="))
        .unwrap();
    let secret = shown
        .lines()
        .find_map(|line| line.strip_prefix("secret: "))
        .unwrap();
    assert!(uri.contains(secret));
    let drawing = shown.lines().filter(|line| line.contains('\u{2588}'));
    assert!(drawing.count() > 15, "{shown}");
}

#[test]
fn a_key_file_with_a_private_key_two_keys_or_none_is_refused() {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    let file = shell.directory.path().join("key");
    let add = |text: &str| {
        fs::write(&file, text).unwrap();
        shell.run(&["add-key", "alice", "--key-file", file.to_str().unwrap()])
    };
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    assert!(add(private).unwrap_err().to_string().contains(".pub"));
    assert!(add(&format!("{}{}", samples::ED25519, samples::ED25519_OTHER)).is_err());
    assert!(add("# nothing\n").is_err());
    assert!(add(samples::RSA_2048).is_err());
    assert!(add(&format!("# hers\n\n{}", samples::ED25519)).is_ok());
    let stdin = ["add-key", "alice", "--key-file", "-"];
    assert!(shell.run_with(&stdin, samples::RSA_3072.as_bytes()).is_ok());
}

#[test]
fn a_mount_needs_a_known_backend_an_absolute_path_and_known_permissions() {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    let mount = |at: &str, backend: &str, permissions: &str| {
        shell.run(&[
            "mount",
            "alice",
            at,
            "--backend",
            backend,
            "--directory",
            "/in",
            "--permissions",
            permissions,
        ])
    };
    assert!(mount("/inbox", "nowhere", "list").is_err());
    assert!(mount("inbox", "legacy", "list").is_err());
    assert!(mount("/inbox", "legacy", "list,everything").is_err());
    assert!(mount("/inbox", "legacy", "list,read").is_ok());
    assert_eq!(
        shell.only_account()["mounts"],
        json!([{ "at": "/inbox", "backend": "legacy", "directory": "/in", "permissions": ["list", "read"] }])
    );
    let limited = |limit: &[&str]| {
        let mount = [
            "mount",
            "alice",
            "/inbox",
            "--backend",
            "legacy",
            "--directory",
            "/in",
            "--permissions",
            "read",
        ];
        shell.run(&[&mount, limit].concat())
    };
    assert!(limited(&["--read-rate", "20M", "--quota", "5G"]).is_ok());
    let shown = &shell.only_account()["mounts"][0];
    assert_eq!(shown["read_rate"], 20 << 20);
    assert_eq!(shown["quota"], 5_u64 << 30);
    assert!(shown["write_rate"].is_null());
    assert!(shell.run(&["unmount", "alice", "/outbox"]).is_err());
    assert!(shell.run(&["unmount", "alice", "/inbox"]).is_ok());
}

#[test]
fn an_exception_needs_a_reason_an_approver_and_a_day_to_come() {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    let policy = |arguments: &[&str]| {
        shell.run(&[&["policy", "alice", "possession-pair"], arguments].concat())
    };
    let whole = [
        "--reason",
        "r",
        "--approver",
        "a",
        "--expires",
        "2999-01-01",
    ];
    assert!(policy(&whole).is_ok());
    for missing in 0..3 {
        let mut arguments = whole.to_vec();
        arguments.drain(2 * missing..2 * missing + 2);
        assert!(policy(&arguments).is_err());
    }
    assert!(
        policy(&[
            "--reason",
            " ",
            "--approver",
            "a",
            "--expires",
            "2999-01-01"
        ])
        .is_err()
    );
    let passed = policy(&[
        "--reason",
        "r",
        "--approver",
        "a",
        "--expires",
        "2020-01-01",
    ]);
    assert!(passed.unwrap_err().to_string().contains("has passed"));
}

#[test]
fn odd_names_are_refused_before_the_database_is_asked() {
    let shell = Shell::new();
    for name in ["Alice", "../alice", "al ice", ""] {
        assert!(shell.run(&["add", name]).is_err(), "{name:?}");
    }
    assert_eq!(shell.run(&["list", "--json"]).unwrap().trim(), "[]");
}

#[test]
fn a_limit_that_is_not_named_stays_and_none_removes_it() {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    let limits = || shell.only_account()["limits"].clone();
    let none = json!({ "sessions": null, "read_rate": null, "write_rate": null });
    assert_eq!(limits(), none);
    shell
        .run(&["limit", "alice", "--sessions", "3", "--write-rate", "1M"])
        .unwrap();
    shell
        .run(&[
            "limit",
            "alice",
            "--read-rate",
            "2M",
            "--write-rate",
            "none",
        ])
        .unwrap();
    let expected = json!({ "sessions": 3, "read_rate": 2 << 20, "write_rate": null });
    assert_eq!(limits(), expected);
    for wrong in [
        &["limit", "alice"][..],
        &["limit", "alice", "--sessions", "0"],
        &["limit", "alice", "--read-rate", "1"],
        &["limit", "nobody", "--sessions", "1"],
    ] {
        assert!(shell.run(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(limits(), expected);
}

#[test]
fn a_mount_says_its_extensions_and_whether_uploads_resume() {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    let mount = |more: &[&str]| {
        let line = [
            "mount",
            "alice",
            "/in",
            "--backend",
            "archive",
            "--directory",
            "/",
            "--permissions",
            "read",
        ];
        shell.run(&[&line[..], more].concat())
    };
    mount(&["--extensions", "copy-data", "--resume", "false"]).unwrap();
    let shown = shell.only_account()["mounts"][0].clone();
    assert_eq!(shown["extensions"], json!(["copy-data"]));
    assert_eq!(shown["resume"], false);
    mount(&[]).unwrap();
    let shown = shell.only_account()["mounts"][0].clone();
    assert!(shown.get("extensions").is_none() && shown.get("resume").is_none());
    assert!(mount(&["--extensions", "fsync@openssh.com"]).is_err());
    assert!(mount(&["--resume", "perhaps"]).is_err());
}

#[test]
fn what_narrows_an_account_is_set_removed_and_shown() {
    let shell = Shell::new();
    shell.run(&["add", "ada", "--kind", "break-glass"]).unwrap();
    shell
        .run(&[
            "set",
            "ada",
            "--owner",
            "Radiology",
            "--expires",
            "2999-06-30",
            "--hours",
            "Mon-Fri 07:00-19:00 Europe/Berlin",
            "--source",
            "192.0.2.0/24",
            "2001:db8::7",
            "--idle-days",
            "30",
        ])
        .unwrap();
    let show = || -> Value {
        serde_json::from_str(&shell.run(&["show", "ada", "--json"]).unwrap()).unwrap()
    };
    assert_eq!(show()["kind"], "break-glass");
    assert_eq!(show()["state"], "enabled");
    assert_eq!(
        show()["restrictions"],
        json!({
            "expires": "2999-06-30",
            "hours": "Mon-Fri 07:00-19:00 Europe/Berlin",
            "idle_days": 30,
            "sources": ["192.0.2.0/24", "2001:db8::7/128"],
        })
    );
    let printed = shell.run(&["show", "ada"]).unwrap();
    assert!(printed.contains("owner        Radiology\n"), "{printed}");
    assert!(printed.contains("expires=2999-06-30"), "{printed}");

    shell
        .run(&["set", "ada", "--source", "none", "--hours", "none"])
        .unwrap();
    assert_eq!(show()["restrictions"]["sources"], json!([]));
    assert_eq!(show()["restrictions"]["hours"], Value::Null);
    assert_eq!(show()["restrictions"]["idle_days"], 30);
    shell
        .run(&["set", "ada", "--expires", "2000-01-01"])
        .unwrap();
    assert_eq!(show()["state"], "expired");
    for wrong in [
        &["set", "ada"][..],
        &["set", "ada", "--source", "192.0.2.1/24"],
        &["set", "ada", "--hours", "always"],
        &["set", "ada", "--expires", "2026-02-30"],
        &["set", "ada", "--idle-days", "0"],
        &["set", "ada", "--owner", " "],
        &["show", "nobody"],
    ] {
        assert!(shell.run(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_key_has_sources_and_an_end_that_can_be_changed() {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    let key = ["add-key", "alice", "--key", samples::ED25519];
    let add = |more: &[&str]| shell.run(&[&key[..], more].concat());
    for wrong in [
        ["--source", "192.0.2.7/24"],
        ["--source", "anywhere"],
        ["--source", "none"],
        ["--expires", "soon"],
        ["--expires", "none"],
    ] {
        assert!(add(&wrong).is_err(), "{wrong:?}");
    }
    let terms = [
        "--source",
        "198.51.100.0/24,192.0.2.7",
        "--expires",
        "2999-06-30",
    ];
    let fingerprint = add(&terms).unwrap();
    let shown = || shell.only_account()["keys"][0].clone();
    assert_eq!(
        shown()["sources"],
        json!(["192.0.2.7/32", "198.51.100.0/24"])
    );
    assert_eq!(shown()["expires"], "2999-07-01T00:00:00Z");

    let change = |more: &[&str]| {
        let key = ["key", "alice", fingerprint.trim()];
        shell.run(&[&key[..], more].concat())
    };
    change(&["--expires", "none"]).unwrap();
    assert_eq!(shown()["expires"], Value::Null);
    assert_eq!(
        shown()["sources"],
        json!(["192.0.2.7/32", "198.51.100.0/24"])
    );
    change(&["--source", "none"]).unwrap();
    assert_eq!(shown()["sources"], json!([]));
    assert!(change(&["--source", "none,192.0.2.7"]).is_err());
    assert!(change(&[]).is_err(), "nothing to change");
    let unknown = shell.run(&["key", "alice", "SHA256:none", "--source", "none"]);
    assert!(unknown.unwrap_err().to_string().contains("account list"));
}

#[test]
fn what_only_looks_like_a_key_is_refused() {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    let cut = &samples::ED25519[..40];
    let huge = format!("ssh-ed25519 {}", "A".repeat(1024 * 1024));
    for rubbish in [
        "/etc/ssh/key.pub",
        "file:///etc/ssh/key.pub",
        "\\\\server\\share\\key.pub",
        "",
        " ",
        "ssh-ed25519",
        "ssh-ed25519 =",
        cut,
        &huge,
        samples::CERTIFICATE,
        "cert-authority ssh-ed25519 AAAA",
    ] {
        assert!(
            shell.run(&["add-key", "alice", "--key", rubbish]).is_err(),
            "{rubbish:.60}"
        );
    }
    assert_eq!(shell.only_account()["keys"], json!([]));
}
