mod answers;

use std::collections::BTreeSet;

use chrono::DateTime;
use serde::Serialize;
use serde_json::{Value, json};

use super::*;
use crate::{
    bans::Ban,
    control::{
        AllowEntry, AllowRequest, BanRequest, BansReply, ChangeOptions, ChangeReply, ChangedEntry,
        Code, DiffReply, DisallowRequest, Failure, FailureReply, HistoryReply, ListReply,
        ListStatus, ListedEntry, OfferRequest, OutageStatus, PendingStatus, ProtectedStatus,
        ReadbackStatus, RollbackRequest, SettleRequest, StatusReply, UnbanRequest,
        server::routes::PATHS,
    },
    entry::Entry,
    guard::{Examples, Impact, ObservedSource, Preview},
    lists::{Counts, ListName},
    state::{HistoryEntry, Outcome, Revision},
    traffic::LivePeer,
};

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

#[test]
fn it_has_the_paths_and_methods_that_are_served_and_no_others() {
    let document = document();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| (path.clone(), method.clone()))
        })
        .collect();
    let served: BTreeSet<(String, String)> = PATHS
        .iter()
        .flat_map(|(path, methods)| {
            methods
                .iter()
                .map(|method| ((*path).to_owned(), (*method).to_owned()))
        })
        .collect();
    assert_eq!(described, served);
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                open.extend(fields.values());
            }
            Value::Array(values) => open.extend(values),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Whether a value is what a schema says, as far as the document uses JSON Schema.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document
            .pointer(reference.trim_start_matches('#'))
            .ok_or_else(|| format!("{at}: {reference} is missing"))?;
        return conforms(document, target, value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = schema["type"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![schema["type"].clone()]);
    if !kinds.contains(&json!(kind)) {
        return Err(format!("{at}: {kind} where {kinds:?} is described"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{at}: {value} is not one of {words:?}"));
    }
    match value {
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| conforms(document, &schema["items"], value, &format!("{at}[]"))),
        Value::Object(fields) => {
            for required in schema["required"].as_array().into_iter().flatten() {
                let name = required.as_str().unwrap();
                if !fields.contains_key(name) {
                    return Err(format!("{at}: {name} is missing"));
                }
            }
            for (name, value) in fields {
                match schema["properties"].get(name) {
                    Some(schema) => conforms(document, schema, value, &format!("{at}.{name}"))?,
                    None if schema["additionalProperties"] == json!(false) => {
                        return Err(format!("{at}: {name} is not described"));
                    }
                    None => {}
                }
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// Checks that a full value has every property of its schema, that it and a bare one conform, and that the bare one has no more than
/// what is required.
#[track_caller]
fn check<T: Serialize>(name: &str, full: &T, bare: Option<&T>) {
    let document = document();
    let schema = &document["components"]["schemas"][name];
    let full = serde_json::to_value(full).unwrap();
    conforms(&document, schema, &full, name).unwrap();
    let keys: BTreeSet<&String> = full.as_object().unwrap().keys().collect();
    let described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(keys, described, "{name}");
    if let Some(bare) = bare {
        let bare = serde_json::to_value(bare).unwrap();
        conforms(&document, schema, &bare, name).unwrap();
        let keys: BTreeSet<&str> = bare
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let required: BTreeSet<&str> = schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(keys, required, "{name}");
    }
}

/// Checks that a request's schema requires no more than is read, and describes what is read.
#[track_caller]
fn check_request<T: Serialize + serde::de::DeserializeOwned>(name: &str, full: &T) {
    check(name, full, None);
    let document = document();
    let required = document["components"]["schemas"][name]["required"].clone();
    let full = serde_json::to_value(full).unwrap();
    let bare: serde_json::Map<String, Value> = full
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| required.as_array().unwrap().contains(&json!(key)))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    assert!(
        serde_json::from_value::<T>(Value::Object(bare.clone())).is_ok(),
        "{name}: what is required is enough"
    );
    for key in bare.keys() {
        let mut less = bare.clone();
        less.remove(key);
        assert!(
            serde_json::from_value::<T>(Value::Object(less)).is_err(),
            "{name}: {key} is required"
        );
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn entry() -> Entry {
    Entry {
        deny: true,
        scope: Some("tcp/22".parse().unwrap()),
        owner: text("o"),
        ticket: text("t"),
        comment: text("c"),
        expires: DateTime::from_timestamp(1_800_000_000, 0),
        ..Entry::allow("203.0.113.0/24".parse().unwrap())
    }
}

fn bare_entry() -> Entry {
    Entry::allow("203.0.113.0/24".parse().unwrap())
}

fn options() -> ChangeOptions {
    ChangeOptions {
        reason: text("r"),
        ticket: text("t"),
        force: true,
        dry_run: true,
        confirm_within_seconds: Some(60),
        observe_seconds: Some(2),
    }
}

#[test]
fn requests_are_as_described() {
    let asked = AllowEntry {
        prefix: "203.0.113.0/24".to_owned(),
        deny: true,
        scope: text("tcp/22"),
        owner: text("o"),
        ticket: text("t"),
        comment: text("c"),
        expires: text("90d"),
    };
    check_request("AllowEntry", &asked);
    check_request("ChangeOptions", &options());
    check_request(
        "AllowRequest",
        &AllowRequest {
            entries: vec![asked.clone()],
            options: options(),
        },
    );
    check_request(
        "OfferRequest",
        &OfferRequest {
            entries: vec![asked],
            reason: text("r"),
        },
    );
    check_request(
        "DisallowRequest",
        &DisallowRequest {
            prefixes: vec!["203.0.113.0/24".to_owned()],
            options: options(),
        },
    );
    check_request(
        "RollbackRequest",
        &RollbackRequest {
            revision: 1,
            options: options(),
        },
    );
    check_request(
        "SettleRequest",
        &SettleRequest {
            reason: text("r"),
            ticket: text("t"),
        },
    );
    check_request(
        "BanRequest",
        &BanRequest {
            source: "203.0.113.7".to_owned(),
            lifetime_seconds: 60,
            reason: "r".to_owned(),
            ticket: text("t"),
            force: true,
        },
    );
    check_request(
        "UnbanRequest",
        &UnbanRequest {
            source: "203.0.113.7".to_owned(),
            reason: text("r"),
            ticket: text("t"),
        },
    );
}

#[test]
fn answers_about_lists_are_as_described() {
    let time = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let listed = |entry| ListedEntry {
        list: ListName::manual(),
        entry,
    };
    check("Entry", &entry(), Some(&bare_entry()));
    check("ListedEntry", &listed(entry()), Some(&listed(bare_entry())));
    let impact = Impact {
        own_session: Some([192, 0, 2, 1].into()),
        cut_flows: 1,
        flows: vec![LivePeer {
            address: [192, 0, 2, 1].into(),
            protocol: 6,
            local_port: 22,
        }],
        sources: vec![ObservedSource {
            address: [192, 0, 2, 1].into(),
            packets: 1,
        }],
    };
    check("Impact", &impact, Some(&Impact::default()));
    let preview = Preview {
        counts: Counts::default(),
        examples: Examples {
            added: vec!["manual: 203.0.113.0/24".to_owned()],
            ..Examples::default()
        },
        impact,
    };
    check("Preview", &preview, Some(&preview));
    let bare = ChangeReply {
        applied: true,
        revision: 1,
        generation: 1,
        counts: Counts::default(),
        entries: 1,
        confirm_by: None,
        preview: None,
    };
    let full = ChangeReply {
        confirm_by: Some(time),
        preview: Some(preview),
        ..bare.clone()
    };
    check("ChangeReply", &full, Some(&bare));
    let list = ListReply {
        revision: 1,
        entries: vec![listed(entry())],
    };
    check("ListReply", &list, Some(&list));
    let bare = HistoryEntry {
        revision: Revision {
            revision: 1,
            time,
            by: None,
            action: "add".to_owned(),
            reason: None,
            ticket: None,
            counts: Counts::default(),
            entries: 1,
            digest: String::new(),
            confirm_by: None,
        },
        outcome: None,
    };
    let full = HistoryEntry {
        revision: Revision {
            by: text("root"),
            reason: text("r"),
            ticket: text("t"),
            confirm_by: Some(time),
            ..bare.revision.clone()
        },
        outcome: Some(Outcome::Confirmed),
    };
    check("HistoryEntry", &full, Some(&bare));
    let history = HistoryReply {
        revisions: vec![full],
    };
    check("HistoryReply", &history, Some(&history));
    let diff = DiffReply {
        from: 1,
        to: 2,
        added: vec![listed(entry())],
        removed: vec![listed(entry())],
        changed: vec![ChangedEntry {
            list: ListName::manual(),
            before: entry(),
            after: bare_entry(),
        }],
    };
    check("DiffReply", &diff, Some(&diff));
}

#[test]
fn other_answers_are_as_described() {
    let time = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let ban = Ban {
        source: "203.0.113.7/32".parse().unwrap(),
        expires: time,
        reason: "r".to_owned(),
        by: "root".to_owned(),
    };
    check("Ban", &ban, Some(&ban));
    let bans = BansReply { bans: vec![ban] };
    check("BansReply", &bans, Some(&bans));
    let bare = StatusReply::default();
    let full = StatusReply {
        lists: vec![ListStatus {
            name: ListName::manual(),
            entries: 1,
            ending: 0,
        }],
        protected_sources: vec![ProtectedStatus {
            prefix: "192.0.2.1/32".parse().unwrap(),
            origins: vec!["default gateway on eth0".to_owned()],
        }],
        pending: Some(PendingStatus {
            revision: 1,
            by: "root".to_owned(),
            confirm_by: time,
            seconds_left: 9,
        }),
        readback: Some(ReadbackStatus {
            checked: time,
            sha256: String::new(),
            drifts: 0,
        }),
        lag: text("why"),
        warnings: vec!["look".to_owned()],
        outage: Some(OutageStatus {
            since: time,
            until: time,
        }),
        ..StatusReply::default()
    };
    check("StatusReply", &full, Some(&bare));
    for code in [
        Code::Invalid,
        Code::Forbidden,
        Code::NotAllowed,
        Code::NotFound,
        Code::Protected,
        Code::Guard,
        Code::Conflict,
        Code::Precondition,
        Code::TooLarge,
        Code::Slow,
        Code::Busy,
        Code::Reused,
        Code::Limit,
        Code::Kernel,
        Code::State,
        Code::Journal,
        Code::Stopping,
    ] {
        let reply = FailureReply {
            error: Failure::new(code, "why"),
        };
        check("Error", &reply, Some(&reply));
    }
}
