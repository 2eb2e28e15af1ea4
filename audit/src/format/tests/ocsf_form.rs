//! OCSF events against what the published schema (1.8.0) requires.

use super::*;

/// Class, its category, and what it requires beside what every class does, as the schema's files have it. `constraint` is its
/// `at_least_one`.
struct Class {
    uid: u64,
    required: &'static [&'static str],
    constraint: &'static [&'static str],
    /// What it may have of what is written here, beside what the base event and the class require.
    optional: &'static [&'static str],
}

const BASE: &[&str] = &[
    "activity_id",
    "category_uid",
    "class_uid",
    "metadata",
    "severity_id",
    "time",
    "type_uid",
];
/// Optional in the base event.
const BASE_OPTIONAL: &[&str] = &[
    "activity_name",
    "class_name",
    "duration",
    "message",
    "severity",
    "status",
    "status_code",
    "status_detail",
    "status_id",
    "timezone_offset",
    "unmapped",
];

const CLASSES: [Class; 8] = [
    // events/base_event.json
    Class {
        uid: 0,
        required: &[],
        constraint: &[],
        optional: &[],
    },
    // events/system/event_log_activity.json
    Class {
        uid: 1008,
        required: &[],
        constraint: &["log_name", "log_provider", "log_type", "log_type_id"],
        optional: &[
            "actor",
            "src_endpoint",
            "dst_endpoint",
            "log_name",
            "log_provider",
            "log_type",
            "log_type_id",
        ],
    },
    // events/iam/account_change.json
    Class {
        uid: 3001,
        required: &["user"],
        constraint: &[],
        optional: &["actor", "src_endpoint"],
    },
    // events/iam/authentication.json
    Class {
        uid: 3002,
        required: &["user"],
        constraint: &["service", "dst_endpoint"],
        optional: &[
            "actor",
            "auth_factors",
            "auth_protocol",
            "auth_protocol_id",
            "dst_endpoint",
            "is_mfa",
            "is_remote",
            "logon_type",
            "logon_type_id",
            "service",
            "session",
            "src_endpoint",
        ],
    },
    // events/iam/entity_management.json
    Class {
        uid: 3004,
        required: &["entity"],
        constraint: &[],
        optional: &["actor", "src_endpoint"],
    },
    // events/network/ssh_activity.json
    Class {
        uid: 4007,
        required: &[],
        constraint: &[],
        optional: &["dst_endpoint", "protocol_ver", "src_endpoint", "traffic"],
    },
    // events/application/application_lifecycle.json
    Class {
        uid: 6002,
        required: &["app"],
        constraint: &[],
        optional: &[],
    },
    // events/application/file_hosting.json
    Class {
        uid: 6006,
        required: &["actor", "file", "src_endpoint"],
        constraint: &[],
        optional: &["dst_endpoint", "file_result"],
    },
];

/// What objects require, and of which attributes they need one.
const OBJECTS: [(&str, &[&str], &[&str]); 14] = [
    ("metadata", &["product", "version"], &[]),
    ("metadata.product", &[], &["name", "uid"]),
    ("metadata.reporter", &[], &["hostname", "ip", "name", "uid"]),
    ("user", &[], &["account", "name", "uid"]),
    (
        "actor",
        &[],
        &[
            "process",
            "user",
            "invoked_by",
            "session",
            "app_name",
            "app_uid",
        ],
    ),
    ("actor.user", &[], &["account", "name", "uid"]),
    ("file", &["name", "type_id"], &[]),
    ("file_result", &["name", "type_id"], &[]),
    (
        "src_endpoint",
        &[],
        &["ip", "uid", "name", "hostname", "svc_name"],
    ),
    (
        "dst_endpoint",
        &[],
        &["ip", "uid", "name", "hostname", "svc_name"],
    ),
    (
        "entity",
        &[],
        &["name", "uid", "device", "group", "org", "policy", "user"],
    ),
    ("app", &[], &["uid", "name"]),
    ("service", &[], &["name", "uid"]),
    ("session", &[], &[]),
];

fn of(line: &[u8]) -> Value {
    let entry = Entry::parse(line).unwrap();
    serde_json::from_slice(&Format::Ocsf.write(&entry, &product())).unwrap()
}

fn has_one(fields: &Map<String, Value>, names: &[&str]) -> bool {
    names.is_empty() || names.iter().any(|name| fields.contains_key(*name))
}

