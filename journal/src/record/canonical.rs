//! One record as one line of JSON in the form of RFC 8785.
//!
//! The form is ready except for four gaps that only the log's one writer can fill, so that most of the work happens in
//! the thread of the caller.

use std::{io::Write as _, net::SocketAddr};

use serde_json::{Map, Number, Value};

use super::{Actor, Event, SessionId};

/// Largest integer that every JSON reader holds exactly (RFC 7493 section 2.2). Larger ones are written as strings.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// Version of the record format.
const VERSION: u64 = 1;

/// What is the same in every record of one run of a daemon.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) node: String,
    pub(crate) boot_id: String,
}

/// What only the writer knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) seq: u64,
    /// Hexadecimal SHA-256 of the previous line.
    pub(crate) prev: &'a str,
    /// RFC 3339, UTC, microseconds.
    pub(crate) time: &'a str,
    /// Nanoseconds since this boot.
    pub(crate) mono_ns: u64,
}

/// A record in canonical form, with gaps for what [`Frame`] holds.
#[derive(Debug)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    /// Ends of the parts before `mono_ns`, `prev`, `seq` and `ts`.
    gaps: [usize; 4],
}

impl Draft {
    pub(crate) fn new(event: &Event, identity: &Identity) -> Self {
        let mut out = Vec::with_capacity(384);
        out.extend_from_slice(b"{\"body\":");
        object(&mut out, &event.body);
        out.extend_from_slice(b",\"boot_id\":");
        string(&mut out, &identity.boot_id);
        if let Some(destination) = event.destination {
            out.extend_from_slice(b",\"dst\":");
            address(&mut out, destination);
        }
        out.extend_from_slice(b",\"event\":");
        string(&mut out, event.kind.name());
        out.extend_from_slice(b",\"mono_ns\":");
        let before_mono = out.len();
        out.extend_from_slice(b",\"node\":");
        string(&mut out, &identity.node);
        if let Some(operation) = event.operation {
            out.extend_from_slice(b",\"op_id\":");
            integer(&mut out, operation.0);
        }
        if let Some(outcome) = event.outcome {
            out.extend_from_slice(b",\"outcome\":");
            string(&mut out, outcome.name());
        }
        out.extend_from_slice(b",\"prev\":\"");
        let before_prev = out.len();
        out.push(b'"');
        if let Some(reason) = &event.reason {
            out.extend_from_slice(b",\"reason\":");
            string(&mut out, reason);
        }
        out.extend_from_slice(b",\"seq\":");
        let before_seq = out.len();
        if let Some(SessionId(bytes)) = event.session {
            out.extend_from_slice(b",\"session_id\":");
            string(&mut out, &hex::encode(bytes));
        }
        if let Some(source) = event.source {
            out.extend_from_slice(b",\"src\":");
            address(&mut out, source);
        }
        out.extend_from_slice(b",\"ts\":\"");
        let before_time = out.len();
        out.push(b'"');
        if let Some(user) = &event.user {
            out.extend_from_slice(b",\"user\":");
            actor(&mut out, user);
        }
        out.extend_from_slice(b",\"v\":");
        integer(&mut out, VERSION);
        out.push(b'}');
        Self {
            bytes: out,
            gaps: [before_mono, before_prev, before_seq, before_time],
        }
    }

    /// Bytes that the record takes, without its frame.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the whole line to `out`, without a newline.
    pub(crate) fn write(&self, frame: Frame<'_>, out: &mut Vec<u8>) {
        let [mono, prev, seq, time] = self.gaps;
        let part = |from: usize, to: usize| self.bytes.get(from..to).unwrap_or_default();
        out.extend_from_slice(part(0, mono));
        integer(out, frame.mono_ns);
        out.extend_from_slice(part(mono, prev));
        out.extend_from_slice(frame.prev.as_bytes());
        out.extend_from_slice(part(prev, seq));
        integer(out, frame.seq);
        out.extend_from_slice(part(seq, time));
        out.extend_from_slice(frame.time.as_bytes());
        out.extend_from_slice(part(time, self.bytes.len()));
    }
}

