//! A gateway whose key-encryption key stays in a PKCS#11 token: SoftHSM 2. Its module takes its configuration from the environment, so
//! each test runs in a process that this one starts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use tempfile::TempDir;

use crate::key_sets::new_set;
use crate::sessions::{body, text, wait_for_record};

const LAB: &str = "PORTCULLIS_TOKEN_LAB";
const PIN: &str = "1234-user";
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of the token in the process in which `name` shall run; elsewhere it is started.
fn runs_here(name: &str) -> Result<Option<PathBuf>> {
    if let Some(lab) = std::env::var_os(LAB) {
        return Ok(Some(lab.into()));
    }
    let lab = files::folder("token")?;
    fs::create_dir(lab.path().join("tokens"))?;
    let configuration = lab.path().join("softhsm2.conf");
    let tokens = lab.path().join("tokens");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\n",
        tokens.display()
    );
    fs::write(&configuration, text)?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", &format!("tokens::{name}"), "--nocapture"])
        .env(LAB, lab.path())
        .env("SOFTHSM2_CONF", &configuration)
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    Ok(None)
}

fn module() -> Result<PathBuf> {
    locate::peer("softhsm2", "usr/lib/softhsm/libsofthsm2.so")
}

/// A token with two keys, and its PIN in a file.
fn token(lab: &Path) -> Result<()> {
    let client = Pkcs11::new(module()?)?;
    client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slots = client.get_slots_with_token()?;
    let slot = *slots.first().context("a free slot")?;
    let officer = AuthPin::new("officer".into());
    client.init_token(slot, &officer, "archive")?;
    let session = client.open_rw_session(slot)?;
    session.login(UserType::So, Some(&officer))?;
    session.init_pin(&AuthPin::new(PIN.into()))?;
    session.logout()?;
    session.login(UserType::User, Some(&AuthPin::new(PIN.into())))?;
    for label in ["old", "new"] {
        let template = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Label(label.into()),
            Attribute::Id(label.into()),
            Attribute::ValueLen(32.into()),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
        ];
        session.generate_key(&Mechanism::AesKeyGen, &template)?;
    }
    write_pin(lab, PIN)
}

fn write_pin(lab: &Path, pin: &str) -> Result<()> {
    let file = lab.join("pin");
    fs::write(&file, pin)?;
    Ok(fs::set_permissions(
        &file,
        fs::Permissions::from_mode(0o600),
    )?)
}

/// `{ ... }` of a key.
fn place(lab: &Path, key: &str) -> Result<String> {
    Ok(format!(
        "{{ module = \"{}\", token_label = \"archive\", key_label = \"{key}\", pin_file = \"{}\" }}",
        module()?.display(),
        lab.join("pin").display()
    ))
}

struct Gateway {
    proxy: Proxy,
    alice: Account,
    here: TempDir,
    storage: TempDir,
}

impl Gateway {
    fn start() -> Result<Self> {
        let storage = files::folder("storage")?;
        let backend = Backend::local(storage.path()).encrypted();
        let proxy = Plan::new(Place::Loopback)?
            .backend("disk", backend.with("encrypted_names = true"))
            .start()?;
        let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", ".")])?;
        let here = files::folder("here")?;
        Ok(Self {
            proxy,
            alice,
            here,
            storage,
        })
    }

    fn sftp(&mut self, batch: &str) -> Result<(bool, String)> {
        let connection =
            OpensshConnection::new(&self.proxy, &mut self.alice, Factors::KeyThenPassword)?;
        let batch = format!("lcd {}\ncd /inbox\n{batch}\n", self.here.path().display());
        let output = connection.sftp(Place::Loopback, &batch, PATIENCE)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((output.status.success(), said))
    }

    fn put(&mut self, name: &str, content: &[u8]) -> Result<()> {
        fs::write(self.here.path().join(name), content)?;
        let (is_done, said) = self.sftp(&format!("put {name}"))?;
        ensure!(is_done, "{name}: {said}");
        Ok(())
    }

