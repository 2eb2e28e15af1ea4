//! The servers that are compared.

use std::{collections::HashMap, path::Path, process::Stdio, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use portcullis_tests::locate;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::super::{Client, PATIENCE, Packet};
use crate::{
    backend::{
        local::{LocalService, LocalSettings},
        staging::UploadSettings,
    },
    sftp::request::Extensions,
    testing,
};

/// A server that answers one request after the other.
pub(super) trait Peer {
    /// `path` as this server is told it.
    fn path(&self, path: &str) -> Vec<u8>;

    /// The reply: its type, then what follows the request's id.
    async fn ask(&mut self, request: Packet) -> (u8, Bytes);
}

/// This gateway's engine.
pub(super) struct Engine(Client);

pub(super) async fn engine_in_memory() -> Engine {
    Engine(Client::start().await)
}

pub(super) async fn engine_on(directory: &Path) -> Engine {
    let service = LocalService::new(LocalSettings {
        directory: directory.to_owned(),
        uploads: UploadSettings::default(),
        timeout: Duration::from_secs(60),
    })
    .unwrap();
    let services = HashMap::from([("local".to_owned(), Arc::new(service) as _)]);
    let mounts = vec![testing::everything("/", "local")];
    let client = Client::serving(services, mounts, Extensions::default(), testing::journal);
    Engine(client.greeted().await)
}

impl Engine {
    pub(super) async fn end(self) {
        self.0.leave().await;
    }
}

impl Peer for Engine {
    fn path(&self, path: &str) -> Vec<u8> {
        format!("/{path}").into_bytes()
    }

    async fn ask(&mut self, request: Packet) -> (u8, Bytes) {
        self.0.request(request).await;
        without_id(self.0.frame().await.expect("the channel is open"))
    }
}

/// OpenSSH's sftp-server in a directory of its own.
pub(super) struct SftpServer {
    input: ChildStdin,
    output: ChildStdout,
    next_id: u32,
    _process: Child,
}

impl SftpServer {
    pub(super) async fn start(directory: &Path) -> Self {
        let program = locate::peer("openssh", "usr/lib/openssh/sftp-server").unwrap();
        let mut process = Command::new(&program)
            .arg("-d")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut server = Self {
            input: process.stdin.take().unwrap(),
            output: process.stdout.take().unwrap(),
            next_id: 1,
            _process: process,
        };
        server.send(&[1, 0, 0, 0, 3]).await;
        assert_eq!(server.frame().await[..5], [2, 0, 0, 0, 3]);
        server
    }

    async fn send(&mut self, packet: &[u8]) {
        let length = u32::try_from(packet.len()).unwrap();
        self.input.write_all(&length.to_be_bytes()).await.unwrap();
        self.input.write_all(packet).await.unwrap();
    }

    async fn frame(&mut self) -> Bytes {
        let read = async {
            let length = self.output.read_u32().await.unwrap();
            let mut frame = vec![0; length as usize];
            self.output.read_exact(&mut frame).await.unwrap();
            frame.into()
        };
        timeout(PATIENCE, read).await.expect("a reply in time")
    }
}

impl Peer for SftpServer {
    fn path(&self, path: &str) -> Vec<u8> {
        if path.is_empty() {
            b"."
        } else {
            path.as_bytes()
        }
        .to_vec()
    }

    async fn ask(&mut self, request: Packet) -> (u8, Bytes) {
        let packet = request.with_id(self.next_id);
        self.next_id += 1;
        self.send(&packet).await;
        without_id(self.frame().await)
    }
}

fn without_id(mut frame: Bytes) -> (u8, Bytes) {
    let kind = frame.get_u8();
    frame.advance(4);
    (kind, frame)
}
