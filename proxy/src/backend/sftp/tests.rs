mod gesftpserver;
mod habits;
mod login;
mod losses;
mod odd;
mod pool;
mod proftpd;
mod uploads;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use portcullis_tests::{
    files,
    place::Place,
    server::openssh::{Openssh, Subsystem},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, READ, REPLACE, Subject, WRITE, suite},
    },
    operation::{Access, Operation},
    path::VirtualPath,
};

suite!(super::subject);

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(800);

async fn subject() -> Subject {
    Server::start().subject()
}

/// OpenSSH's sshd, and the key that its account logs in with.
struct Server {
    sshd: Openssh,
    key: ssh_key::PrivateKey,
    _keys: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(Subsystem::Internal, "")
    }

    /// With more lines of `sshd_config`.
    fn start_with(subsystem: Subsystem, lines: &str) -> Self {
        let keys = files::folder("upstream-keys").unwrap();
        let path = files::ssh_key(keys.path(), "login").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        Self {
            sshd: Openssh::start_with(Place::Loopback, subsystem, &path, lines).unwrap(),
            key: ssh_key::PrivateKey::from_openssh(text.as_bytes()).unwrap(),
            _keys: keys,
        }
    }

    fn settings(&self) -> SftpSettings {
        let host_key = ssh_key::PublicKey::from_openssh(&self.sshd.host_key).unwrap();
        settings(self.sshd.address, host_key, self.key.clone())
    }

    fn settings_through(&self, relay: &Relay, timeout: Duration) -> SftpSettings {
        SftpSettings {
            port: relay.address.port(),
            timeout,
            ..self.settings()
        }
    }

    fn subject(self) -> Subject {
        Subject {
            service: Arc::new(SftpService::new(self.settings())),
            directory: Vec::new(),
            disk: Some(self.sshd.home.clone()),
            keep: Box::new(self),
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.sshd.home)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn settings(
    address: SocketAddr,
    host_key: ssh_key::PublicKey,
    key: ssh_key::PrivateKey,
) -> SftpSettings {
    SftpSettings {
        host: address.ip().to_string(),
        port: address.port(),
        user: portcullis_tests::server::USER.to_owned(),
        host_key,
        credential: Credential::Key(Arc::new(key)),
        uploads: UploadSettings::default(),
        publication: Publication::Rename,
        copy_limit: 1 << 20,
        pool: PoolLimits {
            connections: 4,
            channels: 10,
            idle: Duration::from_secs(60),
        },
        keepalive: Duration::from_secs(30),
        timeout: PATIENCE,
    }
}

/// What a relay does with the connections through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Forward,
    /// Holds the connections and moves nothing.
    Silent,
    /// Ends them; new ones are served again once it forwards.
    Cut,
}

/// A wire to the server that can go silent or break.
struct Relay {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    stranded: watch::Sender<u32>,
}

impl Relay {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mood, moods) = watch::channel(Mood::Forward);
        let (stranded, strandings) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let upstream = TcpStream::connect(server).await.unwrap();
                let carrying = Self::carry(client, upstream, moods.clone());
                let mut strandings = strandings.clone();
                strandings.mark_unchanged();
                tokio::spawn(async move {
                    let mut carrying = std::pin::pin!(carrying);
                    tokio::select! {
                        () = &mut carrying => {}
                        // The sockets stay open as long as the relay.
                        Ok(()) = strandings.changed() => while strandings.changed().await.is_ok() {},
                    }
                });
            }
        });
        Self {
            address,
            mood,
            stranded,
        }
    }

    async fn carry(
        mut client: TcpStream,
        mut upstream: TcpStream,
        mut moods: watch::Receiver<Mood>,
    ) {
        loop {
            let mood = *moods.borrow_and_update();
            match mood {
                Mood::Forward => tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => return,
                    changed = moods.changed() => if changed.is_err() { return },
                },
                Mood::Silent => {
                    if moods.changed().await.is_err() {
                        return;
                    }
                }
                Mood::Cut => return,
            }
        }
    }

    fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Nothing moves any more on the connections that there are; new ones are served.
    fn strand(&self) {
        self.stranded.send_modify(|generation| *generation += 1);
    }
}

fn client(settings: SftpSettings) -> Client {
    Client::new(SftpService::new(settings).session(b"", &crate::testing::owner()))
}

fn stat(name: &str) -> Operation {
    Operation::Stat {
        path: VirtualPath::clean(name.as_bytes()).unwrap(),
    }
}

async fn message(client: &Client, operation: Operation) -> (ErrorKind, String) {
    let error = client.ask(operation).await.unwrap_err();
    (error.kind, error.message)
}

const APPEND: Access = Access {
    append: true,
    create: true,
    ..WRITE
};
