use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::{
    accounts::Accounts,
    auth::{
        public_key::{KeyRules, samples},
        totp::{Algorithm, Authenticator, Digits},
    },
};

fn database() -> (TempDir, Accounts) {
    let directory = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
    for group in ["lab", "office"] {
        accounts
            .administer("test")
            .add_group(&group.parse().unwrap())
            .unwrap();
    }
    (directory, accounts)
}

const ADD: Mode = Mode {
    update: false,
    dry_run: false,
};
const UPDATE: Mode = Mode {
    update: true,
    dry_run: false,
};

fn import(
    accounts: &Accounts,
    text: &str,
    format: Format,
    mode: Mode,
) -> Result<Counts, Vec<Fault>> {
    let backends = ["b".to_owned()];
    let entries = read(text.as_bytes(), format, KeyRules::default())?;
    let administration = accounts.administer("test");
    administration
        .import(&entries, mode, &backends, &mut |_| {})
        .unwrap()
}

fn exported(accounts: &Accounts, format: Format) -> String {
    let mut output = Vec::new();
    write(&accounts.export().unwrap(), format, &mut output).unwrap();
    String::from_utf8(output).unwrap()
}

fn places(faults: Vec<Fault>) -> Vec<(u64, u64)> {
    faults
        .into_iter()
        .map(|fault| (fault.line, fault.column))
        .collect()
}

fn full() -> String {
    format!(
        r#"[{{"name": "ada", "kind": "machine", "owner": "X-ray, \"3\"\n2nd line", "disabled": true,
             "expires": "2030-01-31", "idle_days": 7, "hours": "Mon-Fri 07:00-19:00 Europe/Berlin",
             "sources": ["2001:db8::/32", "192.0.2.0/24"], "max_sessions": 3, "read_rate": 5000, "write_rate": 6000,
             "policy_reason": "scanner", "policy_approver": "J. Doe", "policy_expires": "2030-02-01",
             "groups": ["office", "lab"], "keys": ["{}", "{}"],
             "mounts": [{{"at": "/in", "backend": "b", "directory": "b64:L2Fi6Q==", "permissions": "list,append",
                         "rules": ["/x/**=read", "*.tmp=none"], "quota": 0, "extensions": [], "resume": false}}]}},
            {{"name": "bob"}}]"#,
        samples::ED25519.trim(),
        samples::RSA_3072.trim(),
    )
}

#[test]
fn what_is_exported_is_imported_again_in_either_form_and_twice_changes_nothing() {
    let (_directory, first) = database();
    let counts = import(&first, &full(), Format::Json, ADD).unwrap();
    assert_eq!(counts.added, 2);
    for format in [Format::Csv, Format::Json] {
        let file = exported(&first, format);
        let (_directory, second) = database();
        assert_eq!(import(&second, &file, format, ADD).unwrap().added, 2);
        assert_eq!(second.export().unwrap(), first.export().unwrap());
        assert_eq!(exported(&second, format), file);
        let again = import(&second, &file, format, ADD).unwrap();
        assert_eq!(again.unchanged, 2);
        let notes = second.pending_changes().unwrap();
        let imports = notes
            .iter()
            .filter(|note| note.event.body["action"] == "import");
        assert_eq!(imports.count(), 2, "what is as it was is no change");
    }
}

#[test]
fn no_secret_goes_out() {
    let (_directory, accounts) = database();
    import(&accounts, &full(), Format::Json, ADD).unwrap();
    let admin = accounts.administer("test");
    let ada = "ada".parse().unwrap();
    admin.set_password(&ada, "$argon2id$the-hash").unwrap();
    let phone = Authenticator::generate(Algorithm::Sha1, Digits::Six).unwrap();
    admin.enroll_totp(&ada, &phone).unwrap();
    for format in [Format::Csv, Format::Json] {
        let file = exported(&accounts, format);
        assert!(!file.contains("argon2id") && !file.contains("the-hash"));
        assert!(!file.contains(phone.base32().as_str()));
    }
    // And an update leaves them where they are.
    let file = exported(&accounts, Format::Json).replace("\"idle_days\":7", "\"idle_days\":8");
    assert_eq!(
        import(&accounts, &file, Format::Json, UPDATE)
            .unwrap()
            .updated,
        1
    );
    let account = accounts.account(&ada).unwrap();
    assert_ne!(account.password, crate::accounts::FactorState::Absent);
    assert_ne!(account.totp, crate::accounts::FactorState::Absent);
}

