//! That a journal with hidden paths says nowhere what a client's files are called.

use std::collections::BTreeSet;

use portcullis_audit::hidden::{AuditorSecret, PathKey, PathVeil};
use portcullis_journal::{Veil, record::untrusted_bytes};

use super::*;
use crate::backend::{
    BackendError, ErrorKind, Origin,
    local::{LocalService, LocalSettings},
    staging::UploadSettings,
};

/// Part of every name that the client uses.
const NEEDLE: &[u8] = b"NeedleM\xc3\xbcller";

const ALL: Extensions = Extensions {
    hardlink: true,
    copy_data: true,
};

/// Every operation that the gateway knows, by its name in records.
const OPERATIONS: [&str; 30] = [
    "check_file",
    "check_file_name",
    "close",
    "copy_data",
    "fsetstat",
    "fstat",
    "fstatvfs",
    "fsync",
    "hardlink",
    "home_directory",
    "limits",
    "lsetstat",
    "lstat",
    "mkdir",
    "open",
    "opendir",
    "posix_rename",
    "read",
    "readdir",
    "readlink",
    "realpath",
    "remove",
    "rename",
    "rmdir",
    "setstat",
    "stat",
    "statvfs",
    "symlink",
    "users_groups_by_id",
    "write",
];

/// What channels wrote.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    records: Vec<Value>,
}

impl Written {
    /// Kind and operation of the records that hold the needle, as it is or encoded.
    fn needles(&self) -> BTreeSet<(&str, &str)> {
        let in_value = |value: &Value| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            has_needle(&untrusted_bytes(&text).unwrap_or_default())
        };
        self.records
            .iter()
            .filter(|record| record.as_object().unwrap().values().any(in_value))
            .map(|record| {
                let text = |field: &str| record[field].as_str().unwrap_or_default();
                (text("event"), text("sftp_op"))
            })
            .collect()
    }
}

fn has_needle(bytes: &[u8]) -> bool {
    bytes.windows(NEEDLE.len()).any(|window| window == NEEDLE)
}

/// Asks for every operation with the needle in all names: where it is done, where it fails and the backend says why, where
/// the policy refuses it, and in forms that the parser refuses.
async fn written(veil: Option<&Arc<dyn Veil>>) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::new();
    let local = LocalService::new(LocalSettings {
        directory: folder.path().to_owned(),
        uploads: UploadSettings::default(),
        timeout: PATIENCE,
    })
    .unwrap();
    let mut written = Written::default();
    for (service, at) in [
        (Arc::new(memory.clone()) as Arc<dyn BackendService>, "/"),
        (Arc::new(local), "/"),
        (Arc::new(memory.clone()), "/elsewhere"),
    ] {
        let services = HashMap::from([("memory".to_owned(), service)]);
        let mounts = vec![testing::everything(at, "memory")];
        let mut client = Client::serving(services, mounts, ALL, |directory| {
            testing::journal_behind(veil.cloned(), directory)
        })
        .greeted()
        .await;
        for name in [&b"/"[..], b"/\xff"] {
            ask_for_everything(&mut client, &memory, &[name, NEEDLE].concat()).await;
        }
        let left = client.leave().await;
        for file in std::fs::read_dir(left.directory.path().join("journal")).unwrap() {
            written
                .bytes
                .extend(std::fs::read(file.unwrap().path()).unwrap_or_default());
        }
        written.records.extend(left.records);
    }
    written
}

