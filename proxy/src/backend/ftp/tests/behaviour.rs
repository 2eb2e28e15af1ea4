//! What the real servers do not do, or not on demand.

use std::time::{Duration, Instant};

use super::scripted::{REFUSED, Script, Scripted, TIMEOUT};
use crate::{
    backend::{
        ErrorKind, Origin,
        conformance::{Client, READ, REPLACE, WRITE},
    },
    operation::{Access, Attributes, HandleId, Operation},
    path::VirtualPath,
};

fn path(name: impl AsRef<[u8]>) -> VirtualPath {
    VirtualPath::clean(name.as_ref()).unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::task::yield_now().await;
    }
}

async fn try_write(client: &Client, handle: HandleId, offset: u64, data: Vec<u8>) -> ErrorKind {
    client
        .refusal(Operation::Write {
            handle,
            offset,
            data: data.into(),
        })
        .await
}

#[tokio::test]
async fn a_line_break_in_a_name_never_reaches_the_control_connection() {
    let server = Scripted::start(Script::default()).await;
    server.has("/victim", b"still here");
    let client = server.client();
    for name in [&b"/a\r\nDELE /victim"[..], b"/a\nDELE /victim", b"/a\rb"] {
        for operation in [
            Operation::Stat { path: path(name) },
            Operation::Remove { path: path(name) },
            Operation::Rename {
                from: path("/victim"),
                to: path(name),
            },
            Operation::Mkdir {
                path: path(name),
                attributes: Attributes::default(),
            },
            client.open_operation(name, REPLACE),
            client.open_operation(name, READ),
        ] {
            assert_eq!(client.refusal(operation).await, ErrorKind::InvalidArgument);
        }
    }
    assert_eq!(server.file("/victim").unwrap(), b"still here");
    assert!(server.commands().iter().all(|line| !line.contains("DELE")));
    client
        .done(Operation::Remove {
            path: path("/victim"),
        })
        .await;
}

#[tokio::test]
async fn the_byte_0xff_is_doubled_on_the_wire() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let _ = client
        .ask(Operation::Stat {
            path: path(b"/a\xff\xfe"),
        })
        .await;
    let disk = server.disk.lock().unwrap();
    assert!(
        disk.commands.contains(&b"SIZE /a\xff\xff\xfe".to_vec()),
        "{:?}",
        disk.commands
    );
}

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
async fn a_refused_login_names_the_backend_and_is_the_gateways_fault() {
    let server = Scripted::start(Script {
        answers: [("PASS", "530 Login incorrect.")].into(),
        ..Script::default()
    })
    .await;
    let error = server.client().stat("/a").await.unwrap_err();
    assert_eq!(
        (error.kind, error.origin),
        (ErrorKind::Unavailable, Origin::Gateway)
    );
    assert!(
        error.message.contains("127.0.0.1:") && error.message.contains("530 Login incorrect."),
        "{error}"
    );
    assert!(!error.message.contains("secret"));
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_published() {
    let server = Scripted::start(Script {
        room: Some(100_000),
        ..Script::default()
    })
    .await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    let mut refused = None;
    for number in 0..1000 {
        let write = Operation::Write {
            handle,
            offset: number * 100_000,
            data: vec![0; 100_000].into(),
        };
        if let Err(error) = client.ask(write).await {
            refused = Some(error.kind);
            break;
        }
    }
    assert_eq!(refused, Some(ErrorKind::NoSpace));
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::NoSpace
    );
    assert!(server.names().is_empty(), "{:?}", server.names());
}

#[tokio::test]
async fn an_upload_that_ends_with_a_gap_an_overlap_or_a_refusal_is_withdrawn() {
    let server = Scripted::start(Script::default()).await;
    server.has("/a", b"old");
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "head").await;
    client.write(handle, 8, "tail").await;
    let error = client.ask(Operation::Close { handle }).await.unwrap_err();
    assert!(
        error.message.contains("bytes 4 to 8 were never written"),
        "{error}"
    );

    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 2, "tail").await;
    assert_eq!(
        try_write(&client, handle, 0, b"head".to_vec()).await,
        ErrorKind::Unsupported
    );
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::Unsupported
    );

    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "head").await;
    assert_eq!(
        try_write(&client, handle, 2, b"again".to_vec()).await,
        ErrorKind::Unsupported
    );
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::Unsupported
    );

    assert_eq!(server.names(), ["/a"]);
    assert_eq!(server.file("/a").unwrap(), b"old");
}

