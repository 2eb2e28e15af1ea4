//! What people and programs get wrong: each time a clear error, and what is enforced stays as it was.
//!
//! What a host gets wrong is in `bad_host`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use portcullis_tests::{
    agent::Agent,
    process::{PATIENCE, finish_within},
};
use serde_json::Value;

use crate::{
    stage::{PARTNER, PARTNER6, STRANGER, STRANGER6, Wire},
    traffic::Traffic,
};

/// Entries of the longest list that is taken.
const MOST_ENTRIES: usize = 2_000_000;
/// A list of that length is parsed, recorded and compiled by a build without optimisation.
const LONG: Duration = Duration::from_secs(240);

/// All that must not change.
#[derive(Debug, PartialEq)]
pub(crate) struct Enforced {
    pub(crate) generation: u64,
    pub(crate) revision: u64,
    pub(crate) list: String,
}

impl Enforced {
    pub(crate) fn by(agent: &Agent) -> Self {
        let status = agent.status().unwrap();
        Self {
            generation: status["generation"].as_u64().unwrap(),
            revision: status["revision"].as_u64().unwrap(),
            list: agent.command(&["allow", "list"]).unwrap(),
        }
    }
}

/// The agent's error for a list file with this content, or nothing when it takes it.
fn replace(agent: &Agent, name: &str, content: &[u8]) -> Result<(), String> {
    let file = agent.folder().join(name);
    fs::write(&file, content).unwrap();
    let output = finish_within(
        Command::new(agent.program())
            .args(["allow", "replace"])
            .arg(&file)
            .arg("--socket")
            .arg(&agent.socket),
        LONG,
    )
    .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1 | 3) => Err(error),
        code => panic!("ended with {code:?}: {error}"),
    }
}

#[test]
fn a_list_with_any_fault_is_refused_with_its_place_and_nothing_changes() {
    let wire = Wire::new();
    let agent = wire.agent();
    let before = Enforced::by(&agent);
    let traffic = Traffic::start(&wire, &[PARTNER, PARTNER6], &[STRANGER, STRANGER6]);
    let long_line = format!("{PARTNER} # {}\n", "x".repeat(10_000_000));
    let deep = "[".repeat(200_000);
    let cases: &[(&str, &[u8], &[&str])] = &[
        (
            "host-bits.txt",
            b"203.0.113.0/24\n203.0.113.7/24\n",
            &[":2:1:", "did you mean 203.0.113.0/24?"],
        ),
        (
            "zone.txt",
            b"192.0.2.20\nfe80::1%eth0\n",
            &[":2:1:", "fe80::1"],
        ),
        (
            "everybody.txt",
            b"0.0.0.0/0\n",
            &[":1:1:", "allow_default_route"],
        ),
        (
            "everybody6.txt",
            b"192.0.2.20\n::/0\n",
            &[":2:1:", "allow_default_route"],
        ),
        ("octets.txt", b"192.0.2.256\n", &[":1:1:"]),
        ("length.txt", b"192.0.2.0/33\n", &[":1:1:"]),
        ("name.txt", b"host.example.com\n", &[":1:1:"]),
        (
            "scope.txt",
            b"192.0.2.20 scope=tcp/99999\n",
            &[":1:", "99999"],
        ),
        (
            "long-line.txt",
            long_line.as_bytes(),
            &[":1:65537:", "65536 are the most"],
        ),
        (
            "binary.txt",
            b"\x7fELF\x02\x01\x01\x00\x00\x00",
            &[":1:8:", "NUL byte"],
        ),
        (
            "latin1.txt",
            b"192.0.2.20 # caf\xe9\n",
            &[":1:17:", "not UTF-8"],
        ),
        ("utf16.txt", b"\xff\xfe1\x009\x00", &["UTF-16"]),
        ("empty.txt", b"# nobody\n\n", &["no entry"]),
        (
            "cut.json",
            br#"{"entries":[{"prefix":"192.0.2.20"}"#,
            &["cut.json:1:"],
        ),
        (
            "field.json",
            br#"[{"prefix":"192.0.2.20","prot":"tcp"}]"#,
            &["field.json:1:", "prot"],
        ),
        (
            "range.txt",
            b"192.0.2.20\n192.0.2.21-192.0.2.29\n",
            &[":2:1:"],
        ),
        (
            "netmask.txt",
            b"192.0.2.0/255.255.255.0\n",
            &[":1:1:", "192.0.2.0/24"],
        ),
        (
            "escape.txt",
            b"192.0.2.20 # \x1b[2J\x1b]0;gone\x07\n",
            &["escape.txt:1:"],
        ),
        ("deep.json", deep.as_bytes(), &["deep.json:1:"]),
        (
            "twice.json",
            br#"[{"prefix":"192.0.2.20","prefix":"192.0.2.66"}]"#,
            &["twice.json:1:", "prefix"],
        ),
        (
            "quote.csv",
            b"prefix,comment\n192.0.2.20,\"never closed\n192.0.2.66,x\n",
            &["quote.csv:2:"],
        ),
        (
            "header.csv",
            b"address;port\n192.0.2.20;22\n",
            &["header.csv:1:"],
        ),
        (
            "row.csv",
            b"prefix,comment\n192.0.2.20,ok\n192.0.2.20/8,no\n",
            &["row.csv:3:1:", "192.0.0.0/8"],
        ),
    ];
    for (name, content, words) in cases {
        let error = replace(&agent, name, content).expect_err(name);
        for word in *words {
            assert!(error.contains(word), "{name}: {word} in {error}");
        }
        assert!(error.len() < 8_192, "{name}: a message that can be read");
        assert!(!error.contains('\0') && !error.contains('\x1b'), "{name}");
        assert_eq!(Enforced::by(&agent), before, "{name}");
    }
    let count = traffic.count();
    assert_eq!(
        (count.forbidden_received, count.allowed_lost),
        (0, 0),
        "{count:?}"
    );
    println!("{} bad lists refused, none changed anything", cases.len());
}