#[test]
fn an_account_that_exists_is_changed_only_with_update_and_then_wholly() {
    let (_directory, accounts) = database();
    import(&accounts, &full(), Format::Json, ADD).unwrap();
    let uid = accounts.account(&"bob".parse().unwrap()).unwrap().uid;
    let fewer = r#"[{"name": "ada"}, {"name": "bob", "owner": "Lab"}]"#;
    let faults = import(&accounts, fewer, Format::Json, ADD).unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].problem.contains("--update"));
    let before = accounts.standing(uid).unwrap().unwrap().epoch;
    let dry = Mode {
        dry_run: true,
        ..UPDATE
    };
    assert_eq!(
        import(&accounts, fewer, Format::Json, dry).unwrap().updated,
        2
    );
    assert_eq!(accounts.standing(uid).unwrap().unwrap().epoch, before);
    assert_eq!(
        import(&accounts, fewer, Format::Json, UPDATE)
            .unwrap()
            .updated,
        2
    );
    assert!(accounts.standing(uid).unwrap().unwrap().epoch > before);
    let entries = accounts.export().unwrap();
    assert_eq!(
        Value::from(entries[0].fields()),
        serde_json::json!({ "name": "ada", "kind": "human" })
    );
    assert_eq!(entries[1].owner.as_deref(), Some("Lab"));
}

#[test]
fn one_fault_and_nothing_is_imported() {
    let (_directory, accounts) = database();
    let taken = format!(
        "name,keys\nada,{key}\nbob,{key}\n",
        key = samples::ED25519.trim()
    );
    let faults = import(&accounts, &taken, Format::Csv, ADD).unwrap_err();
    assert!(faults[0].problem.contains("belongs to account ada"));
    assert_eq!(places(faults), [(3, 2)]);
    let elsewhere = r#"name,groups,mounts
ada,lab,
bob,nowhere,
eve,,"[{""at"":""/"",""backend"":""gone"",""directory"":""/"",""permissions"":""list""}]"
"#;
    let faults = import(&accounts, elsewhere, Format::Csv, ADD).unwrap_err();
    assert_eq!(places(faults), [(3, 2), (4, 3)]);
    assert_eq!(accounts.export().unwrap(), []);
}

#[test]
fn each_fault_has_its_line_and_cell() {
    let (_directory, accounts) = database();
    let csv = "name,kind,expires,hours,sources,idle_days,disabled\n\
               ada,human,2030-02-30,always,192.0.2.1/24,0,perhaps\n\
               ,human,,,,,\n\
               bob,robot,,,,-1,\n\
               ok,,,,,,\n\
               ok,,,,,,\n";
    let faults = import(&accounts, csv, Format::Csv, ADD).unwrap_err();
    assert_eq!(
        places(faults),
        [
            (2, 3),
            (2, 4),
            (2, 5),
            (2, 6),
            (2, 7),
            (3, 1),
            (4, 2),
            (4, 6),
            (6, 1)
        ]
    );
    for (header, place) in [
        ("name,nmae\n", (1, 2)),
        ("name,kind,name\n", (1, 3)),
        ("name,kind\nada\n", (2, 1)),
        ("name\nad\u{e4}\n", (2, 1)),
    ] {
        let faults = import(&accounts, header, Format::Csv, ADD).unwrap_err();
        assert_eq!(places(faults), [place], "{header:?}");
    }
    let invalid = read(b"name\nab\xff\n", Format::Csv, KeyRules::default()).unwrap_err();
    assert_eq!(places(invalid), [(2, 3)]);
}

