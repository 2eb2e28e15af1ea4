//! The text of manifests, and what it is worth to somebody with keys, a log or files.

use proptest::prelude::*;

use super::*;

#[test]
fn each_byte_of_a_manifest_counts() {
    let log = Log::of(
        Session::new()
            .upload(0, "/inbox/a", "a")
            .upload(0, "/inbox/b", "b")
            .end(),
    );
    let signed = log.signed();
    assert_eq!(
        Manifest::check(signed.as_bytes(), &log.keys()).unwrap(),
        log.manifest()
    );
    for at in 0..signed.len() {
        for change in [0x01, 0x20, 0x80] {
            let mut forged = signed.clone().into_bytes();
            forged[at] ^= change;
            let checked = Manifest::check(&forged, &log.keys());
            assert!(
                checked.is_err(),
                "byte {at}: {}",
                String::from_utf8_lossy(&forged)
            );
        }
        let cut = [&signed.as_bytes()[..at], &signed.as_bytes()[at + 1..]].concat();
        assert!(
            Manifest::check(&cut, &log.keys()).is_err(),
            "without byte {at}"
        );
    }
    for (from, to) in [
        ("# files 2", "# files 3"),
        ("7 bytes", "07 bytes"),
        ("inbox/b", "inbox/c"),
        (", records 6", ", records 5"),
        ("# user alice", "# user mallory"),
    ] {
        let forged = signed.replacen(from, to, 1);
        assert_ne!(forged, signed, "{to}");
        assert!(
            Manifest::check(forged.as_bytes(), &log.keys()).is_err(),
            "{to}"
        );
    }
}

#[test]
fn a_manifest_is_by_the_key_of_its_log() {
    let events = || Session::new().upload(0, "/inbox/a", "a").end();
    let (log, other) = (Log::of(events()), Log::of(events()));
    let signed = log.signed();
    assert!(Manifest::check(signed.as_bytes(), &log.keys()).is_ok());
    assert!(matches!(
        Manifest::check(signed.as_bytes(), &other.keys()),
        Err(ManifestError::OtherKey { .. })
    ));
    let both = [other.keys(), log.keys()].concat();
    assert!(Manifest::check(signed.as_bytes(), &both).is_ok());

    // A key of another name that the auditor trusts as well.
    let stranger = SigningKey::open(&log.0.path().join("stranger"), "other").unwrap();
    assert!(matches!(
        log.manifest().sign(&stranger),
        Err(ManifestError::OtherOrigin { .. })
    ));
    let lent = Manifest {
        origin: "other".to_owned(),
        ..log.manifest()
    };
    let lent = lent.sign(&stranger).unwrap();
    let trusted = [log.keys(), vec![stranger.verifier()]].concat();
    assert!(Manifest::check(lent.as_bytes(), &trusted).is_ok());
    let forged = lent.replacen("# log other", "# log gw1", 1);
    assert!(Manifest::check(forged.as_bytes(), &trusted).is_err());
}

#[test]
fn a_checkpoint_is_no_manifest_and_a_manifest_no_checkpoint() {
    let log = Log::of(Session::new().upload(0, "/inbox/a", "a").end());
    let checkpoints = std::fs::read(log.directory().join(CHECKPOINTS)).unwrap();
    let (all, _) = notes(&checkpoints);
    let checkpoint = *all.last().unwrap();
    assert!(matches!(judge(checkpoint, &log.keys()), Judged::Good(_)));
    assert!(matches!(
        Manifest::check(checkpoint, &log.keys()),
        Err(ManifestError::NotAManifest { .. })
    ));
    let signed = log.signed();
    assert!(Manifest::check(signed.as_bytes(), &log.keys()).is_ok());
    assert_eq!(judge(signed.as_bytes(), &log.keys()), Judged::Malformed);
    // Nor in the file of checkpoints.
    let mixed = [signed.as_bytes(), checkpoint].concat();
    let (found, _) = notes(&mixed);
    assert_eq!(judge(found[0], &log.keys()), Judged::Malformed);
}

type Lie = fn(&mut Manifest);