#[test]
fn what_is_only_untidy_is_taken() {
    let wire = Wire::new();
    let agent = wire.agent();
    for (name, content, entries) in [
        (
            "duplicates.txt",
            "192.0.2.20\n192.0.2.20\n192.0.2.20/32\n".repeat(1_000),
            1,
        ),
        (
            "overlaps.txt",
            "192.0.2.0/24\n192.0.2.0/25\n192.0.2.20\n2001:db8::/32\n2001:db8::/48\n".to_owned(),
            5,
        ),
        (
            "windows.txt",
            "\u{feff}192.0.2.20\r\n\r\n# note\r\n2001:db8::20\r\n".to_owned(),
            2,
        ),
        (
            "windows.csv",
            "\u{feff}prefix,comment\r\n192.0.2.20,partner\r\n".to_owned(),
            1,
        ),
        ("mapped.txt", "::ffff:192.0.2.20\n".to_owned(), 1),
    ] {
        replace(&agent, name, content.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let status = agent.status().unwrap();
        assert_eq!(status["allowed"], entries, "{name}");
    }
}

#[test]
fn the_longest_list_is_taken_and_one_entry_more_is_refused() {
    let wire = Wire::new();
    let agent = wire.agent();
    let mut text = String::with_capacity(MOST_ENTRIES * 16);
    for host in 0..u32::try_from(MOST_ENTRIES).unwrap() - 1 {
        // Every second address: nothing can be merged.
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + host * 2);
        text.push_str(&format!("{address}\n"));
    }
    text.push_str(&format!("{PARTNER}\n"));
    let traffic = Traffic::start(&wire, &[PARTNER], &[STRANGER]);
    replace(&agent, "longest.txt", text.as_bytes()).unwrap();
    let status = agent.status().unwrap();
    assert_eq!(status["allowed"], MOST_ENTRIES);
    text.push_str("203.0.113.1\n");
    let error = replace(&agent, "longer.txt", text.as_bytes()).unwrap_err();
    assert!(
        error.contains("more than 2000000 entries") && error.contains("longer.txt"),
        "{error}"
    );
    assert_eq!(agent.status().unwrap()["generation"], status["generation"]);
    let count = traffic.count();
    assert_eq!(
        (count.forbidden_received, count.allowed_lost),
        (0, 0),
        "{count:?}"
    );
}

