use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType, rdata},
};
use tokio::net::UdpSocket;

use super::*;

/// A DNS server on loopback that answers what it is told to.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
}

#[derive(Clone)]
struct Answer {
    code: ResponseCode,
    v4: Vec<&'static str>,
    v6: Vec<&'static str>,
    ttl: u32,
    /// Answers only questions for this family.
    fails_v6: bool,
}

impl Server {
    async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: socket.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(Answer {
                code: ResponseCode::NoError,
                v4: Vec::new(),
                v6: Vec::new(),
                ttl: 300,
                fails_v6: false,
            })),
        };
        let answer = Arc::clone(&server.answer);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let request = Message::from_vec(&buffer[..length]).unwrap();
                let response = respond(&request, &answer.lock().unwrap().clone());
                socket
                    .send_to(&response.to_vec().unwrap(), peer)
                    .await
                    .unwrap();
            }
        });
        server
    }

    fn set(&self, change: impl FnOnce(&mut Answer)) {
        change(&mut self.answer.lock().unwrap());
    }

    fn resolver(&self) -> Resolver {
        Resolver::new(&[self.address]).unwrap()
    }
}

fn respond(request: &Message, answer: &Answer) -> Message {
    let query = request.queries.first().unwrap().clone();
    let mut response = Message::new(
        request.metadata.id,
        MessageType::Response,
        request.metadata.op_code,
    );
    response.metadata.recursion_desired = true;
    response.metadata.recursion_available = true;
    let is_v6 = query.query_type() == RecordType::AAAA;
    response.metadata.response_code = if is_v6 && answer.fails_v6 {
        ResponseCode::ServFail
    } else {
        answer.code
    };
    if response.metadata.response_code == ResponseCode::NoError {
        let name = query.name().clone();
        if is_v6 {
            for text in &answer.v6 {
                let data = RData::AAAA(rdata::AAAA(text.parse().unwrap()));
                response.add_answer(Record::from_rdata(name.clone(), answer.ttl, data));
            }
        } else {
            for text in &answer.v4 {
                let data = RData::A(rdata::A(text.parse().unwrap()));
                response.add_answer(Record::from_rdata(name.clone(), answer.ttl, data));
            }
        }
    }
    response.add_query(query);
    response
}

fn host(change: impl FnOnce(&mut HostName)) -> HostName {
    let mut host = HostName {
        host: "vpn.example.org".to_owned(),
        scope: None,
        owner: None,
        ticket: None,
        max_addresses: DEFAULT_MAX_ADDRESSES,
        allow_private: false,
    };
    change(&mut host);
    host
}

async fn ask(server: &Server, name: &mut Name) -> Judged {
    let resolver = server.resolver();
    let (v4, v6) = tokio::join!(
        resolver.v4(&name.settings.host),
        resolver.v6(&name.settings.host)
    );
    name.judge(v4, v6)
}

fn name(settings: HostName) -> Name {
    Name::new(settings, false, Instant::now())
}