#[test]
fn what_a_signed_manifest_says_is_compared_with_the_log() {
    let log = Log::of(
        Session::new()
            .upload(0, "/inbox/a", "a")
            .upload(0, "/inbox/b", "b")
            .end(),
    );
    let honest = log.manifest();
    let findings = |manifest: &Manifest| compare(manifest, &log.directory()).unwrap();
    assert_eq!(findings(&honest), [""; 0]);
    let lies: [(&str, Lie); 10] = [
        ("another size", |it| it.entries[0].size = Some(8)),
        ("no size", |it| it.entries[0].size = None),
        ("another digest", |it| it.entries[0].sha256 = Ok([9; 32])),
        ("no digest", |it| {
            it.entries[0].sha256 = Err("lost".to_owned())
        }),
        ("another name", |it| {
            it.entries[0].path = b"/inbox/c".to_vec()
        }),
        ("another time", |it| {
            it.entries[0].time.replace_range(0..4, "1999")
        }),
        ("other records", |it| it.entries[0].records = vec![1]),
        ("a file less", |it| drop(it.entries.remove(0))),
        ("another user", |it| it.user = "bob".to_owned()),
        ("another head", |it| it.head.root = Hash([7; 32])),
    ];
    for (what, lie) in lies {
        let mut manifest = honest.clone();
        lie(&mut manifest);
        let signed = manifest.sign(&log.key()).unwrap();
        let checked = Manifest::check(signed.as_bytes(), &log.keys()).unwrap();
        assert!(!findings(&checked).is_empty(), "{what}");
    }
    // A file less outside of the scope is none.
    let mut part = honest;
    part.entries.remove(0);
    part.scope = b"/inbox/b".to_vec();
    assert_eq!(findings(&part), [""; 0]);
}

#[test]
fn hidden_names_stay_hidden_unless_they_are_opened() {
    let token = |path: &str| Value::from(format!("hmac:{path}"));
    let mounts = [("hmac:/IN", "disk", "hmac:/P")];
    let log = Log::of(
        Session::with(&mounts)
            .upload(0, token("/IN/A.part"), "a")
            .deed(json!({
                "sftp_op": "rename", "path": "hmac:/IN/A.part", "path2": "hmac:/IN/B.csv", "mount": 0,
            }))
            .upload(0, token("/IN/D/E.csv"), "e")
            .deed(json!({
                // A directory's token may have an extension, those of its files have it not.
                "sftp_op": "rename", "path": "hmac:/IN/D.old", "path2": "hmac:/IN/F.new", "mount": 0,
            }))
            .end(),
    );
    assert_eq!(
        log.entries(),
        [known("hmac:/IN/B.csv", "a"), known("hmac:/IN/F/E.csv", "e")]
    );
    let wish = Scope::At(Wish {
        path: b"/inbox".to_vec(),
        token: Some(b"hmac:/IN".to_vec()),
        is_mount: true,
    });
    let manifest = log.at(&wish).unwrap();
    let text = manifest.sign(&log.key()).unwrap();
    assert!(text.contains("# scope hmac:/IN\n"), "{text}");
    // sha256sum would look for a file of that name.
    assert!(
        text.contains(&format!(
            "\n# {}  hmac:/IN/B.csv\n",
            hex::encode(sha256("a"))
        )),
        "{text}"
    );
    assert_eq!(
        Manifest::check(text.as_bytes(), &log.keys()).unwrap(),
        manifest
    );

    let open = |record: &mut crate::read::Record| {
        let names = [("hmac:/IN", "/inbox"), ("hmac:/P", "/partner")];
        let mut text = record.body.to_string();
        for (token, name) in [
            ("/A.part", "/a.part"),
            ("/B.csv", "/b.csv"),
            ("D.old", "d.old"),
            ("F.new", "f.new"),
            ("/D/E.csv", "/d.old/e.csv"),
        ] {
            text = text.replace(token, name);
        }
        for (token, name) in names {
            text = text.replace(token, name);
        }
        record.body = serde_json::from_str(&text).unwrap();
    };
    let opened = of_session(
        &log.directory(),
        SESSION,
        &Scope::All,
        &log.keys(),
        Some(&open),
    )
    .unwrap();
    let text = opened.sign(&log.key()).unwrap();
    assert!(text.contains("recorded as hmac:/IN/B.csv\n"), "{text}");
    assert!(
        text.contains("  inbox/b.csv\n") && text.contains("  inbox/f.new/e.csv\n"),
        "{text}"
    );
    assert_eq!(compare(&opened, &log.directory()).unwrap(), [""; 0]);
    let mut lie = opened;
    lie.entries[0].recorded = Some(b"hmac:/IN/X".to_vec());
    assert!(!compare(&lie, &log.directory()).unwrap().is_empty());
}