/// Sends a request with curl; gives status and body.
fn curl(agent: &Agent, wrapper: &[&str], path: &str, arguments: &[&str]) -> (u16, Value) {
    let mut command = match wrapper {
        [] => Command::new("curl"),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg("curl");
            command
        }
    };
    command
        .args(["--silent", "--show-error", "--max-time", "60"])
        .args(["--write-out", "\n%{http_code}", "--unix-socket"])
        .arg(&agent.socket)
        .args(arguments)
        .arg(format!("http://agent{path}"));
    let output = finish_within(&mut command, PATIENCE * 4).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text
        .rsplit_once('\n')
        .unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (
        status.parse().unwrap(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

#[test]
fn requests_of_the_wrong_type_size_or_user_are_answered_and_change_nothing() {
    let wire = Wire::new();
    let agent = wire.agent();
    let before = Enforced::by(&agent);
    let json = ["--header", "content-type: application/json"];
    for (method, path, body) in [
        ("POST", "/v1/allow", r#"{"entries":"192.0.2.66"}"#),
        ("POST", "/v1/allow", r#"{"entries":[{"prefix":66}]}"#),
        ("POST", "/v1/allow", r#"{"entries":[{"prefix":null}]}"#),
        (
            "POST",
            "/v1/allow",
            r#"{"entries":[{"prefix":"192.0.2.66","deny":"yes"}]}"#,
        ),
        ("POST", "/v1/allow", r#"["192.0.2.66"]"#),
        ("POST", "/v1/allow", "192.0.2.66"),
        ("POST", "/v1/allow", ""),
        (
            "POST",
            "/v1/allow",
            r#"{"entries":[{"prefix":"192.0.2.66"}],"entries":[]}"#,
        ),
        (
            "POST",
            "/v1/allow",
            r#"{"entries":[{"prefix":"192.0.2.66"}"#,
        ),
        ("PUT", "/v1/allow", r#"{"entries":{}}"#),
        ("DELETE", "/v1/allow", r#"{"prefixes":[192]}"#),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"192.0.2.20","lifetime_seconds":"60"}"#,
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"192.0.2.20","lifetime_seconds":-1}"#,
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"192.0.2.20","lifetime_seconds":1e30}"#,
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":["192.0.2.20"],"lifetime_seconds":60}"#,
        ),
        ("POST", "/v1/allow/rollback", r#"{"revision":"one"}"#),
    ] {
        let arguments = ["--request", method, "--data-binary", body, json[0], json[1]];
        let (status, answer) = curl(&agent, &[], path, &arguments);
        assert_eq!(status, 400, "{method} {path} {body}: {answer}");
        let message = answer.pointer("/error/message").and_then(Value::as_str);
        assert!(
            message.is_some_and(|message| !message.is_empty()),
            "{method} {path} {body}: {answer}"
        );
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_file = file(&agent, "deep", deep.as_bytes());
    let arguments = [
        "--request",
        "POST",
        "--data-binary",
        &deep_file,
        json[0],
        json[1],
    ];
    assert_eq!(curl(&agent, &[], "/v1/allow", &arguments).0, 400);

    let huge_file = file(&agent, "huge", &vec![b' '; 300 << 20]);
    for (method, path) in [
        ("POST", "/v1/allow"),
        ("PUT", "/v1/allow"),
        ("POST", "/v1/bans"),
        ("PUT", "/v1/allow?format=text"),
    ] {
        let arguments = [
            "--request",
            method,
            "--data-binary",
            &huge_file,
            json[0],
            json[1],
        ];
        let (status, answer) = curl(&agent, &[], path, &arguments);
        assert_eq!(status, 413, "{method} {path}: {answer}");
        // As long, and not announced.
        let arguments = [&arguments[..], &["--header", "transfer-encoding: chunked"]].concat();
        let (status, answer) = curl(&agent, &[], path, &arguments);
        assert_eq!(status, 413, "{method} {path}, in chunks: {answer}");
    }
    let stranger = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    for (method, path, body) in [
        ("GET", "/v1/status", ""),
        ("GET", "/v1/allow", ""),
        (
            "POST",
            "/v1/allow",
            r#"{"entries":[{"prefix":"192.0.2.66"}]}"#,
        ),
        ("POST", "/v1/allow/revert", "{}"),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"192.0.2.20","lifetime_seconds":60}"#,
        ),
    ] {
        let arguments = ["--request", method, "--data-binary", body, json[0], json[1]];
        let (status, answer) = curl(&agent, &stranger, path, &arguments);
        assert_eq!(status, 403, "{method} {path}: {answer}");
    }
    assert_eq!(Enforced::by(&agent), before);
}

/// `@FILE` with this content, as curl wants it.
fn file(agent: &Agent, name: &str, content: &[u8]) -> String {
    let path: PathBuf = agent.folder().join(name);
    fs::write(&path, content).unwrap();
    format!("@{}", path.display())
}

#[test]
fn slow_and_senseless_clients_do_not_keep_others_waiting() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    let before = Enforced::by(&agent);
    let head = "POST /v1/allow HTTP/1.1\r\nhost: agent\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    let begin = Instant::now();
    let mut slow: Vec<(&str, UnixStream)> = [&head[..20], head, ""]
        .into_iter()
        .cycle()
        .take(60)
        .map(|text| {
            let mut stream = UnixStream::connect(&agent.socket).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            (text, stream)
        })
        .collect();
    for senseless in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"GET /v1/status HTTP/1.1\r\n\0\0\0\r\n\r\n",
        b"POST /v1/allow HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /v1/allow HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
    ] {
        let mut stream = UnixStream::connect(&agent.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(senseless).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    let start = Instant::now();
    for _ in 0..5 {
        agent.status().unwrap();
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "others are answered: {:?}",
        start.elapsed()
    );
    // Each is shut out in the end: without a whole head with an answer or without, and without the body with the reason.
    for (text, stream) in &mut slow {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(ended.is_ok(), "still open after a minute: {answer}");
        if *text == head {
            assert!(
                answer.starts_with("HTTP/1.1 408")
                    && answer.contains("the body did not come within 30 seconds"),
                "{answer}"
            );
        } else {
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
                "{answer}"
            );
        }
    }
    assert!(
        begin.elapsed() >= Duration::from_secs(30),
        "a body has its 30 seconds: {:?}",
        begin.elapsed()
    );
    assert!(agent.process.is_running());
    assert_eq!(Enforced::by(&agent), before);
}
