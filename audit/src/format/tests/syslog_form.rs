//! RFC 5424 and octet counting, read back.

use super::*;
use crate::format::syslog::{ENTERPRISE, FACILITY, LEAST_MESSAGE_BYTES};

/// A message as RFC 5424 section 6 describes it.
#[derive(Debug, PartialEq)]
pub(super) struct Message {
    pub(super) priority: u16,
    pub(super) time: String,
    pub(super) host: String,
    pub(super) app: String,
    pub(super) id: String,
    /// Elements of the structured data, each with its parameters.
    pub(super) data: Vec<(String, Vec<(String, String)>)>,
    pub(super) text: Vec<u8>,
}

/// Splits a stream of `MSG-LEN SP MSG`.
pub(super) fn split(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while !stream.is_empty() {
        let space = stream.iter().position(|&b| b == b' ').unwrap();
        let digits = std::str::from_utf8(&stream[..space]).unwrap();
        assert!(!digits.starts_with('0'));
        let length: usize = digits.parse().unwrap();
        messages.push(&stream[space + 1..space + 1 + length]);
        stream = &stream[space + 1 + length..];
    }
    messages
}

pub(super) fn parse(message: &[u8]) -> Message {
    let (head, mut rest) = {
        let mut at = 0;
        for _ in 0..6 {
            at += message[at..].iter().position(|&b| b == b' ').unwrap() + 1;
        }
        message.split_at(at)
    };
    let head = std::str::from_utf8(head).unwrap();
    assert!(
        head.chars().all(|c| c.is_ascii_graphic() || c == ' '),
        "{head}"
    );
    let fields: Vec<_> = head.trim_end().split(' ').collect();
    let (priority, version) = fields[0]
        .strip_prefix('<')
        .unwrap()
        .split_once('>')
        .unwrap();
    assert_eq!(version, "1");
    assert_eq!(fields[4], "-", "PROCID");

    let mut data = Vec::new();
    while rest[0] == b'[' {
        let end = rest.iter().position(|b| b" ]".contains(b)).unwrap();
        let name = String::from_utf8(rest[1..end].to_vec()).unwrap();
        rest = &rest[end..];
        let mut parameters = Vec::new();
        while rest[0] == b' ' {
            let equals = rest.iter().position(|&b| b == b'=').unwrap();
            let key = String::from_utf8(rest[1..equals].to_vec()).unwrap();
            assert_eq!(rest[equals + 1], b'"');
            rest = &rest[equals + 2..];
            let mut value = Vec::new();
            while rest[0] != b'"' {
                assert_ne!(rest[0], b']', "a bracket that is not escaped");
                assert!(rest[0] >= 0x20, "a control character");
                if rest[0] == b'\\' && b"\"\\]".contains(&rest[1]) {
                    rest = &rest[1..];
                }
                value.push(rest[0]);
                rest = &rest[1..];
            }
            rest = &rest[1..];
            parameters.push((key, String::from_utf8(value).unwrap()));
        }
        assert_eq!(rest[0], b']');
        rest = &rest[1..];
        data.push((name, parameters));
    }
    assert_eq!(rest[0], b' ');
    Message {
        priority: priority.parse().unwrap(),
        time: fields[1].to_owned(),
        host: fields[2].to_owned(),
        app: fields[3].to_owned(),
        id: fields[5].to_owned(),
        data,
        text: rest[1..].to_vec(),
    }
}

fn only(stream: &[u8]) -> Message {
    let messages = split(stream);
    assert_eq!(messages.len(), 1);
    parse(messages[0])
}

