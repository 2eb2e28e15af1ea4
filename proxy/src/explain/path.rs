//! What decides about an operation on a path.

use std::{net::SocketAddr, str::FromStr, sync::Arc};

use portcullis_journal::{Actor, OperationId, SessionId};

use super::{Answer, Finding, Question, Stage};
use crate::{
    accounts::{Account, Accounts, AccountsError},
    operation::{Access, Attributes, HandleId, Operation},
    path::VirtualPath,
    policy::{Effective, Named, Permission, Requester, authorize, effective},
};

/// An operation as it is asked about.
#[derive(Debug, Clone)]
pub struct Deed {
    pub verb: Verb,
    pub path: VirtualPath,
}

/// What `--op` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    List,
    Stat,
    Read,
    Write,
    Overwrite,
    Delete,
    Mkdir,
    Rmdir,
    Setattr,
}

/// The words of the verbs.
const VERBS: [(&str, Verb); 9] = [
    ("list", Verb::List),
    ("stat", Verb::Stat),
    ("read", Verb::Read),
    ("write", Verb::Write),
    ("overwrite", Verb::Overwrite),
    ("delete", Verb::Delete),
    ("mkdir", Verb::Mkdir),
    ("rmdir", Verb::Rmdir),
    ("setattr", Verb::Setattr),
];

/// Why an operation can't be asked about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no operation; use one of list, stat, read, write, overwrite, delete, mkdir, rmdir and setattr"
)]
pub struct DeedError {
    text: String,
}

impl FromStr for Verb {
    type Err = DeedError;

    fn from_str(text: &str) -> Result<Self, DeedError> {
        VERBS
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, verb)| *verb)
            .ok_or_else(|| DeedError {
                text: text.to_owned(),
            })
    }
}

impl Verb {
    fn permission(self) -> Permission {
        match self {
            Self::List | Self::Stat => Permission::List,
            Self::Read => Permission::Read,
            Self::Write => Permission::Write,
            Self::Overwrite => Permission::Overwrite,
            Self::Delete => Permission::Delete,
            Self::Mkdir => Permission::Mkdir,
            Self::Rmdir => Permission::Rmdir,
            Self::Setattr => Permission::Setattr,
        }
    }
}

impl Deed {
    fn operation(&self) -> Operation {
        const HANDLE: HandleId = HandleId(0);
        let path = self.path.clone();
        let open = |access| Operation::Open {
            path: self.path.clone(),
            handle: HANDLE,
            access,
            attributes: Attributes::default(),
        };
        let create = Access {
            write: true,
            create: true,
            ..Access::default()
        };
        match self.verb {
            Verb::List => Operation::Opendir {
                path,
                handle: HANDLE,
            },
            Verb::Stat => Operation::Stat { path },
            Verb::Read => open(Access {
                read: true,
                ..Access::default()
            }),
            Verb::Write => open(Access {
                exclusive: true,
                ..create
            }),
            // Of a file that exists, without which no client would replace it.
            Verb::Overwrite => open(Access {
                create: false,
                truncate: true,
                ..create
            }),
            Verb::Delete => Operation::Remove { path },
            Verb::Mkdir => Operation::Mkdir {
                path,
                attributes: Attributes::default(),
            },
            Verb::Rmdir => Operation::Rmdir { path },
            Verb::Setattr => Operation::Setstat {
                path,
                attributes: Attributes {
                    permissions: Some(0o640),
                    ..Attributes::default()
                },
            },
        }
    }
}

pub(super) fn finding(
    accounts: &Accounts,
    account: &Account,
    deed: &Deed,
    question: &Question,
) -> Result<Finding, AccountsError> {
    let mounts = accounts.mounts_by_directory(account.uid)?;
    let requester = Arc::new(Requester {
        session: SessionId([0; 16]),
        user: Actor {
            uid: Some(account.uid.0),
            name: account.name.clone(),
            kind: Some(account.kind),
        },
        source: SocketAddr::new(question.source, 0),
        mfa_window: None,
    });
    let decider = match effective(&mounts, &deed.path) {
        Ok(Effective::Mount {
            mount, permissions, ..
        }) => mounts.get(mount.0).map(|mount| {
            let rulings = permissions.iter();
            let rule = rulings
                .filter(|(permission, ..)| *permission == deed.verb.permission())
                .find_map(|(_, _, rule)| *rule);
            (mount, rule)
        }),
        Ok(Effective::Above) | Err(_) => None,
    };
    let operation = deed.operation();
    let decided = authorize(
        &requester,
        &mounts,
        OperationId(0),
        operation,
        Named::default(),
    );
    let origin = decider.map(|(mount, rule)| mount.origin(rule));
    let (answer, rule) = match (decided, origin) {
        (Ok(_), Some(origin)) => (Answer::Allowed, origin),
        (Ok(_), None) => (
            Answer::Allowed,
            "the directories above the mounts can be listed".to_owned(),
        ),
        (Err(denied), Some(origin)) => (
            Answer::Denied,
            format!("{}: {denied} ({origin})", denied.code()),
        ),
        (Err(denied), None) => (Answer::Denied, format!("{}: {denied}", denied.code())),
    };
    let set_by = match decider {
        Some((mount, _)) => {
            let at = String::from_utf8_lossy(mount.at.as_bytes());
            match &mount.group {
                Some(group) => format!("group mount {group} {at}"),
                None => format!("account mount {} {at}", account.name),
            }
        }
        None => format!("account mount {}", account.name),
    };
    Ok(Finding {
        stage: Stage::Path,
        answer,
        rule,
        set_by,
    })
}
