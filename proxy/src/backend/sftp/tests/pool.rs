//! Sessions that share SSH connections.

use super::{
    odd::{Habits, Odd},
    *,
};

const MKDIR: u8 = 14;

fn with_limits(settings: SftpSettings, connections: usize, channels: usize) -> SftpSettings {
    SftpSettings {
        pool: PoolLimits {
            connections,
            channels,
            ..settings.pool
        },
        ..settings
    }
}

/// Sessions of one backend.
struct Sessions(SftpService);

impl Sessions {
    fn new(settings: SftpSettings) -> Self {
        Self(SftpService::new(settings))
    }

    /// One that has not asked for anything, so it has no channel.
    fn fresh(&self) -> Client {
        Client::new(self.0.session(b"", &crate::testing::owner()))
    }

    async fn connected(&self) -> Client {
        let client = self.fresh();
        client.stat("/").await.unwrap();
        client
    }
}

fn mkdir(name: &str) -> Operation {
    Operation::Mkdir {
        path: VirtualPath::clean(name.as_bytes()).unwrap(),
        attributes: Default::default(),
    }
}

fn read(handle: crate::operation::HandleId) -> Operation {
    Operation::Read {
        handle,
        offset: 0,
        length: 100,
    }
}

#[tokio::test]
async fn each_session_has_its_own_connection_until_there_are_enough_and_then_they_are_shared() {
    let server = Odd::start(Habits::default()).await;
    let sessions = Sessions::new(with_limits(server.settings(), 2, 3));
    let mut clients = Vec::new();
    for expected in [1, 2, 2, 2, 2, 2] {
        clients.push(sessions.connected().await);
        assert_eq!(server.connections(), expected);
    }
    let transfers = clients.iter().enumerate().map(async |(number, client)| {
        let content = vec![number as u8; 300_000];
        client.put(format!("/{number}"), content.clone()).await;
        assert!(client.get(format!("/{number}")).await == content);
    });
    futures_util::future::join_all(transfers).await;
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_session_beyond_all_limits_waits_for_another_to_end() {
    let server = Odd::start(Habits::default()).await;
    let sessions = Sessions::new(with_limits(server.settings(), 1, 2));
    let (first, _second) = (sessions.connected().await, sessions.connected().await);
    let third = sessions.fresh();
    let waiting = third.start(stat("/")).await;
    first.end().await;
    assert!(waiting.await.is_ok());
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_session_that_finds_no_room_until_the_deadline_is_told_which_limits_to_raise() {
    let server = Odd::start(Habits::default()).await;
    let sessions = Sessions::new(SftpSettings {
        timeout: SHORT,
        ..with_limits(server.settings(), 1, 1)
    });
    let first = sessions.connected().await;
    let (kind, message) = message(&sessions.fresh(), stat("/")).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(message.contains("max_connections"), "{message}");
    assert!(first.stat("/").await.is_ok());
}

#[tokio::test]
async fn a_server_that_takes_fewer_channels_is_asked_for_no_more_on_that_connection() {
    let server = Server::start_with(Subsystem::Internal, "MaxSessions 2");
    let sessions = Sessions::new(SftpSettings {
        timeout: PATIENCE / 4,
        ..with_limits(server.settings(), 2, 10)
    });
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(sessions.connected().await);
    }
    let (kind, message) = message(&sessions.fresh(), stat("/")).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(message.contains("MaxSessions"), "{message}");
    for (number, client) in clients.iter().enumerate() {
        client.put(format!("/{number}"), "content").await;
    }
    clients.remove(0).end().await;
    sessions.connected().await.put("/4", "content").await;
    assert_eq!(server.names(), ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn an_idle_connection_serves_the_next_session() {
    let server = Odd::start(Habits::default()).await;
    // There is room for one, so that each waits for the channel of the one before to end.
    let sessions = Sessions::new(with_limits(server.settings(), 1, 1));
    for _ in 0..3 {
        let client = sessions.connected().await;
        client.put("/a", "content").await;
        client.end().await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time_and_one_in_use_is_not() {
    let server = Odd::start(Habits::default()).await;
    let mut settings = server.settings();
    settings.pool.idle = Duration::from_millis(50);
    let sessions = Sessions::new(settings);
    let (stays, goes) = (sessions.connected().await, sessions.connected().await);
    assert_eq!(server.open_connections(), 2);
    goes.end().await;
    server.wait_for_open_connections(1).await;
    assert!(stays.stat("/").await.is_ok());
    stays.end().await;
    server.wait_for_open_connections(0).await;
    assert!(sessions.connected().await.stat("/").await.is_ok());
}

#[tokio::test]
async fn connections_end_with_the_backend_they_belong_to() {
    let server = Odd::start(Habits::default()).await;
    let sessions = Sessions::new(server.settings());
    let client = sessions.connected().await;
    sessions.connected().await.end().await;
    drop(sessions);
    server.wait_for_open_connections(1).await;
    assert!(client.stat("/").await.is_ok(), "its session goes on");
    drop(client);
    server.wait_for_open_connections(0).await;
}

#[tokio::test]
async fn a_broken_connection_fails_its_own_sessions_and_no_others() {
    let server = Odd::start(Habits::default()).await;
    std::fs::write(server.home.join("a"), "content").unwrap();
    let sessions = Sessions::new(with_limits(server.settings(), 2, 2));
    let (one, two, three) = (
        sessions.connected().await,
        sessions.connected().await,
        sessions.connected().await,
    );
    // The third shares the connection of one of the others.
    let mut handles = Vec::new();
    for client in [&one, &two, &three] {
        handles.push(client.open("/a", READ).await);
    }
    server.break_at(MKDIR);
    assert_eq!(three.refusal(mkdir("/d")).await, ErrorKind::Unavailable);
    let mut failed = 0;
    for (client, handle) in [(&one, handles[0]), (&two, handles[1])] {
        match client.ask(read(handle)).await {
            Ok(outcome) => assert_eq!(outcome, Outcome::Data("content".into())),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 1, "the one whose connection it was");
    assert_eq!(
        three.refusal(read(handles[2])).await,
        ErrorKind::Unavailable,
        "an old handle belongs to the old connection"
    );
    for client in [&one, &two, &three] {
        assert_eq!(client.get("/a").await, b"content");
    }
    assert_eq!((server.asked(MKDIR), server.connections()), (1, 3));
}

#[tokio::test]
async fn a_channel_that_hangs_leaves_the_others_of_its_connection_alone() {
    let server = Odd::start(Habits::default()).await;
    std::fs::write(server.home.join("a"), "content").unwrap();
    let sessions = Sessions::new(SftpSettings {
        timeout: SHORT,
        ..with_limits(server.settings(), 1, 3)
    });
    let (hangs, goes_on) = (sessions.connected().await, sessions.connected().await);
    let handle = goes_on.open("/a", READ).await;
    server.hang_at(MKDIR);
    assert_eq!(hangs.refusal(mkdir("/d")).await, ErrorKind::TimedOut);
    assert_eq!(goes_on.read(handle, 0, 7).await, "content");
    assert!(hangs.stat("/d").await.unwrap().is_directory());
    assert_eq!((server.asked(MKDIR), server.connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_without_an_answer_to_keepalives_is_given_up_before_the_deadline() {
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let client = client(SftpSettings {
        keepalive: Duration::from_millis(400),
        ..server.settings_through(&relay, PATIENCE)
    });
    client.put("/a", "content").await;
    let handle = client.open("/a", READ).await;
    assert_eq!(client.read(handle, 0, 7).await, "content");
    relay.set(Mood::Silent);
    // TimedOut would be the operation's own deadline.
    assert_eq!(client.refusal(read(handle)).await, ErrorKind::Unavailable);
    relay.set(Mood::Cut);
    relay.set(Mood::Forward);
    assert_eq!(client.get("/a").await, b"content");
}

#[tokio::test]
async fn an_idle_connection_that_is_dead_is_replaced_within_the_deadline() {
    let server = Server::start();
    let relay = Relay::to(server.sshd.address).await;
    let sessions = Sessions::new(SftpSettings {
        port: relay.address.port(),
        timeout: SHORT * 8,
        ..with_limits(server.settings(), 1, 1)
    });
    sessions.connected().await.end().await;
    relay.strand();
    let client = sessions.connected().await;
    client.put("/a", "content").await;
    assert_eq!(server.names(), ["a"]);
}