fn address(out: &mut Vec<u8>, address: SocketAddr) {
    out.extend_from_slice(b"{\"ip\":\"");
    write!(out, "{}", address.ip().to_canonical()).expect("a Vec takes all writes");
    out.extend_from_slice(b"\",\"port\":");
    integer(out, u64::from(address.port()));
    out.push(b'}');
}

fn actor(out: &mut Vec<u8>, user: &Actor) {
    out.extend_from_slice(b"{\"name\":");
    string(out, &user.name);
    if let Some(kind) = user.kind {
        out.extend_from_slice(b",\"type\":");
        string(out, kind.name());
    }
    if let Some(uid) = user.uid {
        out.extend_from_slice(b",\"uid\":");
        signed(out, uid);
    }
    out.push(b'}');
}

fn object(out: &mut Vec<u8>, map: &Map<String, Value>) {
    // RFC 8785 section 3.2.3 sorts by UTF-16 code units. For ASCII that is the order of bytes, which the map mostly has.
    let is_sorted = map.keys().all(|name| name.is_ascii()) && map.keys().is_sorted();
    if is_sorted {
        fields(out, map.iter());
    } else {
        let mut all: Vec<_> = map.iter().collect();
        all.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        fields(out, all.into_iter());
    }
}

fn fields<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = (&'a String, &'a Value)>) {
    out.push(b'{');
    for (at, (name, field)) in fields.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(out, name);
        out.push(b':');
        value(out, field);
    }
    out.push(b'}');
}

fn value(out: &mut Vec<u8>, value_: &Value) {
    match value_ {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => number(out, n),
        Value::String(text) => string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                value(out, item);
            }
            out.push(b']');
        }
        Value::Object(map) => object(out, map),
    }
}

/// Fractions are written as strings: their shortest form is where implementations of RFC 8785 differ.
fn number(out: &mut Vec<u8>, n: &Number) {
    if let Some(n) = n.as_u64() {
        integer(out, n);
    } else if let Some(n) = n.as_i64() {
        signed(out, n);
    } else {
        string(out, &n.to_string());
    }
}

fn signed(out: &mut Vec<u8>, n: i64) {
    let quote = if n.unsigned_abs() > MAX_EXACT {
        "\""
    } else {
        ""
    };
    out.extend_from_slice(quote.as_bytes());
    if n < 0 {
        out.push(b'-');
    }
    digits(out, n.unsigned_abs());
    out.extend_from_slice(quote.as_bytes());
}

fn integer(out: &mut Vec<u8>, n: u64) {
    let quote = if n > MAX_EXACT { "\"" } else { "" };
    out.extend_from_slice(quote.as_bytes());
    digits(out, n);
    out.extend_from_slice(quote.as_bytes());
}

