//! Mail against servers of this process.

use super::*;
use crate::sink::connection::{Batch, Connection};

/// What a mail server does.
#[derive(Clone, Copy, Default)]
struct Manner {
    offers_no_tls: bool,
    /// Somebody between the two adds this to its last words before TLS.
    slipped_in: &'static str,
    refuses_password: bool,
    refuses: &'static [&'static str],
}

/// Serves one connection and gives each line that it was told, `+` before those over TLS.
fn mail_server(identity: &Identity, manner: Manner) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::clone(&identity.server);
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut told = Vec::new();
        stream.write_all(b"220 mail ESMTP\r\n").unwrap();
        if converse(&mut stream, manner, "", &mut told) {
            let session = ServerConnection::new(config).unwrap();
            converse(
                &mut StreamOwned::new(session, stream),
                manner,
                "+",
                &mut told,
            );
        }
        told
    });
    (address, thread)
}

/// True if TLS comes next.
fn converse(
    stream: &mut (impl io::Read + io::Write),
    manner: Manner,
    mark: &str,
    told: &mut Vec<String>,
) -> bool {
    let mut is_message = false;
    while let Some(line) = line(stream) {
        told.push(format!("{mark}{line}"));
        let is = |word: &str| line.starts_with(word);
        let answer = if is_message {
            is_message = line != ".";
            if is_message { "" } else { "250 taken\r\n" }
        } else if is("EHLO") && manner.offers_no_tls {
            "250-mail\r\n250 AUTH PLAIN\r\n"
        } else if is("EHLO") {
            "250-mail\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"
        } else if is("STARTTLS") {
            stream.write_all(b"220 go ahead\r\n").unwrap();
            stream.write_all(manner.slipped_in.as_bytes()).unwrap();
            return true;
        } else if is("AUTH") && manner.refuses_password {
            "535 no\r\n"
        } else if manner.refuses.iter().any(|refused| line.contains(refused)) {
            "550 no such user\r\n"
        } else if is("DATA") {
            is_message = true;
            "354 go ahead\r\n"
        } else {
            "250 yes\r\n"
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            break;
        }
    }
    false
}

fn line(stream: &mut impl io::Read) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    Some(String::from_utf8(bytes).unwrap().trim_end().to_owned())
}

/// Sends one alert to a server of this manner: what became of it, and what the server was told.
fn sent(manner: Manner, trusted: &Identity, shown: &Identity) -> (Result<(), String>, Vec<String>) {
    let (address, server) = mail_server(shown, manner);
    let written = Written::new();
    let address_of = |text: &str| Address::parse(text).unwrap();
    let settings = Settings {
        timeout: PATIENCE,
        ..written.settings(Target::Smtp(Box::new(Mail {
            host: address.ip().to_string(),
            port: address.port(),
            security: Security::StartTls(tls(&trusted.authority).unwrap()),
            login: Some(Login {
                user: "gateway".to_owned(),
                password: "sesame".to_owned(),
            }),
            from: address_of("gw@example.org"),
            to: vec![address_of("a@example.org"), address_of("b@example.org")],
            subject_prefix: "[x]".to_owned(),
        })))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(async {
        let mut batch = Batch::default();
        batch.add(&settings, alert(7, "test").as_bytes()).unwrap();
        let mut connection = Connection::open(&settings).await.unwrap();
        connection.send(&batch).await.map(drop)
    });
    // Connections that are kept for later end with it.
    drop(runtime);
    (
        result.map_err(|error| error.to_string()),
        server.join().unwrap(),
    )
}

/// What was said over TLS after it was agreed who speaks.
fn after_login(told: &[String]) -> Vec<&str> {
    let words = told.iter().filter_map(|line| line.strip_prefix('+'));
    words.skip(2).collect()
}

#[test]
fn nothing_is_said_in_clear_but_the_name() {
    let identity = identity();
    let (result, told) = sent(Manner::default(), &identity, &identity);
    result.unwrap();
    let in_clear: Vec<_> = told.iter().filter(|line| !line.starts_with('+')).collect();
    assert_eq!(in_clear, ["EHLO example.org", "STARTTLS"]);
    let said = after_login(&told);
    assert_eq!(
        said[..4],
        [
            "MAIL FROM:<gw@example.org>",
            "RCPT TO:<a@example.org>",
            "RCPT TO:<b@example.org>",
            "DATA"
        ]
    );
    assert_eq!(said[said.len() - 2..], [".", "QUIT"]);
}

#[test]
fn a_server_that_offers_no_tls_hears_neither_password_nor_mail() {
    let identity = identity();
    let manner = Manner {
        offers_no_tls: true,
        ..Manner::default()
    };
    let (result, told) = sent(manner, &identity, &identity);
    assert!(result.unwrap_err().contains("offers no STARTTLS"));
    assert_eq!(told, ["EHLO example.org"]);
}

#[test]
fn what_is_slipped_in_before_tls_is_not_taken_for_the_servers_words() {
    let identity = identity();
    let manner = Manner {
        slipped_in: "250-mail\r\n250 AUTH PLAIN\r\n235 welcome\r\n250 yes\r\n250 yes\r\n354 go\r\n250 taken\r\n",
        ..Manner::default()
    };
    let (result, told) = sent(manner, &identity, &identity);
    assert!(result.unwrap_err().contains("speak TLS"));
    assert_eq!(told, ["EHLO example.org", "STARTTLS"]);
}

#[test]
fn a_server_with_another_certificate_hears_neither_password_nor_mail() {
    let (trusted, shown) = (identity(), identity());
    let (result, told) = sent(Manner::default(), &trusted, &shown);
    assert!(
        result
            .unwrap_err()
            .contains("certificate that is not trusted")
    );
    assert_eq!(told, ["EHLO example.org", "STARTTLS"]);
}

#[test]
fn without_its_login_no_mail_is_sent() {
    let identity = identity();
    let manner = Manner {
        refuses_password: true,
        ..Manner::default()
    };
    let (result, told) = sent(manner, &identity, &identity);
    assert!(result.unwrap_err().contains("send a mail by 127.0.0.1"));
    assert!(
        after_login(&told)
            .iter()
            .all(|line| line.starts_with("QUIT"))
    );
}

#[test]
fn one_address_that_is_taken_is_enough_and_none_is_a_failure() {
    let identity = identity();
    let refusing = |refuses| Manner {
        refuses,
        ..Manner::default()
    };
    let (result, told) = sent(refusing(&["b@example.org"]), &identity, &identity);
    result.unwrap();
    assert!(after_login(&told).contains(&"DATA"));
    let (result, told) = sent(refusing(&["RCPT"]), &identity, &identity);
    assert!(result.is_err());
    assert!(!after_login(&told).contains(&"DATA"));
}
