//! Cipher policies on the wire. Of each: what it offers, to the letter; that OpenSSH agrees with every part of it; and that
//! the nearest neighbour of each part is turned away, with a record that names it.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, OpensshConnection, Step};
use portcullis_tests::files::{self, KeyKind};
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, finish_within, succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::raw_ssh::{Fields, Message, Transport, number};
use serde_json::Value;
use tempfile::TempDir;

use crate::raw::source_of;
use crate::sessions::{body, text, wait_for_record};

const EXCEPTION: &str =
    r#"{ reason = "scanner of 2012", approver = "J. Doe", expires = "2099-12-31" }"#;
const EXTENSIONS: &str = ",ext-info-s,kex-strict-s-v00@openssh.com";

/// What belongs to a policy, written down apart from the gateway's own tables.
struct Expected {
    policy: &'static str,
    host_keys: &'static [KeyKind],
    user_keys: KeyKind,
    /// Key exchanges, host keys, ciphers, MACs.
    offers: [&'static str; 4],
    /// Key exchange, host key, cipher and MAC that OpenSSH is told to use.
    agreed: &'static [[&'static str; 4]],
    /// The list's name in records, and names that are not in it.
    turned_away: &'static [(&'static str, &'static str)],
}

const NONE: &str = "";
const ETM_512: &str = "hmac-sha2-512-etm@openssh.com";
const ETM_256: &str = "hmac-sha2-256-etm@openssh.com";

const HIPAA: Expected = Expected {
    policy: "hipaa-2026",
    host_keys: &[KeyKind::Ed25519],
    user_keys: KeyKind::Ed25519,
    offers: [
        "mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org",
        "ssh-ed25519",
        "aes256-gcm@openssh.com,aes256-ctr",
        "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
    ],
    agreed: &[
        [
            "curve25519-sha256",
            "ssh-ed25519",
            "aes256-gcm@openssh.com",
            NONE,
        ],
        [
            "curve25519-sha256@libssh.org",
            "ssh-ed25519",
            "aes256-ctr",
            ETM_512,
        ],
        ["curve25519-sha256", "ssh-ed25519", "aes256-ctr", ETM_256],
    ],
    turned_away: &[
        ("kex", "ecdh-sha2-nistp256"),
        ("kex", "diffie-hellman-group16-sha512"),
        ("hostkey", "ecdsa-sha2-nistp256"),
        ("hostkey", "rsa-sha2-512"),
        ("cipher", "aes128-gcm@openssh.com"),
        ("cipher", "chacha20-poly1305@openssh.com"),
        ("mac", "hmac-sha2-256"),
    ],
};

const FIPS: Expected = Expected {
    policy: "fips-140-3",
    host_keys: &[KeyKind::Ecdsa(384), KeyKind::Rsa(3072)],
    user_keys: KeyKind::Ecdsa(256),
    offers: [
        "ecdh-sha2-nistp384,ecdh-sha2-nistp256,ecdh-sha2-nistp521,diffie-hellman-group16-sha512",
        "ecdsa-sha2-nistp384,rsa-sha2-512,rsa-sha2-256",
        "aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes128-ctr",
        "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com,hmac-sha2-512,hmac-sha2-256",
    ],
    agreed: &[
        [
            "ecdh-sha2-nistp384",
            "ecdsa-sha2-nistp384",
            "aes256-gcm@openssh.com",
            NONE,
        ],
        [
            "ecdh-sha2-nistp256",
            "rsa-sha2-512",
            "aes128-gcm@openssh.com",
            NONE,
        ],
        ["ecdh-sha2-nistp521", "rsa-sha2-256", "aes256-ctr", ETM_512],
        [
            "diffie-hellman-group16-sha512",
            "ecdsa-sha2-nistp384",
            "aes128-ctr",
            ETM_256,
        ],
        [
            "ecdh-sha2-nistp256",
            "ecdsa-sha2-nistp384",
            "aes256-ctr",
            "hmac-sha2-512",
        ],
        [
            "ecdh-sha2-nistp256",
            "ecdsa-sha2-nistp384",
            "aes256-ctr",
            "hmac-sha2-256",
        ],
    ],
    turned_away: &[
        ("kex", "curve25519-sha256"),
        ("kex", "mlkem768x25519-sha256"),
        ("kex", "diffie-hellman-group14-sha256"),
        ("hostkey", "ssh-ed25519"),
        ("hostkey", "ecdsa-sha2-nistp521"),
        ("cipher", "chacha20-poly1305@openssh.com"),
        ("cipher", "aes192-ctr"),
        ("mac", "hmac-sha1"),
        ("mac", "umac-128-etm@openssh.com"),
    ],
};

