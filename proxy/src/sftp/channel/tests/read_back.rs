//! What a client is uploading, opened a second time to be read.

use super::*;
use crate::policy::Permissions;

/// Two channels of one account on the same files.
async fn two_channels() -> (Client, Client, Memory) {
    let memory = Memory::new();
    let channel = || {
        let services = HashMap::from([("memory".to_owned(), Arc::new(memory.clone()) as _)]);
        Client::serving(
            services,
            vec![testing::everything("/", "memory")],
            Extensions::default(),
            testing::journal,
        )
        .greeted()
    };
    let (one, other) = (channel().await, channel().await);
    (one, other, memory)
}

#[tokio::test]
async fn a_client_reads_what_it_is_uploading_and_its_other_channels_see_nothing() {
    let (mut writer, mut other, memory) = two_channels().await;
    let upload = writer.open(b"/pack", REPLACE).await;
    writer.ask(write(upload, 0, b"0123456789")).await;
    let reader = writer.open(b"/pack", READ).await;
    assert_eq!(
        writer.ask(read(reader, 4, 100)).await,
        Reply::Data(Bytes::from_static(b"456789"))
    );
    for look in [open(b"/pack", READ), stat(b"/pack")] {
        assert_eq!(other.status(look).await, Status::NoSuchFile);
    }
    assert_eq!(memory.file(b"pack"), None, "reading publishes nothing");

    assert_eq!(writer.status(close(upload)).await, Status::Ok);
    assert_eq!(
        writer.ask(read(reader, 8, 100)).await,
        Reply::Data(Bytes::from_static(b"89")),
        "the file stays readable through the handle"
    );
    assert_eq!(
        writer.status(write(reader, 0, b"x")).await,
        Status::PermissionDenied
    );
    assert_eq!(writer.status(close(reader)).await, Status::Ok);
    assert!(matches!(
        other.ask(open(b"/pack", READ)).await,
        Reply::Handle(_)
    ));

    let left = writer.leave().await;
    let opened: Vec<_> = left
        .of("op.intent")
        .into_iter()
        .filter(|record| record["sftp_op"] == "open")
        .map(|record| record["path"].as_str().expect("a path"))
        .collect();
    assert_eq!(opened, ["/pack", "/pack"], "each OPEN is on record");
    let directions: Vec<_> = left
        .of("xfer.summary")
        .into_iter()
        .map(|record| (record["direction"].as_str(), record["bytes"].as_u64()))
        .collect();
    assert_eq!(
        directions,
        [(Some("upload"), Some(10)), (Some("download"), Some(8))]
    );
}

#[tokio::test]
async fn an_account_that_may_not_read_does_not_read_what_it_uploads() {
    let mut mount = testing::everything("/", "memory");
    mount.permissions = Permissions {
        read: false,
        ..mount.permissions
    };
    let mut client = Client::with(vec![mount], testing::journal).await;
    let upload = client.open(b"/drop", REPLACE).await;
    client.ask(write(upload, 0, b"for others")).await;
    assert_eq!(
        client.status(open(b"/drop", READ)).await,
        Status::PermissionDenied
    );
    assert_eq!(
        client.status(read(upload, 0, 10)).await,
        Status::PermissionDenied
    );
    assert_eq!(client.status(close(upload)).await, Status::Ok);
    let left = client.leave().await;
    assert_eq!(left.refusals(), ["missing_permission", "wrong_handle"]);
}

#[tokio::test]
async fn a_read_waits_for_the_writes_that_were_sent_before_it() {
    let mut client = Client::start().await;
    let upload = client.open(b"/pack", REPLACE).await;
    client.ask(write(upload, 0, b"old old old")).await;
    let reader = client.open(b"/pack", READ).await;
    client.memory.pause();
    let arrived = client.memory.arrivals();
    let writes = [
        client.request(write(upload, 0, b"new")).await,
        client.request(write(upload, 11, b" end")).await,
    ];
    let look = client.request(read(reader, 0, 100)).await;
    let size = client.request(Packet::new(8).handle(reader)).await;
    // Answered by the gateway, so all before it is understood.
    client.ask(Packet::new(16).string(b".")).await;
    while client.memory.arrivals() < arrived + 2 {
        tokio::task::yield_now().await;
    }
    let later = client.request(write(upload, 0, b"late")).await;
    client.ask(Packet::new(16).string(b".")).await;
    assert_eq!(
        client.memory.arrivals(),
        arrived + 2,
        "only the two WRITEs began"
    );
    client.memory.resume();
    for id in writes.into_iter().chain([later]) {
        assert_eq!(client.reply(id).await, Reply::Status(Status::Ok));
    }
    assert_eq!(
        client.reply(look).await,
        Reply::Data(Bytes::from_static(b"new old old end"))
    );
    assert!(matches!(client.reply(size).await, Reply::Attributes(..)));
    assert_eq!(
        client.ask(read(reader, 0, 4)).await,
        Reply::Data(Bytes::from_static(b"late"))
    );
}
