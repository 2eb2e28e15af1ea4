use proptest::prelude::*;

use super::*;

fn at(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap()
}

fn unix_time(text: &str) -> Option<(u32, u32)> {
    seconds(at(text)).map(|time| (time, time))
}

fn listed(line: &[u8]) -> Entry {
    match parse_list_line(line, at("2026-03-01 12:00")).1 {
        Line::Entry(entry) => entry,
        other @ (Line::Noise | Line::Unknown) => {
            panic!("{:?} is {other:?}", String::from_utf8_lossy(line))
        }
    }
}

#[test]
fn unix_lines_give_name_type_size_and_time() {
    for (line, name, mode, size, time) in [
        (
            "-rw-r--r--    1 0        0             403 Feb 08 14:09 readme.txt",
            "readme.txt",
            0o100_644,
            403,
            "2026-02-08 14:09",
        ),
        (
            "drwxr-xr-x    2 1000     1000         4096 Dec 31 23:59 in",
            "in",
            0o040_755,
            4096,
            "2025-12-31 23:59",
        ),
        (
            "-rw-r--r-- 1 user group 1234 Nov  5  2019 two words.txt",
            "two words.txt",
            0o100_644,
            1234,
            "2019-11-05 00:00",
        ),
        (
            "-rw-r--r-- 1 user group 1234 Nov  5  2019   three blanks",
            "  three blanks",
            0o100_644,
            1234,
            "2019-11-05 00:00",
        ),
        (
            "-rw-rw-r--+ 1 user domain users 7 Jan 1 00:00 acl and spaced group",
            "acl and spaced group",
            0o100_664,
            7,
            "2026-01-01 00:00",
        ),
        (
            "lrwxrwxrwx 1 user group 5 Jan  2 03:04 link -> there",
            "link",
            0o120_777,
            5,
            "2026-01-02 03:04",
        ),
        (
            "-rwsr-sr-t 1 0 0 9 Jan 2 03:04 -> file",
            "-> file",
            0o107_755,
            9,
            "2026-01-02 03:04",
        ),
        (
            "-rw-r--r-- 1 user 12 Jan 2 03:04 no group",
            "no group",
            0o100_644,
            12,
            "2026-01-02 03:04",
        ),
        (
            "-rw-r--r-- 1 user group 12 2 Jan 03:04 day first",
            "day first",
            0o100_644,
            12,
            "2026-01-02 03:04",
        ),
        (
            "-rw-r--r-- 1 user group 12 2024-02-29 03:04 iso",
            "iso",
            0o100_644,
            12,
            "2024-02-29 03:04",
        ),
        (
            "-rw-r--r-- 1 user group 12 Feb 29 03:04 leap day",
            "leap day",
            0o100_644,
            12,
            "2024-02-29 03:04",
        ),
        (
            "-rw-r--r-- 1 user group 12 Mar 2 11:00 east of us",
            "east of us",
            0o100_644,
            12,
            "2026-03-02 11:00",
        ),
        (
            "-rw-r--r-- 1 user group 12 Mar 3 11:00 a year ago",
            "a year ago",
            0o100_644,
            12,
            "2025-03-03 11:00",
        ),
        (
            "-rw-r--r-- 1 user group 12 Jan 2 03:04 Feb 3 04:05",
            "Feb 3 04:05",
            0o100_644,
            12,
            "2026-01-02 03:04",
        ),
        (
            "  -rw-r--r-- 1 user group 12 Jan 2 03:04 indented",
            "indented",
            0o100_644,
            12,
            "2026-01-02 03:04",
        ),
        (
            "-rw-r--r-- 1 user group 4294967296000 Jan 2 03:04 large",
            "large",
            0o100_644,
            4_294_967_296_000,
            "2026-01-02 03:04",
        ),
    ] {
        let entry = listed(line.as_bytes());
        assert_eq!(entry.name, name.as_bytes(), "{line}");
        assert_eq!(entry.attributes.permissions, Some(mode), "{line}");
        assert_eq!(entry.attributes.size, Some(size), "{line}");
        assert_eq!(entry.attributes.times, unix_time(time), "{line}");
    }
    assert_eq!(
        listed(b"-rw-r--r-- 1 1000 100 12 Jan 2 03:04 a")
            .attributes
            .owner,
        Some((1000, 100))
    );
}