const PQ: Expected = Expected {
    policy: "pq-only",
    host_keys: &[KeyKind::Ed25519],
    user_keys: KeyKind::Ecdsa(384),
    offers: [
        "mlkem768x25519-sha256",
        "ssh-ed25519",
        "aes256-gcm@openssh.com",
        "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
    ],
    // OpenSSH has its key exchange from 9.9 on; paramiko shows it below.
    agreed: &[],
    turned_away: &[
        ("kex", "curve25519-sha256"),
        ("kex", "sntrup761x25519-sha512@openssh.com"),
        ("hostkey", "ecdsa-sha2-nistp384"),
        ("hostkey", "rsa-sha2-512"),
        ("cipher", "aes128-gcm@openssh.com"),
        ("cipher", "aes256-ctr"),
    ],
};

const LEGACY: Expected = Expected {
    policy: "legacy-compat",
    host_keys: &[KeyKind::Ed25519, KeyKind::Ecdsa(256), KeyKind::Rsa(3072)],
    user_keys: KeyKind::Rsa(2048),
    offers: [
        "mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org,\
         ecdh-sha2-nistp384,ecdh-sha2-nistp256,ecdh-sha2-nistp521,diffie-hellman-group16-sha512,\
         diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha256",
        "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256",
        "aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr",
        "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com,hmac-sha2-512,hmac-sha2-256",
    ],
    agreed: &[
        [
            "curve25519-sha256",
            "ssh-ed25519",
            "aes256-gcm@openssh.com",
            NONE,
        ],
        [
            "curve25519-sha256@libssh.org",
            "ecdsa-sha2-nistp256",
            "aes128-gcm@openssh.com",
            NONE,
        ],
        ["ecdh-sha2-nistp384", "rsa-sha2-512", "aes256-ctr", ETM_512],
        ["ecdh-sha2-nistp256", "rsa-sha2-256", "aes192-ctr", ETM_256],
        [
            "ecdh-sha2-nistp521",
            "ssh-ed25519",
            "aes128-ctr",
            "hmac-sha2-512",
        ],
        [
            "diffie-hellman-group16-sha512",
            "ssh-ed25519",
            "aes128-ctr",
            "hmac-sha2-256",
        ],
        [
            "diffie-hellman-group-exchange-sha256",
            "ssh-ed25519",
            "aes128-ctr",
            ETM_256,
        ],
        [
            "diffie-hellman-group14-sha256",
            "ssh-ed25519",
            "aes128-ctr",
            ETM_256,
        ],
    ],
    turned_away: &[
        ("kex", "diffie-hellman-group14-sha1"),
        ("kex", "diffie-hellman-group-exchange-sha1"),
        ("kex", "sntrup761x25519-sha512@openssh.com"),
        ("hostkey", "ssh-rsa"),
        ("hostkey", "ecdsa-sha2-nistp384"),
        ("cipher", "aes128-cbc"),
        ("cipher", "3des-cbc"),
        ("cipher", "chacha20-poly1305@openssh.com"),
        ("mac", "hmac-sha1"),
        ("mac", "hmac-sha1-etm@openssh.com"),
        ("mac", "hmac-md5"),
    ],
};

impl Expected {
    fn gateway(&self) -> Result<(Proxy, TempDir)> {
        let storage = files::folder("storage")?;
        fs::write(storage.path().join("report.csv"), "x")?;
        let mut plan = Plan::new(Place::Loopback)?
            .host_keys(self.host_keys)
            .user_keys(self.user_keys)
            .backend("archive", Backend::local(storage.path()))
            .server("cipher_policy", &format!("{:?}", self.policy));
        if self.policy == "legacy-compat" {
            plan = plan.server("cipher_policy_exception", EXCEPTION);
        }
        Ok((plan.start()?, storage))
    }

    fn holds(&self) -> Result<()> {
        let (proxy, _storage) = self.gateway()?;
        self.is_offered(&proxy)?;
        is_what_it_prints(&proxy)?;
        for (about, name) in self.turned_away {
            self.is_turned_away(&proxy, about, name)
                .with_context(|| format!("{about} {name}"))?;
        }
        let alice = account(&proxy)?;
        for names in self.agreed {
            agrees(&proxy, &alice, names).with_context(|| format!("{names:?}"))?;
        }
        Ok(())
    }

    /// RFC 4253 section 7.1, list by list and in this order.
    fn is_offered(&self, proxy: &Proxy) -> Result<()> {
        let mut transport = Transport::connect(proxy.address)?;
        transport.identify()?;
        let init = transport.expect(number::KEXINIT)?;
        let [exchanges, host_keys, ciphers, macs] = self.offers;
        let exchanges = format!("{exchanges}{EXTENSIONS}");
        let mut fields = Fields::of(init.get(16..).context("a cookie of 16 bytes")?)?;
        for expected in [
            exchanges.as_str(),
            host_keys,
            ciphers,
            ciphers,
            macs,
            macs,
            "none",
            "none",
            "",
            "",
        ] {
            let offered = String::from_utf8_lossy(fields.string()?).into_owned();
            ensure!(offered == expected, "offered {offered}, not {expected}");
        }
        Ok(())
    }

