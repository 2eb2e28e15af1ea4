//! Every request of version 3 and every extension that is announced, served.

use super::*;

const SIZE: u32 = 1;
const MODE: u32 = 4;

#[tokio::test]
async fn a_file_goes_up_and_comes_down_and_is_published_at_close() {
    let mut client = Client::start().await;
    let content: Vec<u8> = (0..300_000_u32).map(|byte| byte as u8).collect();
    let handle = client.open(b"/a.bin", REPLACE).await;
    let mut ids = Vec::new();
    for (at, chunk) in content.chunks(32_768).enumerate() {
        ids.push(
            client
                .request(write(handle, at as u64 * 32_768, chunk))
                .await,
        );
    }
    for id in ids {
        assert_eq!(client.reply(id).await, Reply::Status(Status::Ok));
    }
    assert_eq!(client.memory.file(b"a.bin"), None, "seen before CLOSE");
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert_eq!(client.memory.file(b"a.bin").unwrap(), content);

    let handle = client.open(b"/a.bin", READ).await;
    let mut read_back = Vec::new();
    loop {
        match client
            .ask(read(handle, read_back.len() as u64, 261_120))
            .await
        {
            Reply::Data(data) => read_back.extend(data),
            Reply::Status(Status::Eof) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(read_back == content);
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert_eq!(client.status(close(handle)).await, Status::Failure);
}

#[tokio::test]
async fn requests_sent_without_waiting_are_done_in_the_order_that_matters() {
    let mut client = Client::start().await;
    for round in 0..50_u32 {
        let name = format!("/file-{round}");
        let handle = client.open(name.as_bytes(), REPLACE).await;
        let first = client.request(write(handle, 0, b"aaaa")).await;
        let second = client.request(write(handle, 2, b"bb")).await;
        let closed = client.request(close(handle)).await;
        let renamed = client
            .request(Packet::new(18).string(name.as_bytes()).string(b"/done"))
            .await;
        let seen = client.request(stat(b"/done")).await;
        let removed = client.request(Packet::new(13).string(b"/done")).await;
        let gone = client.request(stat(b"/done")).await;
        for id in [first, second, closed, renamed, removed] {
            assert_eq!(client.reply(id).await, Reply::Status(Status::Ok));
        }
        let Reply::Attributes(flags, rest) = client.reply(seen).await else {
            panic!("the renamed file is there");
        };
        assert_eq!((flags & SIZE, &rest[..8]), (SIZE, &4_u64.to_be_bytes()[..]));
        assert_eq!(client.reply(gone).await, Reply::Status(Status::NoSuchFile));
    }
}

#[tokio::test]
async fn directories_are_made_listed_and_removed() {
    let mut client = Client::start().await;
    let mkdir = |path: &[u8]| Packet::new(14).string(path).number(0);
    assert_eq!(client.status(mkdir(b"/dir")).await, Status::Ok);
    assert_eq!(client.status(mkdir(b"/dir")).await, Status::Failure);
    for number in 0..350 {
        client
            .memory
            .put(format!("dir/{number:03}").as_bytes(), b"x");
    }
    let Reply::Handle(handle) = client.ask(Packet::new(11).string(b"/dir")).await else {
        panic!("OPENDIR");
    };
    let mut names = Vec::new();
    loop {
        match client.ask(Packet::new(12).handle(handle)).await {
            Reply::Names(more) => names.extend(more),
            Reply::Status(Status::Eof) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert_eq!(names.len(), 350);
    let long = String::from_utf8(names[7].1.to_vec()).unwrap();
    assert_eq!(
        long.split_whitespace().collect::<Vec<_>>(),
        ["-rw-r--r--", "1", "0", "0", "1", "Jan", "1", "1970", "007"]
    );
    let rmdir = Packet::new(15).string(b"/dir");
    assert_eq!(client.status(rmdir.clone()).await, Status::Failure);
    for number in 0..350 {
        let remove = Packet::new(13).string(format!("/dir/{number:03}").as_bytes());
        assert_eq!(client.status(remove).await, Status::Ok);
    }
    assert_eq!(client.status(rmdir).await, Status::Ok);
}

#[tokio::test]
async fn attributes_are_read_and_set_by_name_and_by_handle() {
    let mut client = Client::start().await;
    client.put(b"/a", b"12345").await;
    let handle = client.open(b"/a", READ).await;
    let mode = |packet: Packet| packet.number(MODE).number(0o640);
    assert_eq!(
        client.status(mode(Packet::new(9).string(b"/a"))).await,
        Status::Ok
    );
    assert_eq!(
        client.status(mode(Packet::new(10).handle(handle))).await,
        Status::Ok
    );
    let lsetstat = Packet::extended("lsetstat@openssh.com").string(b"/a");
    assert_eq!(client.status(mode(lsetstat)).await, Status::Ok);
    for asked in [
        stat(b"/a"),
        Packet::new(7).string(b"/a"),
        Packet::new(8).handle(handle),
    ] {
        let Reply::Attributes(flags, rest) = client.ask(asked).await else {
            panic!("no attributes");
        };
        assert_eq!(flags & (SIZE | MODE), SIZE | MODE);
        assert_eq!(rest[..8], 5_u64.to_be_bytes());
        assert_eq!(rest[8..12], 0o100_640_u32.to_be_bytes());
    }
    let shorten = Packet::new(9).string(b"/a").number(SIZE).long(2);
    assert_eq!(client.status(shorten).await, Status::Ok);
    assert_eq!(client.memory.file(b"a").unwrap(), b"12");
}

#[tokio::test]
async fn renames_keep_or_replace_as_the_request_says() {
    let mut client = Client::start().await;
    client.put(b"/a", b"new").await;
    client.put(b"/b", b"old").await;
    let rename = Packet::new(18).string(b"/a").string(b"/b");
    assert_eq!(client.status(rename).await, Status::Failure);
    assert_eq!(client.memory.file(b"b").unwrap(), b"old");
    let replace = Packet::extended("posix-rename@openssh.com")
        .string(b"/a")
        .string(b"/b");
    assert_eq!(client.status(replace).await, Status::Ok);
    assert_eq!(client.memory.file(b"b").unwrap(), b"new");
    assert_eq!(client.memory.file(b"a"), None);
}

#[tokio::test]
async fn links_are_made_in_the_argument_order_of_openssh() {
    let mut client = Client::start().await;
    client.put(b"/target", b"content").await;
    let symlink = Packet::new(20).string(b"target").string(b"/link");
    assert_eq!(client.status(symlink).await, Status::Ok);
    let Reply::Names(names) = client.ask(Packet::new(19).string(b"/link")).await else {
        panic!("READLINK");
    };
    assert_eq!(names[0].0, "target");
    let out = Packet::new(20).string(b"../etc/passwd").string(b"/out");
    assert_eq!(client.status(out).await, Status::PermissionDenied);
}

#[tokio::test]
async fn paths_are_resolved_by_the_gateway_alone() {
    let mut client = Client::start().await;
    for (request, expected) in [
        (Packet::new(16).string(b"."), "/"),
        (Packet::new(16).string(b"/a/../../b/./c//"), "/b/c"),
        (
            Packet::extended("expand-path@openssh.com").string(b"~/x"),
            "/x",
        ),
        (
            Packet::extended("expand-path@openssh.com").string(b"~"),
            "/",
        ),
        (
            Packet::extended("expand-path@openssh.com").string(b"y"),
            "/y",
        ),
        (Packet::extended("home-directory").string(b"root"), "/"),
    ] {
        let Reply::Names(names) = client.ask(request.clone()).await else {
            panic!("{request:?}");
        };
        assert_eq!(names, [(Bytes::from(expected), Bytes::from(expected))]);
    }
    let foreign = Packet::extended("expand-path@openssh.com").string(b"~root/x");
    assert_eq!(client.status(foreign).await, Status::NoSuchFile);
    assert_eq!(client.memory.arrivals(), 0);
}

#[tokio::test]
async fn limits_file_systems_names_of_ids_and_syncs_are_answered() {
    let mut client = Client::start().await;
    let Reply::Extended(limits) = client.ask(Packet::extended("limits@openssh.com")).await else {
        panic!("limits");
    };
    let expected: Vec<u8> = [262_144_u64, 261_120, 261_120, 256]
        .into_iter()
        .flat_map(u64::to_be_bytes)
        .collect();
    assert_eq!(limits, expected);

    let handle = client.open(b"/a", REPLACE).await;
    for request in [
        Packet::extended("statvfs@openssh.com").string(b"/"),
        Packet::extended("fstatvfs@openssh.com").handle(handle),
    ] {
        let Reply::Extended(status) = client.ask(request).await else {
            panic!("statvfs");
        };
        assert_eq!(status.len(), 11 * 8);
    }
    let sync = Packet::extended("fsync@openssh.com").handle(handle);
    assert_eq!(client.status(sync).await, Status::Ok);

    let ids = Packet::extended("users-groups-by-id@openssh.com")
        .string(&[0, 0, 0, 1, 0, 0, 0, 2])
        .string(&[]);
    let Reply::Extended(names) = client.ask(ids).await else {
        panic!("users-groups-by-id");
    };
    assert_eq!(names[..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn names_that_are_no_text_stay_the_bytes_they_are() {
    let mut client = Client::start().await;
    client.put(b"/caf\xe9.txt", b"latin-1 e").await;
    client.put(b"/caf\xe8.txt", b"latin-1 e grave").await;
    assert_eq!(client.memory.file(b"caf\xe9.txt").unwrap(), b"latin-1 e");
    let Reply::Handle(handle) = client.ask(Packet::new(11).string(b"/")).await else {
        panic!("OPENDIR");
    };
    let Reply::Names(mut names) = client.ask(Packet::new(12).handle(handle)).await else {
        panic!("READDIR");
    };
    names.sort();
    let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"caf\xe8.txt"[..], b"caf\xe9.txt"]);
}

#[tokio::test]
async fn the_directories_above_the_mounts_show_the_mounts() {
    let mounts = ["/in/box", "/in/other", "/out"].map(|at| testing::everything(at, "memory"));
    let mut client = Client::with(mounts.into(), testing::journal).await;
    for (directory, expected) in [(&b"/"[..], &["in", "out"][..]), (b"/in", &["box", "other"])] {
        let Reply::Handle(handle) = client.ask(Packet::new(11).string(directory)).await else {
            panic!("OPENDIR");
        };
        let Reply::Names(names) = client.ask(Packet::new(12).handle(handle)).await else {
            panic!("READDIR");
        };
        let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, expected);
        let end = client.status(Packet::new(12).handle(handle)).await;
        assert_eq!(end, Status::Eof);
        assert_eq!(client.status(close(handle)).await, Status::Ok);
    }
    assert_eq!(
        client.status(Packet::new(15).string(b"/in")).await,
        Status::PermissionDenied
    );
    client.put(b"/in/box/a", b"x").await;
    let across = Packet::new(18).string(b"/in/box/a").string(b"/in/other/a");
    assert_eq!(client.status(across).await, Status::Failure);
    assert_eq!(client.status(stat(b"/elsewhere")).await, Status::NoSuchFile);
}

#[tokio::test]
async fn bytes_behind_the_data_of_a_write_are_ignored_and_not_written() {
    let mut client = Client::start().await;
    let handle = client.open(b"/a", REPLACE).await;
    let padded = write(handle, 0, b"content").long(0x7061_6464_696e_6721);
    assert_eq!(client.status(padded).await, Status::Ok);
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert_eq!(client.memory.file(b"a").unwrap(), b"content");
}

#[tokio::test]
async fn a_file_is_there_for_the_client_that_uploads_it_and_for_nobody_else() {
    let size = |reply| match reply {
        Reply::Attributes(flags, mut rest) if flags & 1 != 0 => rest.get_u64(),
        other => panic!("{other:?} has no size"),
    };
    let mut client = Client::start().await;
    let services = HashMap::from([("memory".to_owned(), Arc::new(client.memory.clone()) as _)]);
    let mounts = vec![testing::everything("/", "memory")];
    let mut other = Client::serving(services, mounts, Extensions::default(), testing::journal)
        .greeted()
        .await;

    // As sshfs does: it looks before OPEN is answered.
    let opened = client.request(open(b"/a", REPLACE)).await;
    let looked = client.request(Packet::new(7).string(b"/a")).await;
    let Reply::Handle(handle) = client.reply(opened).await else {
        panic!("the file is not opened");
    };
    assert_eq!(size(client.reply(looked).await), 0);
    client.status(write(handle, 0, b"hello")).await;
    assert_eq!(size(client.ask(stat(b"/a")).await), 5);
    assert_eq!(client.status(open(b"/b", READ)).await, Status::NoSuchFile);
    assert_eq!(client.status(stat(b"/b")).await, Status::NoSuchFile);
    let resize = |path: &[u8]| Packet::new(9).string(path).number(1).long(4);
    assert_eq!(client.status(resize(b"/a")).await, Status::Ok);
    assert_eq!(size(client.ask(stat(b"/a")).await), 4);
    assert_eq!(client.status(resize(b"/b")).await, Status::NoSuchFile);
    assert_eq!(other.status(resize(b"/a")).await, Status::NoSuchFile);
    assert_eq!(other.status(stat(b"/a")).await, Status::NoSuchFile);

    // Once CLOSE is sent it is the published file that is looked at.
    let closed = client.request(close(handle)).await;
    let looked = client.request(stat(b"/a")).await;
    assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
    assert_eq!(size(client.reply(looked).await), 4);
    assert_eq!(size(other.ask(stat(b"/a")).await), 4);

    let left = client.leave().await;
    let asked: Vec<_> = left
        .of("op.intent")
        .into_iter()
        .map(|record| {
            record["sftp_op"]
                .as_str()
                .expect("an intent names its operation")
        })
        .take(3)
        .collect();
    assert_eq!(asked, ["open", "lstat", "fstat"]);
    other.leave().await;
}

#[tokio::test]
async fn a_rename_that_overtakes_the_close_of_its_upload_is_done_after_it_and_without_a_close_it_is_not()
 {
    let rename = |from: &[u8], to: &[u8]| Packet::new(18).string(from).string(to);
    let mut client = Client::start().await;
    // As sshfs does, which closes from another thread.
    let handle = client.open(b"/a", REPLACE).await;
    assert_eq!(client.status(write(handle, 0, b"hello")).await, Status::Ok);
    let renamed = client.request(rename(b"/a", b"/b")).await;
    let closed = client.request(close(handle)).await;
    assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
    assert_eq!(client.reply(renamed).await, Reply::Status(Status::Ok));
    assert_eq!(client.memory.file(b"b").unwrap(), b"hello");
    assert!(client.memory.file(b"a").is_none());

    let handle = client.open(b"/a", REPLACE).await;
    assert_eq!(
        client.status(rename(b"/a", b"/c")).await,
        Status::NoSuchFile
    );
    assert_eq!(
        client.status(rename(b"/x", b"/c")).await,
        Status::NoSuchFile
    );
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert!(client.memory.file(b"a").is_some() && client.memory.file(b"c").is_none());

    // The channel ends in between: what came in is carried out.
    let handle = client.open(b"/d", REPLACE).await;
    client.request(rename(b"/d", b"/e")).await;
    client.request(close(handle)).await;
    let memory = client.memory.clone();
    let left = client.leave().await;
    assert!(memory.file(b"e").is_some());
    let renames = left.of("op.intent").into_iter();
    let renames = renames
        .filter(|record| record["sftp_op"] == "rename")
        .count();
    assert_eq!(renames, 4, "each is on record once");
}

#[tokio::test]
async fn a_gateway_that_stood_still_listens_before_it_goes_on_without_a_close() {
    let mut client = Client::start().await;
    let handle = client.open(b"/config.lock", REPLACE).await;
    assert_eq!(client.status(write(handle, 0, b"hello")).await, Status::Ok);
    let removed = client
        .request(Packet::new(13).string(b"/config.lock"))
        .await;
    // It is held when another request has its answer.
    client.status(stat(b"/absent")).await;
    // The thread of the channel sleeps too, and the CLOSE is on its way when it wakes.
    std::thread::sleep(Duration::from_millis(1200));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let closed = client.request(close(handle)).await;
    assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
    assert_eq!(client.reply(removed).await, Reply::Status(Status::Ok));
    // What was removed too early would be there after the CLOSE.
    assert!(client.memory.file(b"config.lock").is_none());
    client.leave().await;
}

#[tokio::test]
async fn what_overtakes_the_close_of_its_upload_is_done_after_it() {
    let mut client = Client::start().await;
    let mode = |path: &[u8]| Packet::new(9).string(path).number(4).number(0o750);
    let link_mode = Packet::extended("lsetstat@openssh.com").string(b"/lset");
    let link_mode = link_mode.number(4).number(0o750);
    for existed in [false, true] {
        for (name, overtaking) in [
            (&b"/stat"[..], stat(b"/stat")),
            (b"/lstat", Packet::new(7).string(b"/lstat")),
            (b"/set", mode(b"/set")),
            (b"/lset", link_mode.clone()),
            (b"/read", open(b"/read", READ)),
            (b"/write", open(b"/write", REPLACE)),
            (b"/gone", Packet::new(13).string(b"/gone")),
            (b"/from", Packet::new(18).string(b"/from").string(b"/to")),
        ] {
            let handle = client.open(name, REPLACE).await;
            assert_eq!(client.status(write(handle, 0, b"hello")).await, Status::Ok);
            let overtook = client.request(overtaking).await;
            let closed = client.request(close(handle)).await;
            assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
            let shown = format!("{} {existed}", String::from_utf8_lossy(name));
            match client.reply(overtook).await {
                Reply::Status(Status::Ok) => {}
                Reply::Attributes(_, mut rest) => assert_eq!(rest.get_u64(), 5, "{shown}"),
                Reply::Handle(again) if name == b"/read" => {
                    let read = client.ask(read(again, 0, 10)).await;
                    assert_eq!(read, Reply::Data(Bytes::from_static(b"hello")), "{shown}");
                }
                Reply::Handle(again) => {
                    assert_eq!(client.status(close(again)).await, Status::Ok);
                    assert_eq!(client.memory.file(b"write").unwrap(), b"", "{shown}");
                }
                other => panic!("{shown}: {other:?}"),
            }
        }
        assert!(client.memory.file(b"gone").is_none() && client.memory.file(b"from").is_none());
        assert_eq!(client.memory.file(b"to").unwrap(), b"hello");
        for name in [
            &b"/stat"[..],
            b"/lstat",
            b"/read",
            b"/write",
            b"/gone",
            b"/from",
        ] {
            client.memory.put(&name[1..], b"from before");
        }
        client.status(Packet::new(13).string(b"/to")).await;
    }

    // The folder that it lies in.
    client.memory.make_directory(b"old");
    let handle = client.open(b"/old/a", REPLACE).await;
    let moved = client
        .request(Packet::new(18).string(b"/old").string(b"/new"))
        .await;
    let closed = client.request(close(handle)).await;
    assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
    assert_eq!(client.reply(moved).await, Reply::Status(Status::Ok));
    assert!(client.memory.file(b"new/a").is_some());

    // The nearest neighbour: nobody uploads it.
    let handle = client.open(b"/other", REPLACE).await;
    let looked = client.request(stat(b"/absent")).await;
    let closed = client.request(close(handle)).await;
    assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
    assert_eq!(
        client.reply(looked).await,
        Reply::Status(Status::NoSuchFile)
    );
    client.leave().await;
}

#[tokio::test]
async fn a_file_that_is_opened_again_before_the_close_arrives_keeps_what_was_appended() {
    let mut client = Client::start().await;
    client.memory.put(b"log", b"1 ");
    let first = client.open(b"/log", APPEND).await;
    assert_eq!(client.status(write(first, 0, b"2 ")).await, Status::Ok);
    let size = |reply| match reply {
        Reply::Attributes(flags, mut rest) if flags & 1 != 0 => rest.get_u64(),
        other => panic!("{other:?} has no size"),
    };
    assert_eq!(size(client.ask(stat(b"/log")).await), 4);
    let opened = client.request(open(b"/log", APPEND)).await;
    let another = client.open(b"/another", REPLACE).await;
    let closed = client.request(close(first)).await;
    assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
    let Reply::Handle(second) = client.reply(opened).await else {
        panic!("the file is not opened again");
    };
    assert_ne!(second, another);
    assert_eq!(client.status(write(second, 0, b"3")).await, Status::Ok);
    assert_eq!(client.status(close(second)).await, Status::Ok);
    assert_eq!(client.memory.file(b"log").unwrap(), b"1 2 3");

    // A client that means to have it open twice has it so.
    let first = client.open(b"/log", APPEND).await;
    let second = client.open(b"/log", APPEND).await;
    assert_eq!(client.status(close(first)).await, Status::Ok);
    assert_eq!(client.status(close(second)).await, Status::Ok);
    client.leave().await;
}
