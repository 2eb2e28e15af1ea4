//! OCSF 1.8.0: one class for each kind of event; what the class has no place for goes under `unmapped`.
//!
//! 1.8.0 has no profile for a log's own integrity: `prev` is unmapped, and the sequence number is `metadata.sequence`.

use portcullis_journal::read::Address;
use serde_json::{Map, Value, json};

use super::{Entry, Product, Severity, VENDOR, name_of};

/// Of the schema.
const VERSION: &str = "1.8.0";
/// What is unknown, in classes that have no other word for it.
const OTHER: u64 = 99;

/// A class of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Base,
    EventLog,
    AccountChange,
    Authentication,
    EntityManagement,
    Ssh,
    ApplicationLifecycle,
    FileHosting,
}

impl Class {
    fn uid(self) -> u64 {
        match self {
            Self::Base => 0,
            Self::EventLog => 1008,
            Self::AccountChange => 3001,
            Self::Authentication => 3002,
            Self::EntityManagement => 3004,
            Self::Ssh => 4007,
            Self::ApplicationLifecycle => 6002,
            Self::FileHosting => 6006,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Base => "Base Event",
            Self::EventLog => "Event Log Activity",
            Self::AccountChange => "Account Change",
            Self::Authentication => "Authentication",
            Self::EntityManagement => "Entity Management",
            Self::Ssh => "SSH Activity",
            Self::ApplicationLifecycle => "Application Lifecycle",
            Self::FileHosting => "File Hosting Activity",
        }
    }

    /// Whether the class says from where; otherwise that is unmapped.
    fn has_source(self) -> bool {
        match self {
            Self::EventLog
            | Self::AccountChange
            | Self::Authentication
            | Self::EntityManagement
            | Self::Ssh
            | Self::FileHosting => true,
            Self::Base | Self::ApplicationLifecycle => false,
        }
    }

    fn has_destination(self) -> bool {
        match self {
            Self::EventLog | Self::Authentication | Self::Ssh | Self::FileHosting => true,
            Self::Base
            | Self::AccountChange
            | Self::EntityManagement
            | Self::ApplicationLifecycle => false,
        }
    }

    /// Whether the class says who only together with the profile `host`.
    fn has_actor_by_profile(self) -> bool {
        match self {
            Self::Base | Self::Ssh | Self::ApplicationLifecycle => true,
            Self::EventLog
            | Self::AccountChange
            | Self::Authentication
            | Self::EntityManagement
            | Self::FileHosting => false,
        }
    }

    fn of(entry: &Entry<'_>) -> Self {
        match entry.record.event.as_str() {
            "conn.open" | "conn.close" | "channel.refused" => Self::Ssh,
            "auth.step" | "auth.result" => Self::Authentication,
            "op.intent" | "op.outcome" | "op.denied" | "xfer.summary" => Self::FileHosting,
            "allow.change" | "ban.change" | "config.change" | "admin.break_glass" => {
                Self::EntityManagement
            }
            "admin.account" if entry.text("account").is_some() => Self::AccountChange,
            "app.start" | "app.stop" => Self::ApplicationLifecycle,
            event if event.starts_with("admin.") => Self::EntityManagement,
            event if event.starts_with("log.") => Self::EventLog,
            _ => Self::Base,
        }
    }
}

