//! The program on real stored files.

#![expect(
    clippy::unwrap_used,
    reason = "what the tests lay out themselves is there"
)]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use portcullis_at_rest::{
    DataKey, EXTENT_PLAINTEXT, Head, Keyring, Layout, Realm, SEGMENT_PLAINTEXT, Sealer,
    escrow::Identity,
    kek::SoftwareKek,
    key_file::{read_kek, read_recipient, write_kek, write_share},
    names::{FILE, Names},
    shares,
};
use portcullis_journal::{
    Event, EventKind, Journal, Options, Verdict, record::untrusted, tree::key::public_key_path,
};
use serde_json::Value;
use tempfile::TempDir;

const SEGMENT: usize = SEGMENT_PLAINTEXT;
const EXTENT: usize = EXTENT_PLAINTEXT as usize;
const HEAD: usize = 512;

struct Lab {
    home: TempDir,
    ring: Keyring,
}

/// What one run said.
struct Said {
    code: Option<i32>,
    /// By name.
    files: BTreeMap<String, (String, String)>,
    text: String,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let secret = DataKey::random().unwrap();
        let escrow = Identity::generate().unwrap();
        write_kek(&home.path().join("kek"), &secret).unwrap();
        for share in shares::split(&escrow, 2, 3).unwrap() {
            let name = format!("share{}", share.number());
            write_share(&home.path().join(name), &share).unwrap();
        }
        fs::create_dir(home.path().join("from")).unwrap();
        let kek = Arc::new(SoftwareKek::new(&secret));
        Self {
            ring: Keyring::new(kek, Vec::new(), Some(escrow.recipient().clone())),
            home,
        }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.home.path().join(name)
    }

    fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let (key, head) = self.ring.create(&Realm::named("archive")).unwrap();
        let mut pieces = vec![head.as_bytes().to_vec()];
        let mut sealer = Sealer::new(&key, head);
        sealer.write(plaintext, &mut pieces).unwrap();
        sealer.finish(&mut pieces).unwrap();
        pieces.concat()
    }

    /// On the backend.
    fn store(&self, name: impl AsRef<Path>, stored: &[u8]) {
        let path = self.path("from").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, stored).unwrap();
    }

    /// Those of the backend from now on.
    fn names(&self) -> Names {
        let realm = Realm::named("archive");
        let file = Names::create(&self.ring, &realm).unwrap();
        self.store(OsStr::from_bytes(FILE), &file);
        Names::open(&self.ring, &realm, &file).unwrap()
    }

    fn run(&self, more: &[&OsStr]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_portcullis-rescue"))
            .args(["--from".as_ref(), self.path("from").as_os_str()])
            .args(["--to".as_ref(), self.path("to").as_os_str()])
            .args(more)
            .output()
            .unwrap()
    }

    fn rescue(&self, keys: &[&str], more: &[&str]) -> Said {
        let mut arguments: Vec<std::ffi::OsString> = vec!["--json".into()];
        for key in keys {
            let option = if *key == "kek" { "--key" } else { "--share" };
            arguments.extend([option.into(), self.path(key).into_os_string()]);
        }
        arguments.extend(more.iter().map(|word| (*word).into()));
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        let output = self.run(&arguments);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let files = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter_map(|line| {
                let text = |name| line.get(name)?.as_str().map(str::to_owned);
                let detail = text("detail").unwrap_or_default();
                Some((text("path")?, (text("result")?, detail)))
            })
            .collect();
        Said {
            code: output.status.code(),
            files,
            text,
        }
    }

    fn plaintext(&self, name: impl AsRef<Path>) -> Option<Vec<u8>> {
        fs::read(self.path("to").join(name)).ok()
    }
}

