//! Keys and certificates with OpenSSH's own tools: who gets in with what, and when it stops to count.

mod agent;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{SecondsFormat, TimeDelta, Utc};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::{body, ends_within, idle_session, text, wait_for_close, wait_for_record};

/// How soon a session has to end after its key was taken away.
const CUT: Duration = Duration::from_secs(5);

fn gateway() -> Result<(Proxy, Account, TempDir)> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/archive", "archive", "/")])?;
    Ok((proxy, alice, storage))
}

/// Certifies keys and revokes them, with files in the proxy's folder.
struct Office {
    folder: PathBuf,
    authority: PathBuf,
    laptop: PathBuf,
}

impl Office {
    /// An authority for people that the proxy trusts from here on, a list of revoked keys, and a key of no account.
    fn open(proxy: &Proxy) -> Result<Self> {
        let folder = proxy.folder().to_path_buf();
        let office = Self {
            authority: files::ssh_key(&folder, "authority")?,
            laptop: files::ssh_key(&folder, "laptop")?,
            folder,
        };
        office.revoke("")?;
        let section = format!(
            "\n[auth]\nrevoked_keys = \"{folder}/revoked\"\n\
             [[auth.certificate_authority]]\nname = \"staff\"\nkey_file = \"{authority}.pub\"\nfor = [\"human\"]\n",
            folder = office.folder.display(),
            authority = office.authority.display(),
        );
        let record = proxy.reload(|text| text.to_owned() + &section)?;
        ensure!(text(&record, "outcome") == "success", "{record}");
        Ok(office)
    }

    /// A certificate of the laptop's key in a file of its own, by the authority.
    fn certify(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        self.certify_by(&self.authority, name, arguments)
    }

    fn certify_by(&self, authority: &Path, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let public = self.folder.join(format!("{name}.pub"));
        let original = self.laptop.with_extension("pub");
        // OpenSSH finds a certificate that is beside its key by itself.
        if public != original {
            fs::copy(original, &public)?;
        }
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-I", name])
                .arg("-s")
                .arg(authority)
                .args(arguments)
                .arg(&public),
        )?;
        Ok(self.folder.join(format!("{name}-cert.pub")))
    }

    /// Another list of revoked keys takes the place of the one before.
    fn revoke(&self, specification: &str) -> Result<()> {
        let new = self.folder.join("revoked.new");
        fs::write(self.folder.join("specification"), specification)?;
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-k", "-f"])
                .arg(&new)
                .arg("-s")
                .arg(self.authority.with_extension("pub"))
                .arg(self.folder.join("specification")),
        )?;
        self.put_in_place(&new)
    }

    fn put_in_place(&self, new: &Path) -> Result<()> {
        Ok(fs::rename(new, self.folder.join("revoked"))?)
    }

    /// Alice with the laptop in place of her own key.
    fn with_laptop(&self, alice: &Account) -> Account {
        Account {
            key: self.laptop.clone(),
            ..alice.clone()
        }
    }
}

/// Shows these certificates and then the account's key and password; whether that was enough.
fn logs_in(proxy: &Proxy, account: &mut Account, certificates: &[PathBuf]) -> Result<bool> {
    let connection = OpensshConnection::new(proxy, account, Factors::KeyThenPassword)?;
    let connection = certificates
        .iter()
        .rev()
        .fold(connection, |connection, file| {
            connection.option(&format!("CertificateFile={}", file.display()))
        });
    let output = connection.sftp(Place::Loopback, "ls /archive\n", 4 * PATIENCE)?;
    Ok(output.status.success())
}

fn is_login(record: &Value) -> bool {
    text(record, "event") == "auth.result" && text(record, "outcome") == "success"
}

