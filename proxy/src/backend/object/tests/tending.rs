//! Copies that take the place of files, on servers that fail in the middle of it or do not keep conditions.

use super::{
    content, directory,
    front::{Fate, Front, Seen, first},
    service,
};
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, Keys, NEW, OLD, Subject},
    },
    operation::{Care, Tended},
};

const MIB: usize = 1024 * 1024;

/// A file of several parts, wrapped to the old key, behind a front.
struct Bench {
    front: Front,
    keys: Keys,
    behind: Subject,
    direct: Subject,
    stored: Vec<u8>,
}

async fn bench(rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static) -> Bench {
    let front = Front::start(rule).await;
    let subject = |endpoint| Subject {
        service: service(endpoint),
        directory: Vec::new(),
        disk: None,
        keep: Box::new(()),
    };
    let mut behind = subject(front.endpoint.clone());
    let mut direct = subject(super::server().await.endpoint());
    behind.directory = directory();
    direct.directory.clone_from(&behind.directory);
    let keys = Keys::new();
    let client = keys.client(&direct, OLD, None);
    let handle = client
        .open("/a", crate::backend::conformance::REPLACE)
        .await;
    for (number, data) in content(20 * MIB).chunks(MIB).enumerate() {
        client
            .write(handle, (number * MIB) as u64, data.to_vec())
            .await;
    }
    client.close(handle).await;
    let stored = direct.client().get("/a").await;
    Bench {
        front,
        keys,
        behind,
        direct,
        stored,
    }
}

impl Bench {
    fn tending(&self) -> Client {
        self.keys.client(&self.behind, NEW, Some(OLD))
    }

    async fn is_as_it_was(&self) -> bool {
        self.direct.client().get("/a").await == self.stored
    }

    /// True if it was wrapped to the new key, and is whole.
    async fn is_rewrapped(&self) -> bool {
        let new = self.keys.client(&self.direct, NEW, None);
        let tended = new.tend("/a", Care::Rewrap).await.unwrap();
        tended == Tended::Current && new.get("/a").await == content(20 * MIB)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_copies_what_is_behind_the_first_part_and_one_that_can_not_gets_all_of_it() {
    let bench = bench(|_| Fate::HandOn).await;
    let tended = bench.tending().tend("/a", Care::Rewrap).await.unwrap();
    let bytes = 16 * MIB as u64;
    assert_eq!(tended, Tended::Rewrapped { bytes });
    assert!(bench.is_rewrapped().await);

    let refused = Fate::Refuse(501, "NotImplemented");
    let bench = self::bench(first(1, "PUT", "partNumber=2", refused)).await;
    let tended = bench.tending().tend("/a", Care::Rewrap).await.unwrap();
    let bytes = 2 * bench.stored.len() as u64;
    assert_eq!(tended, Tended::Rewrapped { bytes });
    assert!(bench.is_rewrapped().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ignores_conditions_is_found_out_before_anything_is_changed() {
    let done = Fate::Head("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 0");
    let bench = bench(first(usize::MAX, "PUT", "/.portcullis-", done)).await;
    let tending = bench.tending();
    for care in [
        Care::Rewrap,
        Care::Shred {
            object: object(&bench.stored),
        },
    ] {
        let refused = tending.tend("/a", care).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unsupported, "{refused}");
        assert!(refused.message.contains("If-Match"), "{refused}");
    }
    assert!(bench.is_as_it_was().await);
    assert_eq!(bench.front.count("POST", "/a?uploads"), 0);
}

fn object(stored: &[u8]) -> [u8; 16] {
    stored[16..32].try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_leaves_the_old_file_or_the_new_one_and_the_next_look_ends_it() {
    // The answer is lost: nobody knows which one it is.
    let bench = bench(first(1, "POST", "/a?uploadId=", Fate::LoseAnswer)).await;
    bench.tending().tend("/a", Care::Rewrap).await.unwrap_err();
    assert!(!bench.is_as_it_was().await, "it was done");
    let again = bench.tending().tend("/a", Care::Rewrap).await.unwrap();
    assert_eq!(again, Tended::Current);
    assert!(bench.is_rewrapped().await);

    for (method, part, fate) in [
        ("PUT", "/a?partNumber=1", Fate::Refuse(403, "AccessDenied")),
        ("PUT", "/a?partNumber=2", Fate::Refuse(403, "AccessDenied")),
        ("POST", "/a?uploadId=", Fate::CutBody(10)),
    ] {
        let bench = self::bench(first(1, method, part, fate)).await;
        bench.tending().tend("/a", Care::Rewrap).await.unwrap_err();
        assert!(bench.is_as_it_was().await, "{method} {part}");
        assert_eq!(
            bench.front.count("DELETE", "/a?uploadId="),
            1,
            "no parts are left"
        );
        let again = bench.tending().tend("/a", Care::Rewrap).await.unwrap();
        assert!(matches!(again, Tended::Rewrapped { .. }));
        assert!(bench.is_rewrapped().await);
    }
}