    fn comes_back(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let (is_done, said) = self.sftp(&format!("get {name} back"))?;
        ensure!(is_done, "{name}: {said}");
        let back = self.here.path().join("back");
        ensure!(fs::read(&back)? == content, "{name} is another one");
        Ok(fs::remove_file(back)?)
    }

    /// The configuration with other keys.
    fn with_keys(text: &str, keys: &str) -> String {
        let is_key = |line: &&str| {
            ["key_file = \"", "token = ", "retired_"]
                .iter()
                .any(|key| line.starts_with(key))
        };
        let (before, section) = text.split_once("[encryption]\n").unwrap_or((text, ""));
        let rest: Vec<_> = section.lines().filter(|line| !is_key(line)).collect();
        format!("{before}[encryption]\n{keys}\n{}\n", rest.join("\n"))
    }

    fn change_keys(&self, keys: &str) -> Result<()> {
        let record = self.proxy.reload(|text| Self::with_keys(text, keys))?;
        ensure!(text(&record, "outcome") == "success", "{record}");
        Ok(())
    }

    fn check(&self) -> Result<(Option<i32>, String)> {
        let program = locate::binary("portcullis-proxy")?;
        let output = Command::new(program)
            .args(["check", "--config"])
            .arg(&self.proxy.config)
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }
}

#[test]
fn files_go_over_from_a_key_file_to_a_token_and_from_one_of_its_keys_to_another() -> Result<()> {
    let name = "files_go_over_from_a_key_file_to_a_token_and_from_one_of_its_keys_to_another";
    let Some(lab) = runs_here(name)? else {
        return Ok(());
    };
    token(&lab)?;
    let mut gateway = Gateway::start()?;
    let large = files::random_bytes(9 << 20)?;
    gateway.put("by-file", b"one")?;
    let file = gateway.proxy.folder().join("at-rest.kek");
    let (old, new) = (place(&lab, "old")?, place(&lab, "new")?);
    let retired = format!("retired_key_files = [\"{}\"]", file.display());
    gateway.change_keys(&format!("token = {old}\n{retired}"))?;
    gateway.put("by-token", &large)?;
    gateway.put("small", b"two")?;
    gateway.put("by-file", b"one, and more")?;
    gateway.proxy.crash_and_restart()?;
    gateway.comes_back("by-file", b"one, and more")?;
    gateway.comes_back("by-token", &large)?;
    gateway.comes_back("small", b"two")?;

    gateway.change_keys(&format!(
        "token = {new}\nretired_tokens = [{old}]\n{retired}"
    ))?;
    gateway.proxy.command(&["encryption", "rotate"])?;
    gateway.change_keys(&format!("token = {new}"))?;
    gateway.proxy.crash_and_restart()?;
    gateway.comes_back("by-file", b"one, and more")?;
    gateway.comes_back("by-token", &large)?;
    let names = fs::read_dir(gateway.storage.path())?.count();
    ensure!(
        names == 4,
        "three files, and the key of their names: {names}"
    );
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_token_that_is_gone_is_named_and_found_again_and_a_wrong_pin_stops_a_start() -> Result<()> {
    let name = "a_token_that_is_gone_is_named_and_found_again_and_a_wrong_pin_stops_a_start";
    let Some(lab) = runs_here(name)? else {
        return Ok(());
    };
    token(&lab)?;
    let mut gateway = Gateway::start()?;
    let file = gateway.proxy.folder().join("at-rest.kek");
    let retired = format!("retired_key_files = [\"{}\"]", file.display());
    let key = place(&lab, "old")?;
    gateway.change_keys(&format!("token = {key}\n{retired}"))?;
    gateway.put("a", b"a")?;
    ensure!(gateway.check()?.0 == Some(0), "{:?}", gateway.check()?);

    let (tokens, taken) = (lab.join("tokens"), lab.join("taken"));
    fs::rename(&tokens, &taken)?;
    fs::create_dir(&tokens)?;
    let (code, said) = gateway.check()?;
    ensure!(code == Some(78), "{said}");
    ensure!(
        said.contains("encryption.token.token_label") && said.contains("has no token \"archive\""),
        "{said}"
    );
    for batch in ["get a back", "put back b"] {
        fs::write(gateway.here.path().join("back"), "x")?;
        let (is_done, said) = gateway.sftp(batch)?;
        ensure!(!is_done, "{batch}: {said}");
    }
    wait_for_record(&gateway.proxy, "the token is missed", |record| {
        body(record, "error").contains("the token failed")
    })?;
    fs::remove_dir(&tokens)?;
    fs::rename(&taken, &tokens)?;
    wait_for("the token is found again", || {
        gateway.comes_back("a", b"a").ok()
    })?;
    gateway.put("b", b"b")?;

    write_pin(&lab, "wrong")?;
    let (code, said) = gateway.check()?;
    ensure!(
        code == Some(78)
            && said.contains("encryption.token.pin_file")
            && said.contains("refuses the PIN"),
        "{said}"
    );
    // What is open stays so.
    gateway.comes_back("b", b"b")?;
    write_pin(&lab, PIN)?;
    ensure!(gateway.check()?.0 == Some(0));
    gateway.proxy.crash_and_restart()?;
    gateway.comes_back("a", b"a")
}

/// Labels of the token's keys.
fn keys_of_token() -> Result<Vec<String>> {
    let client = Pkcs11::new(module()?)?;
    // This process has made the token.
    let _ = client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slots = client.get_slots_with_initialized_token()?;
    let session = client.open_ro_session(*slots.first().context("the token")?)?;
    let _ = session.login(UserType::User, Some(&AuthPin::new(PIN.into())));
    let mut labels = Vec::new();
    for key in session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)])? {
        for attribute in session.get_attributes(key, &[AttributeType::Label])? {
            if let Attribute::Label(label) = attribute {
                labels.push(String::from_utf8(label)?);
            }
        }
    }
    labels.sort();
    Ok(labels)
}

