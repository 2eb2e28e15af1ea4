//! scp as its other side meets it: bytes in, bytes out, a backend in memory and a real journal behind it.

use std::{collections::HashMap, time::Duration};

use portcullis_journal::Journal;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    backend::memory::Memory, operation::MAX_DATA, policy::Permissions, sftp::request::Extensions,
    testing,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Pipe(mpsc::Receiver<Bytes>);

impl Source for Pipe {
    async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }

    async fn gone(&mut self) {}
}

struct Answers(mpsc::Sender<Bytes>);

impl Sink for Answers {
    async fn send(&mut self, bytes: Bytes) -> bool {
        self.0.send(bytes).await.is_ok()
    }
}

/// The other side's scp, played by a test.
struct Peer {
    memory: Memory,
    journal: Journal,
    directory: tempfile::TempDir,
    to_server: Option<mpsc::Sender<Bytes>>,
    from_server: mpsc::Receiver<Bytes>,
    heard: Vec<u8>,
    cancel: CancellationToken,
    serving: JoinHandle<u32>,
}

const EVERYTHING: &str = "list,read,write,overwrite,rename,delete,mkdir,rmdir,setattr,symlink";

impl Peer {
    fn start(command: &str) -> Self {
        Self::with(command, EVERYTHING, Memory::new())
    }

    fn with(command: &str, permissions: &str, memory: Memory) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let journal = testing::journal(directory.path());
        let mut mount = testing::everything("/", "memory");
        mount.permissions = Permissions::parse(permissions).unwrap();
        let gate = Gate::of(
            testing::requester(),
            Arc::new(vec![mount]),
            Arc::new(HashMap::from([(
                "memory".to_owned(),
                Arc::new(memory.clone()) as _,
            )])),
            Extensions::default(),
            crate::allowance::Ledger::default(),
            journal.clone(),
        );
        let (to_server, source) = mpsc::channel(2);
        let (sink, from_server) = mpsc::channel(2);
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(serve(
            command::parse(command.as_bytes()).unwrap(),
            Pipe(source),
            Answers(sink),
            Arc::new(gate),
            Activity::begin(std::time::Instant::now()),
            Budget::default(),
            cancel.clone(),
        ));
        Self {
            memory,
            journal,
            directory,
            to_server: Some(to_server),
            from_server,
            heard: Vec::new(),
            cancel,
            serving,
        }
    }

    async fn say(&self, bytes: &[u8]) {
        let sender = self.to_server.as_ref().expect("the channel is open");
        // Fails once the server has ended the channel.
        let _ = timeout(PATIENCE, sender.send(Bytes::copy_from_slice(bytes)))
            .await
            .expect("the server reads");
    }

    /// The next `length` bytes.
    async fn hear(&mut self, length: usize) -> Vec<u8> {
        while self.heard.len() < length {
            let more = timeout(PATIENCE, self.from_server.recv())
                .await
                .expect("an answer in time")
                .expect("the channel is open");
            self.heard.extend(more);
        }
        let rest = self.heard.split_off(length);
        std::mem::replace(&mut self.heard, rest)
    }

    async fn hear_line(&mut self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.hear(1).await);
        }
        String::from_utf8(line).unwrap()
    }

    async fn expect_ok(&mut self) {
        assert_eq!(self.hear(1).await, [0]);
    }

    /// Sends a line and waits for its acknowledgement.
    async fn announce(&mut self, line: &str) {
        self.say(line.as_bytes()).await;
        self.say(b"\n").await;
        self.expect_ok().await;
    }

    async fn put(&mut self, line: &str, data: &[u8]) {
        self.announce(line).await;
        for chunk in data.chunks(10_000) {
            self.say(chunk).await;
        }
        self.say(b"\0").await;
        self.expect_ok().await;
    }

    /// Ends its side and waits for the server's; exit status and what it still said.
    async fn leave(mut self) -> Left {
        self.to_server = None;
        self.finish().await
    }

    async fn finish(mut self) -> Left {
        let mut last = std::mem::take(&mut self.heard);
        while let Some(more) = timeout(PATIENCE, self.from_server.recv())
            .await
            .expect("the channel ends")
        {
            last.extend(more);
        }
        let status = timeout(PATIENCE, &mut self.serving)
            .await
            .expect("scp ends")
            .expect("scp doesn't panic");
        self.journal.close().await.expect("the journal closes");
        Left {
            status,
            last: String::from_utf8_lossy(&last).into_owned(),
            records: testing::records(self.directory.path()),
            memory: self.memory,
        }
    }
}

struct Left {
    status: u32,
    last: String,
    records: Vec<Value>,
    memory: Memory,
}

impl Left {
    fn operations(&self) -> Vec<&str> {
        self.records
            .iter()
            .filter(|record| record["event"] == "op.intent")
            .map(|record| record["body"]["sftp_op"].as_str().expect("a name"))
            .collect()
    }