#[test]
fn names_are_kept_as_bytes() {
    assert_eq!(
        listed(b"-rw-r--r-- 1 u g 12 Jan 2 03:04 caf\xe9\xa0\xff.txt").name,
        &b"caf\xe9\xa0\xff.txt"[..]
    );
}

#[test]
fn dos_lines_give_name_type_size_and_time() {
    for (line, name, mode, size, time) in [
        (
            "10-19-20  03:19PM       <DIR>          pub",
            "pub",
            DIRECTORY_MODE,
            None,
            "2020-10-19 15:19",
        ),
        (
            "04-08-14  12:09AM                  403 read me.txt",
            "read me.txt",
            FILE_MODE,
            Some(403),
            "2014-04-08 00:09",
        ),
        (
            "04-08-2014  03:09PM            1,403 a",
            "a",
            FILE_MODE,
            Some(1403),
            "2014-04-08 15:09",
        ),
        (
            "2014-04-08  15:09                  403  b",
            " b",
            FILE_MODE,
            Some(403),
            "2014-04-08 15:09",
        ),
    ] {
        let entry = listed(line.as_bytes());
        assert_eq!(entry.name, name.as_bytes(), "{line}");
        assert_eq!(entry.attributes.permissions, Some(mode), "{line}");
        assert_eq!(entry.attributes.size, size, "{line}");
        assert_eq!(entry.attributes.times, unix_time(time), "{line}");
    }
}

#[test]
fn eplf_lines_give_name_type_size_and_time() {
    let file = listed(b"+i8388621.29609,m824255902,r,s4563,\t514 x.html");
    assert_eq!(file.name, &b"514 x.html"[..]);
    assert_eq!(file.attributes.size, Some(4563));
    assert_eq!(file.attributes.times, Some((824_255_902, 824_255_902)));
    assert!(
        listed(b"+i8388621.44468,m839956783,/,\t514")
            .attributes
            .is_directory()
    );
}

fn all_listed(listing: &str) -> Vec<Entry> {
    let mut reader = ListReader::new(at("2026-03-01 12:00"));
    let mut entries = Vec::new();
    for line in listing.lines() {
        match reader.read(line.as_bytes()) {
            Line::Entry(entry) => entries.push(entry),
            Line::Noise => {}
            Line::Unknown => panic!("{line:?} is unknown"),
        }
    }
    entries
}

/// As TCP/IP Services, MultiNet and HGFTP print it.
#[test]
fn vms_listings_give_names_types_and_times_and_each_file_once() {
    let entries = all_listed(
        "
Directory USERS:[LAB.INBOX]

CII-MANUAL.TEX;3  213/216  29-JAN-1996 03:33:12  [ANONYMOU,ANONYMOUS]   (RWED,RWED,R,)
CII-MANUAL.TEX;2  210/216  28-JAN-1996 03:33  [ANONYMOU,ANONYMOUS]   (RWED,RWED,,)
ARCHIVE.DIR;1          1   8-SEP-1996 16:09 [SYSTEM] (RWE,RWE,RE,RE)
A_NAME_THAT_LEAVES_NO_ROOM_FOR_THE_REST.TXT;12
                       7/9  5-JUN-1994 11:02:33.07  [LAB,GATEWAY]  (RWED,RWED,RE,RE)
SECRET.TXT;1           %RMS-E-PRV, insufficient privilege or file protection violation

Total of 5 files, 431/441 blocks.
",
    );
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                std::str::from_utf8(&entry.name).unwrap(),
                entry.attributes.permissions.unwrap(),
                entry.attributes.times,
            )
        })
        .collect();
    let time = |text: &str| {
        let moment = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap();
        seconds(moment).map(|time| (time, time))
    };
    assert_eq!(
        seen,
        [
            ("CII-MANUAL.TEX", 0o100_740, time("1996-01-29 03:33:12")),
            ("ARCHIVE", DIRECTORY_MODE, time("1996-09-08 16:09:00")),
            (
                "A_NAME_THAT_LEAVES_NO_ROOM_FOR_THE_REST.TXT",
                0o100_755,
                time("1994-06-05 11:02:33")
            ),
            ("SECRET.TXT", FILE_MODE, None),
        ]
    );
    assert!(
        entries.iter().all(|entry| entry.attributes.size.is_none()),
        "blocks are not bytes"
    );
}

