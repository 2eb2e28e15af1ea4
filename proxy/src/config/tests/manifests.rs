use super::*;

fn with(lines: &str) -> String {
    format!(
        "{MINIMAL}[manifests]\n{lines}\n[backends.a]\nkind = \"local\"\ndirectory = \"%/data\"\n"
    )
}

#[test]
fn manifests_are_kept_as_long_as_records_unless_it_is_said() {
    let files = Files::new();
    assert_eq!(files.parse(MINIMAL).unwrap().manifests, None);
    let keep = |text: &str| files.parse(text).unwrap().manifests.unwrap().keep;
    let text = with("directory = \"%/manifests\"");
    assert_eq!(keep(&text), None);
    let limited = text.replace("[journal]", "[journal]\nkeep_days = 3000");
    assert_eq!(keep(&limited), TimeDelta::try_days(3000));
    for (days, expected) in [("90", TimeDelta::try_days(90)), ("0", None)] {
        let text = limited.replace("[manifests]", &format!("[manifests]\nkeep_days = {days}"));
        assert_eq!(keep(&text), expected, "{days}");
    }
}

#[test]
fn the_directory_of_manifests_can_be_made_and_is_for_nobody_else() {
    let files = Files::new();
    let at = |name: &str| files.0.path().join(name);
    for (name, mode) in [("open", 0o755), ("closed", 0o700)] {
        fs::create_dir(at(name)).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for good in ["closed", "new", "new/below"] {
        files
            .parse(&with(&format!("directory = \"%/{good}\"")))
            .unwrap();
    }
    for (directory, fault) in [
        ("%/open", "run `chmod 0700"),
        ("%/password", "is not a directory"),
        ("%/password/below", "can't be made"),
        ("manifests", "is not absolute"),
        ("%/journal", "keep them apart"),
        ("%/journal/manifests", "keep them apart"),
        ("%/data/manifests", "[backends.a]"),
    ] {
        let faults = files.faults(&with(&format!("directory = \"{directory}\"")));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("manifests.directory: "), "{faults:?}");
        assert!(faults[0].contains(fault), "{directory}: {faults:?}");
    }
    assert_eq!(
        files.faults(&with("keep_days = 3")),
        ["manifests.directory: missing; expected the directory of the manifests"]
    );
}