/// Why each certificate that reached the proxy was refused, by its key id.
fn refusals(proxy: &Proxy) -> Result<Vec<(String, String)>> {
    let mut refused: Vec<_> = proxy
        .records()?
        .iter()
        .filter(|record| text(record, "event") == "auth.step")
        .filter(|record| !body(record, "cert_fp").is_empty())
        .map(|record| {
            let reason = text(record, "reason");
            (body(record, "cert_key_id").to_owned(), reason.to_owned())
        })
        .collect();
    refused.dedup();
    Ok(refused)
}

#[test]
fn a_certificate_and_a_password_log_in_until_the_certificate_is_revoked() -> Result<()> {
    let (proxy, alice, _storage) = gateway()?;
    let office = Office::open(&proxy)?;
    let mut alice = office.with_laptop(&alice);
    office.certify("laptop", &["-n", "alice", "-z", "7", "-V", "+1h"])?;

    let (child, _connection) = idle_session(&proxy, &mut alice)?;
    let login = wait_for_record(&proxy, "the login", is_login)?;
    ensure!(
        login["body"]["factors"] == serde_json::json!(["certificate", "password"]),
        "{login}"
    );
    ensure!(login["body"]["is_mfa"] == true, "{login}");
    ensure!(body(&login, "cert_serial") == "7", "{login}");
    ensure!(body(&login, "cert_key_id") == "laptop", "{login}");
    let printed = succeed(
        Command::new("ssh-keygen")
            .arg("-lf")
            .arg(office.authority.with_extension("pub")),
    )?;
    ensure!(printed.contains(body(&login, "ca_fp")), "{login}");

    office.revoke("serial: 7\n")?;
    let printed = ends_within(child, CUT)?;
    ensure!(printed.contains("Key not valid any more"), "{printed}");
    wait_for_close(&proxy, "key_revoked")?;
    ensure!(!logs_in(&proxy, &mut alice, &[])?, "a revoked certificate");
    let refused = refusals(&proxy)?;
    ensure!(
        refused.contains(&("laptop".to_owned(), "certificate_revoked".to_owned())),
        "{refused:?}"
    );

    // A list that can't be read leaves the one before in force, loudly.
    let cut = office.folder.join("cut");
    fs::write(&cut, b"SSHKRL\n\0\0\0")?;
    office.put_in_place(&cut)?;
    let refusal = wait_for_record(&proxy, "the refusal of the list", |record| {
        text(record, "event") == "config.change" && text(record, "outcome") == "failure"
    })?;
    ensure!(
        refusal["body"]["changed"] == serde_json::json!(["auth.revoked_keys"]),
        "{refusal}"
    );
    ensure!(
        !logs_in(&proxy, &mut alice, &[])?,
        "after a list that is cut"
    );

    office.revoke("serial: 8\n")?;
    wait_for(
        "the login with a certificate that is not on the list",
        || logs_in(&proxy, &mut alice, &[]).ok()?.then_some(()),
    )
}

