//! Two exclusive uploads of one name: one is published, and who sent the other hears it.

use futures_util::future::join;

use super::{content, directory, server, session, settings};
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, REPLACE},
    },
    operation::{Access, HandleId, Operation, Outcome},
};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 255 * 1024;
const EXCLUSIVE: Access = Access {
    exclusive: true,
    ..REPLACE
};

async fn written(client: &Client, name: &str, content: &[u8]) -> HandleId {
    let handle = client.open(name, EXCLUSIVE).await;
    for (number, data) in content.chunks(CHUNK).enumerate() {
        let write = Operation::Write {
            handle,
            offset: (number * CHUNK) as u64,
            data: data.to_vec().into(),
        };
        assert_eq!(client.ask(write).await.unwrap(), Outcome::Done);
    }
    handle
}

async fn race(one: (&Client, &[u8]), other: (&Client, &[u8]), name: &str) {
    // Both look before anything stands there.
    let first = written(one.0, name, one.1).await;
    let second = written(other.0, name, other.1).await;
    let (first, second) = join(
        one.0.ask(Operation::Close { handle: first }),
        other.0.ask(Operation::Close { handle: second }),
    )
    .await;
    let (winner, loser) = match (first, second) {
        (Ok(_), Err(loser)) => (one.1, loser),
        (Err(loser), Ok(_)) => (other.1, loser),
        both => panic!("{name}: {both:?}"),
    };
    assert_eq!(loser.kind, ErrorKind::AlreadyExists, "{name}: {loser}");
    assert!(
        loser
            .message
            .contains("has appeared since the upload began"),
        "{loser}"
    );
    assert!(one.0.get(name).await == winner, "{name}");
    let open = other.0.open_operation(name, EXCLUSIVE);
    assert_eq!(other.0.refusal(open).await, ErrorKind::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_of_two_exclusive_uploads_is_published_and_the_other_hears_it() {
    let settings = settings(server().await.endpoint());
    let place = directory();
    let [one, other] = [(); 2].map(|()| session(&settings, &place));
    let (small, large) = (content(1000), content(9 * MIB));
    let reversed = |content: &[u8]| content.iter().rev().copied().collect::<Vec<_>>();
    let (small_too, large_too) = (reversed(&small), reversed(&large));
    for round in 0..20 {
        let name = format!("/small-{round}");
        race((&one, &small), (&other, &small_too), &name).await;
    }
    for round in 0..3 {
        let name = format!("/large-{round}");
        race((&one, &large), (&other, &large_too), &name).await;
        let name = format!("/mixed-{round}");
        race((&one, &small), (&other, &large), &name).await;
    }
}