impl Said {
    fn fate(&self, name: &str) -> &str {
        let found = self.files.get(name);
        found.map_or("nothing", |(result, _)| result)
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    let mut noise = vec![0; length];
    random.fill(&mut noise);
    noise
}

/// All below a directory that is no directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

const TWO: [&str; 2] = ["share1", "share3"];

/// Where a path lies.
fn stored(names: &Names, path: &[u8]) -> PathBuf {
    let parts = path.split(|byte| *byte == b'/');
    parts
        .map(|name| PathBuf::from(OsStr::from_bytes(&names.encrypt(name).unwrap())))
        .collect()
}

#[test]
fn encrypted_names_come_back_by_two_shares_or_the_key_and_by_no_others() {
    let lab = Lab::new();
    let names = lab.names();
    let files = [
        &b"Jane Doe/HIV.csv"[..],
        b"Jane Doe/.hidden",
        b"a",
        b"caf\xe9",
        &[b'x'; 143],
    ];
    for path in files {
        lab.store(stored(&names, path), &lab.seal(path));
    }
    let said = lab.rescue(&["share1", "share3"], &["--backend", "archive"]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    for path in files {
        let back = lab.path("to").join(OsStr::from_bytes(path));
        assert_eq!(fs::read(back).unwrap(), path);
    }
    assert_eq!(said.files.len(), files.len(), "{}", said.text);

    fs::remove_dir_all(lab.path("to")).unwrap();
    let said = lab.rescue(&["kek"], &["--only", "Jane Doe/HIV.csv"]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert!(lab.path("to/Jane Doe/HIV.csv").exists() && !lab.path("to/a").exists());

    // A part of the backend has no key of its own.
    let part = lab.path("from").join(stored(&names, b"Jane Doe"));
    let key = lab.path("from").join(OsStr::from_bytes(FILE));
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis-rescue"))
        .args(["--from".as_ref(), part.as_os_str()])
        .args(["--to".as_ref(), lab.path("part").as_os_str()])
        .args(["--key".as_ref(), lab.path("kek").as_os_str()])
        .args(["--names".as_ref(), key.as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(lab.path("part/HIV.csv").exists());

    let said = lab.rescue(&["kek"], &["--backend", "other"]);
    assert_eq!(said.code, Some(2), "{}", said.text);
    let mut content = fs::read(&key).unwrap();
    content[600] ^= 1;
    fs::write(&key, content).unwrap();
    let said = lab.rescue(&["kek"], &[]);
    assert_eq!(said.code, Some(2), "{}", said.text);
    assert!(said.text.contains("--names FILE"), "{}", said.text);
}

#[test]
fn a_name_that_was_changed_comes_back_as_it_is_and_is_told_from_a_good_one() {
    let lab = Lab::new();
    let names = lab.names();
    lab.store(stored(&names, b"good"), &lab.seal(b"good"));
    let changed = |name: &[u8]| {
        let mut stored = names.encrypt(name).unwrap();
        stored[0] = if stored[0] == b'0' { b'1' } else { b'0' };
        String::from_utf8(stored).unwrap()
    };
    let (file, directory) = (changed(b"file"), changed(b"directory"));
    lab.store(&file, &lab.seal(b"file"));
    lab.store(
        Path::new(&directory).join(stored(&names, b"below")),
        &lab.seal(b"below"),
    );
    lab.store("plain", b"plain");
    let said = lab.rescue(&["kek"], &[]);
    assert_eq!(said.code, Some(1), "{}", said.text);
    let below = format!("{directory}/below");
    for (path, result) in [
        ("good", "decrypted"),
        (&file[..], "unnamed"),
        (&below, "unnamed"),
        ("plain", "not-encrypted"),
    ] {
        assert_eq!(said.files[path].0, result, "{path}: {}", said.text);
        assert!(lab.path("to").join(path).exists());
    }
}

#[test]
fn a_backend_comes_back_with_names_and_times_by_two_shares_or_by_the_gateways_key() {
    for keys in [
        &TWO[..],
        &["share2", "share1"],
        &["kek"],
        &["share1", "share2", "share3", "kek"],
    ] {
        let lab = Lab::new();
        let lengths = [
            0,
            1,
            1000,
            SEGMENT,
            SEGMENT + 1,
            EXTENT,
            EXTENT + SEGMENT + 5,
        ];
        for length in lengths {
            lab.store(format!("partner/{length}/file"), &lab.seal(&noise(length)));
        }
        fs::create_dir(lab.path("from/empty")).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 7);
        for dated in ["partner/1/file", "partner/1"] {
            let file = fs::File::open(lab.path("from").join(dated)).unwrap();
            file.set_times(fs::FileTimes::new().set_modified(old))
                .unwrap();
        }
        let said = lab.rescue(keys, &[]);
        assert_eq!(said.code, Some(0), "{}", said.text);
        for length in lengths {
            let name = format!("partner/{length}/file");
            assert_eq!(said.fate(&name), "decrypted", "{name}");
            assert!(lab.plaintext(&name).unwrap() == noise(length), "{name}");
            let metadata = fs::metadata(lab.path("to").join(&name)).unwrap();
            assert_eq!(metadata.mode() & 0o7777, 0o600);
        }
        for dated in ["partner/1/file", "partner/1"] {
            let metadata = fs::metadata(lab.path("to").join(dated)).unwrap();
            assert_eq!(metadata.modified().unwrap(), old, "{dated}");
        }
        let directory = fs::metadata(lab.path("to/empty")).unwrap();
        assert_eq!(directory.mode() & 0o7777, 0o700);
        assert_eq!(files(&lab.path("to")).len(), lengths.len());
    }
}

#[test]
fn keys_that_the_program_makes_open_what_is_stored_for_them() {
    let lab = Lab::new();
    let program = |arguments: &[&OsStr]| {
        Command::new(env!("CARGO_BIN_EXE_portcullis-rescue"))
            .args(arguments)
            .output()
            .unwrap()
    };
    let (escrow, kek) = (lab.path("escrow"), lab.path("new-kek"));
    for (verb, path) in [("new-escrow", &escrow), ("new-key", &kek)] {
        let made = program(&[verb.as_ref(), path.as_os_str()]);
        assert_eq!(made.status.code(), Some(0), "{verb}");
        let again = program(&[verb.as_ref(), path.as_os_str()]);
        assert_eq!(again.status.code(), Some(2), "{verb}");
    }
    let mut names: Vec<_> = files(&escrow);
    names.sort();
    let expected = ["recipient", "share-1", "share-2", "share-3"];
    assert_eq!(names, expected.map(|name| escrow.join(name)));
    assert_eq!(fs::metadata(&escrow).unwrap().mode() & 0o7777, 0o700);
    let recipient = read_recipient(&escrow.join("recipient")).unwrap();
    let ring = Keyring::new(
        Arc::new(read_kek(&kek).unwrap()),
        Vec::new(),
        Some(recipient),
    );
    let lab = Lab { ring, ..lab };
    lab.store("a", &lab.seal(b"result"));
    for keys in [
        &["escrow/share-1", "escrow/share-2"][..],
        &["escrow/share-3", "escrow/share-1"],
    ] {
        let said = lab.rescue(keys, &[]);
        assert_eq!(said.code, Some(0), "{}", said.text);
        fs::remove_dir_all(lab.path("to")).unwrap();
    }
    fs::rename(&kek, lab.path("kek")).unwrap();
    assert_eq!(lab.rescue(&["kek"], &[]).code, Some(0));
}

#[test]
fn one_share_foreign_shares_or_none_open_nothing() {
    let lab = Lab::new();
    let stranger = Lab::new();
    lab.store("a", &lab.seal(b"result"));
    let said = lab.rescue(&["share1"], &[]);
    assert_eq!(said.code, Some(2));
    assert!(said.text.contains("bring another one"), "{}", said.text);
    assert_eq!(lab.run(&[]).status.code(), Some(2));
    for name in ["share1", "share2"] {
        fs::copy(stranger.path(name), lab.path(format!("foreign-{name}"))).unwrap();
    }
    let mixed = lab.rescue(&["share1", "foreign-share2"], &[]);
    assert_eq!(mixed.code, Some(2));
    assert!(mixed.text.contains("belongs to the escrow key"));
    let said = lab.rescue(&["foreign-share1", "foreign-share2"], &[]);
    assert_eq!((said.code, said.fate("a")), (Some(1), "key-missing"));
    assert_eq!(files(&lab.path("to")), [] as [PathBuf; 0]);
    fs::set_permissions(lab.path("share1"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = lab.rescue(&TWO, &[]);
    assert_eq!(said.code, Some(2));
    assert!(said.text.contains("chmod 600"), "{}", said.text);
}

#[test]
fn every_kind_of_damage_is_reported_and_gives_no_file() {
    let lab = Lab::new();
    let plaintext = noise(EXTENT + 3 * SEGMENT + 100);
    let good = lab.seal(&plaintext);
    let other = lab.seal(&plaintext);
    let layout = Layout::of_plaintext(plaintext.len() as u64);
    let place = |index: usize| {
        let place = layout.segment_at((index * SEGMENT) as u64);
        let from = place.stored_offset as usize;
        from..from + place.stored_length
    };
    let mut damaged: Vec<(String, Vec<u8>)> = Vec::new();
    let regions = [
        ("magic", 3),
        ("object", 20),
        ("realm", 40),
        ("wrap", 100),
        ("escrow", 200),
        ("zeros", 400),
        ("tag", 500),
        ("extent-parameters", HEAD + 2),
        ("extent-iv", HEAD + 20),
        ("extent-tag", HEAD + 60),
        ("prefix", place(1).start),
        ("nonce", place(1).start + 6),
        ("body", place(1).start + 1000),
        ("segment-tag", place(1).end - 1),
        ("second-extent", Layout::extent_header(1) as usize + 30),
        ("end", good.len() - 1),
    ];
    for (name, at) in regions {
        let mut changed = good.clone();
        changed[at] ^= 0x10;
        damaged.push((format!("flipped-{name}"), changed));
    }
    let extent = Layout::extent_header(1) as usize;
    for end in [
        0,
        5,
        HEAD - 1,
        HEAD,
        HEAD + 74,
        place(2).start,
        extent,
        extent + 74,
        good.len() - 1,
    ] {
        damaged.push((format!("cut-{end}"), good[..end].to_vec()));
    }
    for more in [1, 32, 33, SEGMENT + 32] {
        damaged.push((format!("longer-{more}"), [&good[..], &noise(more)].concat()));
    }
    let mut swapped = good.clone();
    swapped[place(0)].copy_from_slice(&good[place(1)]);
    swapped[place(1)].copy_from_slice(&good[place(0)]);
    damaged.push(("swapped-segments".into(), swapped));
    let mut mixed = good.clone();
    mixed[place(2)].copy_from_slice(&other[place(2)]);
    damaged.push(("segment-of-another".into(), mixed));
    let headed = [&other[..HEAD], &good[HEAD..]].concat();
    damaged.push(("head-of-another".into(), headed));
    for (name, stored) in &damaged {
        lab.store(name, stored);
    }
    lab.store("good", &good);
    let mut newer = good.clone();
    newer[9] = 2;
    lab.store("newer", &newer);
    let said = lab.rescue(&TWO, &[]);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.fate("good"), "decrypted");
    assert_eq!(said.fate("newer"), "newer-format");
    for (name, _) in &damaged {
        // A recipient or key that is named differently is one that is not there.
        let expected = ["not-authentic", "key-missing"];
        assert!(
            expected.contains(&said.fate(name)),
            "{name}: {}",
            said.fate(name)
        );
    }
    assert_eq!(said.files.len(), damaged.len() + 2);
    assert_eq!(files(&lab.path("to")), [lab.path("to/good")]);
    assert!(lab.plaintext("good").unwrap() == plaintext);
    fs::remove_dir_all(lab.path("to")).unwrap();
    let said = lab.rescue(&["kek"], &["--backend", "lab"]);
    assert_eq!((said.code, said.fate("good")), (Some(1), "not-authentic"));
    assert!(files(&lab.path("to")).is_empty());
}

#[test]
fn plain_files_are_copied_and_never_taken_for_encrypted_ones() {
    let lab = Lab::new();
    lab.store("encrypted", &lab.seal(b"secret"));
    assert_eq!(lab.rescue(&TWO, &[]).code, Some(0));
    fs::remove_dir_all(lab.path("to")).unwrap();
    lab.store("plain.csv", b"name,result\n");
    lab.store("long", &noise(200_000));
    let said = lab.rescue(&TWO, &[]);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.fate("plain.csv"), "not-encrypted");
    assert_eq!(lab.plaintext("plain.csv").unwrap(), b"name,result\n");
    assert!(lab.plaintext("long").unwrap() == noise(200_000));
}

#[test]
fn odd_names_come_back_as_they_are() {
    let lab = Lab::new();
    let long = "n".repeat(255);
    let deep = vec!["d".repeat(200); 15].join("/");
    let names: Vec<Vec<u8>> = vec![
        b"new\nverified line".to_vec(),
        b"bytes \xff\xfe".to_vec(),
        b"\x1b[2J".to_vec(),
        b"-rf".to_vec(),
        b" ".to_vec(),
        b"back\\slash".to_vec(),
        "Größe\u{202e}".as_bytes().to_vec(),
        b"..hidden".to_vec(),
        long.into_bytes(),
        format!("{deep}/file").into_bytes(),
    ];
    for name in &names {
        lab.store(OsStr::from_bytes(name), &lab.seal(name));
    }
    let said = lab.rescue(&TWO, &[]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert_eq!(said.files.len(), names.len());
    for name in &names {
        assert_eq!(&lab.plaintext(OsStr::from_bytes(name)).unwrap(), name);
    }
    fs::remove_dir_all(lab.path("to")).unwrap();
    let keys: Vec<_> = TWO.iter().map(|key| lab.path(key)).collect();
    let output = lab.run(&[
        "--share".as_ref(),
        keys[0].as_os_str(),
        "--share".as_ref(),
        keys[1].as_os_str(),
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), names.len() + 1, "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn paths_longer_than_the_system_takes_at_once_come_back() {
    let lab = Lab::new();
    let name = "d".repeat(250);
    let mut at = fs::File::open(lab.path("from")).unwrap();
    for _ in 0..30 {
        rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        let below = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty()).unwrap();
        at = below.into();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let file: fs::File = rustix::fs::openat(&at, "file", flags, mode).unwrap().into();
    std::io::Write::write_all(&mut &file, &lab.seal(b"deep")).unwrap();
    let said = lab.rescue(&TWO, &[]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    let mut at = fs::File::open(lab.path("to")).unwrap();
    for _ in 0..30 {
        let flags = rustix::fs::OFlags::DIRECTORY;
        let below = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty()).unwrap();
        at = below.into();
    }
    let read = rustix::fs::OFlags::RDONLY;
    let file: fs::File = rustix::fs::openat(&at, "file", read, rustix::fs::Mode::empty())
        .unwrap()
        .into();
    let text = std::io::read_to_string(file).unwrap();
    assert_eq!(text, "deep");
}

#[test]
fn nothing_is_overwritten_followed_or_led_out() {
    let lab = Lab::new();
    lab.store("kept", &lab.seal(b"new"));
    lab.store("sub/file", &lab.seal(b"new"));
    lab.store("fresh", &lab.seal(b"new"));
    symlink("/etc/passwd", lab.path("from/link")).unwrap();
    symlink(lab.path("from/sub"), lab.path("from/tree")).unwrap();
    let made = Command::new("mkfifo").arg(lab.path("from/pipe")).status();
    assert!(made.unwrap().success());
    lab.store(".portcullis-0011223344556677.part", &lab.seal(b"half"));
    lab.store(".portcullis-0011223344556677.old", &lab.seal(b"replaced"));
    fs::create_dir_all(lab.path("to")).unwrap();
    fs::create_dir(lab.path("outside")).unwrap();
    fs::write(lab.path("to/kept"), b"old").unwrap();
    symlink(lab.path("outside"), lab.path("to/sub")).unwrap();
    let said = lab.rescue(&TWO, &[]);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.fate("kept"), "exists");
    assert_eq!(said.fate("fresh"), "decrypted");
    assert_eq!(said.fate("sub"), "failed");
    for name in ["link", "tree", "pipe"] {
        assert_eq!(said.fate(name), "not-a-file");
    }
    assert_eq!(said.fate(".portcullis-0011223344556677.part"), "unfinished");
    assert_eq!(said.fate(".portcullis-0011223344556677.old"), "decrypted");
    assert_eq!(lab.plaintext("kept").unwrap(), b"old");
    assert!(files(&lab.path("outside")).is_empty());
    let inside = lab.path("from/deeper/to");
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis-rescue"))
        .args([OsStr::new("--from"), lab.path("from").as_os_str()])
        .args([OsStr::new("--to"), inside.as_os_str()])
        .args([OsStr::new("--key"), lab.path("kek").as_os_str()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!lab.path("from/deeper").exists());
}

#[test]
fn only_what_is_asked_for_comes_back() {
    let lab = Lab::new();
    for name in ["a/b/one", "a/b/two", "a/bc", "a/other", "c"] {
        lab.store(name, &lab.seal(name.as_bytes()));
    }
    let said = lab.rescue(&TWO, &["--only", "/a/b/"]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    let mut found = files(&lab.path("to"));
    found.sort();
    assert_eq!(found, [lab.path("to/a/b/one"), lab.path("to/a/b/two")]);
    let said = lab.rescue(&TWO, &["--only", "c"]);
    assert_eq!((said.files.len(), said.fate("c")), (1, "decrypted"));
    for nothing in ["../x", "a/bcd", "c/d"] {
        let said = lab.rescue(&TWO, &["--only", nothing]);
        assert_eq!((said.code, said.files.len()), (Some(2), 0), "{nothing}");
    }
}

fn upload(path: &[u8], content: &[u8]) -> Event {
    let mut event = Event::new(EventKind::TransferSummary);
    event.outcome = Some(Verdict::Success);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    for (name, value) in [
        ("direction", "upload".into()),
        ("path", untrusted(path)),
        ("bytes", content.len().into()),
        ("sha256", hex::encode(digest).into()),
    ] {
        event.body.insert(name.to_owned(), value);
    }
    event
}

/// Directory and public key of a log that says so.
fn journal(home: &Path, events: Vec<Event>) -> (String, String) {
    let directory = home.join("log");
    let options = Options {
        compression_level: None,
        ..Options::default_in(&directory)
    };
    let key = public_key_path(&options.signing_key);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (journal, _) = Journal::open(options).unwrap();
        for event in events {
            journal.append(event).await.unwrap();
        }
        journal.close().await.unwrap();
    });
    let text = |path: PathBuf| path.into_os_string().into_string().unwrap();
    (text(directory), text(key))
}

#[test]
fn files_are_compared_with_the_last_upload_on_record() {
    let lab = Lab::new();
    lab.store("partner/in/good", &lab.seal(b"as uploaded"));
    lab.store("partner/in/rolled-back", &lab.seal(b"version 1"));
    lab.store("partner/in/unknown", &lab.seal(b"?"));
    let odd = b"odd\n\xff";
    lab.store(
        Path::new("partner/in").join(OsStr::from_bytes(odd)),
        &lab.seal(b"odd"),
    );
    let (log, key) = journal(
        lab.home.path(),
        vec![
            upload(b"/in/good", b"as uploaded"),
            upload(b"/in/rolled-back", b"version 1"),
            upload(b"/in/rolled-back", b"version 2"),
            upload(&[&b"/in/"[..], odd].concat(), b"odd"),
        ],
    );
    let with = ["--journal", &log, "--journal-key", &key];
    let said = lab.rescue(&TWO, &with);
    assert_eq!(said.code, Some(1), "{}", said.text);
    assert_eq!(said.fate("partner/in/good"), "verified");
    assert_eq!(said.fate("partner/in/rolled-back"), "differs");
    let unknown = &said.files["partner/in/unknown"];
    assert_eq!(unknown, &("decrypted".into(), "not in the journal".into()));
    let odd = untrusted(b"partner/in/odd\n\xff");
    assert_eq!(said.fate(odd.as_str().unwrap()), "verified");
    assert_eq!(
        lab.plaintext("partner/in/rolled-back").unwrap(),
        b"version 1"
    );

    fs::remove_dir_all(lab.path("to")).unwrap();
    let good = lab.rescue(&TWO, &[&with[..], &["--only", "partner/in/good"]].concat());
    assert_eq!(good.code, Some(0), "{}", good.text);
    // The same with a journal that somebody changed.
    let segment = fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension() == Some(OsStr::new("jsonl")))
        .unwrap();
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, text.replacen("/in/good", "/in/goad", 1)).unwrap();
    fs::remove_dir_all(lab.path("to")).unwrap();
    let said = lab.rescue(&TWO, &with);
    assert_eq!(said.code, Some(1));
    assert!(!said.text.contains(r#""findings":0"#), "{}", said.text);
    assert_eq!(lab.rescue(&TWO, &["--journal", &log]).code, Some(2));
}

#[test]
fn files_of_keys_that_were_destroyed_on_record_are_not_given_out_and_others_are() {
    let lab = Lab::new();
    let stored = lab.seal(b"of the partner");
    let head = Head::parse(&stored[..HEAD]).unwrap();
    let escrow = hex::encode(head.escrow().unwrap().0);
    let tombstone = |kek: &str, escrow: &str| {
        let mut event = Event::new(EventKind::RestTombstone);
        event.outcome = Some(Verdict::Allow);
        event.body = serde_json::json!({
            "set": "acme", "kek_ids": [kek], "escrow_id": escrow, "backends": ["archive"], "files": 3,
            "approver": "J. Doe",
        })
        .as_object()
        .unwrap()
        .clone();
        event
    };
    let (own, strange) = (head.kek().to_string(), "00".repeat(16));
    lab.store("a", &stored);
    for (kek, escrow, is_lost) in [
        (&own, &escrow, true),
        // Its key-encryption key was another one then.
        (&strange, &escrow, true),
        (&own, &strange, true),
        (&strange, &strange, false),
    ] {
        let (log, key) = journal(lab.home.path(), vec![tombstone(kek, escrow)]);
        let with = ["--journal", &log, "--journal-key", &key];
        for keys in [&TWO[..], &["kek"]] {
            let said = lab.rescue(keys, &with);
            assert_eq!(said.code, Some(0), "{}", said.text);
            let expected = if is_lost { "shredded" } else { "decrypted" };
            assert_eq!(said.fate("a"), expected, "{}", said.text);
            assert_eq!(lab.plaintext("a").is_some(), !is_lost);
            assert_eq!(
                said.files.contains_key("(keys acme)"),
                !is_lost,
                "said once where nothing of it is there"
            );
            assert!(
                said.text
                    .contains("destroyed with keys acme by the word of J. Doe")
            );
            let _ = fs::remove_dir_all(lab.path("to"));
        }
        fs::remove_dir_all(&log).unwrap();
    }

    lab.names();
    let (log, key) = journal(lab.home.path(), vec![tombstone(&own, &escrow)]);
    let said = lab.rescue(&TWO, &["--journal", &log, "--journal-key", &key]);
    assert_eq!(said.code, Some(2), "{}", said.text);
    assert!(
        said.text
            .contains("the encrypted names of this backend were destroyed with keys acme")
    );
}

/// A bucket with one object, whose first answer breaks off in the middle.
#[cfg(feature = "buckets")]
mod buckets {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;

    const LISTING: &str = "<?xml version=\"1.0\"?><ListBucketResult><Name>b</Name><KeyCount>1</KeyCount>\
        <IsTruncated>false</IsTruncated><Contents><Key>sftp/file</Key><Size>SIZE</Size><ETag>\"1\"</ETag>\
        <LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents></ListBucketResult>";

    fn answer(mut stream: TcpStream, content: &[u8], is_replaced: bool) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().unwrap()?;
        let mut from = None;
        for line in lines {
            let line = line?.to_lowercase();
            if let Some(range) = line.strip_prefix("range: bytes=") {
                from = range.split('-').next().unwrap().parse::<usize>().ok();
            }
            if line.is_empty() {
                break;
            }
        }
        let about =
            "Connection: close\r\nETag: \"1\"\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT";
        let length = content.len();
        if request.contains("list-type=2") {
            let listing = LISTING.replace("SIZE", &length.to_string());
            let size = listing.len();
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n{listing}"
            );
        }
        if !request.contains("/sftp/file") {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
        }
        match from {
            None => {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\n{about}\r\nContent-Length: {length}\r\n\r\n"
                )?;
                stream.write_all(content.get(..length / 2).unwrap())
            }
            Some(_) if is_replaced => {
                write!(
                    stream,
                    "HTTP/1.1 412 Precondition Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
            }
            Some(from) => {
                write!(
                    stream,
                    "HTTP/1.1 206 Partial Content\r\n{about}\r\nContent-Range: bytes {from}-{}/{length}\r\nContent-Length: {}\r\n\r\n",
                    length - 1,
                    length - from
                )?;
                stream.write_all(content.get(from..).unwrap())
            }
        }
    }

    fn rescue(lab: &Lab, stored: Vec<u8>, is_replaced: bool) -> Output {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Whoever hangs up has heard enough.
                let _ = answer(stream.unwrap(), &stored, is_replaced);
            }
        });
        let credentials = lab.path("credentials");
        fs::write(&credentials, "id\nsecret with spaces\n").unwrap();
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
        Command::new(env!("CARGO_BIN_EXE_portcullis-rescue"))
            .args(["--from", "s3://b/sftp/", "--endpoint", &endpoint])
            .args(["--credentials".as_ref(), credentials.as_os_str()])
            .args(["--to".as_ref(), lab.path("to").as_os_str()])
            .args(["--key".as_ref(), lab.path("kek").as_os_str()])
            .output()
            .unwrap()
    }

