//! Servers that know little, speak oddly, hang or hang up.

use std::time::Instant;

use super::{
    path,
    scripted::{REFUSED, Script, Scripted, TIMEOUT},
};
use crate::{
    backend::{ErrorKind, conformance::REPLACE},
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
        (b"A.TXT;1   1  8-SEP-1996 16:09 [SYSTEM] (RWE,RWE,RE,RE)\r\n", None),
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