/// Every sentence of the tables holds for the event.
fn validate(event: &Value) {
    let fields = event.as_object().unwrap();
    let class = CLASSES
        .iter()
        .find(|class| event["class_uid"] == class.uid)
        .unwrap_or_else(|| panic!("unknown class: {event}"));
    for name in BASE.iter().chain(class.required) {
        assert!(fields.contains_key(*name), "{name} is missing: {event}");
    }
    assert!(has_one(fields, class.constraint), "{event}");
    let is_host = event["metadata"]["profiles"] == json!(["host"]);
    for name in fields.keys() {
        // profiles/host.json
        if is_host && name == "actor" {
            continue;
        }
        let known = [BASE, BASE_OPTIONAL, class.required, class.optional].concat();
        assert!(
            known.contains(&name.as_str()),
            "{name} has no place in {}",
            class.uid
        );
    }
    for (path, required, one_of) in OBJECTS {
        let pointer = format!("/{}", path.replace('.', "/"));
        let Some(object) = event.pointer(&pointer) else {
            continue;
        };
        let object = object.as_object().unwrap();
        for name in required {
            assert!(
                object.contains_key(*name),
                "{path}.{name} is missing: {event}"
            );
        }
        assert!(has_one(object, one_of), "{path}: {event}");
    }
    for factor in event["auth_factors"].as_array().into_iter().flatten() {
        assert!(factor["factor_type_id"].is_u64());
    }
    for hash in event["file"]["hashes"].as_array().into_iter().flatten() {
        assert!(hash["algorithm_id"].is_u64() && hash["value"].is_string());
    }
    let id = |name: &str| event[name].as_u64().unwrap();
    assert_eq!(id("type_uid"), id("class_uid") * 100 + id("activity_id"));
    assert_eq!(id("category_uid"), id("class_uid") / 1000);
    assert!((1..=6).contains(&id("severity_id")));
    assert!(id("status_id") <= 2);
    assert_eq!(event["time"], 1_795_309_323_000_i64);
    // string_t of the dictionary.
    for pointer in [
        "/activity_name",
        "/status_code",
        "/status_detail",
        "/message",
        "/user/uid",
        "/user/name",
        "/file/name",
        "/file/uid",
        "/file/path",
        "/metadata/uid",
        "/metadata/version",
        "/session/uid",
        "/protocol_ver",
        "/entity/name",
        "/auth_protocol",
        "/src_endpoint/ip",
        "/app/name",
    ] {
        assert!(
            event.pointer(pointer).is_none_or(Value::is_string),
            "{pointer}: {event}"
        );
    }
}

#[test]
fn every_event_has_what_its_class_requires() {
    for line in samples() {
        validate(&of(&line));
    }
}

#[test]
fn events_go_to_their_classes_and_activities() {
    let open = json!({"sftp_op": "open", "path": "/a"});
    for (event, outcome, body, type_uid) in [
        ("conn.open", "allow", json!({}), 400_701),
        ("conn.open", "deny", json!({}), 400_705),
        ("conn.close", "success", json!({}), 400_702),
        ("conn.close", "failure", json!({}), 400_704),
        ("auth.step", "success", json!({}), 300_206),
        ("auth.result", "failure", json!({}), 300_201),
        ("op.intent", "allow", open.clone(), 600_614),
        ("op.denied", "deny", open, 600_614),
        ("op.intent", "allow", json!({"sftp_op": "remove"}), 600_604),
        ("op.intent", "allow", json!({"sftp_op": "rename"}), 600_605),
        ("op.intent", "allow", json!({"sftp_op": "write"}), 600_603),
        ("op.intent", "allow", json!({"sftp_op": "stat"}), 600_617),
        ("op.intent", "allow", json!({"sftp_op": "mkdir"}), 600_699),
        (
            "xfer.summary",
            "success",
            json!({"direction": "upload"}),
            600_601,
        ),
        (
            "xfer.summary",
            "success",
            json!({"direction": "download"}),
            600_602,
        ),
        ("allow.change", "allow", json!({"action": "add"}), 300_401),
        (
            "allow.change",
            "allow",
            json!({"action": "replace"}),
            300_403,
        ),
        ("ban.change", "allow", json!({"action": "unban"}), 300_404),
        ("log.rotate", "success", json!({}), 100_805),
        ("log.start", "success", json!({}), 100_806),
        ("log.stop", "success", json!({}), 100_807),
        ("log.disk", "failure", json!({}), 100_899),
        ("app.start", "success", json!({}), 600_203),
        ("app.stop", "success", json!({}), 600_204),
    ] {
        assert_eq!(
            of(&line(event, outcome, &body))["type_uid"],
            type_uid,
            "{event} {outcome} {body}"
        );
    }
}

#[test]
fn nothing_of_a_record_is_lost() {
    let event = of(&line(
        "xfer.summary",
        "failure",
        &json!({"direction": "upload", "path": "/in/a", "bytes": 9, "sha256": PREV, "ranges_complete": true}),
    ));
    assert_eq!(event["file"]["path"], "/in/a");
    assert_eq!(event["file"]["size"], 9);
    assert_eq!(event["file"]["hashes"][0]["value"], PREV);
    assert_eq!(event["unmapped"]["ranges_complete"], true);
    assert_eq!(event["unmapped"]["prev"], PREV);
    assert_eq!(event["metadata"]["uid"], "4711");
    assert_eq!(
        event["metadata"]["correlation_uid"],
        "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a/17"
    );
    assert_eq!(event["actor"]["user"]["uid"], "3");
    assert_eq!(event["status_id"], 2);
}

proptest! {
    #[test]
    fn no_name_leaves_its_field(name in hostile_names()) {
        let line = hostile(&name);
        let entry = Entry::parse(&line).unwrap();
        let text = Format::Ocsf.write(&entry, &product());
        prop_assert!(!text.iter().any(|&b| b < 0x20));
        let event: Value = serde_json::from_slice(&text).unwrap();
        validate(&event);
        prop_assert_eq!(&event["file"]["path"], &untrusted(&name));
        prop_assert_eq!(&event["metadata"]["event_code"], "op.denied");
    }
}
