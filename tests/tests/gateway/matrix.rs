//! Twelve programs that partners use, each with every cipher policy and every way to log in: it gets in as it should, or the
//! table has what the gateway recorded or the program said. `docs/clients.md` has the table.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{OpensshConnection, SshfsMount, Step, curl_list, pscp_with};
use portcullis_tests::evidence::{self, POLICIES, Program, Trial, Way};
use portcullis_tests::files::{self, KeyKind};
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::totp::Authenticator;
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::{body, text};

/// What stands in the account's folder.
const CONTENT: &str = "seen by the matrix";
/// What programs say when they have given up by themselves, as they print it.
const SAID: &[&str] = &[
    "No supported authentication methods available",
    "All configured authentication methods failed",
    "no supported methods remain",
    "Authentication failed",
    "Authentication failure",
    "Permission denied",
    "Login incorrect",
];

fn plan<'a>(storage: &Path) -> Result<Plan<'a>> {
    fs::write(storage.join("report.csv"), CONTENT)?;
    Ok(Plan::new(Place::Loopback)?.backend("archive", Backend::local(storage)))
}

fn account(proxy: &Proxy, name: &str) -> Result<Account> {
    proxy.account(name, &[Mount::all("/inbox", "archive", "/")])
}

/// True if the program got in and saw the file; otherwise what it said.
fn logs_in(
    program: Program,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
) -> Result<std::result::Result<(), String>> {
    let place = Place::Loopback;
    let here = files::folder("matrix")?;
    let copy = here.path().join("report.csv");
    let target = copy.display().to_string();
    let paths = ["HOST:/inbox/report.csv", &target];
    let copied = |output: &Output| {
        if fs::read_to_string(&copy).is_ok_and(|copy| copy == CONTENT) {
            Ok(())
        } else {
            Err(printed(output))
        }
    };
    let listed = |printed: String| {
        if printed.contains("report.csv") {
            Ok(())
        } else {
            Err(printed)
        }
    };
    Ok(match program {
        Program::Session(client) => {
            let steps = [Step::List("/inbox".to_owned())];
            match client.session(place, proxy, account, factors, &steps) {
                Ok(printed) => listed(printed),
                Err(error) => Err(format!("{error:#}")),
            }
        }
        Program::Scp => {
            let connection = OpensshConnection::new(proxy, account, factors)?;
            copied(&connection.scp(place, &paths, PATIENCE)?)
        }
        Program::Pscp => copied(&pscp_with(place, proxy, account, factors, &paths)?),
        Program::OldCurl => listed(printed(&curl_list(
            place, proxy, account, factors, "/inbox",
        )?)),
        Program::Sshfs => {
            let connection = OpensshConnection::new(proxy, account, factors)?;
            match SshfsMount::new(connection, "/inbox") {
                Ok(mount) => match fs::read_to_string(mount.path().join("report.csv")) {
                    Ok(read) => {
                        mount.unmount()?;
                        ensure!(read == CONTENT, "read through sshfs: {read:?}");
                        Ok(())
                    }
                    // Mounted before it found out.
                    Err(error) => Err(error.to_string()),
                },
                Err(error) => Err(format!("{error:#}")),
            }
        }
    })
}

fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Tries one cell. `expected` are the factors that have to stand in the record of the login.
fn cell(
    program: Program,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    expected: &[&str],
) -> Result<String> {
    let before = proxy.records()?.len();
    let outcome = logs_in(program, proxy, account, factors)?;
    // Its last connection is closed: all is on record.
    let records = wait_for("the end of the connections on record", || {
        let records = proxy.records().ok()?;
        let new: Vec<Value> = records.into_iter().skip(before).collect();
        let count = |event| {
            new.iter()
                .filter(|record| text(record, "event") == event)
                .count()
        };
        let closed = count("conn.close");
        (closed > 0 && closed >= count("conn.open")).then_some(new)
    })?;
    let of = |event: &str| -> Vec<&Value> {
        let of_event = |record: &&Value| text(record, "event") == event;
        records.iter().filter(of_event).collect()
    };
    match outcome {
        Ok(()) => {
            let logins = of("auth.result");
            let login = logins
                .iter()
                .find(|record| text(record, "outcome") == "success")
                .context("a login without a record")?;
            let shown: Vec<&str> = login
                .pointer("/body/factors")
                .and_then(Value::as_array)
                .map(|factors| factors.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            Ok(if shown == expected {
                "tested".to_owned()
            } else {
                format!("logs in with {}", shown.join(", then "))
            })
        }
        Err(said) => {
            let lacks = of("conn.close")
                .into_iter()
                .map(|record| body(record, "no_common"))
                .rfind(|list| !list.is_empty());
            let refused = of("auth.step")
                .into_iter()
                .filter(|record| text(record, "outcome") != "success")
                .map(|record| text(record, "reason"))
                .rfind(|reason| !reason.is_empty());
            if let Some(list) = lacks {
                return Ok(format!("no common `{list}`"));
            }
            let phrase = SAID.iter().find(|phrase| said.contains(**phrase));
            // A program that gives up may or may not get an empty answer out before it hangs up, as lftp.
            let refused = refused.filter(|reason| *reason != "no_code" || phrase.is_none());
            if let Some(reason) = refused {
                return Ok(format!("refused: `{reason}`"));
            }
            // PuTTY may have read the gateway's lists before it sends its own, and then leaves without them.
            if said.contains("key exchange algorithm") {
                return Ok("no common `kex`".to_owned());
            }
            let phrase = phrase.with_context(|| format!("neither side says why: {said}"))?;
            Ok(format!("it says \"{phrase}\""))
        }
    }
}

/// A new authenticator in the account's phone, whose codes nobody has used.
fn renew_phone(proxy: &Proxy, account: &mut Account) -> Result<()> {
    let enrolled = proxy.command(&["account", "enroll-totp", &account.name, "--json"])?;
    let enrolled: Value = serde_json::from_str(&enrolled)?;
    account.phone = Authenticator::new(text(&enrolled, "secret"))?;
    Ok(())
}

/// All programs with one policy, with key and password.
fn policy(name: &'static str) -> Result<()> {
    let storage = files::folder("storage")?;
    let mut plan = plan(storage.path())?.server("cipher_policy", &format!("{name:?}"));
    if name == "fips-140-3" {
        plan = plan
            .host_keys(&[KeyKind::Ecdsa(384)])
            .user_keys(KeyKind::Ecdsa(256));
    }
    if name == "legacy-compat" {
        plan = plan.server(
            "cipher_policy_exception",
            r#"{ reason = "the matrix", approver = "test", expires = "2099-12-31" }"#,
        );
    }
    let proxy = plan.start()?;
    let mut alice = account(&proxy, "alice")?;
    for program in Program::ALL {
        let factors = Factors::KeyThenPassword;
        let found = cell(
            program,
            &proxy,
            &mut alice,
            factors,
            &["publickey", "password"],
        )
        .with_context(|| format!("{program:?} with {name}"))?;
        evidence::note_login(program, Trial::Policy(name), &found)?;
    }
    Ok(())
}

#[test]
fn every_client_agrees_with_hipaa_2026_or_the_record_says_what_it_lacks() -> Result<()> {
    let [hipaa, _, _, _] = POLICIES;
    policy(hipaa)
}

#[test]
fn every_client_agrees_with_fips_140_3_or_the_record_says_what_it_lacks() -> Result<()> {
    let [_, fips, _, _] = POLICIES;
    policy(fips)
}

#[test]
fn every_client_agrees_with_pq_only_or_the_record_says_what_it_lacks() -> Result<()> {
    let [_, _, pq, _] = POLICIES;
    policy(pq)
}

#[test]
fn every_client_agrees_with_legacy_compat_or_the_record_says_what_it_lacks() -> Result<()> {
    let [_, _, _, legacy] = POLICIES;
    policy(legacy)
}

/// A gateway that knows an authority for users' keys.
struct Site {
    proxy: Proxy,
    authority: std::path::PathBuf,
    _folders: [TempDir; 2],
}

impl Site {
    fn start() -> Result<Self> {
        let storage = files::folder("storage")?;
        let office = files::folder("office")?;
        let authority = files::ssh_key(office.path(), "authority")?;
        let proxy = plan(storage.path())?
            .sections(&format!(
                "[[auth.certificate_authority]]\nname = \"staff\"\nkey_file = \"{}.pub\"\nfor = [\"human\"]\n",
                authority.display()
            ))
            .start()?;
        Ok(Self {
            proxy,
            authority,
            _folders: [storage, office],
        })
    }

    fn set(&self, arguments: &[&str]) -> Result<()> {
        self.proxy.command(&[&["account"], arguments].concat())?;
        Ok(())
    }

    /// The account of one way, with the settings that it needs.
    fn prepared(&self, way: Way) -> Result<Account> {
        let name = format!("{way:?}").to_lowercase();
        let mut account = account(&self.proxy, &name)?;
        match way {
            Way::TwoRounds | Way::KeyThenPassword | Way::PasswordThenKey => {}
            Way::OneRound => self.set(&["prompts", &name, "one-round"])?,
            Way::AppendedCode => self.set(&["appended-code", &name, "on"])?,
            Way::KeyThenCode => self.set(&[
                "policy",
                &name,
                "possession-pair",
                "--reason",
                "the matrix",
                "--approver",
                "test",
                "--expires",
                "2099-12-31",
            ])?,
            Way::CertificateThenPassword => self.certify(&account)?,
            Way::Window => {
                self.set(&["mfa-window", &name, "30m"])?;
                let opens =
                    OpensshConnection::new(&self.proxy, &mut account, Factors::KeyThenPassword)?;
                let opened = opens.sftp(Place::Loopback, "ls /inbox\n", PATIENCE)?;
                ensure!(opened.status.success(), "{}", printed(&opened));
            }
        }
        Ok(account)
    }

    /// The account's key gets a certificate, and is nobody's without it.
    fn certify(&self, account: &Account) -> Result<()> {
        let listed = succeed(Command::new("ssh-keygen").arg("-lf").arg(&account.key))?;
        let fingerprint = listed.split_whitespace().nth(1).context("a fingerprint")?;
        self.set(&["remove-key", &account.name, fingerprint])?;
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-I", "matrix", "-V", "+1h", "-n", &account.name, "-s"])
                .arg(&self.authority)
                .arg(account.key.with_extension("pub")),
        )?;
        Ok(())
    }

    /// All programs with one way.
    fn every_program(&self, way: Way) -> Result<()> {
        let mut account = self.prepared(way)?;
        let (factors, expected): (Factors, &[&str]) = match way {
            Way::TwoRounds | Way::OneRound => (Factors::PasswordThenCode, &["password", "totp"]),
            Way::AppendedCode => (Factors::AppendedCode, &["password", "totp"]),
            Way::KeyThenPassword => (Factors::KeyThenPassword, &["publickey", "password"]),
            Way::KeyThenCode => (Factors::KeyThenCode, &["publickey", "totp"]),
            Way::PasswordThenKey => (Factors::PasswordThenKey, &["password", "publickey"]),
            Way::CertificateThenPassword => {
                (Factors::KeyThenPassword, &["certificate", "password"])
            }
            Way::Window => (Factors::KeyAlone, &["publickey"]),
        };
        let takes_codes = matches!(
            factors,
            Factors::PasswordThenCode | Factors::AppendedCode | Factors::KeyThenCode
        );
        for program in Program::ALL {
            if takes_codes {
                renew_phone(&self.proxy, &mut account)?;
            }
            let found = cell(program, &self.proxy, &mut account, factors, expected)
                .with_context(|| format!("{program:?}: {way:?}"))?;
            evidence::note_login(program, Trial::Login(way), &found)?;
        }
        Ok(())
    }
}

/// One gateway for some of the ways: records are told apart by their place in the journal.
fn ways(ways: &[Way]) -> Result<()> {
    let site = Site::start()?;
    for &way in ways {
        site.every_program(way)?;
    }
    Ok(())
}

#[test]
fn every_client_shows_password_and_code_as_far_as_it_can() -> Result<()> {
    ways(&[Way::TwoRounds, Way::OneRound, Way::AppendedCode])
}

#[test]
fn every_client_shows_its_key_as_far_as_it_can() -> Result<()> {
    ways(&[
        Way::KeyThenPassword,
        Way::KeyThenCode,
        Way::PasswordThenKey,
        Way::CertificateThenPassword,
        Way::Window,
    ])
}
