//! Keys in a real token: SoftHSM 2. Its module reads its configuration once per process, from the environment, so the tests run in
//! one process that this one starts.

#![expect(
    clippy::unwrap_used,
    reason = "what the tests lay out themselves is there"
)]

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::Attribute,
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use portcullis_at_rest::{
    DataKey, Keyring, Realm,
    kek::{KekError, KeyEncryptionKey as _, SoftwareKek},
    key_file::KeyFileError,
    pkcs11::{TokenError, TokenKek, TokenKey},
};

const LAB: &str = "PORTCULLIS_TOKEN_LAB";
const PIN: &str = "1234-user";

/// Where Debian puts it, or `cargo xtask setup` did.
fn soft_hsm() -> Option<PathBuf> {
    let target = std::env::current_exe().unwrap();
    let unpacked = target
        .ancestors()
        .map(|folder| folder.join("peers/softhsm2/usr/lib/softhsm/libsofthsm2.so"));
    unpacked
        .chain([PathBuf::from("/usr/lib/softhsm/libsofthsm2.so")])
        .find(|path| path.is_file())
}

/// True in the process in which `name` shall run; elsewhere it is started, with a token folder of its own.
fn runs_here(name: &str) -> Option<PathBuf> {
    if let Some(lab) = std::env::var_os(LAB) {
        return Some(lab.into());
    }
    assert!(
        soft_hsm().is_some(),
        "{name} needs SoftHSM 2: cargo xtask setup"
    );
    let lab = tempfile::tempdir().unwrap();
    let tokens = lab.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = lab.path().join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\n",
        tokens.display()
    );
    std::fs::write(&configuration, text).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(LAB, lab.path())
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    None
}

struct Token {
    module: PathBuf,
    client: Pkcs11,
    slot: Slot,
    pin_file: PathBuf,
}

impl Token {
    fn new(lab: &Path) -> Self {
        let module = soft_hsm().unwrap();
        let client = Pkcs11::new(&module).unwrap();
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        client.initialize(arguments).unwrap();
        let slot = *client.get_slots_with_token().unwrap().first().unwrap();
        let officer = AuthPin::new("officer".into());
        client.init_token(slot, &officer, "archive").unwrap();
        let session = client.open_rw_session(slot).unwrap();
        session.login(UserType::So, Some(&officer)).unwrap();
        session.init_pin(&AuthPin::new(PIN.into())).unwrap();
        let pin_file = lab.join("pin");
        std::fs::write(&pin_file, format!("{PIN}\n")).unwrap();
        std::fs::set_permissions(&pin_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self {
            module,
            client,
            slot,
            pin_file,
        }
    }

    fn session(&self) -> Session {
        let session = self.client.open_rw_session(self.slot).unwrap();
        let pin = AuthPin::new(PIN.into());
        session.login(UserType::User, Some(&pin)).unwrap();
        session
    }

    /// Keys with that label, and differing from a good one by `others`.
    fn make(&self, label: &str, bytes: u64, others: &[Attribute]) {
        let session = self.session();
        let mut template = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Label(label.into()),
            Attribute::Id(vec![7]),
            Attribute::ValueLen(bytes.into()),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ];
        if others.is_empty() {
            template.extend([Attribute::Sensitive(true), Attribute::Extractable(false)]);
        }
        template.extend_from_slice(others);
        session
            .generate_key(&Mechanism::AesKeyGen, &template)
            .unwrap();
        session.logout().unwrap();
    }

    fn place(&self, key: &str) -> TokenKey {
        TokenKey {
            module: self.module.clone(),
            token_label: "archive".into(),
            key_label: key.into(),
            pin_file: self.pin_file.clone(),
        }
    }
}

#[test]
fn a_token_wraps_and_unwraps_and_refuses_what_it_did_not_wrap() {
    let Some(lab) = runs_here("a_token_wraps_and_unwraps_and_refuses_what_it_did_not_wrap") else {
        return;
    };
    let token = Token::new(&lab);
    token.make("kek", 32, &[]);
    token.make("other", 32, &[]);
    let kek = TokenKek::open(token.place("kek")).unwrap();
    let other = TokenKek::open(token.place("other")).unwrap();
    assert_ne!(kek.id(), other.id());
    assert_eq!(TokenKek::open(token.place("kek")).unwrap().id(), kek.id());
    let key = DataKey::random().unwrap();
    let wrapped = kek.wrap(&key, b"file").unwrap();
    assert_ne!(kek.wrap(&key, b"file").unwrap(), wrapped);
    let found = kek.unwrap(&wrapped, b"file").unwrap();
    assert_eq!(found.as_bytes(), key.as_bytes());
    assert!(kek.unwrap(&wrapped, b"fill").is_err());
    assert!(other.unwrap(&wrapped, b"file").is_err());
    for at in [0, 11, 12, 43, 44, 59] {
        let mut changed = wrapped;
        changed[at] ^= 1;
        let error = kek.unwrap(&changed, b"file").unwrap_err();
        assert!(matches!(error, KekError::NotAuthentic), "{at}: {error}");
    }
    let found = kek.unwrap(&wrapped, b"file").unwrap();
    assert_eq!(found.as_bytes(), key.as_bytes());

    // Files go over from a key in memory to one in a token and stay readable.
    let realm = Realm::named("archive");
    let software = Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
    let before = Keyring::new(software.clone(), Vec::new(), None);
    let (key, head) = before.create(&realm).unwrap();
    let after = Keyring::new(Arc::new(kek), vec![software], None);
    let rewrapped = after.rewrap(&head, &realm).unwrap();
    for head in [&head, &rewrapped] {
        let found = after.unwrap(head, &realm).unwrap();
        assert_eq!(found.as_bytes(), key.as_bytes());
    }
}

