//! Posts and webhooks against servers of this process.

use super::*;

/// Answers each request with the next status, and gives its head and body.
fn web_server(
    identity: &Identity,
    statuses: &[u16],
) -> (SocketAddr, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (config, statuses) = (Arc::clone(&identity.server), statuses.to_vec());
    let (told, requests) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for status in statuses {
            let (stream, _) = listener.accept().unwrap();
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(session, stream);
            let mut text = Vec::new();
            let (head, body) = loop {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
                let so_far = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = so_far.split_once("\r\n\r\n") else {
                    continue;
                };
                let head = head.to_lowercase();
                let length: usize = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                    .unwrap();
                if body.len() >= length {
                    break (head, body.to_owned());
                }
            };
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy"
            )
            .unwrap();
            stream.conn.send_close_notify();
            let _ = stream.flush();
            told.send((head, body)).unwrap();
        }
    });
    (address, requests)
}

#[test]
fn posts_are_repeated_until_the_collector_says_that_it_has_them() {
    let (written, identity) = (Written::new(), identity());
    written.grow(5);
    let (address, requests) = web_server(&identity, &[503, 302, 200, 204]);
    let target = Target::Https {
        url: Url::parse(&format!("https://{address}/ingest?source=gw1")).unwrap(),
        tls: trusting(&identity.authority),
        token: Token::new("t0ken"),
        format: Format::Json,
        batch: 3,
        signing: None,
    };
    let running = start(written.settings(target), written.log(), None, quiet).unwrap();
    let lines = |from: u64, to: u64| (from..to).map(|seq| record(seq) + "\n").collect::<String>();
    for expected in [lines(0, 3), lines(0, 3), lines(0, 3), lines(3, 5)] {
        let (head, body) = requests.recv_timeout(PATIENCE).unwrap();
        assert!(head.starts_with("post /ingest?source=gw1 "), "{head}");
        assert!(head.contains("authorization: bearer t0ken"), "{head}");
        assert!(
            head.contains("content-type: application/x-ndjson"),
            "{head}"
        );
        assert_eq!(body, expected);
    }
    is_taken(&written, 5);
    end(running);
}

/// A webhook that may not take alerts for longer than an hour.
fn webhook(written: &Written, address: SocketAddr, identity: &Identity) -> Settings {
    let target = Target::Https {
        url: Url::parse(&format!("https://{address}/hook")).unwrap(),
        tls: trusting(&identity.authority),
        token: None,
        format: Format::Json,
        batch: 1,
        signing: Some(Signing::new("key")),
    };
    Settings {
        selection: Selection::Alerts {
            give_up: Duration::from_secs(3600),
        },
        checkpoints: false,
        ..written.settings(target)
    }
}

#[test]
fn a_webhook_gets_its_own_alerts_signed_and_nothing_else() {
    let (written, identity) = (Written::new(), identity());
    let now = chrono::Utc::now()
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let young = alert(2, "test").replace("2026-11-22T01:02:03.000004Z", &now);
    let lines = [record(0), alert(1, "other"), young.clone(), record(3)];
    fs::write(
        written.directory().join("000000000000.jsonl"),
        lines.join("\n") + "\n",
    )
    .unwrap();
    written.durable.store(4, Ordering::SeqCst);
    let (address, requests) = web_server(&identity, &[503, 200]);
    let settings = webhook(&written, address, &identity);
    let running = start(settings, written.log(), None, quiet).unwrap();
    for _ in 0..2 {
        let (head, body) = requests.recv_timeout(PATIENCE).unwrap();
        assert_eq!(body, format!("{young}\n"));
        assert!(
            head.contains("content-type: application/json\r\n"),
            "{head}"
        );
        assert!(head.contains("x-portcullis-timestamp: "), "{head}");
        assert!(head.contains("x-portcullis-signature: v1="), "{head}");
    }
    is_taken(&written, 4);
    assert_eq!(running.meter().read(4, 0).sent, 1);
    end(running);
}

#[test]
fn an_alert_that_nobody_takes_is_given_up_with_notice_and_a_young_one_is_not() {
    let (written, identity) = (Written::new(), identity());
    let now = chrono::Utc::now()
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let old = "2020-01-01T00:00:00.000000Z";
    let at = |seq, time: &str| alert(seq, "test").replace("2026-11-22T01:02:03.000004Z", time);
    let lines = [record(0), at(1, old), record(2), at(3, old), at(4, &now)];
    fs::write(
        written.directory().join("000000000000.jsonl"),
        lines.join("\n") + "\n",
    )
    .unwrap();
    written.durable.store(5, Ordering::SeqCst);
    let (address, requests) = web_server(&identity, &[500, 500, 200]);
    let (tell, told) = mpsc::sync_channel(16);
    let settings = webhook(&written, address, &identity);
    let running = start(settings, written.log(), None, move |notice| {
        tell.try_send(notice).unwrap();
    })
    .unwrap();
    let bodies: Vec<_> = (0..3)
        .map(|_| requests.recv_timeout(PATIENCE).unwrap().1)
        .collect();
    assert_eq!(
        bodies[0],
        at(1, old) + "\n",
        "even an old one is tried once"
    );
    assert_eq!(bodies[1..], [at(4, &now) + "\n", at(4, &now) + "\n"]);
    is_taken(&written, 5);
    let given_up: Vec<_> = told
        .try_iter()
        .map(|notice| {
            let Notice::GivenUp { seq, error } = notice else {
                panic!("{notice:?}")
            };
            assert!(error.contains("answered 500"), "{error}");
            seq
        })
        .collect();
    assert_eq!(given_up, [1, 3]);
    assert_eq!(running.meter().read(5, 0).lost, 2);
    end(running);
}

#[test]
fn a_signature_is_hmac_over_timestamp_and_body() {
    // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
    assert_eq!(
        Signing::new("key").sign("1700000000", b"{}").unwrap(),
        "v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    );
}

#[test]
fn addresses_for_posts_are_https_and_carry_no_password() {
    assert!(Url::parse("https://collector.example.org:8088/x").is_ok());
    for bad in [
        "http://collector.example.org/",
        "https://user:pw@host/",
        "host",
        "/x",
        "ftp://h/",
    ] {
        assert!(Url::parse(bad).is_err(), "{bad}");
    }
    assert!(
        Url::parse("http://h/")
            .unwrap_err()
            .to_string()
            .contains("in clear")
    );
}