#[test]
fn a_message_has_the_fields_of_its_record() {
    let line = line("op.denied", "deny", &json!({"path": "/a"}));
    let message = only(&syslog(Format::Json).frame(&Entry::parse(&line).unwrap()));
    assert_eq!(message.priority, u16::from(FACILITY) * 8 + 4);
    assert_eq!(message.time, "2026-11-22T01:02:03.000004Z");
    assert_eq!(
        (
            message.host.as_str(),
            message.app.as_str(),
            message.id.as_str()
        ),
        ("gw1", "portcullis-proxy", "op.denied")
    );
    let fields: Vec<_> = [
        ("seq", "4711"),
        ("sid", "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"),
        ("op", "17"),
        ("uid", "3"),
        ("out", "deny"),
        ("prev", PREV),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    assert_eq!(message.data, [(format!("portcullis@{ENTERPRISE}"), fields)]);
    assert_eq!(message.text, line);
}

#[test]
fn the_clock_is_spoken_of_only_where_somebody_knows_it() {
    let line = line("op.denied", "deny", &json!({}));
    let entry = Entry::parse(&line).unwrap();
    for (is_synced, said) in [
        (None, None),
        (Some(true), Some("1")),
        (Some(false), Some("0")),
    ] {
        let sink = Syslog {
            is_synced,
            ..syslog(Format::Json)
        };
        let message = only(&sink.frame(&entry));
        let quality = message.data.iter().find(|(name, _)| name == "timeQuality");
        assert_eq!(
            quality.map(|(_, fields)| fields[1].1.as_str()),
            said,
            "{message:?}"
        );
    }
}

#[test]
fn a_message_that_is_too_long_loses_the_end_of_its_text_and_says_so() {
    let line = line(
        "op.denied",
        "deny",
        &json!({"path": "\u{20ac}".repeat(5000)}),
    );
    let entry = Entry::parse(&line).unwrap();
    for message_bytes in [LEAST_MESSAGE_BYTES, LEAST_MESSAGE_BYTES + 1, 8192] {
        let sink = Syslog {
            message_bytes,
            ..syslog(Format::Json)
        };
        let stream = sink.frame(&entry);
        let whole = split(&stream)[0];
        assert!(whole.len() <= message_bytes && whole.len() > message_bytes - 8);
        let message = parse(whole);
        let (name, cut) = message.data[0].1.last().unwrap();
        assert_eq!(name, "cut");
        assert_eq!(
            message.text.len() + cut.parse::<usize>().unwrap(),
            line.len()
        );
        assert!(line.starts_with(&message.text));
        assert!(String::from_utf8(message.text).is_ok());
    }
    let roomy = Syslog {
        message_bytes: 1 << 20,
        ..syslog(Format::Json)
    };
    assert_eq!(only(&roomy.frame(&entry)).text, line);
}

#[test]
fn a_checkpoint_is_one_message_with_the_note_in_it() {
    let note = "gw1/log\n4711\nAAAA\n\n\u{2014} gw1/log sig\n";
    let stream = syslog(Format::Json).checkpoint(note.as_bytes(), "gw1", "2026-11-22T01:02:03Z");
    let message = only(&stream);
    assert_eq!(message.id, "log.checkpoint");
    let text: Value = serde_json::from_slice(&message.text).unwrap();
    assert_eq!(text["checkpoint"], note);
    assert_eq!(text["size"], 4711);
}

#[test]
fn forged_fields_stay_in_their_place() {
    let mut record: Value = serde_json::from_slice(&line("op.denied", "deny", &json!({}))).unwrap();
    record["node"] = "gw1 x\n<1>1".into();
    record["event"] = "a b\n".into();
    record["prev"] = "\"] [x@1 y=\"\n".into();
    record["session_id"] = "\\\\]\u{202e}".into();
    record["ts"] = "2026 - - - -".into();
    let line = record.to_string().into_bytes();
    let message = only(&syslog(Format::Json).frame(&Entry::parse(&line).unwrap()));
    assert_eq!(message.time, "-");
    assert_eq!(message.host, "gw1_x_<1>1");
    assert_eq!(message.data.len(), 1);
    assert_eq!(message.data[0].1[1].1, "\\\\]\u{fffd}");
    assert_eq!(message.data[0].1[5].1, "\"] [x@1 y=\"\u{fffd}");
}

proptest! {
    #[test]
    fn no_name_makes_a_second_message(name in hostile_names(), bytes in 2048_usize..100_000) {
        let line = hostile(&name);
        let entry = Entry::parse(&line).unwrap();
        for format in [Format::Json, Format::Ocsf, Format::Cef] {
            let sink = Syslog { message_bytes: bytes, ..syslog(format) };
            let two = [sink.frame(&entry), sink.frame(&entry)].concat();
            let messages = split(&two);
            prop_assert_eq!(messages.len(), 2);
            let message = parse(messages[0]);
            prop_assert_eq!(message.id.as_str(), "op.denied");
            prop_assert_eq!(message.data.len(), 1);
            prop_assert!(!message.text.iter().any(|&b| b < 0x20), "a line breaks");
            let whole = format.write(&entry, &product());
            prop_assert!(whole.starts_with(&message.text));
        }
    }
}