#[tokio::test]
async fn writes_out_of_order_are_put_in_order_within_the_window_and_refused_beyond() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 8, "tail").await;
    client.write(handle, 4, "body").await;
    client.write(handle, 0, "head").await;
    client.close(handle).await;
    assert_eq!(server.file("/a").unwrap(), b"headbodytail");

    let handle = client.open("/b", REPLACE).await;
    let chunk = vec![7; 16 << 20];
    client.write(handle, 1, chunk.clone()).await;
    client.write(handle, 1 + (16 << 20), chunk.clone()).await;
    assert_eq!(
        try_write(&client, handle, 1 + (32 << 20), vec![7]).await,
        ErrorKind::Unsupported
    );
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::Unsupported
    );
    assert_eq!(server.names(), ["/a"]);
}

#[tokio::test]
async fn a_server_that_keeps_fewer_bytes_than_it_confirms_is_found_out() {
    let server = Scripted::start(Script {
        answers: [("SIZE", "213 3")].into(),
        ..Script::default()
    })
    .await;
    let client = server.client();
    let handle = client
        .open(
            "/a",
            Access {
                truncate: true,
                ..REPLACE
            },
        )
        .await;
    client.write(handle, 0, "content").await;
    let error = client.ask(Operation::Close { handle }).await.unwrap_err();
    assert!(error.message.contains("3 bytes of 7"), "{error}");
    assert!(server.names().is_empty());
}

#[tokio::test]
async fn a_download_that_the_server_cuts_short_is_an_error_and_not_an_end() {
    let server = Scripted::start(Script {
        cuts_downloads_at: Some(5),
        ..Script::default()
    })
    .await;
    server.has("/a", b"0123456789");
    let client = server.client();
    let handle = client.open("/a", READ).await;
    let read = Operation::Read {
        handle,
        offset: 0,
        length: 100,
    };
    let error = client.ask(read).await.unwrap_err();
    assert!(error.message.contains("5 of 10 bytes"), "{error}");
}

#[tokio::test]
async fn where_rename_does_not_replace_the_old_file_is_moved_aside_first() {
    let server = Scripted::start(Script {
        replaces: false,
        ..Script::default()
    })
    .await;
    server.has("/a", b"old");
    let client = server.client();
    client.put("/a", "new").await;
    assert_eq!(server.file("/a").unwrap(), b"new");
    client.put("/b", "b").await;
    client
        .done(Operation::PosixRename {
            from: path("/b"),
            to: path("/a"),
        })
        .await;
    assert_eq!(server.file("/a").unwrap(), b"b");
    let missing = Operation::PosixRename {
        from: path("/b"),
        to: path("/a"),
    };
    assert_eq!(client.refusal(missing).await, ErrorKind::NotFound);
    assert_eq!(
        server.names(),
        ["/a"],
        "neither the old file nor a staging file is left"
    );
}

#[tokio::test]
async fn an_existing_file_is_not_changed_in_place_unless_it_is_empty() {
    let server = Scripted::start(Script::default()).await;
    server.has("/full", b"content");
    server.has("/empty", b"");
    let client = server.client();
    assert_eq!(
        client.refusal(client.open_operation("/full", WRITE)).await,
        ErrorKind::Unsupported
    );
    let handle = client.open("/empty", WRITE).await;
    client.write(handle, 0, "x").await;
    client.close(handle).await;
    assert_eq!(server.file("/empty").unwrap(), b"x");
    assert_eq!(server.file("/full").unwrap(), b"content");
}

#[tokio::test]
async fn attributes_that_the_server_cant_set_are_refused_and_do_not_cost_the_upload() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "content").await;
    let set = |attributes| Operation::Fsetstat { handle, attributes };
    client
        .done(set(Attributes {
            times: Some((1, 1)),
            ..Attributes::default()
        }))
        .await;
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::Unsupported
    );
    assert_eq!(server.file("/a").unwrap(), b"content");

    // Learned: the next one hears it before the upload ends.
    let handle = client.open("/b", REPLACE).await;
    let times = Attributes {
        times: Some((1, 1)),
        ..Attributes::default()
    };
    let set = Operation::Fsetstat {
        handle,
        attributes: times.clone(),
    };
    assert_eq!(client.refusal(set).await, ErrorKind::Unsupported);
    client.close(handle).await;
    let set = Operation::Setstat {
        path: path("/b"),
        attributes: times,
    };
    assert_eq!(client.refusal(set).await, ErrorKind::Unsupported);
    let size = Operation::Setstat {
        path: path("/b"),
        attributes: Attributes {
            size: Some(0),
            ..Attributes::default()
        },
    };
    assert_eq!(client.refusal(size).await, ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_session_that_is_dropped_without_its_end_leaves_nothing_behind() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "half").await;
    assert_eq!(server.names().len(), 1);
    drop(client);
    until("the staging file to go", || server.names().is_empty()).await;
}