    /// A client that has one name in the list, and all else that the gateway has.
    fn is_turned_away(&self, proxy: &Proxy, about: &str, name: &str) -> Result<()> {
        let [mut exchanges, mut host_keys, mut ciphers, mut macs] = self.offers;
        match about {
            "kex" => exchanges = name,
            "hostkey" => host_keys = name,
            "cipher" => ciphers = name,
            // It matters with a cipher that does not authenticate by itself.
            _ => (ciphers, macs) = ("aes256-ctr", name),
        }
        let mut transport = Transport::connect(proxy.address)?;
        let source = transport.local_address()?;
        transport.identify()?;
        let lists = [
            exchanges, host_keys, ciphers, ciphers, macs, macs, "none", "none", "", "",
        ];
        let init = lists
            .into_iter()
            .fold(Message::new(number::KEXINIT).raw(&[7; 16]), |init, list| {
                init.string(list)
            });
        transport.send(&init.byte(0).u32(0))?;
        transport.hear_to_the_end()?;
        let closed = wait_for_record(proxy, "the end of the connection", |record| {
            text(record, "event") == "conn.close" && source_of(record) == Some(source)
        })?;
        ensure!(body(&closed, "no_common") == about, "{closed}");
        ensure!(body(&closed, "client_offers") == name, "{closed}");
        Ok(())
    }
}

/// ssh-audit judges the gateway by the policy file that the gateway itself prints.
fn is_what_it_prints(proxy: &Proxy) -> Result<()> {
    let policy = proxy.folder().join("ssh-audit.policy");
    fs::write(
        &policy,
        proxy.command(&["print-policy", "--format", "ssh-audit"])?,
    )?;
    let output = finish_within(
        Command::new(locate::python_tool("ssh-audit")?)
            .args(["--skip-rate-test", "-P"])
            .arg(&policy)
            .args(["--port", &proxy.address.port().to_string()])
            .arg(proxy.address.ip().to_string()),
        2 * PATIENCE,
    )?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("Passed"), "{said}");
    Ok(())
}

fn account(proxy: &Proxy) -> Result<Account> {
    proxy.account("alice", &[Mount::all("/inbox", "archive", "/")])
}