/// The event of a record.
pub(super) fn event(entry: &Entry<'_>, product: &Product) -> Value {
    let record = &entry.record;
    let class = Class::of(entry);
    let (activity, activity_name) = activity(class, entry);
    let (severity, severity_name) = Severity::of(record).ocsf();
    let (status, status_name) = match record.outcome.as_deref() {
        Some("allow" | "success") => (1, "Success"),
        Some("deny" | "failure") => (2, "Failure"),
        Some(_) | None => (0, "Unknown"),
    };
    let mut body = match &record.body {
        Value::Object(body) => body.clone(),
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)) => Map::from_iter([("body".to_owned(), other.clone())]),
    };
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            out.insert(key.to_owned(), value);
        }
    };
    put("activity_id", activity.into());
    put("activity_name", activity_name.as_str().into());
    put("category_uid", (class.uid() / 1000).into());
    put("class_uid", class.uid().into());
    put("class_name", class.name().into());
    put("type_uid", (class.uid() * 100 + activity).into());
    put("severity_id", severity.into());
    put("severity", severity_name.into());
    put("status_id", status.into());
    put("status", status_name.into());
    put(
        "status_code",
        body.remove("status").map_or(Value::Null, as_string),
    );
    put("status_detail", record.reason.clone().into());
    put("time", entry.milliseconds().unwrap_or(0).into());
    put("timezone_offset", 0.into());
    put("message", message(entry, &activity_name).into());
    let actor = actor(entry, class, product);
    let is_host = !actor.is_null() && class.has_actor_by_profile();
    put("metadata", metadata(entry, product, is_host));
    put("actor", actor);
    let source = source(entry, class);
    let destination = record.destination.map_or(Value::Null, endpoint);
    for (key, plain, value, has_place) in [
        ("src_endpoint", "src", source, class.has_source()),
        ("dst_endpoint", "dst", destination, class.has_destination()),
    ] {
        if has_place {
            put(key, value);
        } else if !value.is_null() {
            body.insert(plain.to_owned(), value);
        }
    }
    put(
        "duration",
        body.remove("duration_ms").unwrap_or(Value::Null),
    );
    for (key, value) in particulars(class, entry, &mut body, product) {
        put(key, value);
    }
    body.insert("prev".to_owned(), record.prev.clone().into());
    body.insert("boot_id".to_owned(), record.boot_id.clone().into());
    body.insert("mono_ns".to_owned(), record.mono_ns.into());
    put("unmapped", Value::Object(body));
    Value::Object(out)
}

/// The activity of the class, and its caption; `99` has the source's own word.
fn activity(class: Class, entry: &Entry<'_>) -> (u64, String) {
    let record = &entry.record;
    let outcome = record.outcome.as_deref().unwrap_or_default();
    let action = entry.text("action").unwrap_or_default();
    let known = match class {
        Class::Ssh => match (record.event.as_str(), outcome) {
            ("channel.refused", _) | (_, "deny") => Some((5, "Refuse")),
            (_, "failure") => Some((4, "Fail")),
            ("conn.open", _) => Some((1, "Open")),
            _ => Some((2, "Close")),
        },
        Class::Authentication if record.event == "auth.step" => Some((6, "Preauth")),
        Class::Authentication => Some((1, "Logon")),
        Class::FileHosting => file_activity(entry),
        Class::EntityManagement if record.event == "config.change" => Some((3, "Update")),
        Class::EntityManagement if record.event == "admin.break_glass" => match action {
            "break-glass-open" => Some((10, "Activate")),
            "break-glass-close" | "break-glass-expire" => Some((11, "Deactivate")),
            _ => None,
        },
        Class::EntityManagement => match action {
            "add" | "ban" | "create" => Some((1, "Create")),
            "replace" | "edit" | "change" | "set" | "confirm" => Some((3, "Update")),
            "remove" | "unban" | "expire" | "delete" => Some((4, "Delete")),
            _ => None,
        },
        Class::AccountChange => match action {
            "add" => Some((1, "Create")),
            "enable" => Some((2, "Enable")),
            "set-password" | "password" => Some((3, "Password Change")),
            "disable" => Some((5, "Disable")),
            "remove" | "delete" => Some((6, "Delete")),
            "enroll-totp" => Some((10, "MFA Factor Enable")),
            "remove-totp" => Some((11, "MFA Factor Disable")),
            "unlock" => Some((12, "Unlock")),
            _ => None,
        },
        Class::ApplicationLifecycle if record.event == "app.start" => Some((3, "Start")),
        Class::ApplicationLifecycle => Some((4, "Stop")),
        Class::EventLog => match record.event.as_str() {
            "log.delete" => Some((2, "Delete")),
            "log.export" => Some((3, "Export")),
            "log.rotate" => Some((5, "Rotate")),
            "log.start" => Some((6, "Start")),
            "log.stop" => Some((7, "Stop")),
            _ => None,
        },
        Class::Base => None,
    };
    match known {
        Some((id, caption)) => (id, caption.to_owned()),
        None if action.is_empty() => (OTHER, record.event.clone()),
        None => (OTHER, action.to_owned()),
    }
}

