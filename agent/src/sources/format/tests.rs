use std::net::{Ipv4Addr, Ipv6Addr};

use chrono::DateTime;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, option, prelude::*};

use super::*;

fn read(name: &str, text: &str) -> Result<Vec<Entry>, String> {
    parse(name, text.as_bytes(), &Limits::default())
        .map(|parsed| parsed.entries)
        .map_err(|error| error.to_string())
}

fn prefixes(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| entry.prefix.to_string())
        .collect()
}

/// Asserts that the list has this one fault, at this place.
#[track_caller]
fn fault(name: &str, text: &str, place: (usize, usize), words: &str) {
    let error = parse(name, text.as_bytes(), &Limits::default()).unwrap_err();
    let found = &error.faults[0];
    assert_eq!((found.place.line, found.place.column), place, "{error}");
    assert!(found.message.contains(words), "`{words}` in {error}");
    assert_eq!(error.faults.len(), 1, "{error}");
    let (line, column) = place;
    assert!(
        error
            .to_string()
            .starts_with(&format!("{name}:{line}:{column}: ")),
        "{error}"
    );
}

#[test]
fn a_line_has_a_prefix_fields_and_a_comment() {
    let text = "# partners\n\n203.0.113.0/24 scope=tcp/22,udp/53 owner=\"lab \\\"a\\\" #1\" ticket=CHG-7 expires=2026-12-31 # from Ann\n!203.0.113.7\n2001:db8::/32#no blank\n";
    let entries = read("p.txt", text).unwrap();
    assert_eq!(
        entries[0],
        Entry {
            scope: Some("tcp/22,udp/53".parse().unwrap()),
            owner: Some("lab \"a\" #1".to_owned()),
            ticket: Some("CHG-7".to_owned()),
            comment: Some("from Ann".to_owned()),
            expires: Some("2027-01-01T00:00:00Z".parse().unwrap()),
            ..Entry::allow("203.0.113.0/24".parse().unwrap())
        }
    );
    assert!(entries[1].deny);
    assert_eq!(entries[2].comment.as_deref(), Some("no blank"));
    assert_eq!(
        prefixes(&entries),
        ["203.0.113.0/24", "203.0.113.7/32", "2001:db8::/32"]
    );
}

#[test]
fn csv_names_its_columns_in_any_order() {
    let text = "Owner;CIDR;deny;expires\r\n\"lab; a\";203.0.113.0/24;;2026-12-31\r\n# left out\r\n;203.0.113.7;yes\r\n";
    let entries = read("p.csv", text).unwrap();
    assert_eq!(entries[0].owner.as_deref(), Some("lab; a"));
    assert_eq!(
        entries[0].expires,
        Some("2027-01-01T00:00:00Z".parse().unwrap())
    );
    assert_eq!((entries[1].deny, entries[1].owner.clone()), (true, None));
}

#[test]
fn json_is_an_array_or_an_object_with_entries() {
    let entry = r#"{"prefix": "203.0.113.0/24", "scope": "tcp/22", "comment": "a \u00fc"}"#;
    let array = read("p.json", &format!("[{entry}]")).unwrap();
    assert_eq!(
        array,
        read("p.json", &format!("\n {{\"entries\": [{entry}]}}")).unwrap()
    );
    assert_eq!(array[0].comment.as_deref(), Some("a ü"));
}

#[test]
fn without_an_ending_that_says_it_the_content_tells_the_format() {
    for (text, format) in [
        ("# x\n\n[]", Format::Json),
        ("\u{feff}{\"entries\":[]}", Format::Json),
        ("\"prefix\",owner\n", Format::Csv),
        ("owner;Address\n", Format::Csv),
        ("203.0.113.0/24 # a,b\n", Format::Text),
        ("", Format::Text),
    ] {
        assert_eq!(Format::of("partner", text.as_bytes()), format, "{text}");
        assert_eq!(Format::of("partner.v2", text.as_bytes()), format, "{text}");
        assert_eq!(Format::of("partner.TXT", text.as_bytes()), Format::Text);
    }
}

#[test]
fn every_fault_has_its_place_and_a_way_out() {
    let text = "203.0.113.0/24\n  203.0.113.7/24 # lab\n\tü x=1\n203.0.113.9 socpe=tcp/22\n203.0.113.9 owner=\"a\n";
    let error = read("p.txt", text).unwrap_err();
    let lines: Vec<&str> = error.lines().collect();
    assert!(
        lines[0].starts_with("p.txt:2:3: ") && lines[0].contains("did you mean 203.0.113.0/24?"),
        "{error}"
    );
    assert!(
        lines[1].starts_with("p.txt:3:4: ") && lines[1].contains("`x` is no field"),
        "{error}"
    );
    assert!(
        lines[2].starts_with("p.txt:4:13: ") && lines[2].contains("did you mean scope?"),
        "{error}"
    );
    assert!(
        lines[3].starts_with("p.txt:5:19: ") && lines[3].contains("never closed"),
        "{error}"
    );
    assert_eq!(lines.len(), 4);
}

