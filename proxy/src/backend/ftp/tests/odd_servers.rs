//! Servers that know little, speak oddly, hang or hang up.

use std::time::Instant;

use super::{
    path,
    scripted::{REFUSED, Script, Scripted, TIMEOUT},
};
use crate::{
    backend::{ErrorKind, conformance::REPLACE, ftp::settings::Charset},
    operation::{Attributes, HandleId, Operation},
};

#[tokio::test]
async fn a_server_that_knows_only_rfc_959_is_enough() {
    let server = Scripted::start(Script {
        features: &[],
        answers: ["SIZE", "MDTM", "EPSV", "MLST", "MLSD", "OPTS"]
            .map(|verb| (verb, REFUSED))
            .into(),
        claimed_address: "192,0,2,99",
        ..Script::default()
    })
    .await;
    let client = server.client();
    client.put("/a b.csv", "content").await;
    assert_eq!(client.stat("/a b.csv").await.unwrap().size, Some(7));
    assert_eq!(client.get("/a b.csv").await, b"content");
    assert_eq!(client.names("/").await, [b"a b.csv"]);
    assert!(client.is_missing("/b").await);
    assert!(client.stat("/").await.unwrap().is_directory());
    client
        .done(Operation::Rename {
            from: path("/a b.csv"),
            to: path("/c"),
        })
        .await;
    client.done(Operation::Remove { path: path("/c") }).await;
    assert!(server.names().is_empty());
}

#[tokio::test]
async fn epsv_that_is_announced_and_unknown_gives_way_to_pasv() {
    let server = Scripted::start(Script {
        answers: [("EPSV", "500 what?")].into(),
        ..Script::default()
    })
    .await;
    let client = server.client();
    client.put("/a", "content").await;
    assert_eq!(client.get("/a").await, b"content");
    client.end().await;
    let again = server.client();
    assert_eq!(again.get("/a").await, b"content");
    let asked = server
        .commands()
        .iter()
        .filter(|line| *line == "EPSV")
        .count();
    assert_eq!(asked, 1, "the lesson is kept for all sessions");
}

#[tokio::test]
async fn mlsd_is_used_where_it_is_announced() {
    let server = Scripted::start(Script {
        features: &["MLST type*;size*;", "EPSV", "SIZE"],
        answers: [("MLST", "250-Listing\r\n type=dir; /\r\n250 End")].into(),
        ..Script::default()
    })
    .await;
    server.has("/a", b"123");
    let client = server.client();
    assert_eq!(client.list("/").await[0].attributes.size, Some(3));
    let commands = server.commands();
    assert!(commands.iter().any(|line| line == "MLSD /"));
    assert!(commands.iter().all(|line| !line.starts_with("LIST")));
}

#[tokio::test]
async fn listings_in_odd_forms_are_read_and_an_unreadable_one_is_not_an_empty_directory() {
    for (listing, expected) in [
        (&b"10-19-20  03:19PM       <DIR>          pub\r\n10-19-20  03:19PM    12 a.txt\r\n"[..], Some(["a.txt", "pub"])),
        (b"+i8388621.48594,m825718503,r,s280,\ta.txt\r\n+i8388621.50690,m824255907,/,\tpub\r\n", Some(["a.txt", "pub"])),
        (b"total 2\n-rw-r--r-- 1 u g 12 Jan 2 2020 a.txt\ndrwxr-xr-x 2 u g 4096 Jan 2 2020 pub\n", Some(["a.txt", "pub"])),
        (b"\r\nDirectory D:[LAB]\r\n\r\na.txt;1   1  8-SEP-1996 16:09 [SYSTEM] (RWE,RWE,RE,RE)\r\npub.DIR;1 1  8-SEP-1996 16:09\r\n\r\nTotal of 2 files, 2 blocks.\r\n", Some(["a.txt", "pub"])),
        (b"Inhalt von A: 1 Datei\r\n a.txt 12 Bytes\r\n", None),
    ] {
        let server = Scripted::start(Script { listing: Some(listing), ..Script::default() }).await;
        let client = server.client();
        match expected {
            Some(names) => assert_eq!(client.names("/").await, names.map(|name| name.as_bytes().to_vec())),
            None => {
                let open = Operation::Opendir { path: path("/"), handle: HandleId(9) };
                assert_eq!(client.refusal(open).await, ErrorKind::Unavailable);
            }
        }
    }
}