#[test]
fn a_set_whose_key_is_in_a_token_is_destroyed_there_and_the_tokens_other_key_stays() -> Result<()> {
    let name = "a_set_whose_key_is_in_a_token_is_destroyed_there_and_the_tokens_other_key_stays";
    let Some(lab) = runs_here(name)? else {
        return Ok(());
    };
    token(&lab)?;
    ensure!(keys_of_token()? == ["new", "old"]);
    let (storage, here) = (files::folder("storage")?, files::folder("here")?);
    let section = new_set(&lab, "acme")?;
    let key = format!("key_file = \"{}\"", lab.join("acme.kek").display());
    let section = section.replace(&key, &format!("token = {}", place(&lab, "old")?));
    let own = Backend::local(storage.path()).encrypted();
    let proxy = Plan::new(Place::Loopback)?
        .sections(&section)
        .backend("disk", own.with("keys = \"acme\""))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", ".")])?;
    let mut gateway = Gateway {
        proxy,
        alice,
        here,
        storage,
    };
    gateway.put("a", b"a")?;
    gateway.comes_back("a", b"a")?;
    let destroy = [
        "encryption",
        "shred-keys",
        "acme",
        "--reason",
        "r",
        "--approver",
        "J. Doe",
    ];
    let said = gateway.proxy.command(&destroy)?;
    ensure!(
        said.contains("destroyed  key \"old\" of token \"archive\""),
        "{said}"
    );
    ensure!(
        said.contains("two of the three shares of escrow key"),
        "{said}"
    );
    ensure!(keys_of_token()? == ["new"], "{:?}", keys_of_token()?);
    for _ in 0..2 {
        for batch in ["get a back", "put back b"] {
            fs::write(gateway.here.path().join("back"), "x")?;
            let (is_done, said) = gateway.sftp(batch)?;
            ensure!(!is_done, "{batch}: {said}");
        }
        // The configuration names the token's key as before.
        gateway.proxy.crash_and_restart()?;
    }
    let said = gateway.proxy.command(&destroy)?;
    ensure!(said.contains("destroyed  key \"old\""), "{said}");
    ensure!(keys_of_token()? == ["new"]);
    gateway.proxy.journal_is_sound()
}
