//! What a configuration gives to connections, and what of a live session a later one takes back.

use std::{sync::Arc, time::Duration};

use chrono::NaiveDate;
use ipnet::IpNet;
use russh::server;

use super::{
    algorithms::{UnknownAlgorithm, library_config},
    limits::Most,
    negotiation::Negotiated,
};
use crate::{
    auth::{Authenticator, public_key},
    cipher_policy::CipherPolicy,
    config::{AcceptMode, Config, ScpMode},
    policy::DataOps,
    session::{Backends, Session},
    sftp::{Digests, request::Extensions},
};

/// What one configuration gives to connections. A reload makes another; nothing in it changes.
#[derive(Debug)]
pub struct Terms {
    pub(super) library: Arc<server::Config>,
    pub(super) policy: CipherPolicy,
    host_keys: Vec<ssh_key::PublicKey>,
    pub(super) authenticator: Authenticator,
    pub(super) backends: Backends,
    pub(super) extensions: Extensions,
    pub(super) scp: ScpMode,
    pub(super) digests: Digests,
    pub(super) data_ops: DataOps,
    pub(super) limits: Most,
    pub(super) accept: AcceptMode,
    /// Load balancers that say for whom they connect.
    pub(super) proxy_protocol_from: Vec<IpNet>,
    pub(super) timers: Timers,
}

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timers {
    /// From the first byte to the last factor.
    pub(super) login_grace: Duration,
    /// Without an SFTP request or data.
    pub(super) idle_timeout: Duration,
    /// From the last factor to the end.
    pub(super) session_limit: Duration,
    /// From the reload that changed what a session rests on, to its end.
    pub(super) reload_grace: Duration,
}

impl Terms {
    /// On `today`: the exception that a cipher policy needs may have ended.
    ///
    /// # Errors
    /// If the cipher policy names an algorithm that the SSH library does not have.
    pub fn new(
        config: &Config,
        authenticator: Authenticator,
        backends: Backends,
        today: NaiveDate,
    ) -> Result<Self, UnknownAlgorithm> {
        let server = &config.server;
        let policy = server.cipher_policy.on(today).into_owned();
        Ok(Self {
            library: Arc::new(library_config(server, &policy)?),
            host_keys: server
                .host_keys
                .iter()
                .filter(|host_key| host_key.is_one_of(policy.host_keys()))
                .map(|host_key| host_key.key.public_key().clone())
                .collect(),
            authenticator: authenticator.with_key_rules(policy.key_rules()),
            policy,
            backends,
            extensions: config.sftp.extensions,
            scp: server.scp,
            digests: config.journal.digests,
            data_ops: config.journal.data_ops,
            limits: server.into(),
            accept: server.accept,
            proxy_protocol_from: server.proxy_protocol_from.clone(),
            timers: Timers {
                login_grace: server.login_grace,
                idle_timeout: server.idle_timeout,
                session_limit: server.session_limit,
                reload_grace: server.reload_grace,
            },
        })
    }

    /// What a session rests on that is not so under these terms, as the key of the configuration; `None` if it may go on.
    /// `connected` are the terms under which its connection was accepted.
    pub(super) fn conflict(
        &self,
        session: &Session,
        connected: &Self,
        negotiated: Option<&Negotiated>,
    ) -> Option<String> {
        let keeps_keys = connected
            .host_keys
            .iter()
            .all(|key| self.host_keys.contains(key));
        let takes_key = session.user.credential().is_none_or(|credential| {
            let key = ssh_key::PublicKey::from(credential.key.clone());
            public_key::check(&key, self.policy.key_rules()).is_ok()
        });
        let backend = session
            .mounts
            .iter()
            .map(|mount| mount.backend.as_str())
            .find(|&name| !same_service(&session.backends, &self.backends, name));
        if let Some(name) = backend {
            Some(format!("backends.{name}"))
        } else if !keeps_keys {
            Some("server.host_keys".to_owned())
        } else if negotiated.is_some_and(|negotiated| !permits(&self.policy, negotiated)) {
            Some("server.algorithms".to_owned())
        } else if !takes_key {
            Some("server.cipher_policy".to_owned())
        } else if session.extensions != self.extensions {
            Some("sftp.extensions".to_owned())
        } else if session.scp != self.scp {
            Some("server.scp".to_owned())
        } else if session.digests != self.digests {
            Some("journal.digests".to_owned())
        } else if session.data_ops != self.data_ops {
            Some("journal.data_ops".to_owned())
        } else {
            None
        }
    }
}

/// A service that a reload keeps is the same value.
fn same_service(before: &Backends, after: &Backends, name: &str) -> bool {
    match (before.get(name), after.get(name)) {
        (None, None) => true,
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn permits(policy: &CipherPolicy, negotiated: &Negotiated) -> bool {
    policy
        .key_exchanges()
        .contains(&negotiated.key_exchange.as_str())
        && policy.host_keys().contains(&negotiated.host_key.as_str())
        && policy.ciphers().contains(&negotiated.cipher.as_str())
        && negotiated
            .mac
            .as_deref()
            .is_none_or(|mac| policy.macs().contains(&mac))
}