#[tokio::test]
async fn staging_files_are_hidden_from_listings() {
    let server = Scripted::start(Script::default()).await;
    server.has("/.portcullis-0123456789abcdef.part", b"");
    server.has("/.portcullis", b"");
    assert_eq!(server.client().names("/").await, [b".portcullis"]);
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_deadline_and_the_session_goes_on() {
    for verb in ["USER", "STOR", "EPSV", "SIZE"] {
        let server = Scripted::start(Script {
            hang_at: Some(verb),
            ..Script::default()
        })
        .await;
        let client = server.client();
        let begun = Instant::now();
        let error = client
            .ask(client.open_operation("/a", REPLACE))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut, "{verb}: {error}");
        assert!(error.message.contains("127.0.0.1:"), "{error}");
        // STOR: the staging file is then removed over new connections.
        assert!(
            begun.elapsed() < TIMEOUT * 5,
            "{verb}: {:?}",
            begun.elapsed()
        );
        assert!(server.file("/a").is_none());
    }
    let server = Scripted::start(Script {
        hang_at: Some("MKD"),
        ..Script::default()
    })
    .await;
    let client = server.client();
    let mkdir = Operation::Mkdir {
        path: path("/d"),
        attributes: Attributes::default(),
    };
    assert_eq!(client.refusal(mkdir).await, ErrorKind::TimedOut);
    assert!(
        client.is_missing("/a").await,
        "the next operation has a new connection"
    );
    assert_eq!(server.disk.lock().unwrap().logins, 2);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced_unnoticed() {
    let server = Scripted::start(Script {
        // The server hangs up after each RMD.
        answers: [("RMD", "421 good bye")].into(),
        ..Script::default()
    })
    .await;
    let client = server.client();
    assert_eq!(
        client.refusal(Operation::Rmdir { path: path("/d") }).await,
        ErrorKind::Unavailable
    );
    assert!(client.is_missing("/a").await);
    assert_eq!(server.disk.lock().unwrap().logins, 2);
}

#[tokio::test]
async fn what_ftp_can_t_do_is_refused_as_unsupported() {
    let server = Scripted::start(Script::default()).await;
    server.has("/a", b"content");
    let client = server.client();
    let upload = client.open("/b", REPLACE).await;
    for operation in [
        Operation::Readlink { path: path("/a") },
        Operation::Statvfs { path: path("/") },
        Operation::Fsync { handle: upload },
    ] {
        assert_eq!(client.refusal(operation).await, ErrorKind::Unsupported);
    }
    client.close(upload).await;
}

#[tokio::test]
async fn a_line_of_a_mebibyte_is_passed_over_and_an_endless_listing_ends_in_an_error() {
    let mut long = b"-rw-r--r-- 1 u g 12 Jan 2 2020 ".to_vec();
    long.resize(1 << 20, b'x');
    long.extend_from_slice(b"\r\n-rw-r--r-- 1 u g 12 Jan 2 2020 a.txt\r\n");
    let server = Scripted::start(Script {
        listing: Some(long.leak()),
        ..Script::default()
    })
    .await;
    assert_eq!(server.client().names("/").await, [b"a.txt"]);

    let mut line = b"-rw-r--r-- 1 u g 12 Jan 2 2020 ".to_vec();
    line.resize(4096, b'x');
    line.extend_from_slice(b"\r\n");
    let server = Scripted::start(Script {
        listing: Some(line.leak()),
        endless_listing: true,
        ..Script::default()
    })
    .await;
    let client = server.client();
    let open = Operation::Opendir {
        path: path("/"),
        handle: HandleId(9),
    };
    let error = client.ask(open).await.unwrap_err();
    // On a slow machine the time is up before the bytes are.
    let is_bounded = ["more than", "not complete"]
        .iter()
        .any(|bound| error.message.contains(bound));
    assert!(is_bounded, "{error}");
    assert!(client.is_missing("/x").await, "the session goes on");
}

#[tokio::test]
async fn an_idle_connection_says_noop_and_the_session_needs_no_new_login() {
    let server = Scripted::start(Script {
        keepalive: std::time::Duration::from_millis(20),
        ..Script::default()
    })
    .await;
    let client = server.client();
    assert!(client.is_missing("/x").await);
    super::until("two signs of life", || {
        server
            .commands()
            .iter()
            .filter(|line| *line == "NOOP")
            .count()
            >= 2
    })
    .await;
    assert!(client.is_missing("/x").await);
    assert_eq!(server.disk.lock().unwrap().logins, 1);
    client.end().await;
}

#[tokio::test]
async fn connections_that_nobody_uses_any_more_are_closed_but_one() {
    let server = Scripted::start(Script {
        keepalive: std::time::Duration::from_millis(50),
        ..Script::default()
    })
    .await;
    let client = server.client();
    for name in ["/a", "/b", "/c"] {
        server.has(name, &vec![7; 16 << 20]);
    }
    let mut handles = Vec::new();
    for name in ["/a", "/b", "/c"] {
        let handle = client.open(name, crate::backend::conformance::READ).await;
        assert_eq!(client.read(handle, 0, 10).await.len(), 10);
        handles.push(handle);
    }
    assert!(server.disk.lock().unwrap().open >= 3);
    for handle in handles {
        client.close(handle).await;
    }
    super::until("the others to be closed", || {
        server.disk.lock().unwrap().open == 1
    })
    .await;
}

#[tokio::test]
async fn old_staging_files_are_removed_and_young_or_foreign_ones_stay() {
    let now = chrono::Utc::now();
    let time = |hours| {
        let moment = now - chrono::Duration::hours(hours);
        &*format!("213 {}", moment.format("%Y%m%d%H%M%S")).leak()
    };
    for (answer, left) in [
        (time(25), false),
        (time(23), true),
        ("550 what time?", false),
    ] {
        let server = Scripted::start(Script {
            answers: [("MDTM", answer)].into(),
            ..Script::default()
        })
        .await;
        server.has("/.portcullis-0123456789abcdef.part", b"half");
        server.has(
            "/.portcullis-0123456789abcdef.old",
            b"all that is left of it",
        );
        server.has("/.portcullis-mine", b"");
        let client = server.client();
        let upload = client.open("/a", REPLACE).await;
        assert_eq!(client.names("/").await.len(), 0);
        let names = server.names();
        let is_left = names
            .iter()
            .any(|name| name == "/.portcullis-0123456789abcdef.part");
        assert_eq!(is_left, left, "{answer}");
        // The upload in progress, the file that was moved aside, and the name that is no staging file's.
        assert_eq!(names.len(), 3 + usize::from(left), "{names:?}");
        client.close(upload).await;
    }
}

#[tokio::test]
async fn names_are_converted_where_the_server_speaks_latin1() {
    let server = Scripted::start(Script {
        features: &["UTF8", "SIZE"],
        charset: Charset::Latin1,
        ..Script::default()
    })
    .await;
    let client = server.client();
    client.put("/M\u{fc}ller", "content").await;
    let stored = server
        .disk
        .lock()
        .unwrap()
        .files
        .contains_key(&b"/M\xfcller"[..]);
    assert!(stored, "{:?}", server.names());
    assert_eq!(client.names("/").await, ["M\u{fc}ller".as_bytes()]);
    assert_eq!(client.get("/M\u{fc}ller").await, b"content");
    for refused in ["/\u{20ac}".as_bytes(), b"/M\xfcller"] {
        let stat = Operation::Stat {
            path: path(refused),
        };
        assert_eq!(client.refusal(stat).await, ErrorKind::Unsupported);
    }
    assert!(
        server
            .commands()
            .iter()
            .all(|line| !line.starts_with("OPTS"))
    );

    let server = Scripted::start(Script {
        features: &["UTF8", "SIZE"],
        ..Script::default()
    })
    .await;
    server.client().put("/M\u{fc}ller", "content").await;
    assert_eq!(server.names(), ["/M\u{fc}ller"], "as they are");
    assert!(server.commands().contains(&"OPTS UTF8 ON".to_owned()));
}

#[tokio::test]
async fn a_download_resumes_on_a_server_without_rest() {
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number / 3) as u8)
        .collect();
    let server = Scripted::start(Script {
        answers: [("REST", REFUSED)].into(),
        ..Script::default()
    })
    .await;
    server.has("/a", &content);
    let client = server.client();
    let handle = client.open("/a", crate::backend::conformance::READ).await;
    for offset in [2_500_000_usize, 100, 2_999_999] {
        let data = client.read(handle, offset as u64, 1000).await;
        let end = content.len().min(offset + 1000);
        assert!(data == content[offset..end], "at {offset}");
    }
    client.close(handle).await;
}