#[test]
fn columns_count_characters() {
    fault(
        "p.txt",
        "203.0.113.0 owner=äöü expires=never\n",
        (1, 31),
        "`never` is neither a date",
    );
    fault("p.csv", "owner,prefix\näöü, x\n", (2, 6), "`x` is neither");
    fault(
        "p.json",
        "[{\"owner\": \"äöü\", \"prefix\": \"x\"}]",
        (1, 29),
        "`x` is neither",
    );
}

#[test]
fn csv_faults_have_the_place_of_their_field() {
    fault(
        "p.csv",
        "prefix,owner\n\n# x\n\"203.0.113.0\",\"a\nb\",more\n",
        (5, 4),
        "3 fields",
    );
    fault(
        "p.csv",
        "prefix,scope\n203.0.113.0,\"tcp/22,ssh\"\n",
        (2, 13),
        "`ssh` is not a protocol",
    );
    fault(
        "p.csv",
        "prefix,onwer\n203.0.113.0,a\n",
        (1, 8),
        "did you mean owner?",
    );
    fault(
        "p.csv",
        "203.0.113.0,a\n",
        (1, 1),
        "the first row names the columns",
    );
    fault(
        "p.csv",
        "owner,ticket\n",
        (1, 1),
        "no column is named prefix",
    );
    fault("p.csv", "prefix,cidr\n", (1, 8), "a second column `prefix`");
    fault(
        "p.csv",
        "prefix,deny\n203.0.113.0,maybe\n",
        (2, 13),
        "neither true nor false",
    );
}

#[test]
fn json_faults_have_the_place_of_their_value() {
    let good = r#"{"prefix":"203.0.113.0/24"}"#;
    fault(
        "p.json",
        &format!("[\n{good},\n{{\"prefix\": \"203.0.113.7/24\"}}]"),
        (3, 12),
        "did you mean 203.0.113.0/24?",
    );
    fault(
        "p.json",
        &format!("[{good},\n  {{\"prefix\": \"203.0.113.7\",\n   \"ower\": \"x\"}}]"),
        (3, 9),
        "did you mean owner?",
    );
    fault(
        "p.json",
        &format!("[{good},\n {{\"owner\": \"x\"}}]"),
        (2, 15),
        "missing field `prefix`",
    );
    fault(
        "p.json",
        &format!("[{good}\n {good}]"),
        (2, 2),
        "expected `,` or `]`",
    );
    fault(
        "p.json",
        "{\"entires\": []}",
        (1, 15),
        "missing field `entries`",
    );
    fault("p.json", "[{\"prefix\": 5}]", (1, 13), "expected a");
}

#[test]
fn what_was_probably_meant_is_named() {
    for (text, words) in [
        ("fe80::1%eth0", "leave it out: fe80::1"),
        ("fe80::%eth0/64", "leave it out: fe80::/64"),
        ("203.0.113", "did you mean 203.0.113.0/24?"),
        ("203.0.113.*", "did you mean 203.0.113.0/24?"),
        ("203.0.113.0/255.255.255.0", "did you mean 203.0.113.0/24?"),
        ("203.0.113.0/0.0.0.255", "did you mean 203.0.113.0/24?"),
        ("203.000.113.007", "did you mean 203.0.113.7?"),
        ("203.0.113.0-203.0.113.255", "as prefixes: 203.0.113.0/24"),
        ("203.0.113.9-203.0.113.1", "ends before it begins"),
        ("2001:db8::-2001:db8::ffff", "as prefixes: 2001:db8::/112"),
        ("203.0.113.0/33", "an IPv4 length is 0 to 32"),
        ("2001:db8::/129", "an IPv6 length is 0 to 128"),
        ("203.0.113.7:22", "203.0.113.7 scope=tcp/22"),
        ("[2001:db8::7]:22", "2001:db8::7 scope=tcp/22"),
        ("[2001:db8::7]", "did you mean 2001:db8::7?"),
        ("203.0.113.7,", "did you mean 203.0.113.7?"),
        ("203.0.113.7,lab", "named .csv"),
        ("vpn.example.org", "[[names]]"),
    ] {
        fault("p.txt", text, (1, 1), words);
    }
}

