//! What a penetration tester sends: every message at every state, and the attacks that have names.
//!
//! The client is [`portcullis_tests::raw_ssh`]. All tests here share one daemon as long as one of them uses it.

mod attacks;
mod lengths;
mod oracle;
mod signatures;
mod states;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Mount};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::raw_ssh::Transport;
use serde_json::Value;
use tempfile::TempDir;

/// A gateway with room for all tests at once, and two accounts.
struct Target {
    proxy: Proxy,
    alice: Account,
    bob: Account,
    _storage: TempDir,
}

static SHARED: Mutex<Weak<Target>> = Mutex::new(Weak::new());

impl Target {
    /// The daemon of all tests that run at this time.
    fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = shared.upgrade() {
            return Ok(target);
        }
        let target = Arc::new(Self::start(&[])?);
        *shared = Arc::downgrade(&target);
        Ok(target)
    }

    /// A daemon of its own, with these keys of `[server]` too.
    fn start(settings: &[(&'static str, &str)]) -> Result<Self> {
        let storage = files::folder("storage")?;
        let mut plan = Plan::new(Place::Loopback)?
            .backend("archive", Backend::local(storage.path()))
            .server("max_connections", "8192")
            .server("max_unauthenticated", "4096")
            .server("max_unauthenticated_per_source", "4096");
        for (key, value) in settings {
            plan = plan.server(key, value);
        }
        let proxy = plan.start()?;
        let mounts = [Mount::all("/inbox", "archive", "/")];
        Ok(Self {
            alice: proxy.account("alice", &mounts)?,
            bob: proxy.account("bob", &mounts)?,
            proxy,
            _storage: storage,
        })
    }

    fn address(&self) -> SocketAddr {
        self.proxy.address
    }

    /// A connection where authentication begins.
    fn ready(&self) -> Result<Transport> {
        Transport::ready(self.address())
    }

    /// The journal's lines about the connection of `source`, once its end is among them.
    fn story(&self, source: SocketAddr) -> Result<Story> {
        wait_for(&format!("the end of {source} on record"), || {
            let story = Story::of(&self.proxy.records().ok()?, source);
            (!story.events("conn.close").is_empty()).then_some(story)
        })
    }

    /// The connection was left or cut: it is on record once, it let nobody in, and the daemon is well.
    fn nobody_got_in(&self, source: SocketAddr) -> Result<Story> {
        let story = self.story(source)?;
        story.is_one_connection()?;
        ensure!(!story.got_in(), "access: {:#?}", story.0);
        self.is_well()?;
        Ok(story)
    }

    /// The daemon has not panicked, and its users get in.
    fn is_well(&self) -> Result<()> {
        let log = self.proxy.process.log();
        ensure!(!log.contains("panicked"), "{log}");
        self.ready()?.log_in(&self.bob)
    }
}

/// Where the connection of a record comes from.
pub(crate) fn source_of(record: &Value) -> Option<SocketAddr> {
    let source = record.get("src")?;
    let ip = source.get("ip")?.as_str()?.parse().ok()?;
    let port = source.get("port")?.as_u64()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

/// The records of one connection.
#[derive(Debug)]
struct Story(Vec<Value>);

impl Story {
    fn of(records: &[Value], source: SocketAddr) -> Self {
        let of_source = |record: &&Value| source_of(record) == Some(source);
        Self(records.iter().filter(of_source).cloned().collect())
    }

    fn events(&self, event: &str) -> Vec<&Value> {
        self.0
            .iter()
            .filter(|record| record.get("event").and_then(Value::as_str) == Some(event))
            .collect()
    }

    fn is_one_connection(&self) -> Result<()> {
        ensure!(self.events("conn.close").len() == 1, "{:#?}", self.0);
        ensure!(self.events("conn.open").len() <= 1, "{:#?}", self.0);
        ensure!(self.events("auth.result").len() <= 1, "{:#?}", self.0);
        Ok(())
    }

    fn got_in(&self) -> bool {
        self.events("auth.result")
            .iter()
            .any(|record| record.get("outcome").and_then(Value::as_str) == Some("success"))
    }

    /// Why the connection ended.
    fn close_reason(&self) -> Result<&str> {
        self.events("conn.close")
            .first()
            .and_then(|record| record.get("reason")?.as_str())
            .context("no reason")
    }
}
