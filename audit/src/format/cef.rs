//! ArcSight Common Event Format: `CEF:0|vendor|product|version|signature|name|severity|key=value ...`.

use std::fmt::{Display, Write as _};

use super::{Entry, Product, Severity, VENDOR, as_text, is_deceptive, name_of};

/// The event as one line, without its newline.
pub(super) fn event(entry: &Entry<'_>, product: &Product) -> String {
    let record = &entry.record;
    let (signature, least, most) = signature(&record.event);
    let severity = Severity::of(record).between(least, most);
    let mut out = String::with_capacity(entry.line.len() * 2);
    out.push_str("CEF:0");
    for field in [VENDOR, &product.name, &product.version] {
        out.push('|');
        header(&mut out, field);
    }
    let _ = write!(out, "|{signature}|");
    header(&mut out, &record.event);
    let _ = write!(out, "|{severity}|");

    let mut extension = Extension {
        out: &mut out,
        is_empty: true,
    };
    extension.put_some("rt", entry.milliseconds());
    extension.put("externalId", record.seq);
    extension.put("dvchost", &record.node);
    if let Some(source) = record.source {
        extension.put("src", source.ip);
        extension.put("spt", source.port);
    }
    if let Some(destination) = record.destination {
        extension.put("dst", destination.ip);
        extension.put("dpt", destination.port);
    }
    if let Some(user) = &record.user {
        extension.put("suser", &user.name);
        extension.put_some("suid", user.uid);
        extension.put_some("spriv", user.kind.as_deref());
    }
    extension.put_some("duser", entry.text("account"));
    extension.put_some("duid", record.body.get("account_uid").map(as_text));
    let act = ["sftp_op", "action", "direction", "request", "method"]
        .into_iter()
        .find_map(|field| entry.text(field));
    extension.put_some("act", act);
    extension.put_some("outcome", record.outcome.as_deref());
    extension.put_some("reason", record.reason.as_deref());
    match (entry.text("path"), entry.text("path2")) {
        (Some(from), Some(to)) => {
            extension.put("oldFilePath", from);
            extension.put("filePath", to);
            extension.put("fname", name_of(to));
        }
        (Some(path), None) => {
            extension.put("filePath", path);
            extension.put("fname", name_of(path));
        }
        (None, _) => {}
    }
    if record.event == "xfer.summary" {
        extension.put_some("fsize", record.body.get("bytes").map(as_text));
        extension.put_some("fileHash", entry.text("sha256"));
    }
    extension.put_some("in", record.body.get("bytes_in").map(as_text));
    extension.put_some("out", record.body.get("bytes_out").map(as_text));
    if let Some(session) = &record.session {
        extension.put("cs1Label", "session");
        extension.put("cs1", session);
    }
    extension.put("cs2Label", "prev");
    extension.put("cs2", &record.prev);
    extension.put("cs3Label", "body");
    extension.put("cs3", &record.body);
    if let Some(operation) = record.operation {
        extension.put("cn1Label", "operation");
        extension.put("cn1", operation);
    }
    out
}

/// The signature of an event, and the least and the most severe that it can be.
fn signature(event: &str) -> (u16, u8, u8) {
    match event {
        "conn.open" => (100, 3, 5),
        "conn.close" => (101, 3, 5),
        "channel.refused" => (102, 3, 5),
        "auth.step" => (200, 3, 6),
        "auth.result" => (201, 3, 8),
        "op.intent" => (300, 2, 5),
        "op.outcome" => (301, 2, 5),
        "xfer.summary" => (302, 3, 5),
        "op.denied" => (303, 2, 5),
        "allow.change" => (400, 5, 7),
        "ban.change" => (401, 5, 7),
        "config.change" => (501, 6, 8),
        "admin.break_glass" => (510, 10, 10),
        "app.start" | "app.stop" => (610, 3, 5),
        "session.mounts" => (202, 3, 5),
        "rest.finding" => (620, 8, 8),
        "rest.verify" => (621, 3, 5),
        "rest.rotation" => (622, 3, 5),
        "rest.migration" => (623, 3, 5),
        "rest.tombstone" => (624, 6, 8),
        "manifest.written" => (625, 3, 5),
        _ if event.starts_with("admin.") => (500, 6, 8),
        _ if event.starts_with("log.") => (600, 5, 9),
        _ => (900, 3, 9),
    }
}

struct Extension<'a> {
    out: &'a mut String,
    is_empty: bool,
}

impl Extension<'_> {
    fn put(&mut self, key: &str, value: impl Display) {
        if !self.is_empty {
            self.out.push(' ');
        }
        self.is_empty = false;
        self.out.push_str(key);
        self.out.push('=');
        let value = value.to_string();
        for c in value.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '=' => self.out.push_str("\\="),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                c if is_deceptive(c) => hidden(self.out, c),
                c => self.out.push(c),
            }
        }
    }

    fn put_some(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }
}

fn header(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '|' => out.push_str("\\|"),
            c if is_deceptive(c) => hidden(out, c),
            c => out.push(c),
        }
    }
}

/// CEF has no escape for it: its code stands as text, behind an escaped backslash.
fn hidden(out: &mut String, c: char) {
    let _ = write!(out, "\\\\u{{{:x}}}", u32::from(c));
}