#[test]
fn a_default_route_is_refused_unless_it_is_asked_for() {
    for text in ["0.0.0.0/0", "::/0", "::ffff:0.0.0.0/96", "!0.0.0.0/0"] {
        let at = 1 + usize::from(text.starts_with('!'));
        fault(
            "p.txt",
            text,
            (1, at),
            "/0 is every address there is; set allow_default_route",
        );
        let limits = Limits {
            allow_default_route: true,
            ..Limits::default()
        };
        assert_eq!(
            parse("p.txt", text.as_bytes(), &limits)
                .unwrap()
                .entries
                .len(),
            1
        );
    }
    assert!(read("p.txt", "0.0.0.0/1").is_ok());
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_place() {
    let broken = |bytes: &[u8]| {
        parse("p.txt", bytes, &Limits::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        broken(b"203.0.113.0\nab\xff"),
        "p.txt:2:3: a byte that is not UTF-8; save the file as UTF-8"
    );
    assert!(broken(b"203.0.113.0\n\0\x01").starts_with("p.txt:2:1: a NUL byte"));
    assert!(broken(b"\xff\xfe2\x000\x00").starts_with("p.txt:1:1: this is UTF-16"));
    assert!(broken(b"\x7fELF\x02\x01\x01\0").contains("a NUL byte"));
}

#[test]
fn a_byte_order_mark_and_line_ends_of_other_systems_are_no_fault() {
    let text = "\u{feff}203.0.113.0/24 # lab\r\n\r\n2001:db8::/32\r\n";
    let entries = read("p.txt", text).unwrap();
    assert_eq!(entries[0].comment.as_deref(), Some("lab"));
    assert_eq!(entries.len(), 2);
    assert_eq!(
        read("p.csv", "\u{feff}prefix\r\n203.0.113.0/24\r\n")
            .unwrap()
            .len(),
        1
    );
    fault("p.txt", "\u{feff}203.0.113.7/24\n", (1, 1), "did you mean");
}

#[test]
fn the_longest_line_is_read_and_a_longer_one_is_named() {
    let line = |length: usize| format!("203.0.113.0/24{}\n!x\n", " ".repeat(length - 14));
    fault("p.txt", &line(MAX_LINE), (2, 2), "`x`");
    let error = read("p.txt", &line(MAX_LINE + 1)).unwrap_err();
    assert!(
        error.starts_with("p.txt:1:65537: the line has 65537 bytes"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 2, "the line behind it is read too");
    let long = format!("203.0.113.0/24 # {}\n", "x".repeat(10_000_000));
    fault("p.txt", &long, (1, 65537), "65536 are the most");
    fault(
        "p.csv",
        &format!("prefix\n{long}"),
        (2, 65537),
        "65536 are the most",
    );
}

#[test]
fn as_many_entries_as_the_limit_are_read_and_one_more_is_named() {
    let limits = Limits {
        entries: 3,
        ..Limits::default()
    };
    let list = |count: usize| {
        (0..count)
            .map(|host| format!("203.0.113.{host}\n"))
            .collect::<String>()
    };
    let csv = |count| format!("prefix\n{}", list(count));
    let json = |count| {
        let entries: Vec<Entry> = read("p", &list(count)).unwrap();
        write(Format::Json, &entries)
    };
    for (name, fits, exceeds, line) in [
        ("p.txt", list(3), list(5), 4),
        ("p.csv", csv(3), csv(5), 5),
        ("p.json", json(3), json(5), 5),
    ] {
        assert_eq!(
            parse(name, fits.as_bytes(), &limits).unwrap().entries.len(),
            3
        );
        let error = parse(name, exceeds.as_bytes(), &limits)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("{name}:{line}:1: more than 3 entries")),
            "{error}"
        );
    }
}

#[test]
fn faults_beyond_the_first_are_counted() {
    for name in ["p.txt", "p.csv"] {
        let text = format!(
            "{}{}",
            if name == "p.csv" { "prefix\n" } else { "" },
            "x\n".repeat(MAX_FAULTS + 5)
        );
        let error = parse(name, text.as_bytes(), &Limits::default()).unwrap_err();
        assert_eq!((error.faults.len(), error.more), (MAX_FAULTS, 5));
        assert!(
            error
                .to_string()
                .ends_with(&format!("{name}: and 5 more faults"))
        );
    }
}

#[test]
fn a_list_without_entries_is_refused_unless_it_is_asked_for() {
    let limits = Limits {
        allow_empty: true,
        ..Limits::default()
    };
    for (name, text) in [
        ("p.txt", ""),
        ("p.txt", "# all gone\n"),
        ("p.csv", "prefix\n"),
        ("p.json", "[]"),
        ("p.json", ""),
    ] {
        fault(name, text, (1, 1), "there is no entry");
        assert_eq!(parse(name, text.as_bytes(), &limits).unwrap().entries, []);
    }
}

#[test]
fn of_equal_entries_the_last_is_kept_and_counted() {
    let text = "203.0.113.7 owner=a\n203.0.113.7/32 scope=tcp/22\n203.0.113.0/24\n203.0.113.7 owner=b\n!203.0.113.7\n2001:db8::/32\n";
    let parsed = parse("p.txt", text.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(parsed.duplicates, 1);
    assert_eq!(parsed.overlaps, 1);
    assert_eq!(
        parsed
            .entries
            .iter()
            .map(|entry| entry.owner.as_deref())
            .collect::<Vec<_>>(),
        [None, None, Some("b"), None, None]
    );
}

#[test]
fn what_a_message_repeats_is_short_and_has_no_control_characters() {
    for text in [
        "\u{1b}[2J",
        &"x".repeat(5000),
        "203.0.113.0 \u{1b}[2J=1",
        "203.0.113.0 scope=\u{1b}[2J",
        "203.0.113.0 expires=\u{7}",
    ] {
        let error = read("p.txt", text).unwrap_err();
        assert!(!error.chars().any(char::is_control), "{error:?}");
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn an_end_in_a_file_is_a_moment() {
    assert!(read("p.txt", "203.0.113.0 expires=2026-12-31").is_ok());
    fault(
        "p.txt",
        "203.0.113.0 expires=90d",
        (1, 21),
        "begin anew each time",
    );
}

/// Printed for the record; the bound is the requirement, and holds for optimised builds only.
#[test]
fn a_million_lines_are_read_quickly() {
    let count = if cfg!(debug_assertions) {
        20_000
    } else {
        1_000_000
    };
    let text: String = (0_u32..count)
        .map(|index| format!("{}/32\n", Ipv4Addr::from(index.wrapping_mul(2_654_435_761))))
        .collect();
    let start = std::time::Instant::now();
    let parsed = parse("p.txt", text.as_bytes(), &Limits::default()).unwrap();
    let taken = start.elapsed();
    println!("{count} lines of plain text: {taken:?}");
    assert_eq!(parsed.entries.len(), count as usize);
    assert!(
        cfg!(debug_assertions) || taken.as_millis() <= 500,
        "{taken:?}"
    );
}

fn some_prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (0_u32..16, 24_u8..=32).prop_map(|(host, length)| {
            Ipv4Net::new_assert(Ipv4Addr::from(0xcb00_7100 | host), length)
                .trunc()
                .into()
        }),
        (0_u128..16, 120_u8..=128).prop_map(|(host, length)| {
            Ipv6Net::new_assert(Ipv6Addr::from((0x2001_0db8_u128 << 96) | host), length)
                .trunc()
                .into()
        }),
    ]
}

prop_compose! {
    fn some_entry()(
        prefix in some_prefix(),
        deny in any::<bool>(),
        scope in option::of(prop_oneof!["tcp/22", "udp/5000-5010,tcp", "icmp"]),
        texts in [option::of("[ -~äß,;\"'\\\\#=!]{1,12}"), option::of("[A-Z]{2}-[0-9]{1,4}"), option::of("[ -~ü#\"]{1,20}")],
        expires in option::of(0_i64..4_000_000_000),
    ) -> Entry {
        let [owner, ticket, comment] = texts;
        Entry {
            deny,
            scope: scope.filter(|_| !deny).map(|scope| scope.parse().unwrap()),
            owner,
            ticket,
            comment,
            expires: expires.and_then(|at| DateTime::from_timestamp(at, 0)),
            ..Entry::allow(prefix)
        }
        .check()
        .unwrap()
    }
}

proptest! {
    #[test]
    fn a_list_survives_being_written_and_read(entries in vec(some_entry(), 1..20)) {
        // What the first reading leaves out as a duplicate is not there to survive.
        let json = write(Format::Json, &entries);
        let entries = parse("p.json", json.as_bytes(), &Limits::default()).unwrap().entries;
        for format in [Format::Text, Format::Csv, Format::Json] {
            let text = write(format, &entries);
            let parsed = parse_as(format, "p", text.as_bytes(), &Limits::default());
            prop_assert_eq!(parsed.map(|parsed| parsed.entries), Ok(entries.clone()), "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_a_list_or_faults_within_them(bytes in vec(any::<u8>(), 0..200), text in "[0-9a-f.:/,;\"\\[\\]{}#!= \n\r\\\\%-]{0,120}") {
        for format in [Format::Text, Format::Csv, Format::Json] {
            let _ = parse_as(format, "p", &bytes, &Limits::default());
            if let Err(error) = parse_as(format, "p", text.as_bytes(), &Limits::default()) {
                for fault in error.faults {
                    let lines: Vec<&str> = text.split('\n').collect();
                    prop_assert!(fault.place.line >= 1 && fault.place.line <= lines.len());
                    prop_assert!(fault.place.column >= 1 && fault.place.column <= lines[fault.place.line - 1].chars().count() + 1);
                }
            }
        }
    }
}
