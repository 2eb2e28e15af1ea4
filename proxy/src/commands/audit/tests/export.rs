//! Excerpts that prove themselves.

use super::{hidden::deeds, *};

/// Exports and checks with the public key alone; gives the records.
fn exported(shell: &Shell, name: &str, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let file = shell.path(name).display().to_string();
    let said = shell.run(&[&["export", "-o", &file], arguments].concat())?;
    let keys = read_verifier_keys(&shell.path("log.key.pub")).unwrap();
    let excerpt = std::fs::read(&file).unwrap();
    let digest = hex::encode(Sha256::digest(&excerpt));
    assert!(said.contains(&digest), "{said}");
    let proved = check_excerpt(&excerpt, &keys).unwrap();
    let records = proved.records.iter().map(|(_, line)| line);
    Ok(records
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect())
}

#[test]
fn an_export_is_proved_and_on_record_and_replaces_nothing() {
    let shell = Shell::new([deeds(), vec![stat("/other")]].concat());
    let records = exported(&shell, "excerpt", &["--path", "/in", "--event", "op"]).unwrap();
    assert_eq!(records.len(), 4, "{records:#?}");
    assert!(
        records
            .iter()
            .any(|record| record["body"]["path2"] == "/in/new.csv")
    );
    let mode = std::fs::metadata(shell.path("excerpt"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let note = shell.notes().pop().unwrap();
    assert_eq!(note.body["command"], "export");
    assert_eq!(note.body["filters"]["path"], "/in");

    let before = std::fs::read(shell.path("excerpt")).unwrap();
    let refused = exported(&shell, "excerpt", &[]).unwrap_err();
    assert!(
        format!("{refused:#}").contains("not there yet"),
        "{refused:#}"
    );
    assert_eq!(std::fs::read(shell.path("excerpt")).unwrap(), before);
    let refused = exported(&shell, "empty", &["--path", "/nowhere"]).unwrap_err();
    assert!(
        refused.to_string().contains("nothing to export"),
        "{refused}"
    );
    for left in ["empty", "empty.partial", "excerpt.partial"] {
        assert!(!shell.path(left).exists(), "{left}");
    }
}

#[test]
fn an_export_with_redacted_paths_has_none_in_clear_or_is_refused() {
    let redacted = ["--redact-paths", "--event", "op"];
    let shell = Shell::new(deeds());
    let refused = exported(&shell, "excerpt", &redacted)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("record 1 ") && refused.contains("path_mode"),
        "{refused}"
    );
    assert!(!shell.path("excerpt").exists());
    for mode in [HMAC, SEALED] {
        let shell = Shell::hiding(mode, &[deeds()]);
        let records = exported(&shell, "excerpt", &redacted).unwrap();
        assert_eq!(records.len(), 4);
        let text = std::fs::read_to_string(shell.path("excerpt")).unwrap();
        assert!(!text.contains("/in") && !text.contains("new.csv"), "{text}");
        // A clear run before it.
        let shell = Shell::hiding(mode, &[deeds(), deeds()]);
        assert!(exported(&shell, "excerpt", &redacted).is_err());
        let late: Vec<_> = redacted
            .into_iter()
            .chain(["--path", "/in/old.csv"])
            .collect();
        assert!(exported(&shell, "excerpt", &late).is_err());
        assert_eq!(
            exported(&shell, "all", &["--event", "op"]).unwrap().len(),
            8
        );
    }
}

#[test]
fn records_that_no_checkpoint_covers_are_left_out_of_an_export() {
    let shell = Shell::new(deeds());
    let notes = std::fs::read_to_string(shell.path("log/checkpoints")).unwrap();
    let first: Vec<&str> = notes.split_inclusive('\n').take(5).collect();
    std::fs::write(shell.path("log/checkpoints"), first.concat()).unwrap();
    let refused = exported(&shell, "excerpt", &["--event", "op"]).unwrap_err();
    assert!(refused.to_string().contains("covers"), "{refused}");
    let records = exported(&shell, "excerpt", &[]).unwrap();
    assert_eq!(records.len(), 1, "{records:#?}");
}
