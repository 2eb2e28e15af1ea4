//! Several backends with the same content, of which a session gets the first that answers.
//!
//! A session stays with the member that it was given, whatever becomes of it: its handles and uploads are there. Health is what
//! the last probe found, and an operation that a member did not answer counts as a probe that failed.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use portcullis_audit::catalogue::OnRecord;
use portcullis_journal::Recorded;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
    time,
};

use super::{
    Backend, BackendService, Capabilities, ErrorKind, Execution, HalfwayRenames, Origin, Owner,
};
use crate::{metrics, operation::HandleId, policy::Permit, status::Retry};

/// Longest wait for a probe's answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// Most of what a server says first that is looked at, in bytes.
const GREETING: u64 = 8192;

/// How to find out whether a member can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The directory is there.
    Directory(PathBuf),
    /// The server at the address (host and port) takes a connection.
    Connection { address: String },
    /// The server at the address sends a line that begins so.
    Greeting {
        address: String,
        expected: &'static [u8],
    },
}

/// A backend of the list.
#[derive(Debug)]
pub struct Member {
    name: String,
    service: Arc<dyn BackendService>,
    probe: Probe,
    is_healthy: AtomicBool,
}

impl Member {
    /// Healthy until a probe or an operation says otherwise.
    pub fn new(name: &str, service: Arc<dyn BackendService>, probe: Probe) -> Self {
        Self {
            name: name.to_owned(),
            service,
            probe,
            is_healthy: AtomicBool::new(true),
        }
    }
}

/// Members in the order in which they are preferred.
#[derive(Debug)]
pub struct FailoverService {
    name: String,
    members: Vec<Arc<Member>>,
}

impl FailoverService {
    /// `name` is that of the section in the configuration.
    pub fn new(name: &str, members: Vec<Member>) -> Self {
        Self {
            name: name.to_owned(),
            members: members.into_iter().map(Arc::new).collect(),
        }
    }

    /// Probes every member each `interval`, for ever.
    pub async fn watch(self: Arc<Self>, interval: Duration) {
        let mut turns = time::interval(interval);
        loop {
            turns.tick().await;
            self.probe().await;
        }
    }

    /// Probes every member once.
    pub async fn probe(&self) {
        let probes = self.members.iter().map(|member| async move {
            let is_healthy = member.probe.succeeds().await;
            let was_healthy = member.is_healthy.swap(is_healthy, Ordering::Relaxed);
            metrics::backend_health(&self.name, &member.name, is_healthy);
            if is_healthy != was_healthy {
                tracing::warn!(
                    backend = self.name,
                    member = member.name,
                    is_healthy,
                    "the health of a member changed"
                );
            }
        });
        join_all(probes).await;
    }
}

impl BackendService for FailoverService {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        let healthy = self
            .members
            .iter()
            .find(|member| member.is_healthy.load(Ordering::Relaxed));
        // If none is, the first may tell best what is wrong.
        match healthy.or(self.members.first()) {
            Some(member) => Arc::new(Chosen {
                backend: member.service.session(directory, owner),
                member: Arc::clone(member),
            }),
            None => Arc::new(Nobody),
        }
    }
}

/// A session's use of the member that it was given.
#[derive(Debug)]
struct Chosen {
    backend: Arc<dyn Backend>,
    member: Arc<Member>,
}

impl Backend for Chosen {
    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    fn member(&self) -> Option<&str> {
        Some(&self.member.name)
    }

    fn on_record(&self, handle: HandleId) -> Option<OnRecord> {
        self.backend.on_record(handle)
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        let execution = self.backend.execute(recorded);
        let member = Arc::clone(&self.member);
        async move {
            let result = execution.await;
            if let Err(error) = &result
                && error.origin == Origin::Backend
                && error.kind.consequence().1 == Retry::Elsewhere
                && member.is_healthy.swap(false, Ordering::Relaxed)
            {
                tracing::warn!(member = member.name, %error, "a member did not answer: new sessions get another");
            }
            result
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.backend.end()
    }

    fn halfway_renames(&self) -> Option<&dyn HalfwayRenames> {
        self.backend.halfway_renames()
    }
}

/// The configuration has at least two members, so nobody meets this.
#[derive(Debug)]
struct Nobody;

impl Backend for Nobody {
    fn capabilities(&self) -> Capabilities {
        super::gateway::Gateway::new(Vec::new()).capabilities()
    }