fn file_activity(entry: &Entry<'_>) -> Option<(u64, &'static str)> {
    match entry.record.event.as_str() {
        "xfer.summary" if entry.text("direction") == Some("upload") => return Some((1, "Upload")),
        "xfer.summary" => return Some((2, "Download")),
        "op.outcome" => return Some((OTHER, "outcome")),
        _ => {}
    }
    let operation = entry.text("sftp_op")?;
    Some(match operation {
        "open" => (14, "Open"),
        "write" | "setstat" | "fsetstat" | "lsetstat" => (3, "Update"),
        "remove" | "rmdir" => (4, "Delete"),
        "rename" | "posix_rename" => (5, "Rename"),
        "copy_data" => (6, "Copy"),
        "stat" | "lstat" | "fstat" => (17, "Access Check"),
        "read" => (OTHER, "read"),
        "mkdir" => (OTHER, "mkdir"),
        "opendir" => (OTHER, "opendir"),
        "readdir" => (OTHER, "readdir"),
        "symlink" => (OTHER, "symlink"),
        "hardlink" => (OTHER, "hardlink"),
        "readlink" => (OTHER, "readlink"),
        "realpath" => (OTHER, "realpath"),
        "close" => (OTHER, "close"),
        "fsync" => (OTHER, "fsync"),
        _ => (OTHER, "other operation"),
    })
}

fn metadata(entry: &Entry<'_>, product: &Product, is_host: bool) -> Value {
    let record = &entry.record;
    let mut metadata = json!({
        "version": VERSION,
        "product": { "name": product.name, "vendor_name": VENDOR, "version": product.version },
        "uid": record.seq.to_string(),
        "sequence": record.seq,
        "log_name": "portcullis",
        "log_provider": product.name,
        "event_code": record.event,
        "original_time": record.time,
        "reporter": { "hostname": record.node, "name": product.name },
    });
    let Some(fields) = metadata.as_object_mut() else {
        return metadata;
    };
    if is_host {
        fields.insert("profiles".to_owned(), json!(["host"]));
    }
    if let Some(session) = &record.session {
        let related = match record.operation {
            Some(operation) => format!("{session}/{operation}"),
            None => session.clone(),
        };
        fields.insert("correlation_uid".to_owned(), related.into());
    }
    metadata
}

fn endpoint(address: Address) -> Value {
    json!({ "ip": address.ip.to_string(), "port": address.port })
}

/// Null where the class does not ask for one and the record has none.
fn source(entry: &Entry<'_>, class: Class) -> Value {
    match entry.record.source {
        Some(from) => endpoint(from),
        // After a crash nobody knows whose operation it was.
        None if class == Class::FileHosting => json!({ "name": "unknown" }),
        None => Value::Null,
    }
}

/// Who acted. `user` of an authentication is the one who logs in, so there it is not repeated.
fn actor(entry: &Entry<'_>, class: Class, product: &Product) -> Value {
    let mut actor = Map::new();
    if class != Class::Authentication
        && let Some(user) = user(entry)
    {
        actor.insert("user".to_owned(), user);
    }
    if let Some(session) = &entry.record.session {
        actor.insert("session".to_owned(), json!({ "uid": session }));
    }
    if actor.is_empty() && class == Class::FileHosting {
        actor.insert("app_name".to_owned(), product.name.clone().into());
    }
    if actor.is_empty() {
        Value::Null
    } else {
        Value::Object(actor)
    }
}

