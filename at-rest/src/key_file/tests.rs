use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;
use crate::{escrow::Identity, kek::KeyEncryptionKey as _, shares};

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        chmod(&path, 0o600);
        path
    }
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_was_written_comes_back() {
    let files = Files::new();
    let key = DataKey::random().unwrap();
    let identity = Identity::generate().unwrap();
    let share = shares::split(&identity, 2, 3).unwrap().remove(1);
    write_kek(&files.path("kek"), &key).unwrap();
    write_recipient(&files.path("recipient"), identity.recipient()).unwrap();
    write_share(&files.path("share"), &share).unwrap();
    let kek = read_kek(&files.path("kek")).unwrap();
    assert_eq!(kek.id(), SoftwareKek::new(&key).id());
    assert_eq!(
        &read_recipient(&files.path("recipient")).unwrap(),
        identity.recipient()
    );
    let found = read_share(&files.path("share")).unwrap();
    assert_eq!(found.to_bytes(), share.to_bytes());
    for (name, mode) in [("kek", 0o600), ("share", 0o600), ("recipient", 0o644)] {
        let metadata = std::fs::metadata(files.path(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777 & !mode, 0, "{name}");
    }
}

#[test]
fn a_key_is_never_overwritten() {
    let files = Files::new();
    let key = DataKey::random().unwrap();
    write_kek(&files.path("kek"), &key).unwrap();
    let before = std::fs::read(files.path("kek")).unwrap();
    symlink(files.path("nowhere"), files.path("link")).unwrap();
    for name in ["kek", "link"] {
        assert!(matches!(
            write_kek(&files.path(name), &DataKey::random().unwrap()),
            Err(KeyFileError::Exists { .. })
        ));
    }
    assert_eq!(std::fs::read(files.path("kek")).unwrap(), before);
    assert!(!files.path("nowhere").exists());
    assert!(matches!(
        write_kek(&files.path("none/kek"), &key),
        Err(KeyFileError::Write { .. })
    ));
}

#[test]
fn a_secret_that_others_may_touch_is_refused_and_a_public_half_is_not() {
    let files = Files::new();
    let identity = Identity::generate().unwrap();
    write_kek(&files.path("kek"), &DataKey::random().unwrap()).unwrap();
    write_share(
        &files.path("share"),
        &shares::split(&identity, 2, 3).unwrap()[0],
    )
    .unwrap();
    write_recipient(&files.path("recipient"), identity.recipient()).unwrap();
    let set = |mode| {
        for name in ["kek", "share", "recipient"] {
            chmod(&files.path(name), mode);
        }
    };
    for mode in [0o600, 0o400] {
        set(mode);
        read_kek(&files.path("kek")).unwrap();
        read_share(&files.path("share")).unwrap();
    }
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666] {
        set(mode);
        let error = read_kek(&files.path("kek")).unwrap_err();
        assert!(matches!(error, KeyFileError::Rights { mode: found, .. } if found == mode));
        assert!(error.to_string().contains("chmod 600 "), "{error}");
        assert!(matches!(
            read_share(&files.path("share")),
            Err(KeyFileError::Rights { .. })
        ));
        read_recipient(&files.path("recipient")).unwrap();
    }
}

