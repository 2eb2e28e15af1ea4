//! Connections that break or fall silent.

use super::{
    odd::{Habits, Odd},
    *,
};
use crate::{
    backend::conformance::{Keys, NEW, OLD},
    operation::{Care, Tended},
};

#[tokio::test]
async fn a_connection_that_breaks_within_an_upload_publishes_nothing_and_the_next_request_opens_another()
 {
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let client = client(server.settings_through(&relay, PATIENCE));
    client.put("/before", "whole").await;
    let reading = client.open("/before", READ).await;
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, vec![7; 100_000]).await;
    relay.set(Mood::Cut);
    let write = Operation::Write {
        handle,
        offset: 100_000,
        data: "more".into(),
    };
    assert_eq!(client.refusal(write).await, ErrorKind::Unavailable);
    relay.set(Mood::Forward);
    assert_eq!(client.get("/before").await, b"whole");
    let read = Operation::Read {
        handle: reading,
        offset: 0,
        length: 1,
    };
    assert_eq!(
        client.refusal(read).await,
        ErrorKind::Unavailable,
        "an old handle belongs to the old connection"
    );
    let close = Operation::Close { handle };
    assert_eq!(client.refusal(close).await, ErrorKind::Unavailable);
    assert!(stranger(server.settings()).is_missing("/a").await);
    // What the server had taken is there, for its account alone.
    let size = client.stat("/a").await.unwrap().size.unwrap();
    assert_eq!(size, 99_999);
    let handle = client.open("/a", APPEND).await;
    client.write(handle, 0, vec![7; 50_001]).await;
    client.close(handle).await;
    assert!(client.get("/a").await == vec![7; 150_000]);
    client.end().await;
    assert_eq!(server.names(), ["a", "before"]);
}

fn stranger(settings: SftpSettings) -> Client {
    let owner = Owner::new(*b"mallory");
    Client::new(SftpService::new(settings).session(b"", &owner))
}

#[tokio::test]
async fn a_session_that_ends_after_its_connection_broke_comes_back_for_its_staging_files() {
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let client = client(server.settings_through(&relay, PATIENCE));
    let handle = client.open("/a", REPLACE).await;
    // With a gap, so that nobody can resume it.
    client.write(handle, 7, "half").await;
    assert_eq!(server.names().len(), 1);
    relay.set(Mood::Cut);
    let fstat = Operation::Fstat { handle };
    assert_eq!(client.refusal(fstat).await, ErrorKind::Unavailable);
    relay.set(Mood::Forward);
    client.end().await;
    assert!(server.names().is_empty());
}

#[tokio::test]
async fn a_server_that_falls_silent_within_a_transfer_is_given_up_at_the_deadline() {
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let client = client(server.settings_through(&relay, SHORT));
    client.put("/a", "content").await;
    let reading = client.open("/a", READ).await;
    let uploading = client.open("/b", REPLACE).await;
    client.write(uploading, 0, "half").await;
    relay.set(Mood::Silent);
    let begun = Instant::now();
    let read = Operation::Read {
        handle: reading,
        offset: 0,
        length: 1,
    };
    let close = client.start(Operation::Close { handle: uploading }).await;
    assert_eq!(client.refusal(read).await, ErrorKind::TimedOut);
    assert_eq!(close.await.unwrap_err().kind, ErrorKind::TimedOut);
    assert!(begun.elapsed() < SHORT * 4);
    relay.set(Mood::Cut);
    relay.set(Mood::Forward);
    assert_eq!(client.get("/a").await, b"content");
    assert_eq!(client.stat("/b").await.unwrap().size, Some(3));
    client.end().await;
    assert!(stranger(server.settings()).is_missing("/b").await);
}

/// RENAME on the wire (filexfer-02 section 3).
const RENAME: u8 = 18;
const MKDIR: u8 = 14;

#[tokio::test]
async fn an_operation_whose_answer_is_lost_is_not_repeated_and_the_next_one_connects_again() {
    let server = Odd::start(Habits::default()).await;
    let client = client(server.settings());
    client.put("/a", "content").await;
    let moved = server.asked(RENAME);
    server.break_at(MKDIR);
    let mkdir = |name: &[u8]| Operation::Mkdir {
        path: VirtualPath::clean(name).unwrap(),
        attributes: Default::default(),
    };
    assert_eq!(client.refusal(mkdir(b"/d")).await, ErrorKind::Unavailable);
    assert_eq!((server.asked(MKDIR), server.connections()), (1, 1));
    assert!(
        client.stat("/d").await.unwrap().is_directory(),
        "it was carried out"
    );
    assert_eq!((server.asked(MKDIR), server.connections()), (1, 2));
    server.break_at(RENAME);
    let rename = Operation::Rename {
        from: VirtualPath::clean(b"/a").unwrap(),
        to: VirtualPath::clean(b"/b").unwrap(),
    };
    assert_eq!(client.refusal(rename).await, ErrorKind::Unavailable);
    assert!(client.is_missing("/a").await);
    assert_eq!(client.get("/b").await, b"content");
    assert_eq!((server.asked(RENAME), server.connections()), (moved + 1, 3));
    client.done(mkdir(b"/e")).await;
    assert_eq!((server.asked(MKDIR), server.connections()), (2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_whose_connection_breaks_anywhere_leaves_a_whole_head_and_is_ended_by_the_next_look()
 {
    const ROUNDS: usize = 24;
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let subject = |settings| Subject {
        service: Arc::new(SftpService::new(settings)),
        directory: Vec::new(),
        disk: None,
        keep: Box::new(()),
    };
    let behind = subject(server.settings_through(&relay, PATIENCE));
    let direct = subject(server.settings());
    let keys = Keys::new();
    let (old, reader) = (
        keys.client(&direct, OLD, None),
        keys.client(&direct, NEW, Some(OLD)),
    );
    let client = keys.client(&behind, NEW, Some(OLD));
    let mut random = fastrand::Rng::with_seed(5);
    let mut longest = Duration::from_millis(20);
    let mut broken = 0;
    for round in 0..ROUNDS {
        old.put("/a", "what was uploaded").await;
        assert!(client.stat("/a").await.is_ok(), "it is logged in");
        let delay = Duration::from_micros(random.u64(..longest.as_micros() as u64));
        let rotating = async {
            let begun = Instant::now();
            let tended = client.tend("/a", Care::Rewrap).await;
            longest = begun.elapsed().clamp(Duration::from_millis(2), longest);
            tended
        };
        let breaking = async {
            tokio::time::sleep(delay).await;
            relay.set(Mood::Cut);
        };
        let (tended, ()) = futures_util::future::join(rotating, breaking).await;
        broken += usize::from(tended.is_err());
        while client.stat("/a").await.is_ok() {}
        relay.set(Mood::Forward);
        assert_eq!(
            reader.get("/a").await,
            b"what was uploaded",
            "round {round}"
        );
        let ended = client.tend("/a", Care::Rewrap).await.unwrap();
        let again = client.tend("/a", Care::Rewrap).await.unwrap();
        assert_eq!(again, Tended::Current);
        // Where only the answers were lost, there is nothing to write: whoever walks over the backend forgets the head then.
        let is_whole = ended == Tended::Current;
        assert!(is_whole || keys.are_settled(), "round {round}");
    }
    assert!(broken > 0, "some were broken");
}
