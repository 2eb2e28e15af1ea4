//! `[backends.NAME]`.

use super::{super::*, Files, MINIMAL};

#[test]
fn a_failover_backend_has_at_least_two_others_that_are_no_lists_themselves() {
    let files = Files::new();
    let with = |members: &str| {
        format!(
            "{MINIMAL}\n[backends.a]\nkind = \"local\"\ndirectory = \"%/data\"\n[backends.b]\nkind = \"local\"\n\
             directory = \"%/data\"\n[backends.both]\nkind = \"failover\"\nmembers = {members}\n"
        )
    };
    let config = files.parse(&with("[\"b\", \"a\"]")).unwrap();
    let Some(BackendConfig::Failover {
        members,
        check_interval,
    }) = config.backends.get("both")
    else {
        panic!("a failover backend");
    };
    assert_eq!(members, &["b", "a"]);
    assert_eq!(*check_interval, Duration::from_secs(10));
    for (members, fault) in [
        (
            "[]",
            "backends.both.members: expected a list of at least two",
        ),
        (
            "[\"a\"]",
            "backends.both.members: expected a list of at least two",
        ),
        (
            "[\"a\", \"a\"]",
            "backends.both.members[1]: \"a\" is listed twice",
        ),
        (
            "[\"a\", \"c\"]",
            "backends.both.members[1]: there is no [backends.c]",
        ),
        (
            "[\"a\", \"both\"]",
            "backends.both.members[1]: \"both\" is a failover backend itself",
        ),
    ] {
        let faults = files.faults(&with(members));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(fault), "{faults:?}");
    }
}

#[test]
fn verified_backends_are_those_of_the_configuration() {
    let files = Files::new();
    let with = |names: &str| {
        format!(
            "{MINIMAL}\n[backends.a]\nkind = \"local\"\ndirectory = \"%/data\"\n[verification]\nbackends = {names}\n"
        )
    };
    let config = files.parse(&with("[\"a\"]")).unwrap();
    assert_eq!(config.verification.backends, Some(vec!["a".to_owned()]));
    let faults = files.faults(&with("[\"a\", \"b\"]"));
    assert_eq!(
        faults,
        ["verification.backends[1]: there is no [backends.b]"]
    );
    let config = files.parse(MINIMAL).unwrap();
    assert_eq!(config.verification.backends, None);
}

#[test]
fn sending_in_clear_needs_a_dated_exception_with_reason_and_approver() {
    let files = Files::new();
    let ftp = |lines: &str| {
        format!(
            "{MINIMAL}[backends.legacy]\nkind = \"ftp\"\naddress = \"198.51.100.20:21\"\nuser = \"g\"\npassword_file = \"%/password\"\n{lines}\n"
        )
    };
    let exception =
        r#"plaintext_exception = { reason = "r", approver = "a", expires = "2026-11-22" }"#;
    let config = files
        .parse(&ftp(&format!("tls = \"none\"\n{exception}")))
        .unwrap();
    assert_eq!(
        config.plaintext_exceptions().count(),
        1,
        "the last day still counts"
    );
    assert!(files.faults(&ftp("tls = \"none\""))[0].contains("plaintext_exception: missing"));
    let expired = exception.replace("11-22", "11-21");
    assert!(
        files.faults(&ftp(&format!("tls = \"none\"\n{expired}")))[0]
            .contains("ended on 2026-11-21")
    );
    assert!(
        files.faults(&ftp(&format!("tls = \"explicit\"\n{exception}")))[0].contains("has no use")
    );
    let config = files.parse(&ftp("tls = \"explicit\"")).unwrap();
    assert_eq!(config.plaintext_exceptions().count(), 0);
}

#[test]
fn a_bucket_in_clear_is_on_this_machine_or_has_a_dated_exception() {
    let files = Files::new();
    let s3 = |endpoint: &str, lines: &str| {
        format!(
            "{MINIMAL}[backends.store]\nkind = \"s3\"\nendpoint = \"{endpoint}\"\nbucket = \"partners\"\n\
             access_key_file = \"%/password\"\nsecret_key_file = \"%/password\"\n{lines}\n"
        )
    };
    let exception =
        r#"plaintext_exception = { reason = "r", approver = "a", expires = "2026-11-22" }"#;
    let exceptions = |endpoint, lines| {
        let config = files.parse(&s3(endpoint, lines)).unwrap();
        config.plaintext_exceptions().count()
    };
    assert_eq!(exceptions("https://store.example.org", ""), 0);
    assert_eq!(exceptions("http://127.0.0.1:8333", ""), 0);
    assert_eq!(exceptions("http://192.0.2.1:8333", exception), 1);
    for (endpoint, lines, expected) in [
        ("http://192.0.2.1:8333", "", "plaintext_exception: missing"),
        (
            "http://192.0.2.1:8333",
            &exception.replace("11-22", "11-21"),
            "ended on 2026-11-21",
        ),
        ("http://127.0.0.1:8333", exception, "has no use"),
        ("https://store.example.org", exception, "has no use"),
        ("http://127.0.0.1:8333", "ca_file = \"/a\"", "has no use"),
        ("store.example.org", "", "endpoint: expected a URL"),
        ("https://store.example.org", "region = \"a b\"", "region"),
    ] {
        let faults = files.faults(&s3(endpoint, lines));
        assert!(
            faults[0].contains(expected),
            "{endpoint} {lines}: {faults:?}"
        );
    }
    let named = s3("https://store.example.org", "").replace("\"partners\"", "\"a/../b\"");
    assert!(files.faults(&named)[0].contains("not the name of a bucket"));
}

