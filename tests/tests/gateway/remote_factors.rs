//! Passwords that a directory judges and codes that RADIUS judges, with real servers and a real client.

use std::time::Duration;

use anyhow::{Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::PATIENCE;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::freeradius::{Freeradius, SECRET};
use portcullis_tests::server::slapd::{BASE, PASSWORD, SERVICE_DN, Slapd};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::sessions::{body, ends_within, idle_session, text, wait_for_close, wait_for_record};

/// What FreeRADIUS takes for Alice's code.
const CODE: &str = "246810";

struct Lab {
    proxy: Proxy,
    slapd: Slapd,
    radius: Freeradius,
    alice: Account,
    bob: Account,
    _storage: TempDir,
}

/// Alice has her password in the directory and her codes from RADIUS; of Bob, the directory has the password.
fn lab() -> Result<Lab> {
    let slapd = Slapd::start(Place::Loopback)?;
    let radius = Freeradius::start(Place::Loopback, &[("alice@example.org", CODE)])?;
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let mounts = [Mount::all("/archive", "archive", "/")];
    let alice = proxy.account("alice", &mounts)?;
    let mut bob = proxy.account("bob", &mounts)?;
    proxy.command(&["account", "second-factor", "alice", "radius"])?;
    proxy.command(&["account", "password-source", "alice", "ldap"])?;
    proxy.command(&["account", "password-source", "bob", "ldap"])?;
    bob.password = PASSWORD.to_owned();
    let folder = proxy.folder();
    files::secret(&folder.join("radius.secret"), SECRET)?;
    files::secret(&folder.join("ldap.password"), PASSWORD)?;
    let reloaded = proxy.reload(|text| {
        format!(
            "{text}\n\
             [auth.radius]\nuser_name = \"{{name}}@example.org\"\ntimeout_milliseconds = 3000\ntransmissions = 1\n\
             [auth.radius.servers.one]\naddress = \"{}\"\nsecret_file = \"{here}/radius.secret\"\n\
             [auth.ldap]\nservers = [\"ldaps://{}\"]\nca_file = \"{}\"\nbind_dn = \"{SERVICE_DN}\"\n\
             bind_password_file = \"{here}/ldap.password\"\nbase = \"{BASE}\"\n\
             user_filter = \"(&(objectClass=inetOrgPerson)(uid={{name}}))\"\ngroup_attribute = \"memberOf\"\n\
             timeout_seconds = 10\nrecheck_seconds = 1\n\
             [auth.ldap.groups]\n\"cn=Transfer,{BASE}\" = \"movers\"\n",
            radius.address,
            slapd.ldaps,
            slapd.authority.display(),
            here = folder.display(),
        )
    })?;
    ensure!(
        reloaded.pointer("/body/changed") == Some(&json!(["auth"])),
        "{reloaded}"
    );
    Ok(Lab {
        proxy,
        slapd,
        radius,
        alice,
        bob,
        _storage: storage,
    })
}

impl Lab {
    /// Whether Alice gets in with these answers, and the reasons of the steps that failed on the way.
    fn login(&self, password: &str, code: &str) -> Result<(bool, Vec<String>)> {
        let before = self.proxy.records()?.len();
        let connection = OpensshConnection::with_answers(
            &self.proxy,
            &self.alice,
            Factors::PasswordThenCode,
            password,
            code,
        )?
        .option("NumberOfPasswordPrompts=1");
        let output = connection.sftp(Place::Loopback, "ls /archive\n", 4 * PATIENCE)?;
        let reasons = self
            .proxy
            .records()?
            .iter()
            .skip(before)
            .filter(|record| text(record, "event") == "auth.step")
            .map(|record| text(record, "reason").to_owned())
            .filter(|reason| !reason.is_empty())
            .collect();
        Ok((output.status.success(), reasons))
    }

    fn refused(&self, password: &str, code: &str, reasons: &[&str]) -> Result<()> {
        let (is_in, found) = self.login(password, code)?;
        ensure!(!is_in && found == reasons, "{is_in} {found:?}");
        Ok(())
    }
}

#[test]
fn the_directorys_password_and_the_radius_code_let_in_and_nothing_less_does() -> Result<()> {
    let mut lab = lab()?;
    // What the gateway itself has of her counts no more.
    lab.refused(
        &lab.alice.password,
        CODE,
        &["bad_password", "after_bad_password"],
    )?;
    lab.refused(PASSWORD, "246811", &["bad_code"])?;
    let (is_in, reasons) = lab.login(PASSWORD, CODE)?;
    ensure!(is_in && reasons.is_empty(), "{reasons:?}");
    let accepted = wait_for_record(&lab.proxy, "the login", |record| {
        text(record, "event") == "auth.result" && text(record, "outcome") == "success"
    })?;
    let said = &accepted["body"];
    ensure!(
        said["factors"] == json!(["password", "radius"])
            && said["is_mfa"] == true
            && said["directory_groups"] == json!(["movers"]),
        "{accepted}"
    );
    lab.refused(PASSWORD, CODE, &["code_replayed"])?;
    lab.radius.process.kill()?;
    lab.refused(PASSWORD, "135790", &["radius_unavailable"])?;
    lab.slapd.process.kill()?;
    lab.refused(
        PASSWORD,
        "135790",
        &["directory_unavailable", "after_bad_password"],
    )?;
    let listed: Value = serde_json::from_str(&lab.proxy.command(&["account", "list", "--json"])?)?;
    ensure!(
        listed[0]["radius"] == json!({ "state": "usable", "failures": 0 }),
        "what nobody judged is no failure: {listed}"
    );
    Ok(())
}

#[test]
fn a_session_ends_when_its_user_leaves_the_directory() -> Result<()> {
    let mut lab = lab()?;
    let (session, _connection) = idle_session(&lab.proxy, &mut lab.bob)?;
    let accepted = wait_for_record(&lab.proxy, "the login", |record| {
        text(record, "event") == "auth.result" && text(record, "outcome") == "success"
    })?;
    ensure!(
        accepted["body"]["factors"] == json!(["publickey", "password"]),
        "{accepted}"
    );
    lab.slapd.remove(&format!("uid=bob,ou=people,{BASE}"))?;
    ends_within(session, Duration::from_secs(20))?;
    wait_for_close(&lab.proxy, "revoked")?;
    let connection = OpensshConnection::new(&lab.proxy, &mut lab.bob, Factors::KeyThenPassword)?;
    let output = connection.sftp(Place::Loopback, "ls /archive\n", 4 * PATIENCE)?;
    ensure!(!output.status.success(), "a new login");
    let refused = wait_for_record(&lab.proxy, "the refusal", |record| {
        text(record, "reason") == "directory_no_entry"
    })?;
    ensure!(body(&refused, "factor") == "password", "{refused}");
    Ok(())
}