fn user(entry: &Entry<'_>) -> Option<Value> {
    let user = entry.record.user.as_ref()?;
    let (type_id, caption) = match user.kind.as_deref() {
        Some("human") => (1, "User"),
        Some("admin") => (2, "Admin"),
        Some("machine") => (4, "Service"),
        Some(_) => (OTHER, "breakglass"),
        None => (0, "Unknown"),
    };
    let mut out = json!({ "name": user.name, "type_id": type_id, "type": caption });
    if let (Some(uid), Some(fields)) = (user.uid, out.as_object_mut()) {
        fields.insert("uid".to_owned(), uid.to_string().into());
    }
    Some(out)
}

/// What only this class has. Fields of the body that find their place are taken out of it.
fn particulars(
    class: Class,
    entry: &Entry<'_>,
    body: &mut Map<String, Value>,
    product: &Product,
) -> Vec<(&'static str, Value)> {
    let record = &entry.record;
    match class {
        Class::Ssh => ssh(body),
        Class::Authentication => authentication(entry, body, product),
        Class::FileHosting => file_hosting(entry, body),
        Class::EntityManagement => vec![("entity", entity(entry, body))],
        Class::AccountChange => vec![("user", account(body))],
        Class::ApplicationLifecycle => {
            body.remove("version");
            let name = body
                .remove("program")
                .or_else(|| body.remove("app"))
                .unwrap_or_else(|| product.name.clone().into());
            vec![(
                "app",
                json!({ "name": as_string(name), "uid": record.node }),
            )]
        }
        Class::EventLog => vec![
            ("log_name", "portcullis".into()),
            ("log_provider", product.name.clone().into()),
            ("log_type", "Application".into()),
            ("log_type_id", 2.into()),
        ],
        Class::Base => Vec::new(),
    }
}

fn ssh(body: &mut Map<String, Value>) -> Vec<(&'static str, Value)> {
    let mut out = Vec::new();
    if let Some(version) = body.remove("client_version") {
        out.push(("protocol_ver", as_string(version)));
    }
    let (received, sent) = (body.remove("bytes_in"), body.remove("bytes_out"));
    if received.is_some() || sent.is_some() {
        let mut traffic = Map::new();
        if let Some(received) = received {
            traffic.insert("bytes_in".to_owned(), received);
        }
        if let Some(sent) = sent {
            traffic.insert("bytes_out".to_owned(), sent);
        }
        out.push(("traffic", Value::Object(traffic)));
    }
    out
}

fn authentication(
    entry: &Entry<'_>,
    body: &mut Map<String, Value>,
    product: &Product,
) -> Vec<(&'static str, Value)> {
    let factors = match (body.remove("factors"), body.remove("factor")) {
        (Some(Value::Array(factors)), _) => factors,
        (_, Some(factor)) => vec![factor],
        (Some(other), None) => vec![other],
        (None, None) => Vec::new(),
    };
    let factors: Vec<Value> = factors.into_iter().map(factor).collect();
    let mut out = vec![
        (
            "user",
            user(entry).unwrap_or_else(|| json!({ "name": "unknown", "type_id": 0 })),
        ),
        ("service", json!({ "name": product.name })),
        ("is_remote", true.into()),
        ("logon_type_id", 3.into()),
        ("logon_type", "Network".into()),
        ("auth_protocol_id", OTHER.into()),
        (
            "auth_protocol",
            body.remove("method")
                .map_or_else(|| "SSH".into(), as_string),
        ),
    ];
    if let Some(session) = &entry.record.session {
        out.push(("session", json!({ "uid": session })));
    }
    if let Some(is_mfa) = body.remove("is_mfa") {
        out.push(("is_mfa", is_mfa));
    }
    if !factors.is_empty() {
        out.push(("auth_factors", factors.into()));
    }
    out
}