    fn refusals(&self) -> Vec<&str> {
        self.records
            .iter()
            .filter(|record| record["event"] == "op.denied")
            .map(|record| record["reason"].as_str().expect("a reason"))
            .collect()
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|byte| (byte / 3) as u8).collect()
}

#[tokio::test]
async fn a_file_goes_up_as_the_operations_of_sftp_and_is_published_once_it_is_whole() {
    let mut peer = Peer::start("scp -t /");
    peer.expect_ok().await;
    let data = content(3 * MAX_DATA as usize + 5);
    peer.announce(&format!("C0640 {} a b.bin", data.len()))
        .await;
    for chunk in data.chunks(30_000) {
        peer.say(chunk).await;
    }
    assert_eq!(peer.memory.file(b"a b.bin"), None, "before it is whole");
    peer.say(b"\0").await;
    peer.expect_ok().await;
    assert!(peer.memory.file(b"a b.bin").unwrap() == data);
    peer.put("C0644 0 empty", b"").await;
    let left = peer.leave().await;
    assert_eq!((left.status, left.last.as_str()), (0, ""));
    assert_eq!(left.memory.file(b"empty").unwrap(), b"");
    assert_eq!(
        left.operations(),
        [
            "stat", "open", "write", "write", "write", "write", "close", "open", "close"
        ]
    );
}