#[test]
fn a_name_with_a_semicolon_is_not_taken_for_one_of_vms() {
    let entries = all_listed(
        "-rw-r--r-- 1 u g 12 Jan 2 03:04 a;1
-rw-r--r-- 1 u g 12 Jan 2 03:04 a;2",
    );
    assert_eq!(entries[0].name, "a;1");
    assert_eq!(entries[1].name, "a;2");
    let mut reader = ListReader::new(at("2026-03-01 12:00"));
    for line in [
        "a;x  1 8-SEP-1996 16:09",
        "a;1 1 8-SEP-1996",
        "a;1 1 31-FEB-1996 16:09",
        ";1 1 8-SEP-1996 16:09",
    ] {
        assert_eq!(reader.read(line.as_bytes()), Line::Unknown, "{line}");
    }
}

#[test]
fn lines_without_a_name_are_noise_and_strange_lines_are_unknown() {
    let now = at("2026-03-01 12:00");
    for line in [
        "",
        "total 12",
        "Total 0",
        "drwxr-xr-x 2 u g 4096 Jan 2 03:04 .",
        "drwxr-xr-x 2 u g 4096 Jan 2 03:04 ..",
    ] {
        assert_eq!(
            parse_list_line(line.as_bytes(), now).1,
            Line::Noise,
            "{line}"
        );
    }
    for line in [
        "CORE.DIR;1          1  8-SEP-1996 16:09 [SYSTEM] (RWE,RWE,RE,RE)",
        "-rw-r--r-- 1 u g 12 Jan 2 03:04",
        "-rw-r--r-- 1 u g 12 Jan 2 03:04 ../../etc/passwd",
        "-rw-r--r-- 1 u g twelve Jan 2 03:04 name",
        "-rw-r--r-- 1 u g 12 Feb 30 2020 no such day",
        "ls: cannot open directory",
        "+no tab",
        "99-99-99 03:19PM 1 a",
    ] {
        assert_eq!(
            parse_list_line(line.as_bytes(), now).1,
            Line::Unknown,
            "{line}"
        );
    }
}

#[test]
fn mlsd_facts_are_read_in_any_case_and_order() {
    let Line::Entry(entry) = parse_mlsd_line(
        b"Size=403;modify=20201019151930.123;Type=file;UNIX.mode=0640;UNIX.uid=1000;UNIX.gid=100; read; me.txt",
    ) else {
        panic!("no entry")
    };
    assert_eq!(entry.name, &b"read; me.txt"[..]);
    assert_eq!(
        entry.attributes,
        Attributes {
            size: Some(403),
            owner: Some((1000, 100)),
            permissions: Some(0o100_640),
            times: Some((1_603_120_770, 1_603_120_770)),
            is_interrupted: false,
            is_foreign: false,
        }
    );
    assert_eq!(
        parse_mlsd_line(b"type=cdir;modify=20201019151930; ."),
        Line::Noise
    );
    assert_eq!(parse_mlsd_line(b"type=pdir; /"), Line::Noise);
    assert_eq!(parse_mlsd_line(b"type=file;"), Line::Unknown);
    assert_eq!(parse_mlsd_line(b"type=file; a/b"), Line::Unknown);
    let Line::Entry(link) = parse_mlsd_line(b"type=OS.unix=slink:/target;  blank") else {
        panic!("no entry")
    };
    assert_eq!(link.name, &b" blank"[..]);
    assert_eq!(link.attributes.permissions, Some(0o120_777));
}

#[test]
fn mlst_facts_need_a_type() {
    let directory = parse_mlst_line(b" type=cdir;modify=20201019151930; /in").unwrap();
    assert!(directory.is_directory());
    assert_eq!(
        parse_mlst_line(b"size=1;type=file; /in/a b").unwrap().size,
        Some(1)
    );
    assert_eq!(parse_mlst_line(b"End"), None);
}

