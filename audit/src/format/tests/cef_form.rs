//! CEF, read back.

use std::collections::BTreeMap;

use super::*;

#[derive(Debug)]
struct Cef {
    header: Vec<String>,
    extension: BTreeMap<String, String>,
}

fn parse(text: &str) -> Cef {
    assert!(!text.chars().any(is_deceptive), "{text:?}");
    let rest = text.strip_prefix("CEF:0|").unwrap();
    let mut header = vec![String::new()];
    let mut characters = rest.chars();
    while header.len() < 7 {
        match characters.next().unwrap() {
            '\\' => header.last_mut().unwrap().push(characters.next().unwrap()),
            '|' => header.push(String::new()),
            c => header.last_mut().unwrap().push(c),
        }
    }
    // The seventh field is the extension: keys are words before an equals sign that nothing escapes.
    let extension: String = characters.collect();
    header.pop();
    let mut found = BTreeMap::new();
    let marks: Vec<usize> = extension
        .char_indices()
        .filter(|&(at, c)| {
            c == '='
                && extension[..at]
                    .chars()
                    .rev()
                    .take_while(|&c| c == '\\')
                    .count()
                    % 2
                    == 0
        })
        .map(|(at, _)| at)
        .collect();
    for (index, &mark) in marks.iter().enumerate() {
        let begin = extension[..mark].rfind(' ').map_or(0, |at| at + 1);
        let end = marks.get(index + 1).map_or(extension.len(), |&next| {
            extension[..next].rfind(' ').unwrap()
        });
        let mut value = String::new();
        let mut characters = extension[mark + 1..end].chars();
        while let Some(c) = characters.next() {
            value.push(match c {
                '\\' => match characters.next().unwrap() {
                    'n' => '\n',
                    'r' => '\r',
                    c @ ('\\' | '=') => c,
                    other => panic!("escape of {other:?}"),
                },
                c => c,
            });
        }
        let was = found.insert(extension[begin..mark].to_owned(), value);
        assert!(was.is_none(), "a key twice");
    }
    Cef {
        header,
        extension: found,
    }
}

fn of(line: &[u8]) -> Cef {
    let entry = Entry::parse(line).unwrap();
    parse(&String::from_utf8(Format::Cef.write(&entry, &product())).unwrap())
}

#[test]
fn an_event_has_the_fields_of_its_record() {
    let cef = of(&line(
        "op.intent",
        "allow",
        &json!({"sftp_op": "open", "path": "/in box/a=b|c.csv"}),
    ));
    assert_eq!(
        cef.header,
        [
            "Portcullis",
            "portcullis-proxy",
            "0.1.0",
            "300",
            "op.intent",
            "2"
        ]
    );
    for (key, value) in [
        ("rt", "1795309323000"),
        ("externalId", "4711"),
        ("dvchost", "gw1"),
        ("src", "192.0.2.7"),
        ("spt", "50022"),
        ("suser", "alice"),
        ("suid", "3"),
        ("act", "open"),
        ("outcome", "allow"),
        ("filePath", "/in box/a=b|c.csv"),
        ("fname", "a=b|c.csv"),
        ("cs1Label", "session"),
        ("cs1", "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"),
        ("cs2", PREV),
        ("cn1", "17"),
    ] {
        assert_eq!(cef.extension[key], value, "{key}");
    }
}

#[test]
fn every_event_has_a_signature_and_a_severity_within_its_bounds() {
    for (event, outcome, expected) in [
        ("conn.open", "allow", ("100", "3")),
        ("conn.open", "deny", ("100", "4")),
        ("auth.result", "success", ("201", "3")),
        ("auth.result", "failure", ("201", "4")),
        ("admin.break_glass", "success", ("510", "10")),
        ("log.start", "success", ("600", "5")),
        ("log.disk", "failure", ("600", "9")),
        ("app.start", "success", ("610", "3")),
    ] {
        let cef = of(&line(event, outcome, &json!({})));
        assert_eq!(
            (cef.header[3].as_str(), cef.header[5].as_str()),
            expected,
            "{event} {outcome}"
        );
    }
}

#[test]
fn the_body_is_whole_in_its_own_field() {
    for line in samples() {
        let record: Value = serde_json::from_slice(&line).unwrap();
        let body: Value = serde_json::from_str(&of(&line).extension["cs3"]).unwrap();
        assert_eq!(body, record["body"]);
    }
}

proptest! {
    #[test]
    fn no_name_makes_or_ends_a_field(name in hostile_names()) {
        let cef = of(&hostile(&name));
        prop_assert_eq!(&cef.header[4], "op.denied");
        prop_assert_eq!(&cef.extension["outcome"], "deny");
        prop_assert_eq!(&cef.extension["act"], "open");
        let plain = of(&hostile(b"/plain"));
        prop_assert!(cef.extension.keys().eq(plain.extension.keys()));
        let Value::String(path) = untrusted(&name) else { unreachable!() };
        let hidden = path.chars().any(|c| is_deceptive(c) && c != '\n' && c != '\r');
        prop_assert!(hidden || cef.extension["filePath"] == path);
    }
}