#[test]
fn a_credential_that_a_list_gives_to_its_service_alone_is_read() {
    // Version 2; owner, one user, group, mask, others (acl(5)). The mask shows as rights of the group.
    let list = |user: u32| {
        let mut list = vec![2, 0, 0, 0];
        for (tag, rights, id) in [
            (0x01_u16, 4_u16, u32::MAX),
            (0x02, 4, user),
            (0x04, 0, u32::MAX),
            (0x10, 4, u32::MAX),
            (0x20, 0, u32::MAX),
        ] {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    };
    let files = Files::new();
    let path = files.path("kek");
    write_kek(&path, &DataKey::random().unwrap()).unwrap();
    let give = |user| {
        let name = "system.posix_acl_access";
        rustix::fs::setxattr(&path, name, &list(user), rustix::fs::XattrFlags::empty())
    };
    let user = geteuid().as_raw();
    if give(user) == Err(rustix::io::Errno::OPNOTSUPP) {
        eprintln!("not run: this file system has no access control lists");
        return;
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o440);
    read_kek(&path).unwrap();
    give(user + 1).unwrap();
    assert!(matches!(read_kek(&path), Err(KeyFileError::Rights { .. })));
}

#[test]
fn a_secret_of_another_user_is_refused() {
    let files = Files::new();
    let path = files.path("kek");
    write_kek(&path, &DataKey::random().unwrap()).unwrap();
    read_kek(&path).unwrap();
    if !geteuid().is_root() {
        eprintln!("not run: giving a file away needs root");
        return;
    }
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    let error = read_kek(&path).unwrap_err();
    assert!(matches!(error, KeyFileError::Owner { owner: 65534, .. }));
}

#[test]
fn a_secret_is_read_from_a_file_and_from_nothing_else() {
    let files = Files::new();
    write_kek(&files.path("kek"), &DataKey::random().unwrap()).unwrap();
    let recipient = Identity::generate().unwrap();
    write_recipient(&files.path("recipient"), recipient.recipient()).unwrap();
    symlink(files.path("kek"), files.path("link")).unwrap();
    symlink(files.path("recipient"), files.path("public link")).unwrap();
    assert!(matches!(
        read_kek(&files.path("link")),
        Err(KeyFileError::Link { .. })
    ));
    read_recipient(&files.path("public link")).unwrap();
    assert!(matches!(
        read_kek(files.0.path()),
        Err(KeyFileError::NotAFile { .. })
    ));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        files.path("pipe"),
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(matches!(
        read_kek(&files.path("pipe")),
        Err(KeyFileError::NotAFile { .. })
    ));
    assert!(matches!(
        read_kek(&files.path("none")),
        Err(KeyFileError::Open { .. })
    ));
}

#[test]
fn what_is_no_key_is_named() {
    let files = Files::new();
    let key = DataKey::random().unwrap();
    let line = Kind::Kek.line(key.as_bytes());
    let good = format!("# of the archive\r\n\n  {}\r\n#end", *line);
    read_kek(&files.with("good", good.as_bytes())).unwrap();
    let read = |text: &[u8]| read_kek(&files.with("bad", text)).unwrap_err();
    assert!(matches!(read(b""), KeyFileError::Empty { .. }));
    assert!(matches!(
        read(&[b'#'; MAX + 1]),
        KeyFileError::TooLarge { .. }
    ));
    assert!(matches!(read(&[b'#'; MAX]), KeyFileError::NoKey { .. }));
    assert!(matches!(
        read(b"AAAA\xff\xfe\n"),
        KeyFileError::NoKey { .. }
    ));
    let twice = format!("{0}\n{0}\n", *line);
    assert!(matches!(
        read(twice.as_bytes()),
        KeyFileError::Several { .. }
    ));
    for length in Kind::Kek.prefix().len()..line.len() {
        assert!(
            matches!(
                read(&line.as_bytes()[..length]),
                KeyFileError::Length { .. }
            ),
            "{length}"
        );
    }
    let longer = format!("{}A", *line);
    assert!(matches!(
        read(longer.as_bytes()),
        KeyFileError::Length { .. }
    ));
    let newer = line.replace("-v1:", "-v2:");
    assert!(matches!(read(newer.as_bytes()), KeyFileError::NoKey { .. }));
}

#[test]
fn each_mistyped_character_is_noticed() {
    let files = Files::new();
    let identity = Identity::generate().unwrap();
    let share = shares::split(&identity, 2, 3).unwrap().remove(2);
    let line = Kind::Share.line(&share.to_bytes());
    read_share(&files.with("share", line.as_bytes())).unwrap();
    for at in Kind::Share.prefix().len()..line.len() {
        for typed in [b'A', b'x', b'7', b'*'] {
            let mut bytes = line.as_bytes().to_vec();
            if bytes[at] == typed {
                continue;
            }
            bytes[at] = typed;
            let error = read_share(&files.with("share", &bytes)).unwrap_err();
            assert!(matches!(error, KeyFileError::Mistyped { .. }), "{at}");
        }
    }
}

#[test]
fn a_key_of_another_kind_is_named_and_not_taken() {
    let files = Files::new();
    let recipient = *Identity::generate().unwrap().recipient().as_bytes();
    let path = files.with("recipient", Kind::Recipient.line(&recipient).as_bytes());
    let error = read_kek(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} holds an escrow recipient, not a key-encryption key",
            path.display()
        )
    );
    // The check digits are bound to the kind.
    let renamed = Kind::Recipient
        .line(&recipient)
        .replace(Kind::Recipient.prefix(), Kind::Kek.prefix());
    assert!(matches!(
        read_kek(&files.with("renamed", renamed.as_bytes())),
        Err(KeyFileError::Mistyped { .. })
    ));
}