proptest! {
    #[test]
    fn no_line_is_too_odd(line in proptest::collection::vec(any::<u8>(), 0..120)) {
        let now = at("2026-03-01 12:00");
        let mut reader = ListReader::new(now);
        let wrapped = [reader.read(b"LONG_NAME.TXT;1"), reader.read(&line), reader.read(&line)];
        for parsed in [parse_list_line(&line, now).1, parse_mlsd_line(&line)].into_iter().chain(wrapped) {
            if let Line::Entry(entry) = parsed {
                prop_assert!(!entry.name.is_empty());
                prop_assert!(!entry.name.contains(&b'/') && !entry.name.contains(&0));
                prop_assert!(entry.name != b"."[..] && entry.name != b".."[..]);
            }
        }
    }

    #[test]
    fn what_ls_prints_is_read_back(
        size in any::<u64>(),
        name in proptest::collection::vec(any::<u8>().prop_filter("in a name", |byte| *byte != b'/' && *byte != 0), 1..40),
    ) {
        prop_assume!(name != b"." && name != b"..");
        let mut line = format!("-rw-r--r--    1 1000     100  {size:>20} Feb 08 14:09 ").into_bytes();
        line.extend_from_slice(&name);
        let entry = listed(&line);
        prop_assert_eq!(&entry.name[..], &name[..]);
        prop_assert_eq!(entry.attributes.size, Some(size));
    }

    #[test]
    fn what_vms_prints_is_read_back(
        name in "[A-Z0-9_$-]{1,39}",
        extension in "[A-Z0-9_$-]{1,39}",
        version in 1_u16..32767,
        wrapped in any::<bool>(),
    ) {
        prop_assume!(extension != "DIR");
        let file = format!("{name}.{extension}");
        let gap = if wrapped { "\n   " } else { "  " };
        let listing = format!("{file};{version}{gap}1/3  8-SEP-1996 16:09  [LAB]  (RWED,RWED,RE,)");
        let entries = all_listed(&listing);
        prop_assert_eq!(entries.len(), 1);
        prop_assert_eq!(&entries[0].name[..], file.as_bytes());
    }
}

#[test]
fn a_reader_knows_the_form_of_what_it_read() {
    for (line, form) in [
        ("-rw-r--r-- 1 u g 12 Jan 2 03:04 a", Some(ListForm::Unix)),
        ("10-19-20  03:19PM    12 a", Some(ListForm::Dos)),
        ("+m825718503,r,s280,\ta", Some(ListForm::Eplf)),
        (
            "A.TXT;1  1  8-SEP-1996 16:09 [SYSTEM] (RWE,RWE,RE,RE)",
            Some(ListForm::Vms),
        ),
        ("total 12", None),
        ("Inhalt von A: 1 Datei", None),
    ] {
        let mut reader = ListReader::new(at("2026-03-01 12:00"));
        reader.read(line.as_bytes());
        assert_eq!(reader.form(), form, "{line}");
    }
}

#[test]
fn permission_bits_are_octal_with_or_without_pythons_mark() {
    for facts in [
        "type=file;UNIX.mode=0640; /a",
        "type=file;unix.mode=0o640; /a",
    ] {
        let attributes = parse_mlst_line(facts.as_bytes()).unwrap();
        assert_eq!(attributes.permissions, Some(Attributes::REGULAR | 0o640));
    }
    let odd = parse_mlst_line(b"type=file;unix.mode=0x1a0; /a").unwrap();
    assert_eq!(odd.permissions, Some(FILE_MODE));
}

#[test]
fn a_name_with_blanks_in_the_form_of_vms_ends_at_its_version() {
    let mut reader = ListReader::new(at("2026-03-01 12:00"));
    let line = b"file 7; 8.txt;12  1/3  8-SEP-1996 16:09:01  [LAB,GATEWAY]  (RWED,RWED,RE,)";
    let Line::Entry(entry) = reader.read(line) else {
        panic!("no name was read");
    };
    assert_eq!(entry.name, "file 7; 8.txt");
    assert_eq!(reader.form(), Some(ListForm::Vms));
}