#[tokio::test]
async fn facts_that_are_left_out_unless_asked_for_are_asked_for_and_only_those_that_are_used() {
    for (offered, asked) in [
        (
            "MLST Type*;Size*;Modify*;Perm*;Unique*;UNIX.mode;UNIX.uid;X.foo;",
            Some("OPTS MLST Type;Size;Modify;UNIX.mode;UNIX.uid;"),
        ),
        ("MLST type;size;", Some("OPTS MLST type;size;")),
        ("MLST type*;size*;modify*;UNIX.mode*;perm;", None),
    ] {
        let features = Vec::leak(vec![offered, "EPSV", "SIZE"]);
        let server = Scripted::start(Script {
            features,
            answers: [("MLST", "250-Listing\r\n type=dir; /\r\n250 End")].into(),
            ..Script::default()
        })
        .await;
        assert!(server.client().stat("/").await.unwrap().is_directory());
        let commands = server.commands();
        let asked_for = commands.iter().find(|line| line.starts_with("OPTS"));
        assert_eq!(asked_for.map(String::as_str), asked, "{offered}");
    }
}

#[tokio::test]
async fn permissions_are_known_to_be_shown_where_the_server_tells_them() {
    use crate::backend::BackendService as _;
    for (offered, answer, shown) in [
        ("MLST type*;size*;UNIX.mode;", "200 fine", true),
        ("MLST type*;size*;UNIX.mode;", "501 no such option", false),
        ("MLST type*;size;UNIX.mode*;", "501 no such option", true),
        ("MLST type*;size*;", "200 fine", false),
    ] {
        let server = Scripted::start(Script {
            features: Vec::leak(vec![offered, "EPSV", "SIZE"]),
            answers: [
                ("MLST", "250-Listing\r\n type=dir; /\r\n250 End"),
                ("OPTS", answer),
            ]
            .into(),
            ..Script::default()
        })
        .await;
        let session = server.service.session(b"/", &crate::testing::owner());
        assert!(server.client().stat("/").await.is_ok(), "{offered}");
        let shows = session.capabilities().shows;
        assert_eq!(shows.permissions, shown, "{offered}, {answer}");
    }
}
