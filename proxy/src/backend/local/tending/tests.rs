use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use crate::{
    backend::{
        BackendService as _, ErrorKind,
        conformance::Client,
        local::{LocalService, LocalSettings},
        staging::UploadSettings,
    },
    operation::{Access, Outcome},
};

fn client(directory: &Path) -> Client {
    let service = LocalService::new(LocalSettings {
        directory: directory.to_owned(),
        uploads: UploadSettings::default(),
        timeout: Duration::from_secs(30),
    });
    Client::new(service.unwrap().session(b"", &crate::testing::owner()))
}

#[tokio::test]
async fn a_file_takes_the_place_of_the_version_that_was_read_and_of_no_other() {
    type Change = fn(&Path);
    let changes: [(&str, Change, Option<&str>); 6] = [
        ("nothing", |_| {}, None),
        (
            "replaced",
            |file| {
                fs::write(file.with_extension("new"), "replaced").unwrap();
                fs::rename(file.with_extension("new"), file).unwrap();
            },
            Some("replaced"),
        ),
        (
            "written to",
            |file| fs::write(file, "other").unwrap(),
            Some("other"),
        ),
        (
            "appended to",
            |file| {
                use std::io::Write as _;
                let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
                file.write_all(b"!").unwrap();
            },
            Some("plain!"),
        ),
        (
            "of another mode",
            |file| {
                fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
            },
            Some("plain"),
        ),
        ("removed", |file| fs::remove_file(file).unwrap(), Some("")),
    ];
    for (what, change, left) in changes {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        fs::write(&file, "plain").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let client = client(directory.path());
        let version = client.version("/a").await;
        let target = client.open("/a", Access::REPLACE).await;
        client.write(target, 0, "written anew").await;
        change(&file);
        let closed = client.close_over(target, version).await;
        let now = fs::read_to_string(&file).unwrap_or_default();
        match left {
            None => {
                assert_eq!(closed.unwrap(), Outcome::Done);
                assert_eq!(now, "written anew");
            }
            Some(left) => {
                assert_eq!(closed.unwrap_err().kind, ErrorKind::Failure, "{what}");
                assert_eq!(now, left, "{what}");
            }
        }
        client.end().await;
        let entries = fs::read_dir(directory.path()).unwrap().count();
        assert!(entries <= 1, "{what}: a staging file is left");
    }
}