#[test]
fn an_azure_container_needs_an_account_and_one_of_two_secrets() {
    let files = Files::new();
    files.write("account.key", "a2V5\n", 0o600);
    files.write("account.sas", "?sv=2022-11-02&sp=rwdl&sig=a%3D\n", 0o600);
    let azure = |lines: &str| {
        format!(
            "{MINIMAL}[backends.store]\nkind = \"azure\"\naccount = \"clinic1\"\ncontainer = \"partners\"\n{lines}\n"
        )
    };
    let bucket = |lines: &str| {
        let mut config = files.parse(&azure(lines)).unwrap();
        match config.backends.remove("store") {
            Some(BackendConfig::Bucket(bucket)) => bucket,
            other => panic!("{other:?}"),
        }
    };
    let keyed = bucket("key_file = \"%/account.key\"");
    assert_eq!(keyed.endpoint, "https://clinic1.blob.core.windows.net");
    assert!(matches!(keyed.access, BucketAccess::AzureKey { .. }));
    assert_eq!(
        keyed.address().unwrap().to_string(),
        "clinic1.blob.core.windows.net:443"
    );
    let signed =
        bucket("sas_file = \"%/account.sas\"\nendpoint = \"http://127.0.0.1:10000/clinic1\"");
    assert!(matches!(signed.access, BucketAccess::AzureSignature { .. }));
    assert_eq!(signed.address().unwrap().to_string(), "127.0.0.1:10000");
    for (lines, expected) in [
        ("", "key_file: missing"),
        (
            "key_file = \"%/account.key\"\nsas_file = \"%/account.sas\"",
            "give one of the two",
        ),
        ("key_file = \"%/account.sas\"", "base64"),
        (
            "sas_file = \"%/account.key\"",
            "not a shared access signature",
        ),
        (
            "key_file = \"%/account.key\"\nendpoint = \"http://127.0.0.1:10000/another\"",
            "endpoint: expected",
        ),
    ] {
        let faults = files.faults(&azure(lines));
        assert!(faults[0].contains(expected), "{lines}: {faults:?}");
        assert_eq!(faults.len(), 1, "{faults:?}");
    }
    for (wrong, right) in [("Clinic", "clinic1"), ("Partners", "partners")] {
        let text = azure("key_file = \"%/account.key\"").replace(right, wrong);
        assert!(files.faults(&text)[0].contains("is not the name of"));
    }
}

#[test]
fn a_cloud_storage_bucket_needs_the_key_file_of_a_service_account() {
    let files = Files::new();
    let account =
        r#"{"type":"service_account","client_email":"a@b","private_key":"k","private_key_id":"1"}"#;
    files.write("account.json", account, 0o600);
    files.write(
        "broken.json",
        &account.replace("client_email", "email"),
        0o600,
    );
    let gcs = |file: &str| {
        format!(
            "{MINIMAL}[backends.store]\nkind = \"gcs\"\nbucket = \"partners.example.org\"\n\
             service_account_file = \"%/{file}\"\n"
        )
    };
    let config = files.parse(&gcs("account.json")).unwrap();
    let BackendConfig::Bucket(bucket) = &config.backends["store"] else {
        panic!("{config:?}");
    };
    assert_eq!(bucket.endpoint, "https://storage.googleapis.com");
    assert!(matches!(bucket.access, BucketAccess::Gcs { .. }));
    assert!(!format!("{bucket:?}").contains("a@b"));
    let faults = files.faults(&gcs("broken.json"));
    assert!(faults[0].contains("client_email"), "{faults:?}");
    assert!(!faults[0].contains("a@b"), "{faults:?}");
}