#[tokio::test]
async fn a_reader_may_jump_and_reads_a_little_out_of_order_use_one_transfer() {
    let content: Vec<u8> = (0..5_000_000_u32).map(|number| number as u8).collect();
    let server = Scripted::start(Script::default()).await;
    server.has("/a", &content);
    let client = server.client();
    let handle = client.open("/a", READ).await;
    for offset in [0_usize, 64_000, 32_000, 96_000, 4_500_000, 10, 4_999_990] {
        let length = 32_000.min(content.len() - offset);
        let data = client.read(handle, offset as u64, 32_000).await;
        assert!(data == content[offset..offset + length], "at {offset}");
    }
    let transfers = |verb: &str| {
        server
            .commands()
            .iter()
            .filter(|line| line.starts_with(verb))
            .count()
    };
    assert_eq!(transfers("RETR"), 4);
    assert_eq!(transfers("REST"), 3);
    client.close(handle).await;
}

#[tokio::test]
async fn more_uploads_than_connections_are_refused_and_one_fewer_goes_on() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let mut handles = Vec::new();
    for number in 0..3 {
        handles.push(client.open(format!("/{number}"), REPLACE).await);
    }
    let error = client
        .ask(client.open_operation("/3", REPLACE))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("close one first"), "{error}");
    assert!(
        client.is_missing("/x").await,
        "names are served all the while"
    );
    for handle in handles {
        client.close(handle).await;
    }
    client.put("/3", "").await;
    assert_eq!(server.names(), ["/0", "/1", "/2", "/3"]);
}

#[tokio::test]
async fn more_downloads_than_connections_take_turns() {
    let server = Scripted::start(Script::default()).await;
    let content = vec![5; 3_000_000];
    let client = server.client();
    let mut handles = Vec::new();
    for number in 0..6 {
        let name = format!("/{number}");
        server.has(&name, &content);
        handles.push(client.open(&name, READ).await);
    }
    for offset in 0..3 {
        for handle in &handles {
            assert_eq!(
                client.read(*handle, offset * 32_000, 32_000).await.len(),
                32_000
            );
        }
    }
}

#[tokio::test]
async fn tls_that_the_server_refuses_is_not_replaced_by_plain_text() {
    use super::super::{FtpService, FtpTls, TlsTrust};
    use crate::backend::BackendService as _;
    let server = Scripted::start(Script::default()).await;
    let mut settings = super::settings(server.address, FtpTls::None);
    settings.tls = FtpTls::Explicit {
        server_name: "localhost".to_owned(),
        trust: TlsTrust::Pinned([0; 32]),
    };
    let service = FtpService::new(settings).unwrap();
    let error = Client::new(service.session(b"/"))
        .stat("/a")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.origin),
        (ErrorKind::Unavailable, Origin::Gateway)
    );
    assert!(error.message.contains("AUTH TLS"), "{error}");
    let commands = server.commands();
    assert_eq!(commands, ["AUTH TLS"], "no user name, no password");
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

/// An authority, a certificate for `localhost` that it vouches for, and a server that shows it.
fn certified(
    version: &'static rustls::SupportedProtocolVersion,
) -> (Vec<u8>, rustls::ServerConfig) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let anchor = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::new(authority, authority_key))
        .unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    (anchor.pem().into_bytes(), config)
}

#[tokio::test]
async fn an_authority_vouches_for_its_server_and_for_no_other_name_over_either_version_of_tls() {
    use super::super::{FtpService, FtpTls, TlsTrust};
    use crate::backend::BackendService as _;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (anchor, config) = certified(version);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), anchor).unwrap();
        let server = Scripted::start(Script {
            tls: Some(std::sync::Arc::new(config)),
            ..Script::default()
        })
        .await;
        let client = |server_name: &str| {
            let mut settings = super::settings(server.address, FtpTls::None);
            settings.tls = FtpTls::Explicit {
                server_name: server_name.to_owned(),
                trust: TlsTrust::authorities_in(file.path()).unwrap(),
            };
            Client::new(FtpService::new(settings).unwrap().session(b"/"))
        };
        let right = client("localhost");
        right.put("/a", "content").await;
        assert_eq!(right.get("/a").await, b"content");
        assert_eq!(right.names("/").await, [b"a"]);
        let logins = server.disk.lock().unwrap().logins;
        let error = client("other.example").stat("/a").await.unwrap_err();
        assert_eq!(
            (error.kind, error.origin),
            (ErrorKind::Unavailable, Origin::Gateway),
            "{error}"
        );
        assert_eq!(
            server.disk.lock().unwrap().logins,
            logins,
            "no password for a stranger"
        );
    }
}

#[test]
fn a_file_without_a_certificate_is_no_trust_anchor() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = super::TlsTrust::authorities_in(file.path()).unwrap_err();
    assert!(error.to_string().contains("no certificate in"), "{error}");
    std::fs::remove_file(file.path()).unwrap();
    assert!(super::TlsTrust::authorities_in(file.path()).is_err());
}
