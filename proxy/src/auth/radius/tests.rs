use std::{net::Ipv4Addr, sync::Arc};

use tokio::task::JoinHandle;

use super::{
    packet::tests::{Forgery, SECRET, reply},
    *,
};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
/// Long enough for a loaded machine to answer, short enough to wait for in vain.
const TIMEOUT: Duration = Duration::from_millis(300);

fn settings(servers: &[SocketAddr]) -> RadiusSettings {
    RadiusSettings {
        servers: servers
            .iter()
            .map(|&address| RadiusServer {
                name: address.to_string(),
                address,
                secret: Secret::from(SECRET.to_vec()),
            })
            .collect(),
        nas_identifier: "gateway".to_owned(),
        user_name: NameTemplate::default(),
        timeout: TIMEOUT,
        transmissions: 2,
        rest: Duration::from_secs(3600),
        at_once: 4,
    }
}

/// A server that answers by script. What it was sent comes with the task's end.
struct Scripted {
    address: SocketAddr,
    requests: tokio::sync::mpsc::Receiver<(Vec<u8>, SocketAddr)>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// `answer` makes what is sent back to each request, if anything, and says whether from another port.
    async fn start(
        mut answer: impl FnMut(usize, &[u8]) -> Vec<(Vec<u8>, bool)> + Send + 'static,
    ) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (sender, requests) = tokio::sync::mpsc::channel(64);
        let task = tokio::spawn(async move {
            let mut packet = [0; 4096];
            for number in 0.. {
                let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                let request = packet[..length].to_vec();
                for (reply, from_other_port) in answer(number, &request) {
                    let socket = if from_other_port { &other } else { &socket };
                    socket.send_to(&reply, from).await.unwrap();
                }
                sender.try_send((request, from)).unwrap();
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    async fn answering(code: u8, forgery: Forgery) -> Self {
        Self::start(move |_, request| vec![(reply(request, code, forgery), false)]).await
    }

    async fn silent() -> Self {
        Self::start(|_, _| Vec::new()).await
    }

    fn received(&mut self) -> Vec<(Vec<u8>, SocketAddr)> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn check(servers: &[SocketAddr]) -> RadiusVerdict {
    Radius::new(settings(servers))
        .check("alice", &Secret::from("123456"), SOURCE)
        .await
}

#[tokio::test]
async fn a_proven_answer_is_the_verdict() {
    for (code, verdict) in [
        (2, RadiusVerdict::Accepted),
        (3, RadiusVerdict::Rejected),
        (11, RadiusVerdict::Challenged),
    ] {
        let server = Scripted::answering(code, Forgery::None).await;
        assert_eq!(check(&[server.address]).await, verdict);
    }
}

#[tokio::test]
async fn an_acceptance_that_is_not_proven_is_no_answer() {
    let forgeries = [
        Forgery::NoMessageAuthenticator,
        Forgery::WrongMessageAuthenticator,
        Forgery::TwoMessageAuthenticators,
        Forgery::WrongResponseAuthenticator,
        Forgery::OtherIdentifier,
        Forgery::OtherSecret,
        Forgery::WithProxyState,
    ];
    let checks = forgeries.map(|forgery| async move {
        let server = Scripted::answering(2, forgery).await;
        let verdict = check(&[server.address]).await;
        assert_eq!(verdict, RadiusVerdict::Unavailable, "{forgery:?}");
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn an_acceptance_from_another_port_is_not_heard() {
    let server = Scripted::start(|_, request| vec![(reply(request, 2, Forgery::None), true)]).await;
    assert_eq!(check(&[server.address]).await, RadiusVerdict::Unavailable);
}

#[tokio::test]
async fn forgeries_do_not_keep_the_servers_own_answer_away() {
    let server = Scripted::start(|_, request| {
        vec![
            (reply(request, 2, Forgery::OtherSecret), false),
            (b"garbage".to_vec(), false),
            (reply(request, 3, Forgery::None), false),
        ]
    })
    .await;
    assert_eq!(check(&[server.address]).await, RadiusVerdict::Rejected);
}

#[tokio::test]
async fn a_late_answer_to_the_first_transmission_counts_and_both_are_the_same_bytes() {
    let mut first = None;
    let mut server = Scripted::start(move |_, request| match first.take() {
        None => {
            first = Some(request.to_vec());
            Vec::new()
        }
        Some(first) => vec![(reply(&first, 2, Forgery::None), false)],
    })
    .await;
    assert_eq!(check(&[server.address]).await, RadiusVerdict::Accepted);
    let received = server.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0], received[1]);
}

#[tokio::test]
async fn each_request_has_its_own_port_and_authenticator() {
    let mut server = Scripted::answering(3, Forgery::None).await;
    let radius = Radius::new(settings(&[server.address]));
    for _ in 0..8 {
        radius.check("alice", &Secret::from("123456"), SOURCE).await;
    }
    let received = server.received();
    let ports: std::collections::BTreeSet<_> = received.iter().map(|(_, from)| from).collect();
    let authenticators: std::collections::BTreeSet<_> = received
        .iter()
        .map(|(request, _)| &request[4..20])
        .collect();
    assert_eq!(received.len(), 8);
    assert_eq!(authenticators.len(), 8);
    assert!(ports.len() > 1, "{ports:?}");
}

#[tokio::test]
async fn a_silent_server_hands_over_to_the_next_and_rests() {
    let mut silent = Scripted::silent().await;
    let mut good = Scripted::answering(2, Forgery::None).await;
    let radius = Radius::new(settings(&[silent.address, good.address]));
    for _ in 0..2 {
        let verdict = radius.check("alice", &Secret::from("123456"), SOURCE).await;
        assert_eq!(verdict, RadiusVerdict::Accepted);
    }
    assert_eq!(silent.received().len(), 2, "the transmissions of one check");
    assert_eq!(good.received().len(), 2);
}

#[tokio::test]
async fn a_refusal_is_not_put_before_the_next_server() {
    let first = Scripted::answering(3, Forgery::None).await;
    let mut second = Scripted::answering(2, Forgery::None).await;
    assert_eq!(
        check(&[first.address, second.address]).await,
        RadiusVerdict::Rejected
    );
    assert!(second.received().is_empty());
}

#[tokio::test]
async fn an_empty_code_reaches_no_server() {
    let mut server = Scripted::answering(2, Forgery::None).await;
    let radius = Radius::new(settings(&[server.address]));
    let verdict = radius.check("alice", &Secret::default(), SOURCE).await;
    assert_eq!(verdict, RadiusVerdict::Unsendable);
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn checks_beyond_the_limit_are_refused_and_not_queued_for_long() {
    let silent = Scripted::silent().await;
    let radius = Arc::new(Radius::new(RadiusSettings {
        at_once: 1,
        transmissions: 4,
        ..settings(&[silent.address])
    }));
    let begun = Instant::now();
    let code = Secret::from("123456");
    let (first, second) = tokio::join!(radius.check("alice", &code, SOURCE), async {
        let verdict = radius.check("bob", &code, SOURCE).await;
        (verdict, begun.elapsed())
    });
    assert_eq!(first, RadiusVerdict::Unavailable);
    assert_eq!(second.0, RadiusVerdict::Unavailable);
    assert!(second.1 < TIMEOUT * 3, "{:?}", second.1);
}

mod freeradius {
    use portcullis_tests::{
        place::Place,
        server::freeradius::{Freeradius, SECRET},
    };

    use super::*;

    fn settings(server: &Freeradius, secret: &str) -> RadiusSettings {
        RadiusSettings {
            servers: vec![RadiusServer {
                name: "freeradius".to_owned(),
                address: server.address,
                secret: Secret::from(secret),
            }],
            // A loaded machine.
            timeout: Duration::from_secs(5),
            ..super::settings(&[])
        }
    }

    #[tokio::test]
    async fn the_right_code_of_the_right_user_alone_is_accepted() {
        let server = Freeradius::start(
            Place::Loopback,
            &[("alice", "123456"), ("bob", "0123456789abcdef0")],
        )
        .unwrap();
        let radius = Radius::new(settings(&server, SECRET));
        for (user, code, verdict) in [
            ("alice", "123456", RadiusVerdict::Accepted),
            // Two blocks of hidden code.
            ("bob", "0123456789abcdef0", RadiusVerdict::Accepted),
            ("alice", "123457", RadiusVerdict::Rejected),
            ("bob", "123456", RadiusVerdict::Rejected),
            ("nobody", "123456", RadiusVerdict::Rejected),
        ] {
            assert_eq!(
                radius.check(user, &Secret::from(code), SOURCE).await,
                verdict,
                "{user} {code}"
            );
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_prove_its_replies_lets_nobody_in() {
        let server = Freeradius::start_unproven(Place::Loopback, &[("alice", "123456")]).unwrap();
        let radius = Radius::new(RadiusSettings {
            timeout: Duration::from_secs(1),
            ..settings(&server, SECRET)
        });
        let verdict = radius.check("alice", &Secret::from("123456"), SOURCE).await;
        assert_eq!(verdict, RadiusVerdict::Unavailable);
        let log = server.process.log();
        assert!(log.contains("Login OK: [alice]"), "{log}");
    }

    #[tokio::test]
    async fn a_server_with_another_secret_gives_no_answer() {
        let server = Freeradius::start(Place::Loopback, &[("alice", "123456")]).unwrap();
        let radius = Radius::new(RadiusSettings {
            timeout: Duration::from_millis(500),
            ..settings(&server, "another secret of two machines")
        });
        let verdict = radius.check("alice", &Secret::from("123456"), SOURCE).await;
        assert_eq!(verdict, RadiusVerdict::Unavailable);
    }
}