    fn execute(&self, _recorded: Recorded<Permit>) -> Execution {
        let error = super::BackendError::new(
            ErrorKind::Unavailable,
            Origin::Gateway,
            "a failover backend without members",
        );
        std::future::ready(Err(error)).boxed()
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

impl Probe {
    async fn succeeds(&self) -> bool {
        let probe = async {
            match self {
                Self::Directory(path) => tokio::fs::metadata(path)
                    .await
                    .is_ok_and(|found| found.is_dir()),
                Self::Connection { address } => TcpStream::connect(address).await.is_ok(),
                Self::Greeting { address, expected } => greets(address, expected).await,
            }
        };
        time::timeout(PROBE_DEADLINE, probe).await.unwrap_or(false)
    }
}

/// Servers may say other lines before the one that counts (RFC 4253 section 4.2, RFC 959 section 4.2).
async fn greets(address: &str, expected: &[u8]) -> bool {
    let Ok(socket) = TcpStream::connect(address).await else {
        return false;
    };
    let mut lines = BufReader::new(socket.take(GREETING)).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        if line.starts_with(expected) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;
    use crate::{
        backend::{BackendError, memory::Memory},
        operation::Operation,
        path::VirtualPath,
        testing::{Fixture, owner},
    };

    fn stat() -> Operation {
        Operation::Stat {
            path: VirtualPath::clean(b"/file").unwrap(),
        }
    }

    fn members(directory: &std::path::Path) -> (Memory, Memory, Arc<FailoverService>) {
        let (first, second) = (Memory::new(), Memory::new());
        first.put(b"file", b"1");
        second.put(b"file", b"22");
        let member = |name: &str, memory: &Memory| {
            let probe = Probe::Directory(directory.join(name));
            Member::new(name, Arc::new(memory.clone()), probe)
        };
        let members = vec![member("first", &first), member("second", &second)];
        let service = Arc::new(FailoverService::new("pair", members));
        (first, second, service)
    }

    #[tokio::test]
    async fn a_new_session_goes_to_the_first_that_is_healthy_and_an_old_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["first", "second"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let (first, second, service) = members(directory.path());
        let fixture = Fixture::new();
        service.probe().await;
        let old = service.session(b"/", &owner());
        fixture.run(&*old, stat()).await.unwrap();
        assert_eq!((first.arrivals(), second.arrivals()), (1, 0));

        std::fs::remove_dir(directory.path().join("first")).unwrap();
        service.probe().await;
        let new = service.session(b"/", &owner());
        fixture.run(&*new, stat()).await.unwrap();
        fixture.run(&*old, stat()).await.unwrap();
        assert_eq!((first.arrivals(), second.arrivals()), (2, 1));

        std::fs::create_dir(directory.path().join("first")).unwrap();
        service.probe().await;
        let back = service.session(b"/", &owner());
        fixture.run(&*back, stat()).await.unwrap();
        fixture.run(&*new, stat()).await.unwrap();
        assert_eq!((first.arrivals(), second.arrivals()), (3, 2));
    }

    #[tokio::test]
    async fn a_member_that_does_not_answer_is_left_and_one_that_refuses_is_not() {
        for (kind, is_left) in [
            (ErrorKind::Unavailable, true),
            (ErrorKind::TimedOut, true),
            (ErrorKind::PermissionDenied, false),
            (ErrorKind::NotFound, false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let (first, second, service) = members(directory.path());
            let fixture = Fixture::new();
            let session = service.session(b"/", &owner());
            first.fail_with(Some(BackendError::new(kind, Origin::Backend, "")));
            fixture.run(&*session, stat()).await.unwrap_err();
            first.fail_with(None);
            let next = service.session(b"/", &owner());
            fixture.run(&*next, stat()).await.unwrap();
            assert_eq!(second.arrivals(), u64::from(is_left), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_server_is_healthy_if_it_greets_as_its_protocol_says() {
        for (said, expected, is_healthy) in [
            (&b"SSH-2.0-x\r\n"[..], &b"SSH-"[..], true),
            (b"welcome\r\nSSH-2.0-x\r\n", b"SSH-", true),
            (b"220 ready\r\n", b"SSH-", false),
            (b"220-hello\r\n220 ready\r\n", b"220", true),
            (b"421 too many\r\n", b"220", false),
            (b"", b"220", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let probe = Probe::Greeting {
                address: listener.local_addr().unwrap().to_string(),
                expected,
            };
            let server = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                socket.write_all(said).await.unwrap();
            };
            let (found, ()) = tokio::join!(probe.succeeds(), server);
            assert_eq!(found, is_healthy, "{said:?}");
        }
    }
}