#[tokio::test]
async fn a_tree_goes_up_and_its_times_and_modes_with_it() {
    let mut peer = Peer::start("scp -r -p -t /new");
    peer.expect_ok().await;
    peer.announce("T1700000000 0 1600000000 0").await;
    peer.announce("D0750 0 ignored").await;
    peer.announce("T1500000000 0 1400000000 0").await;
    peer.put("C0604 3 a", b"abc").await;
    peer.announce("D0755 0 below").await;
    peer.put("C0644 1 b", b"b").await;
    peer.announce("E").await;
    peer.announce("E").await;
    let left = peer.leave().await;
    assert_eq!(left.status, 0);
    // The target did not exist, so it is the directory itself.
    assert_eq!(left.memory.file(b"new/a").unwrap(), b"abc");
    assert_eq!(left.memory.file(b"new/below/b").unwrap(), b"b");
    let set: Vec<_> = left
        .records
        .iter()
        .filter(|record| record["event"] == "op.intent")
        .filter(|record| !record["body"]["attrs"]["times"].is_null())
        .map(|record| {
            let attributes = &record["body"]["attrs"];
            (
                attributes["permissions"].as_str().unwrap(),
                attributes["times"][0].as_u64().unwrap(),
                attributes["times"][1].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        set,
        [
            ("604", 1_400_000_000, 1_500_000_000),
            ("750", 1_600_000_000, 1_700_000_000)
        ]
    );
}

#[tokio::test]
async fn a_file_comes_down_with_its_size_before_it() {
    let memory = Memory::new();
    let data = content(10 * MAX_DATA as usize + 7);
    memory.make_directory(b"dir");
    memory.put(b"dir/a", &data);
    let mut peer = Peer::with("scp -f /dir/a dir/missing", EVERYTHING, memory);
    peer.say(b"\0").await;
    assert_eq!(peer.hear_line().await, format!("C0644 {} a\n", data.len()));
    peer.say(b"\0").await;
    assert!(peer.hear(data.len()).await == data);
    peer.expect_ok().await;
    peer.say(b"\0").await;
    let refusal = peer.hear_line().await;
    assert_eq!(refusal, "\x01scp: dir/missing: No such file\n");
    let left = peer.leave().await;
    assert_eq!(left.status, 1, "one of two was not copied");
    assert_eq!(left.operations()[..3], ["stat", "open", "fstat"]);
}

#[tokio::test]
async fn a_tree_comes_down_depth_first_and_a_name_with_a_newline_stays_one_line() {
    let memory = Memory::new();
    memory.make_directory(b"d");
    memory.make_directory(b"d/e");
    memory.put(b"d/e/x\ny", b"in e");
    memory.put(b"d/f", b"");
    let mut peer = Peer::with("scp -r -f d", EVERYTHING, memory);
    peer.say(b"\0").await;
    for (line, data) in [
        ("D0755 0 d\n", None),
        ("D0755 0 e\n", None),
        ("C0644 4 x\\^Jy\n", Some(&b"in e"[..])),
        ("E\n", None),
        ("C0644 0 f\n", Some(b"")),
        ("E\n", None),
    ] {
        assert_eq!(peer.hear_line().await, line);
        peer.say(b"\0").await;
        if let Some(data) = data {
            assert_eq!(peer.hear(data.len()).await, data);
            peer.expect_ok().await;
            peer.say(b"\0").await;
        }
    }
    let left = peer.leave().await;
    assert_eq!((left.status, left.last.as_str()), (0, ""));
}

#[tokio::test]
async fn each_way_needs_its_permission_and_the_other_way_has_not() {
    for (permissions, can_upload, can_download) in
        [("list,write", true, false), ("list,read", false, true)]
    {
        let memory = Memory::new();
        memory.put(b"there", b"secret");
        let mut peer = Peer::with("scp -t /new", permissions, memory.clone());
        peer.expect_ok().await;
        peer.say(b"C0644 1 x\n").await;
        assert_eq!(peer.hear(1).await == [0], can_upload);
        if can_upload {
            peer.say(b"x\0").await;
            peer.expect_ok().await;
        } else {
            assert_eq!(peer.hear_line().await, "scp: /new: Permission denied\n");
        }
        let left = peer.leave().await;
        assert_eq!(left.status, u32::from(!can_upload));
        assert_eq!(memory.file(b"new").is_some(), can_upload);

        let mut peer = Peer::with("scp -f /there", permissions, memory.clone());
        peer.say(b"\0").await;
        let line = peer.hear_line().await;
        if can_download {
            assert_eq!(line, "C0644 6 there\n");
        } else {
            assert_eq!(line, "\x01scp: /there: Permission denied\n");
            assert_eq!(peer.leave().await.refusals(), ["missing_permission"]);
        }
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_it_is_on_record_and_publishes_nothing() {
    for (command, sent) in [
        ("scp -t /", "C0644 1 ../x\n"),
        ("scp -t /", "C0644 1 a/b\n"),
        ("scp -t /", "C0644 1 ..\n"),
        ("scp -t /", "C0644 x a\n"),
        ("scp -t /", "Q\n"),
        ("scp -t /", "\n"),
        ("scp -t /", "E\n"),
        ("scp -t /", "D0755 0 d\n"),
        ("scp -t /", "C0644 3 a\nab"),
        ("scp -t /", "C0644 3 a\nabcX"),
        ("scp -r -t /", "D0755 0 d\n"),
        ("scp -t /", "C0644 1 no newline"),
    ] {
        let peer = Peer::start(command);
        peer.say(sent.as_bytes()).await;
        let left = peer.leave().await;
        assert_eq!(left.status, 1, "{sent:?}");
        assert_eq!(left.refusals(), ["scp_protocol"], "{sent:?}");
        assert!(left.last.contains("\x02scp: "), "{sent:?}: {:?}", left.last);
        let files = left.memory.paths();
        assert!(files.is_empty() || files == [b"d".to_vec()], "{sent:?}");
    }
    let peer = Peer::start("scp -t /");
    peer.say(&[b'C'; 5000]).await;
    assert_eq!(peer.finish().await.refusals(), ["scp_protocol"]);
    let mut deep = Peer::start("scp -r -t /");
    deep.expect_ok().await;
    for _ in 0..protocol::MAX_DEPTH {
        deep.announce("D0755 0 d").await;
    }
    deep.say(b"D0755 0 d\n").await;
    assert_eq!(deep.finish().await.refusals(), ["scp_protocol"]);
}

#[tokio::test]
async fn a_file_that_the_other_side_could_not_read_is_not_published_and_the_next_one_is() {
    let mut peer = Peer::start("scp -t /");
    peer.expect_ok().await;
    peer.announce("C0644 4 half").await;
    peer.say(b"ha\0\0\x01scp: half: Input/output error\n").await;
    peer.expect_ok().await;
    peer.put("C0644 4 next", b"next").await;
    let left = peer.leave().await;
    assert_eq!(left.status, 1);
    assert_eq!(left.memory.paths(), [b"next".to_vec()]);
    let summary = left
        .records
        .iter()
        .find(|record| record["event"] == "xfer.summary" && record["outcome"] == "failure")
        .expect("the withdrawn file has a summary");
    assert_eq!(summary["reason"], "not_closed");
}

#[tokio::test]
async fn a_target_that_has_to_be_a_directory_is_one() {
    let peer = Peer::start("scp -d -t /missing");
    let left = peer.leave().await;
    assert_eq!(left.status, 1);
    assert_eq!(left.last, "\x02scp: the target is not a directory\n");
    let mut peer = Peer::start("scp -t /missing/");
    peer.expect_ok().await;
    peer.say(b"C0644 1 a\n").await;
    assert_eq!(
        peer.hear_line().await,
        "\x01scp: /missing/: no such directory\n"
    );
    let left = peer.leave().await;
    assert_eq!(left.status, 1);
    assert!(left.memory.paths().is_empty());
}

#[tokio::test]
async fn a_session_that_is_cut_ends_scp_and_publishes_nothing() {
    let mut peer = Peer::start("scp -t /a");
    peer.expect_ok().await;
    peer.announce("C0644 10 a").await;
    peer.say(b"12345").await;
    peer.cancel.cancel();
    let left = peer.finish().await;
    assert_eq!(left.status, 1);
    assert!(left.memory.paths().is_empty());
}