/// One of `auth_factors`.
fn factor(name: Value) -> Value {
    let name = super::as_text(&name);
    let id = match name.as_str() {
        "password" => 11,
        "totp" => 7,
        "security-key" => 9,
        _ => OTHER,
    };
    let mut out = json!({ "factor_type_id": id, "factor_type": name });
    if let (true, Some(fields)) = (name == "totp", out.as_object_mut()) {
        fields.insert("is_totp".to_owned(), true.into());
    }
    out
}

fn file_hosting(entry: &Entry<'_>, body: &mut Map<String, Value>) -> Vec<(&'static str, Value)> {
    let handle = body.remove("handle_id").map(as_string);
    let is_folder = matches!(
        entry.text("sftp_op"),
        Some("mkdir" | "rmdir" | "opendir" | "readdir")
    );
    let is_transfer = entry.record.event == "xfer.summary";
    let mut file = Map::new();
    let path = body.remove("path").map(as_string);
    // READ, WRITE and outcomes carry the handle or nothing; their OPEN and their intent have the path.
    let name = path
        .as_ref()
        .and_then(Value::as_str)
        .map_or("unknown", name_of)
        .to_owned();
    file.insert("name".to_owned(), name.into());
    let (type_id, type_name) = match (is_folder, is_transfer) {
        (true, _) => (2, "Folder"),
        (false, true) => (1, "Regular File"),
        (false, false) => (0, "Unknown"),
    };
    file.insert("type_id".to_owned(), type_id.into());
    file.insert("type".to_owned(), type_name.into());
    if let Some(path) = path {
        file.insert("path".to_owned(), path);
    }
    if let Some(handle) = handle {
        file.insert("uid".to_owned(), handle);
    }
    if is_transfer {
        if let Some(bytes) = body.remove("bytes") {
            file.insert("size".to_owned(), bytes);
        }
        if let Some(Value::String(sha256)) = body.remove("sha256") {
            file.insert(
                "hashes".to_owned(),
                json!([{ "algorithm_id": 3, "algorithm": "SHA-256", "value": sha256 }]),
            );
        }
    }
    let mut out = vec![("file", Value::Object(file))];
    if let Some(other) = body.remove("path2").map(as_string) {
        let name = other.as_str().map_or("unknown", name_of).to_owned();
        out.push((
            "file_result",
            json!({ "name": name, "path": other, "type_id": 0 }),
        ));
    }
    out
}

/// What was changed: an allowlist, a ban, the configuration, an account that is sealed, a group.
fn entity(entry: &Entry<'_>, body: &mut Map<String, Value>) -> Value {
    let (kind, named_by): (&str, &[&str]) = match entry.record.event.as_str() {
        "allow.change" => ("allowlist", &["list", "revision"]),
        "ban.change" => ("ban", &["cidr", "source"]),
        "config.change" => ("configuration", &["config_sha256", "file"]),
        "admin.break_glass" => ("break-glass account", &["account"]),
        _ => ("setting", &["group", "account", "name"]),
    };
    let name = named_by.iter().find_map(|field| body.remove(*field));
    json!({
        "name": name.map_or_else(|| kind.into(), as_string),
        "type": kind,
        "type_id": OTHER,
    })
}

/// The account that was changed.
fn account(body: &mut Map<String, Value>) -> Value {
    let mut user = Map::new();
    if let Some(name) = body.remove("account") {
        user.insert("name".to_owned(), as_string(name));
    }
    if let Some(uid) = body.remove("account_uid") {
        user.insert("uid".to_owned(), as_string(uid));
    }
    Value::Object(user)
}

fn message(entry: &Entry<'_>, activity: &str) -> String {
    let mut out = format!("{} {activity}", entry.record.event);
    if let Some(user) = &entry.record.user {
        out.push_str(" by ");
        out.push_str(&user.name);
    }
    if let Some(path) = entry.text("path") {
        out.push_str(": ");
        out.push_str(path);
    }
    out
}

/// OCSF has text where a record may have a number.
fn as_string(value: Value) -> Value {
    match value {
        Value::String(_) => value,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            super::as_text(&value).into()
        }
    }
}