#[test]
fn certificates_that_break_a_rule_are_refused_with_the_rule_on_record() -> Result<()> {
    let (proxy, alice, _storage) = gateway()?;
    let office = Office::open(&proxy)?;
    let mut alice = office.with_laptop(&alice);
    let stranger = files::ssh_key(&office.folder, "stranger")?;
    let long = "a".repeat(64 * 1024);
    let hour = ["-V", "+1h"];
    let rules: [(&str, &[&str], &str); 8] = [
        ("other", &["-n", "bob"], "certificate_principal"),
        ("nobody", &[], "certificate_without_principals"),
        ("long", &["-n", &long], "certificate_principals"),
        (
            "forced",
            &["-n", "alice", "-O", "force-command=internal-sftp"],
            "certificate_option",
        ),
        (
            "elsewhere",
            &["-n", "alice", "-O", "source-address=203.0.113.0/24"],
            "certificate_source",
        ),
        (
            "verified",
            &["-n", "alice", "-O", "verify-required"],
            "certificate_option",
        ),
        (
            "lasting",
            &["-n", "alice", "-V", "+2d"],
            "certificate_lifetime",
        ),
        ("strange", &["-n", "alice"], "certificate_authority"),
    ];
    let mut files = Vec::new();
    let mut expected = Vec::new();
    for (name, arguments, reason) in rules {
        let authority = if name == "strange" {
            &stranger
        } else {
            &office.authority
        };
        let mut arguments = arguments.to_vec();
        if !arguments.contains(&"-V") {
            arguments.extend(hour);
        }
        files.push(office.certify_by(authority, name, &arguments)?);
        expected.push((name.to_owned(), reason.to_owned()));
    }
    // A connection ends after six failures.
    for few in files.chunks(4) {
        ensure!(
            !logs_in(&proxy, &mut alice, few)?,
            "one of them was enough: {few:?}"
        );
    }
    let mut refused = refusals(&proxy)?;
    refused.sort();
    expected.sort();
    ensure!(refused == expected, "{refused:?}");

    let here = office.certify(
        "here",
        &[
            "-n",
            "alice",
            "-O",
            "source-address=127.0.0.0/8",
            "-V",
            "+1h",
        ],
    )?;
    ensure!(
        logs_in(&proxy, &mut alice, &[here])?,
        "from a permitted source"
    );
    Ok(())
}