#[test]
fn each_fault_has_its_line_and_column_in_json_too() {
    let (_directory, accounts) = database();
    let json = "[\n {\"name\": \"ada\",\n  \"hours\": \"al\\\"ways\", \"kind\": 5},\n {\"nmae\": \"x\"},\n\
                \x20{\"name\": \"bob\", \"mounts\": [{\"at\": \"in\", \"backend\": \"b\", \"directory\": \"/\",\n\
                \x20 \"permissions\": \"fly\"}]}\n]";
    let faults = import(&accounts, json, Format::Json, ADD).unwrap_err();
    let problems: Vec<_> = faults.iter().map(ToString::to_string).collect();
    for (expected, problem) in [
        ("line 3, column 3: hours", &problems[0]),
        ("line 3, column 24: kind", &problems[1]),
        ("line 4, column 1: name: name is missing", &problems[2]),
        ("line 4, column 3: nmae: unknown", &problems[3]),
        ("line 5, column 18: mounts[0].at", &problems[4]),
        ("line 5, column 18: mounts[0].permissions", &problems[5]),
    ] {
        assert!(problem.starts_with(expected), "{expected}: {problems:#?}");
    }
    assert_eq!(problems.len(), 6, "{problems:#?}");
    let cut = import(&accounts, "[{\"name\": \"ada\"},\n", Format::Json, ADD);
    assert_eq!(cut.unwrap_err()[0].line, 2);
}

#[test]
fn ten_thousand_accounts_take_seconds() {
    let (_directory, accounts) = database();
    let mut csv = "name,owner,sources,groups,mounts\n".to_owned();
    for number in 0..10_000 {
        csv.push_str(&format!(
            "user{number},Partner {number},192.0.2.{}/32,lab,\"[{{\"\"at\"\":\"\"/in\"\",\"\"backend\"\":\"\"b\"\",\
             \"\"directory\"\":\"\"/{number}\"\",\"\"permissions\"\":\"\"list,read\"\"}}]\"\n",
            number % 256
        ));
    }
    let begun = Instant::now();
    let mut told = Vec::new();
    let entries = read(csv.as_bytes(), Format::Csv, KeyRules::default()).unwrap();
    let counts = accounts
        .administer("test")
        .import(&entries, ADD, &["b".to_owned()], &mut |done| {
            told.push(done);
        })
        .unwrap()
        .unwrap();
    assert_eq!(counts.added, 10_000);
    assert_eq!(told, (1000..10_000).step_by(1000).collect::<Vec<_>>());
    // Unoptimised, on a machine that does other things too.
    let lasted = begun.elapsed();
    assert!(lasted < Duration::from_secs(120), "{lasted:?}");
}

fn some_text() -> impl Strategy<Value = String> {
    // No text is blank: that says nothing.
    "[a-z,;\"'\\n\\t =+@\u{e4}\u{1f600}]{0,12}[a-z]"
}

fn some_account() -> impl Strategy<Value = Value> {
    let mount = (
        "[a-z]{1,3}",
        proptest::option::of(4096_u64..1 << 40),
        proptest::option::of(proptest::bool::ANY),
        proptest::collection::vec(
            prop_oneof![Just("*.a b=none"), Just("/x,\"y\"/**=read,append")],
            0..3,
        ),
    )
        .prop_map(|(at, rate, resume, rules)| {
            serde_json::json!({
                "at": format!("/{at}"), "backend": "b", "directory": "/d \"q\"", "permissions": "list",
                "read_rate": rate, "resume": resume, "rules": rules,
            })
        });
    (
        proptest::option::of(some_text()),
        proptest::bool::ANY,
        proptest::option::of(1_u32..10_000),
        proptest::collection::vec("192\\.0\\.2\\.[1-9]", 0..4),
        proptest::sample::subsequence(vec!["lab", "office"], 0..=2),
        proptest::option::of(mount),
        proptest::option::of(some_text()),
    )
        .prop_map(|(owner, disabled, days, sources, groups, mount, reason)| {
            serde_json::json!({
                "owner": owner, "disabled": disabled, "idle_days": days, "sources": sources, "groups": groups,
                "mounts": mount.map(|mount| vec![mount]),
                "policy_reason": reason, "policy_approver": reason,
                "policy_expires": reason.as_ref().map(|_| "2030-01-01"),
            })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_accounts_come_back_as_they_went(accounts in proptest::collection::vec(some_account(), 0..6)) {
        let named: Vec<Value> = accounts.into_iter().enumerate().map(|(number, mut account)| {
            account["name"] = format!("user-{number}").into();
            account
        }).collect();
        let (_directory, first) = database();
        import(&first, &Value::from(named).to_string(), Format::Json, ADD).unwrap();
        for format in [Format::Csv, Format::Json] {
            let (_directory, second) = database();
            import(&second, &exported(&first, format), format, ADD).unwrap();
            prop_assert_eq!(second.export().unwrap(), first.export().unwrap());
        }
    }
}