async fn ask_for_everything(client: &mut Client, memory: &Memory, name: &[u8]) {
    let named = |end: &str| [name, end.as_bytes()].concat();
    let (file, other, folder) = (named(".csv"), named("-2"), named("-folder"));
    let mut handles = Vec::new();
    for fails in [false, true] {
        let failure = BackendError::new(
            ErrorKind::Failure,
            Origin::Backend,
            format!("can't do it to {}", String::from_utf8_lossy(name)),
        );
        memory.fail_with(fails.then_some(failure));
        if !fails {
            for (path, flags) in [(&file, REPLACE), (&other, REPLACE)] {
                if let Reply::Handle(handle) = client.ask(open(path, flags)).await {
                    client.ask(write(handle, 0, b"content")).await;
                    client.ask(close(handle)).await;
                }
            }
            for request in [
                open(&file, READ),
                open(&named("-3"), REPLACE),
                Packet::new(11).string(b"/"),
            ] {
                if let Reply::Handle(handle) = client.ask(request).await {
                    handles.push(handle);
                }
            }
        }
        let reader = handles.first().copied().unwrap_or(HandleId(1));
        let writer = handles.get(1).copied().unwrap_or(HandleId(2));
        let lister = handles.get(2).copied().unwrap_or(HandleId(3));
        let mode = |request: Packet| request.number(4).number(0o600);
        for request in [
            open(&file, READ),
            Packet::new(11).string(&folder),
            mode(Packet::new(14).string(&folder)),
            read(reader, 0, 7),
            write(writer, 0, b"content"),
            stat(&file),
            Packet::new(7).string(&file),
            Packet::new(8).handle(reader),
            mode(Packet::new(9).string(&file)),
            mode(Packet::new(10).handle(writer)),
            mode(Packet::extended("lsetstat@openssh.com").string(&file)),
            Packet::new(12).handle(lister),
            Packet::new(16).string(&file),
            Packet::extended("expand-path@openssh.com").string(&[b"~", &file[..]].concat()),
            Packet::new(20).string(&file[1..]).string(&named("-link")),
            Packet::new(19).string(&named("-link")),
            Packet::extended("hardlink@openssh.com")
                .string(&file)
                .string(&named("-hard")),
            Packet::extended("statvfs@openssh.com").string(&folder),
            Packet::extended("fstatvfs@openssh.com").handle(reader),
            Packet::extended("fsync@openssh.com").handle(writer),
            Packet::extended("copy-data")
                .handle(reader)
                .long(0)
                .long(0)
                .handle(writer)
                .long(7),
            Packet::extended("check-file-handle")
                .handle(reader)
                .string(b"sha256")
                .long(0)
                .long(0)
                .number(0),
            Packet::extended("check-file-name")
                .string(&file)
                .string(b"sha256")
                .long(0)
                .long(0)
                .number(0),
            Packet::extended("limits@openssh.com"),
            Packet::extended("home-directory").string(NEEDLE),
            Packet::extended("users-groups-by-id@openssh.com")
                .string(&[0; 4])
                .string(&[0; 4]),
            Packet::new(18).string(&file).string(&named("-moved.csv")),
            Packet::extended("posix-rename@openssh.com")
                .string(&named("-moved.csv"))
                .string(&file),
            Packet::new(13).string(&other),
            Packet::new(13).string(&named("-missing")),
            Packet::new(15).string(&folder),
            // Refused by the parser, which keeps a part of them as evidence.
            Packet::extended("expand-path@openssh.com").string(&[b"~root/", NEEDLE].concat()),
            Packet::new(17).string(&[b"/\0", NEEDLE].concat()),
            Packet::new(18).string(&file),
            Packet::extended(&String::from_utf8_lossy(NEEDLE)).string(&file),
            Packet::new(77).string(&file),
        ] {
            client.ask(request).await;
        }
    }
    memory.fail_with(None);
    // Half of them are closed; the summaries of the others come with the channel's end.
    for handle in handles.into_iter().step_by(2) {
        client.ask(close(handle)).await;
    }
}

#[tokio::test]
async fn names_of_files_stand_in_a_clear_journal_and_nowhere_in_one_that_hides_them() {
    let clear = written(None).await;
    assert!(has_needle(&clear.bytes));
    let operations: BTreeSet<_> = clear
        .records
        .iter()
        .filter(|record| record["event"] == "op.intent")
        .filter_map(|record| record["sftp_op"].as_str())
        .collect();
    assert_eq!(operations, BTreeSet::from(OPERATIONS));
    let needles = clear.needles();
    for (event, operation) in [
        ("op.intent", "stat"),
        ("op.intent", "symlink"),
        ("op.outcome", ""),
        ("op.denied", "rename"),
        ("op.denied", "expand_path"),
        ("xfer.summary", ""),
    ] {
        assert!(
            needles.contains(&(event, operation)),
            "{event} {operation}: {needles:?}"
        );
    }

    let directory = tempfile::tempdir().unwrap();
    let (secret, auditor) = AuditorSecret::generate(&directory.path().join("auditor")).unwrap();
    let key = PathKey::new(&[7; 32]);
    for auditor in [None, Some(auditor)] {
        let veil = Arc::new(PathVeil::new(key.clone(), auditor.clone())) as Arc<dyn Veil>;
        let hidden = written(Some(&veil)).await;
        assert!(!has_needle(&hidden.bytes), "{:?}", hidden.needles());
        assert_eq!(hidden.needles(), BTreeSet::new());
        assert_eq!(hidden.records.len(), clear.records.len());
        let file = key.token(&[b"/", NEEDLE, b".csv"].concat());
        let named = |record: &&Value| record["path"] == *file;
        assert!(hidden.records.iter().filter(named).count() > 20);
        let mut opened = 0;
        for (field, value) in hidden
            .records
            .iter()
            .flat_map(|record| record.as_object().unwrap())
        {
            if field.ends_with("_sealed") {
                opened += usize::from(has_needle(&secret.open(value.as_str().unwrap()).unwrap()));
            }
        }
        let has_auditor = auditor.is_some();
        assert_eq!(opened > 100, has_auditor, "{opened}");
        assert_eq!(
            hidden
                .records
                .iter()
                .any(|record| !record["hidden"].is_null()),
            !has_auditor
        );
    }
}