#[test]
fn a_certificate_out_of_its_dates_is_refused_and_on_record() -> Result<()> {
    let (proxy, alice, _storage) = gateway()?;
    let office = Office::open(&proxy)?;
    let mut alice = office.with_laptop(&alice);
    let past = office.certify("past", &["-n", "alice", "-V", "-2h:-1h"])?;
    let future = office.certify("future", &["-n", "alice", "-V", "+1h:+2h"])?;
    ensure!(!logs_in(&proxy, &mut alice, &[past, future])?);
    let reasons = |proxy: &Proxy| -> Result<Vec<String>> {
        let records = proxy.records()?;
        let steps = records.iter().filter(|record| {
            text(record, "event") == "auth.step" && body(record, "refused_by") == "library"
        });
        Ok(steps
            .map(|step| format!("{} {}", step["user"]["name"], text(step, "reason")))
            .collect())
    };
    ensure!(
        reasons(&proxy)? == [r#""alice" certificate_dates"#; 2],
        "{:?}",
        reasons(&proxy)?
    );
    let today = office.certify("today", &["-n", "alice", "-V", "+1h"])?;
    ensure!(logs_in(&proxy, &mut alice, &[today])?, "within its dates");
    ensure!(reasons(&proxy)?.len() == 2, "{:?}", reasons(&proxy)?);
    Ok(())
}

#[test]
fn a_source_that_is_taken_from_a_key_cuts_its_upload_which_is_on_record_and_never_published()
-> Result<()> {
    let (proxy, mut alice, storage) = gateway()?;
    let printed = succeed(
        Command::new("ssh-keygen")
            .arg("-lf")
            .arg(alice.key.with_extension("pub")),
    )?;
    let fingerprint = printed
        .split_whitespace()
        .nth(1)
        .context("ssh-keygen prints bits, fingerprint, comment")?;
    proxy.command(&["account", "limit", "alice", "--write-rate", "1M"])?;
    proxy.command(&[
        "account",
        "key",
        "alice",
        fingerprint,
        "--source",
        "127.0.0.0/8",
    ])?;
    let here = files::folder("partner")?;
    let local = here.path().join("large");
    fs::write(&local, vec![3; 64 << 20])?;
    let connection = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?;
    let batch = format!("put {} /archive/large\n", local.display());
    let upload = std::thread::spawn(move || connection.sftp(Place::Loopback, &batch, 4 * PATIENCE));
    let intent = wait_for_record(&proxy, "a write", |record| {
        text(record, "event") == "op.intent" && body(record, "sftp_op") == "write"
    })?;
    proxy.command(&[
        "account",
        "key",
        "alice",
        fingerprint,
        "--source",
        "203.0.113.0/24",
    ])?;
    wait_for_close(&proxy, "revoked")?;
    let output = upload
        .join()
        .map_err(|_| anyhow::anyhow!("the upload panicked"))??;
    ensure!(!output.status.success(), "the upload went on");
    ensure!(!storage.path().join("large").exists(), "published");
    // Every operation of the session has an outcome, the last ones too.
    let session = text(&intent, "session_id");
    wait_for("an outcome for each intent", || {
        let records = proxy.records().ok()?;
        let of = |event: &str| {
            records
                .iter()
                .filter(|record| {
                    text(record, "event") == event && text(record, "session_id") == session
                })
                .count()
        };
        (of("op.intent") == of("op.outcome")).then_some(())
    })?;
    ensure!(
        !logs_in(&proxy, &mut alice, &[])?,
        "from a source that was taken away"
    );
    wait_for_record(&proxy, "the reason", |record| {
        text(record, "reason") == "key_source"
    })?;
    Ok(())
}

#[test]
fn a_session_ends_when_its_key_expires() -> Result<()> {
    let (proxy, mut alice, _storage) = gateway()?;
    let accounts = proxy.command(&["account", "list", "--json"])?;
    let accounts: Value = serde_json::from_str(&accounts)?;
    let fingerprint = text(&accounts[0]["keys"][0], "fingerprint");
    let until = |seconds: i64| {
        (Utc::now() + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Secs, true)
    };
    proxy.command(&[
        "account",
        "key",
        "alice",
        fingerprint,
        "--expires",
        &until(20),
    ])?;
    let (child, _connection) = idle_session(&proxy, &mut alice)?;
    wait_for_record(&proxy, "the login", is_login)?;
    let printed = ends_within(child, Duration::from_secs(20) + CUT)?;
    ensure!(printed.contains("Key not valid any more"), "{printed}");
    wait_for_close(&proxy, "key_expired")?;
    ensure!(
        !logs_in(&proxy, &mut alice, &[])?,
        "with a key that has run out"
    );
    Ok(())
}

/// The library takes the signature of a security key whatever its flags say, so that the key is one thing that one has.
#[test]
fn a_security_key_without_touch_or_pin_is_one_factor_and_the_record_says_that_it_was_not_verified()
-> Result<()> {
    let (proxy, alice, _storage) = gateway()?;
    let folder = proxy.folder().to_path_buf();
    let agent = agent::SecurityKey::start(&folder.join("agent.sock"))?;
    let key = folder.join("token");
    let line = format!("{} token", agent.public_line());
    fs::write(key.with_extension("pub"), &line)?;
    proxy.command(&["account", "add-key", "alice", "--key", &line])?;
    let foreign = agent.public_line_for("https://portal.example");
    ensure!(
        proxy
            .command(&["account", "add-key", "alice", "--key", &foreign])
            .is_err(),
        "a key that was made for a web site"
    );

    let account = Account {
        key: key.clone(),
        ..alice.clone()
    };
    let with = |password: &str| -> Result<bool> {
        let factors = Factors::KeyThenPassword;
        let connection =
            OpensshConnection::with_answers(&proxy, &account, factors, password, "")?.option(
                &format!("IdentityAgent={}", folder.join("agent.sock").display()),
            );
        let output = connection.sftp(Place::Loopback, "ls /archive\n", 4 * PATIENCE)?;
        Ok(output.status.success())
    };
    ensure!(!with("not her password")?, "the key alone");
    ensure!(
        with(&alice.password)?,
        "key and password; {}",
        proxy.process.log()
    );
    let login = wait_for_record(&proxy, "the login", is_login)?;
    ensure!(
        login["body"]["factors"] == serde_json::json!(["security-key", "password"]),
        "{login}"
    );
    ensure!(body(&login, "user_verified") == "unknown", "{login}");
    ensure!(login["body"]["phishing_resistant"] == false, "{login}");
    Ok(())
}