    #[test]
    fn a_download_that_breaks_off_goes_on_in_the_same_version_and_in_no_other() {
        let lab = Lab::new();
        let content = noise(300_000);
        let output = rescue(&lab, lab.seal(&content), false);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(lab.plaintext("file").unwrap() == content);
        let modified = fs::metadata(lab.path("to/file")).unwrap().mtime();
        assert_eq!(modified, 1_767_323_045);
        assert_eq!(files(&lab.path("to")).len(), 1, "nothing else is left");

        fs::remove_dir_all(lab.path("to")).unwrap();
        let output = rescue(&lab, lab.seal(&content), true);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(files(&lab.path("to")).is_empty());
    }

    #[test]
    fn secrets_go_to_no_server_in_clear_and_come_from_no_file_that_others_read() {
        let lab = Lab::new();
        let credentials = lab.path("credentials");
        let run = |endpoint: &str, mode| {
            fs::write(&credentials, "id\nsecret\n").unwrap();
            fs::set_permissions(&credentials, fs::Permissions::from_mode(mode)).unwrap();
            let output = Command::new(env!("CARGO_BIN_EXE_portcullis-rescue"))
                .args(["--from", "s3://b", "--endpoint", endpoint])
                .args(["--credentials".as_ref(), credentials.as_os_str()])
                .args(["--to".as_ref(), lab.path("to").as_os_str()])
                .args(["--key".as_ref(), lab.path("kek").as_os_str()])
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(2));
            String::from_utf8(output.stderr).unwrap()
        };
        for endpoint in [
            "http://192.0.2.1:9",
            "http://127.0.0.1.example.org",
            "ftp://a",
        ] {
            let said = run(endpoint, 0o600);
            assert!(said.contains("in clear"), "{said}");
        }
        let said = run("http://127.0.0.1:1", 0o644);
        assert!(said.contains("chmod 600"), "{said}");
    }
}