/// Every record has several numbers: `write!` would cost more than all the rest of it.
fn digits(out: &mut Vec<u8>, mut n: u64) {
    let mut text = [b'0'; 20];
    let mut unused = text.len();
    for place in text.iter_mut().rev() {
        *place = b'0' + (n % 10) as u8;
        n /= 10;
        unused -= 1;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(text.get(unused..).unwrap_or_default());
}

/// RFC 8785 section 3.2.2.2: two-character escapes where JSON has them, `\u00xx` for other controls, the rest as it is.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest
        .iter()
        .position(|&b| b < 0x20 || b == b'"' || b == b'\\')
    {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else {
            break;
        };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            control => write!(out, "\\u{control:04x}").expect("a Vec takes all writes"),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::record::{AccountKind, EventKind, OperationId, Verdict, untrusted};

    fn line(event: &Event) -> String {
        let identity = Identity {
            node: "gw1".into(),
            boot_id: "b".into(),
        };
        let mut out = Vec::new();
        let frame = Frame {
            seq: 7,
            prev: "00ff",
            time: "2026-11-22T01:02:03.000004Z",
            mono_ns: 9,
        };
        Draft::new(event, &identity).write(frame, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_full_record_has_every_field_in_sorted_order() {
        let mut event = Event::new(EventKind::OperationIntent);
        event.outcome = Some(Verdict::Allow);
        event.reason = Some("rule_3".into());
        event.session = Some(SessionId([0xab; 16]));
        event.operation = Some(OperationId(5));
        event.user = Some(Actor {
            uid: Some(3),
            name: "alice".into(),
            kind: Some(AccountKind::Human),
        });
        event.source = Some("[::ffff:192.0.2.7]:5000".parse().unwrap());
        event.destination = Some("[2001:db8::1]:22".parse().unwrap());
        event.body.insert("path".into(), untrusted(b"/inbox/a.csv"));
        assert_eq!(
            line(&event),
            r#"{"body":{"path":"/inbox/a.csv"},"boot_id":"b","dst":{"ip":"2001:db8::1","port":22},"event":"op.intent","#
                .to_owned()
                + r#""mono_ns":9,"node":"gw1","op_id":5,"outcome":"allow","prev":"00ff","reason":"rule_3","seq":7,"#
                + r#""session_id":"abababababababababababababababab","src":{"ip":"192.0.2.7","port":5000},"#
                + r#""ts":"2026-11-22T01:02:03.000004Z","user":{"name":"alice","type":"human","uid":3},"v":1}"#
        );
    }

    #[test]
    fn a_newline_in_a_name_cannot_begin_a_record() {
        let mut event = Event::new(EventKind::OperationIntent);
        event.body.insert(
            "path".into(),
            untrusted(b"/a\n{\"event\":\"auth.result\",\"outcome\":\"success\"}\r\n\x1b[2J\0"),
        );
        let line = line(&event);
        assert!(!line.bytes().any(|b| b < 0x20), "{line}");
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["event"], "op.intent");
        assert!(back["body"]["path"].as_str().unwrap().contains('\n'));
    }

    #[test]
    fn the_rfc_8785_example_of_sorting_and_escapes_holds() {
        let mut out = Vec::new();
        let input = json!({"\u{20ac}": "Euro Sign", "\r": "Carriage Return", "\u{fb33}": "Hebrew Letter Dalet With Dagesh",
            "1": "One", "\u{1f600}": "Emoji: Grinning Face", "\u{80}": "Control", "\u{f6}": "Latin Small Letter O With Diaeresis"});
        value(&mut out, &input);
        let text = String::from_utf8(out).unwrap();
        let order: Vec<_> = [
            "\\r",
            "\"1\"",
            "\u{80}",
            "\u{f6}",
            "\u{20ac}",
            "\u{1f600}",
            "\u{fb33}",
        ]
        .iter()
        .map(|key| text.find(key).unwrap())
        .collect();
        assert!(order.is_sorted(), "{text}");
        out = Vec::new();
        string(&mut out, "\u{20ac}$\u{f}\nA'B\"\\\\\"/");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\""
        );
    }

    #[test]
    fn a_number_that_a_reader_would_round_is_a_string() {
        let mut out = Vec::new();
        value(
            &mut out,
            &json!([MAX_EXACT, MAX_EXACT + 1, u64::MAX, -5, i64::MIN, 1.5]),
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"[9007199254740991,"9007199254740992","18446744073709551615",-5,"-9223372036854775808","1.5"]"#
        );
    }

    #[test]
    fn keys_are_sorted_at_every_depth_whatever_order_the_map_keeps() {
        let mut out = Vec::new();
        value(
            &mut out,
            &json!({"b": {"z": 0, "a": 10}, "a": [{"d": 1, "c": -1}]}),
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"a":[{"c":-1,"d":1}],"b":{"a":10,"z":0}}"#
        );
    }

    proptest! {
        #[test]
        fn any_string_comes_back_and_stays_on_its_line(text in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert!(!out.iter().any(|&b| b < 0x20));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