#[test]
fn files_are_compared_by_their_names_below_the_directory_and_nowhere_else() {
    let log = Log::of(
        Session::new()
            .upload(0, "/inbox/a", "a")
            .upload(0, "/inbox/sub/b", "b")
            .end(),
    );
    let folder = tempfile::tempdir().unwrap();
    let delivered = folder.path().join("delivered");
    std::fs::create_dir_all(delivered.join("inbox/sub")).unwrap();
    let mut manifest = log.manifest();
    for entry in &mut manifest.entries {
        entry.size = Some(1);
    }
    let compared = |manifest: &Manifest, number: usize| {
        compare_file(manifest, &manifest.entries[number], &delivered, &mut |_| {}).unwrap()
    };
    assert_eq!(compared(&manifest, 0), Stored::Missing);
    std::fs::write(delivered.join("inbox/a"), "a").unwrap();
    assert_eq!(compared(&manifest, 0), Stored::Same);
    for content in ["b", "aa", ""] {
        std::fs::write(delivered.join("inbox/a"), content).unwrap();
        assert_eq!(compared(&manifest, 0), Stored::Differs);
    }
    // The same content elsewhere, over a link, and over names that lead out.
    std::fs::write(folder.path().join("b"), "b").unwrap();
    std::os::unix::fs::symlink(folder.path().join("b"), delivered.join("inbox/sub/b")).unwrap();
    assert_eq!(compared(&manifest, 1), Stored::Refused);
    for path in ["/../b", "/inbox/../../b", "//b", "/"] {
        manifest.entries[1].path = path.as_bytes().to_vec();
        let found = compared(&manifest, 1);
        assert!(
            matches!(found, Stored::Refused | Stored::Differs),
            "{path}: {found:?}"
        );
    }
    manifest.entries[0].sha256 = Err("lost".to_owned());
    assert_eq!(compared(&manifest, 0), Stored::Unknown);
}

#[test]
fn names_that_could_be_taken_for_something_else_are_encoded() {
    let log = Log::of(
        Session::new()
            .upload(0, untrusted(b"/inbox/hmac:"), "1")
            .upload(0, untrusted(b"/hmac:/x"), "2")
            .upload(0, untrusted(b"/inbox/new\nline"), "3")
            .upload(0, untrusted(b"/inbox/\xff"), "4")
            .upload(0, untrusted("/inbox/ \u{e4}\\ ".as_bytes()), "5")
            .end(),
    );
    let manifest = log.manifest();
    let text = log.signed();
    assert_eq!(
        Manifest::check(text.as_bytes(), &log.keys()).unwrap(),
        manifest
    );
    assert_eq!(text.matches("\n# b64:").count(), 0, "{text}");
    assert_eq!(text.matches("  b64:").count(), 3, "{text}");
    assert!(
        text.contains("  inbox/hmac:\n") && text.contains("  inbox/ \u{e4}\\ \n"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn the_text_is_read_back_as_it_was_meant(
        names in prop::collection::vec(prop::collection::vec(any::<u8>().prop_filter("a byte of a name", |b| !matches!(b, 0 | b'/')), 1..9), 0..5),
        below in prop::sample::select(vec!["/", "/in", "/in/deep"]),
        user in "\\PC{1,8}",
        size in prop::option::of(any::<u64>()),
        digest in prop::option::of(any::<[u8; 32]>()),
    ) {
        let above = if below == "/" { "" } else { below };
        let manifest = Manifest {
            origin: "gw1".to_owned(),
            head: Head { size: 7, root: Hash([3; 32]) },
            session: SESSION.to_owned(),
            user,
            begun: "2026-11-22T01:02:03.000004Z".to_owned(),
            ended: "2026-11-22T01:02:03.000005Z".to_owned(),
            scope: below.as_bytes().to_vec(),
            below: below.as_bytes().to_vec(),
            entries: names
                .into_iter()
                .map(|name| Entry {
                    path: [above.as_bytes(), b"/", &name].concat(),
                    recorded: None,
                    size,
                    time: "2026-11-22T01:02:03.000005Z".to_owned(),
                    sha256: digest.ok_or_else(|| "lost".to_owned()),
                    records: vec![1, 2],
                })
                .collect(),
        };
        let text = manifest.to_text();
        prop_assert_eq!(Manifest::of_text(&text), Ok(manifest));
    }

    #[test]
    fn what_is_no_manifest_never_panics(text in "\\PC*") {
        let text = format!("{}{text}\n", form::FIRST);
        if let Ok(manifest) = Manifest::of_text(&text) {
            prop_assert_eq!(manifest.to_text(), text);
        }
    }
}