#[test]
fn what_becomes_of_uploads_is_a_setting_of_each_backend() {
    let files = Files::new();
    let local = |lines: &str| {
        format!("{MINIMAL}[backends.a]\nkind = \"local\"\ndirectory = \"/\"\n{lines}\n")
    };
    let uploads = |lines: &str| {
        let config = files.parse(&local(lines)).unwrap();
        let BackendConfig::Local { uploads, .. } = &config.backends["a"] else {
            panic!("{config:?}");
        };
        (uploads.resume, uploads.retention.as_secs())
    };
    assert_eq!(uploads(""), (true, 24 * 3600));
    assert_eq!(
        uploads("resume = false\npartial_retention_hours = 2"),
        (false, 2 * 3600)
    );
    for (lines, expected) in [
        (
            "resume = \"no\"",
            "backends.a.resume: expected true or false",
        ),
        (
            "partial_retention_hours = 0",
            "backends.a.partial_retention_hours: expected a whole number from 1",
        ),
    ] {
        let faults = files.faults(&local(lines));
        assert!(faults[0].starts_with(expected), "{faults:?}");
    }
    let sftp = |lines: &str| {
        format!(
            "{MINIMAL}[backends.a]\nkind = \"sftp\"\naddress = \"198.51.100.30\"\nuser = \"g\"\npassword_file = \"%/password\"\n\
             host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ\"\n{lines}\n"
        )
    };
    let is_direct = |lines: &str| {
        let config = files.parse(&sftp(lines)).unwrap();
        matches!(
            config.backends["a"],
            BackendConfig::Sftp {
                publishes_directly: true,
                ..
            }
        )
    };
    assert!(!is_direct("") && !is_direct("publish = \"rename\""));
    assert!(is_direct("publish = \"direct\""));
    let lines = "max_connections = 1\nmax_channels = 2\nidle_seconds = 0\nkeepalive_seconds = 5";
    let config = files.parse(&sftp(lines)).unwrap();
    let BackendConfig::Sftp { pool, .. } = &config.backends["a"] else {
        panic!("not an SFTP backend");
    };
    let seconds = Duration::from_secs;
    assert_eq!((pool.connections, pool.channels), (1, 2));
    assert_eq!((pool.idle, pool.keepalive), (seconds(0), seconds(5)));
    for (lines, expected) in [
        ("publish = \"sometimes\"", "backends.a.publish: expected"),
        (
            "publish = \"direct\"\nresume = true",
            "backends.a.resume: has no use",
        ),
        (
            "max_connections = 0",
            "backends.a.max_connections: expected",
        ),
        ("max_channels = 0", "backends.a.max_channels: expected"),
        ("idle_seconds = 3601", "backends.a.idle_seconds: expected"),
        (
            "keepalive_seconds = 4",
            "backends.a.keepalive_seconds: expected",
        ),
    ] {
        let faults = files.faults(&sftp(lines));
        assert!(faults[0].starts_with(expected), "{faults:?}");
    }
}

#[test]
fn an_ftp_backend_has_the_port_of_its_protection_and_known_values_only() {
    let files = Files::new();
    let ftp = |lines: &str| {
        format!(
            "{MINIMAL}[backends.legacy]\nkind = \"ftp\"\naddress = \"198.51.100.20\"\nuser = \"g\"\npassword_file = \"%/password\"\n{lines}\n"
        )
    };
    for (tls, expected, name, meant) in [
        ("explicit", 21, "latin1", Charset::Latin1),
        ("implicit", 990, "utf-8-only", Charset::Utf8Only),
    ] {
        let lines = format!("tls = \"{tls}\"\ncharset = \"{name}\"\ncopy_limit_bytes = 0");
        let config = files.parse(&ftp(&lines)).unwrap();
        let Some(BackendConfig::Ftp {
            address,
            tls: found,
            charset,
            copy_limit,
            ..
        }) = config.backends.get("legacy")
        else {
            panic!("no FTP backend");
        };
        assert_eq!(address.port, expected);
        assert_eq!(matches!(found, FtpTls::Implicit { .. }), tls == "implicit");
        assert_eq!((*charset, *copy_limit), (meant, 0));
        assert_eq!(config.plaintext_exceptions().count(), 0);
    }
    for (line, problem) in [
        (
            "tls = \"starttls\"",
            "tls: expected \"explicit\", \"implicit\"",
        ),
        ("tls = 5", "tls: expected"),
        (
            "tls = \"explicit\"\ncharset = \"ebcdic\"",
            "charset: expected",
        ),
        (
            "tls = \"explicit\"\ncopy_limit_bytes = -1",
            "copy_limit_bytes: expected",
        ),
        (
            "tls = \"explicit\"\nkeepalive_seconds = 1",
            "keepalive_seconds: expected",
        ),
    ] {
        let faults = files.faults(&ftp(line));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(problem), "{faults:?}");
    }
}