#[test]
fn a_session_that_ended_is_opened_again() {
    let Some(lab) = runs_here("a_session_that_ended_is_opened_again") else {
        return;
    };
    let token = Token::new(&lab);
    token.make("kek", 32, &[]);
    let kek = TokenKek::open(token.place("kek")).unwrap();
    let key = DataKey::random().unwrap();
    let wrapped = kek.wrap(&key, b"file").unwrap();
    let works = || {
        let found = kek.unwrap(&wrapped, b"file").unwrap();
        assert_eq!(found.as_bytes(), key.as_bytes());
        kek.wrap(&key, b"file").unwrap();
    };
    // Somebody else logs the token out, or the module begins anew, as after the token was taken out.
    let session = token.client.open_ro_session(token.slot).unwrap();
    session.logout().unwrap();
    works();
    drop(session);
    token.client.clone().finalize().unwrap();
    works();
    // A token that is gone is an error with its reason, and no panic; it is found again when it is back.
    token.client.clone().finalize().unwrap();
    std::fs::rename(lab.join("tokens"), lab.join("taken")).unwrap();
    std::fs::create_dir(lab.join("tokens")).unwrap();
    let error = kek.unwrap(&wrapped, b"file").unwrap_err();
    assert!(
        matches!(&error, KekError::Token(why) if why.contains("has no token \"archive\"")),
        "{error}"
    );
    token.client.clone().finalize().unwrap();
    std::fs::remove_dir_all(lab.join("tokens")).unwrap();
    std::fs::rename(lab.join("taken"), lab.join("tokens")).unwrap();
    works();
}

#[test]
fn keys_that_could_leave_the_token_and_wrong_places_are_named() {
    let Some(lab) = runs_here("keys_that_could_leave_the_token_and_wrong_places_are_named") else {
        return;
    };
    let token = Token::new(&lab);
    token.make("good", 32, &[]);
    token.make("twin", 32, &[]);
    token.make("twin", 32, &[]);
    token.make("short", 16, &[]);
    for (label, sensitive, extractable) in [
        ("open", false, true),
        ("wrappable", true, true),
        ("readable", false, false),
    ] {
        let how = [
            Attribute::Sensitive(sensitive),
            Attribute::Extractable(extractable),
        ];
        token.make(label, 32, &how);
    }
    TokenKek::open(token.place("good")).unwrap();
    let open = |place: TokenKey| TokenKek::open(place).unwrap_err();
    for label in ["open", "wrappable", "readable"] {
        let error = open(token.place(label));
        assert!(
            matches!(error, TokenError::Extractable { .. }),
            "{label}: {error}"
        );
    }
    let named = [
        (open(token.place("none")), "no secret key"),
        (open(token.place("twin")), "more than one secret key"),
        (open(token.place("short")), "not an AES key of 256 bits"),
    ];
    for (error, words) in named {
        assert!(error.to_string().contains(words), "{error}");
    }
    let place = TokenKey {
        token_label: "elsewhere".into(),
        ..token.place("good")
    };
    assert!(matches!(
        open(place),
        TokenError::NoToken { found, .. } if found.contains(&"archive".to_owned())
    ));
    let place = TokenKey {
        module: lab.join("none.so"),
        ..token.place("good")
    };
    assert!(matches!(open(place), TokenError::Module { .. }));
    // Nobody else may be logged in while PINs are tried.
    token.client.clone().finalize().unwrap();
    let write = |text: &[u8], mode| {
        std::fs::write(&token.pin_file, text).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&token.pin_file, mode).unwrap();
    };
    write(b"wrong-pin", 0o600);
    assert!(matches!(
        open(token.place("good")),
        TokenError::Login { .. }
    ));
    write(b" \n", 0o600);
    assert!(matches!(open(token.place("good")), TokenError::NotAPin(_)));
    write(PIN.as_bytes(), 0o640);
    assert!(matches!(
        open(token.place("good")),
        TokenError::Pin(KeyFileError::Rights { .. })
    ));
    write(PIN.as_bytes(), 0o400);
    let kek = TokenKek::open(token.place("good")).unwrap();

    // A wrong PIN is tried once: more of them would lock the token.
    let key = DataKey::random().unwrap();
    let wrapped = kek.wrap(&key, b"file").unwrap();
    token.client.clone().finalize().unwrap();
    std::fs::remove_file(&token.pin_file).unwrap();
    write(b"wrong-pin", 0o600);
    for words in [
        "refuses the PIN",
        "is not tried again",
        "is not tried again",
    ] {
        let error = kek.unwrap(&wrapped, b"file").unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    write(PIN.as_bytes(), 0o600);
    kek.unwrap(&wrapped, b"file").unwrap();
}