fn told(judged: &Judged) -> Vec<String> {
    judged.addresses.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_name_is_the_addresses_of_both_families_for_the_time_of_its_records() {
    let server = Server::new().await;
    server.set(|answer| {
        answer.v4 = vec!["203.0.113.7", "203.0.113.8"];
        answer.v6 = vec!["2001:db8::7"];
        answer.ttl = 120;
    });
    let judged = ask(&server, &mut name(host(|_| {}))).await;
    assert_eq!(told(&judged), ["203.0.113.7", "203.0.113.8", "2001:db8::7"]);
    assert_eq!((judged.is_good, judged.complaint), (true, None));
    assert!(
        judged.next > Duration::from_secs(110) && judged.next <= Duration::from_secs(120),
        "{:?}",
        judged.next
    );
}

#[tokio::test]
async fn records_are_asked_for_anew_neither_at_once_nor_after_days() {
    let server = Server::new().await;
    server.set(|answer| answer.v4 = vec!["203.0.113.7"]);
    for (ttl, next) in [(0, MIN_TTL), (1, MIN_TTL), (172_800, MAX_TTL)] {
        server.set(|answer| answer.ttl = ttl);
        assert_eq!(
            ask(&server, &mut name(host(|_| {}))).await.next,
            next,
            "{ttl}"
        );
    }
}

#[tokio::test]
async fn the_last_good_answer_is_kept_while_there_is_none() {
    let server = Server::new().await;
    server.set(|answer| answer.v4 = vec!["203.0.113.7"]);
    let mut name = name(host(|_| {}));
    ask(&server, &mut name).await;
    for code in [
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::NXDomain,
    ] {
        server.set(|answer| answer.code = code);
        let judged = ask(&server, &mut name).await;
        assert_eq!(told(&judged), ["203.0.113.7"], "{code}");
        assert!(!judged.is_good && judged.complaint.is_some(), "{code}");
    }
    server.set(|answer| {
        answer.code = ResponseCode::NoError;
        answer.v4 = Vec::new();
    });
    let judged = ask(&server, &mut name).await;
    assert_eq!(told(&judged), ["203.0.113.7"]);
    assert_eq!(judged.complaint.as_deref(), Some("the name has no address"));
    assert!(
        judged.next > FIRST_RETRY && judged.next <= LAST_RETRY,
        "it is asked less and less often"
    );
}

#[tokio::test]
async fn a_family_that_can_not_be_asked_keeps_its_addresses_and_one_that_has_gone_does_not() {
    let server = Server::new().await;
    server.set(|answer| {
        answer.v4 = vec!["203.0.113.7"];
        answer.v6 = vec!["2001:db8::7"];
    });
    let mut name = name(host(|_| {}));
    ask(&server, &mut name).await;
    server.set(|answer| {
        answer.v4 = vec!["203.0.113.8"];
        answer.fails_v6 = true;
    });
    let judged = ask(&server, &mut name).await;
    assert_eq!(told(&judged), ["203.0.113.8", "2001:db8::7"]);
    assert!(!judged.is_good);
    server.set(|answer| {
        answer.v6 = Vec::new();
        answer.fails_v6 = false;
    });
    assert_eq!(told(&ask(&server, &mut name).await), ["203.0.113.8"]);
}

#[tokio::test]
async fn addresses_that_no_stranger_can_have_never_count_and_private_ones_if_allowed() {
    let server = Server::new().await;
    server.set(|answer| {
        answer.v4 = vec![
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "10.0.0.7",
            "100.64.0.7",
            "169.254.0.7",
            "203.0.113.7",
        ];
        answer.v6 = vec![
            "::1",
            "ff02::1",
            "fd00::7",
            "fe80::7",
            "::ffff:127.0.0.2",
            "2001:db8::7",
        ];
    });
    let judged = ask(&server, &mut name(host(|_| {}))).await;
    assert_eq!(told(&judged), ["203.0.113.7", "2001:db8::7"]);
    let complaint = judged.complaint.unwrap();
    assert!(
        complaint.contains("10.0.0.7") && complaint.contains("127.0.0.2"),
        "{complaint}"
    );
    let judged = ask(&server, &mut name(host(|host| host.allow_private = true))).await;
    assert_eq!(
        told(&judged),
        [
            "10.0.0.7",
            "100.64.0.7",
            "169.254.0.7",
            "203.0.113.7",
            "2001:db8::7",
            "fd00::7",
            "fe80::7"
        ]
    );
}

#[tokio::test]
async fn as_many_addresses_as_the_cap_count_and_one_more_does_not() {
    let server = Server::new().await;
    let mut name = name(host(|host| host.max_addresses = 2));
    server.set(|answer| answer.v4 = vec!["203.0.113.8", "203.0.113.7"]);
    assert_eq!(ask(&server, &mut name).await.complaint, None);
    server.set(|answer| answer.v4.push("203.0.113.9"));
    let judged = ask(&server, &mut name).await;
    assert_eq!(told(&judged), ["203.0.113.7", "203.0.113.8"]);
    assert!(
        judged
            .complaint
            .unwrap()
            .contains("3 addresses, of which 2 are taken")
    );
}

#[derive(Clone, Default)]
struct Taker(Arc<Mutex<Vec<SourceUpdate>>>);

impl Sink for Taker {
    async fn apply(&self, update: SourceUpdate) -> Result<(), String> {
        self.0.lock().unwrap().push(update);
        Ok(())
    }
}

#[tokio::test]
async fn a_name_becomes_a_list_and_names_that_were_taken_out_lose_theirs() {
    let server = Server::new().await;
    server.set(|answer| answer.v4 = vec!["203.0.113.7"]);
    let (taker, board, stop) = (Taker::default(), Board::default(), CancellationToken::new());
    let settings = host(|host| {
        host.scope = Some("udp/51820".parse().unwrap());
        host.owner = Some("ops".to_owned());
    });
    let lists = BTreeMap::from([
        ("name:old.example.org".to_owned(), 1),
        ("name:vpn.example.org".to_owned(), 3),
    ]);
    let task = tokio::spawn(run(
        vec![settings],
        lists,
        server.resolver(),
        taker.clone(),
        board.clone(),
        stop.clone(),
    ));
    let deadline = Instant::now() + Duration::from_secs(20);
    while board.all().first().is_none_or(|status| status.entries != 1) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let update = taker.0.lock().unwrap()[0].clone();
    assert_eq!(update.lists["name:old.example.org"], None);
    let entries = update.lists["name:vpn.example.org"].clone().unwrap();
    assert_eq!(entries[0].prefix.to_string(), "203.0.113.7/32");
    assert_eq!(entries[0].scope, Some("udp/51820".parse().unwrap()));
    assert_eq!(entries[0].owner.as_deref(), Some("ops"));
    assert!(
        update.reason.contains("vpn.example.org is 203.0.113.7"),
        "{}",
        update.reason
    );
    stop.cancel();
    task.await.unwrap();
}