/// OpenSSH, told to use nothing else, gets as far as the login: packets went both ways under the new keys.
fn agrees(proxy: &Proxy, alice: &Account, names: &[&str; 4]) -> Result<()> {
    let [exchange, host_key, cipher, mac] = names;
    let mut connection =
        OpensshConnection::with_answers(proxy, alice, Factors::KeyThenPassword, "", "")?
            .option("PreferredAuthentications=none")
            .option(&format!("KexAlgorithms={exchange}"))
            .option(&format!("HostKeyAlgorithms={host_key}"))
            .option(&format!("Ciphers={cipher}"));
    if !mac.is_empty() {
        connection = connection.option(&format!("MACs={mac}"));
    }
    let opened = |records: Vec<Value>| -> Vec<Value> {
        let is_open = |record: &Value| text(record, "event") == "conn.open";
        records.into_iter().filter(is_open).collect()
    };
    let before = opened(proxy.records()?).len();
    let output = connection.ssh(Place::Loopback, &[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("Permission denied"), "{said}");
    let opened = opened(proxy.records()?);
    let record = opened.get(before).context("the connection is on record")?;
    for (field, name) in [
        ("kex", exchange),
        ("hostkey", host_key),
        ("cipher", cipher),
        ("mac", mac),
    ] {
        ensure!(body(record, field) == *name, "{record}");
    }
    Ok(())
}

/// Key and password, with OpenSSH.
fn logs_in(proxy: &Proxy, account: &Account) -> Result<bool> {
    let connection = OpensshConnection::with_answers(
        proxy,
        account,
        Factors::KeyThenPassword,
        &account.password,
        "",
    )?;
    let output = connection.sftp(Place::Loopback, "ls /inbox\n", PATIENCE)?;
    Ok(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("report.csv"))
}

/// The account's own key lets in; one of another kind does not, and the record says why.
fn takes_keys_but_not(expected: &Expected, foreign: KeyKind, reason: &str) -> Result<()> {
    let (proxy, _storage) = expected.gateway()?;
    let alice = account(&proxy)?;
    if expected.policy != "pq-only" {
        ensure!(logs_in(&proxy, &alice)?, "{:?}", proxy.records()?.last());
    }
    let other = foreign.make(proxy.folder(), "foreign")?;
    let public = other.with_extension("pub").display().to_string();
    let refused = proxy.command(&["account", "add-key", "alice", "--key-file", &public]);
    let refused = format!("{:#}", refused.err().context("the key was added")?);
    ensure!(
        refused.contains("the cipher policy takes no") || refused.contains("are needed"),
        "{refused}"
    );
    if expected.policy == "pq-only" {
        return Ok(());
    }
    let with_other = Account {
        key: other,
        ..alice
    };
    ensure!(!logs_in(&proxy, &with_other)?, "the other key let in");
    wait_for_record(&proxy, reason, |record| {
        text(record, "event") == "auth.step" && text(record, "reason") == reason
    })?;
    Ok(())
}

#[test]
fn hipaa_2026_agrees_with_its_own_and_with_no_neighbour() -> Result<()> {
    HIPAA.holds()
}

#[test]
fn fips_140_3_agrees_with_its_own_and_with_no_neighbour() -> Result<()> {
    FIPS.holds()
}

#[test]
fn pq_only_agrees_with_its_own_and_with_no_neighbour() -> Result<()> {
    PQ.holds()?;
    let (proxy, _storage) = PQ.gateway()?;
    let mut alice = account(&proxy)?;
    let printed = Client::Paramiko.session(
        Place::Loopback,
        &proxy,
        &mut alice,
        Factors::KeyThenPassword,
        &[Step::List("/inbox".to_owned())],
    )?;
    ensure!(printed.contains("report.csv"), "{printed}");
    wait_for_record(&proxy, "the connection", |record| {
        text(record, "event") == "conn.open"
            && body(record, "kex") == "mlkem768x25519-sha256"
            && body(record, "cipher") == "aes256-gcm@openssh.com"
            && record.pointer("/body/pq") == Some(&Value::Bool(true))
    })?;
    Ok(())
}

#[test]
fn legacy_compat_agrees_with_its_own_and_with_no_neighbour() -> Result<()> {
    LEGACY.holds()
}

#[test]
fn each_policy_takes_its_own_kinds_of_user_keys() -> Result<()> {
    takes_keys_but_not(&FIPS, KeyKind::Ed25519, "key_not_in_policy")?;
    takes_keys_but_not(&PQ, KeyKind::Ecdsa(256), "key_not_in_policy")?;
    takes_keys_but_not(&LEGACY, KeyKind::Rsa(2047), "rsa_size")
}

#[test]
fn legacy_compat_is_told_of_loudly_and_not_brought_back_after_its_last_day() -> Result<()> {
    let (proxy, _storage) = LEGACY.gateway()?;
    wait_for("the warning in the log", || {
        let log = proxy.process.log();
        let is_told = log.contains("offered under an exception") && log.contains("scanner of 2012");
        is_told.then_some(())
    })?;
    let started = wait_for_record(&proxy, "the start", |record| {
        text(record, "event") == "app.start"
    })?;
    let exception = started
        .pointer("/body/exceptions")
        .and_then(Value::as_array)
        .and_then(|all| {
            all.iter()
                .find(|one| text(one, "cipher_policy") == "legacy-compat")
        })
        .context("the exception is on record")?;
    ensure!(text(exception, "approver") == "J. Doe", "{started}");
    let checked = proxy.command(&["check"])?;
    ensure!(
        checked.contains("policy legacy-compat is weaker") && checked.contains("J. Doe"),
        "{checked}"
    );

    let refused = proxy.reload(|text| text.replace("2099-12-31", "2026-01-01"))?;
    ensure!(text(&refused, "reason") == "faulty", "{refused}");
    ensure!(
        refused
            .to_string()
            .contains("the exception ended on 2026-01-01"),
        "{refused}"
    );
    LEGACY.is_offered(&proxy)
}

#[test]
fn legacy_compat_ends_at_midnight_and_hipaa_2026_takes_its_place() -> Result<()> {
    let storage = files::folder("storage")?;
    let today = succeed(Command::new("date").args(["-u", "+%F"]))?;
    let proxy = Plan::new(Place::Loopback)?
        .at("23:59:40")
        .host_keys(LEGACY.host_keys)
        .backend("archive", Backend::local(storage.path()))
        .server("cipher_policy", "\"legacy-compat\"")
        .server(
            "cipher_policy_exception",
            &EXCEPTION.replace("2099-12-31", today.trim()),
        )
        .start()?;
    LEGACY.is_offered(&proxy)?;
    let ended = wait_for_record(&proxy, "the end of the exception", |record| {
        text(record, "event") == "config.change" && text(record, "reason") == "exception_ended"
    })?;
    ensure!(body(&ended, "cipher_policy") == "hipaa-2026", "{ended}");
    HIPAA.is_offered(&proxy)?;
    HIPAA.is_turned_away(&proxy, "mac", "hmac-sha2-256")
}
