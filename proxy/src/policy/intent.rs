//! How a permitted operation is announced in the journal.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use portcullis_at_rest::ObjectId;
use portcullis_journal::{Actor, Event, EventKind, Intent, SessionId, Verdict, record::untrusted};
use serde_json::{Map, Value, json};

use super::{Decision, Permit, Requester, Route};
use crate::operation::{Access, Attributes, Check, Operation};

impl Intent for Permit {
    fn event(&self) -> Event {
        let mut event = self.requester.event(EventKind::OperationIntent);
        event.outcome = Some(Verdict::Allow);
        event.operation = Some(self.id);
        describe(&self.operation, &mut event.body);
        if !is_compact(&self.operation) {
            if let Route::Mount { mount, .. } = &self.route {
                event.body.insert("mount".into(), mount.0.into());
            }
            event.body.insert(
                "decision".into(),
                match self.decision {
                    Decision::AsAsked => "as_asked",
                    Decision::WithoutOverwrite => "without_overwrite",
                    Decision::Measuring => "measuring",
                    Decision::Reconciling => "reconciling",
                    Decision::Verifying => "verifying",
                    Decision::Rotating => "rotation",
                    Decision::Naming => "naming",
                    Decision::Migrating => "migration",
                    Decision::Shredding => "shredding",
                }
                .into(),
            );
        }
        event
    }
}

impl Requester {
    /// The gateway, on a session of its own.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn gateway() -> Result<Self, getrandom::Error> {
        let mut session = [0; 16];
        getrandom::fill(&mut session)?;
        Ok(Self {
            session: SessionId(session),
            user: Actor {
                uid: None,
                name: "gateway".to_owned(),
                kind: None,
            },
            source: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
            mfa_window: None,
        })
    }

    /// An event of this session.
    pub fn event(&self, kind: EventKind) -> Event {
        let mut event = Event::new(kind);
        event.session = Some(self.session);
        event.user = Some(self.user.clone());
        event.source = Some(self.source);
        if let Some(began) = &self.mfa_window {
            event.body.insert("mfa_window".to_owned(), began.clone());
        }
        event
    }
}

/// READ and WRITE are most of a log; their records carry the range and the handle, whose OPEN names the rest.
fn is_compact(operation: &Operation) -> bool {
    matches!(operation, Operation::Read { .. } | Operation::Write { .. })
}

/// How a stored file is encrypted, as records say it.
pub fn encryption(object: ObjectId) -> Value {
    json!({ "alg": "AES-256-GCM", "dek_id": object.to_string() })
}

/// Puts what the client asked for into the body of a record.
pub fn describe(operation: &Operation, body: &mut Map<String, Value>) {
    let mut field = |name: &str, value: Value| {
        body.insert(name.to_owned(), value);
    };
    field("sftp_op", operation.name().into());
    match operation {
        Operation::Open {
            path,
            handle,
            access,
            attributes,
        } => {
            field("path", untrusted(path.as_bytes()));
            field("handle_id", handle.0.into());
            field("flags", flags(*access));
            field("attrs", attrs(attributes));
        }
        Operation::Opendir { path, handle } => {
            field("path", untrusted(path.as_bytes()));
            field("handle_id", handle.0.into());
        }
        Operation::Read {
            handle,
            offset,
            length,
        } => {
            field("handle_id", handle.0.into());
            field("offset", (*offset).into());
            field("len", (*length).into());
        }
        Operation::Write {
            handle,
            offset,
            data,
        } => {
            field("handle_id", handle.0.into());
            field("offset", (*offset).into());
            field("len", data.len().into());
        }
        Operation::Close { handle }
        | Operation::Fstat { handle }
        | Operation::Readdir { handle }
        | Operation::Fstatvfs { handle }
        | Operation::Fsync { handle } => field("handle_id", handle.0.into()),
        Operation::Fsetstat { handle, attributes } => {
            field("handle_id", handle.0.into());
            field("attrs", attrs(attributes));
        }
        Operation::Stat { path }
        | Operation::Lstat { path }
        | Operation::Remove { path }
        | Operation::Rmdir { path }
        | Operation::Realpath { path }
        | Operation::Readlink { path }
        | Operation::Statvfs { path }
        | Operation::Tend { path, .. } => field("path", untrusted(path.as_bytes())),
        Operation::Setstat { path, attributes }
        | Operation::Lsetstat { path, attributes }
        | Operation::Mkdir { path, attributes } => {
            field("path", untrusted(path.as_bytes()));
            field("attrs", attrs(attributes));
        }
        Operation::Rename { from, to }
        | Operation::PosixRename { from, to }
        | Operation::Hardlink { from, to } => {
            field("path", untrusted(from.as_bytes()));
            field("path2", untrusted(to.as_bytes()));
        }
        Operation::Symlink { target, link } => {
            field("path", untrusted(link.as_bytes()));
            field("path2", untrusted(target));
        }
        Operation::CheckFile { handle, check } => {
            field("handle_id", handle.0.into());
            describe_check(check, &mut field);
        }
        Operation::CheckFileName {
            path,
            handle,
            check,
        } => {
            field("path", untrusted(path.as_bytes()));
            field("handle_id", handle.0.into());
            describe_check(check, &mut field);
        }
        Operation::CopyData {
            source,
            offset,
            length,
            target,
            target_offset,
        } => {
            field("handle_id", source.0.into());
            field("offset", (*offset).into());
            field("len", (*length).into());
            field("handle_id2", target.0.into());
            field("offset2", (*target_offset).into());
        }
        Operation::UsersGroupsById { users, groups } => {
            field("len", (users.len() + groups.len()).into());
        }
        Operation::Limits | Operation::HomeDirectory => {}
    }
}

/// A length of `null` is all up to the end.
fn describe_check(check: &Check, field: &mut impl FnMut(&str, Value)) {
    field("algorithm", check.algorithm.name().into());
    field("offset", check.offset.into());
    field("len", check.length.into());
    field("block_size", check.block_size.into());
}

fn flags(access: Access) -> Value {
    let named = [
        (access.read, "read"),
        (access.write, "write"),
        (access.append, "append"),
        (access.create, "create"),
        (access.truncate, "truncate"),
        (access.exclusive, "exclusive"),
    ];
    let set: Vec<&str> = named
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    set.join(",").into()
}

fn attrs(attributes: &Attributes) -> Value {
    let mut named = Map::new();
    if let Some(size) = attributes.size {
        named.insert("size".into(), size.into());
    }
    if let Some((user, group)) = attributes.owner {
        named.insert("owner".into(), json!([user, group]));
    }
    if let Some(permissions) = attributes.permissions {
        named.insert("permissions".into(), format!("{permissions:o}").into());
    }
    if let Some((accessed, modified)) = attributes.times {
        named.insert("times".into(), json!([accessed, modified]));
    }
    named.into()
}
