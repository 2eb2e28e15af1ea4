//! What becomes of open files and of the backend when its keys are destroyed.

use super::*;
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, READ, REPLACE, WRITE},
    },
    operation::Operation,
};

fn client(memory: &Memory, ring: &Keyring) -> Client {
    let vault = Vault {
        ring: ring.clone(),
        ..vault(Foreign::Refuse)
    };
    let service = EncryptedService::new(Arc::new(memory.clone()), vault);
    Client::new(service.session(b"", &crate::testing::owner()))
}

fn ring() -> Keyring {
    vault(Foreign::Refuse).ring
}

#[tokio::test]
async fn downloads_end_uploads_fail_and_nothing_new_is_written_but_all_is_listed_and_removed() {
    let (memory, keys) = (Memory::new(), ring());
    let (other_memory, others) = (Memory::new(), ring());
    let (client, other) = (client(&memory, &keys), client(&other_memory, &others));
    let large = vec![7; 1 << 20];
    for client in [&client, &other] {
        client.put("/a", large.clone()).await;
        client.put("/b", "b").await;
    }
    let reading = client.open("/a", READ).await;
    client.read(reading, 0, 100_000).await;
    let others_reading = other.open("/a", READ).await;
    let (writing, changing) = (
        client.open("/c", REPLACE).await,
        client.open("/a", WRITE).await,
    );
    client.write(writing, 0, large.clone()).await;
    client.write(changing, 5, "other").await;
    let before = memory.file(b"a");

    Keyring::destroy(&[keys.active()], &Arc::from("destroyed by record 7"));
    let read = |handle, offset| Operation::Read {
        handle,
        offset,
        length: 1000,
    };
    let write = |handle| Operation::Write {
        handle,
        offset: 1 << 20,
        data: "x".into(),
    };
    for operation in [
        read(reading, 0),
        read(reading, 500_000),
        Operation::Fstat { handle: reading },
        write(writing),
        Operation::Close { handle: writing },
        write(changing),
        Operation::Close { handle: changing },
        Operation::Close { handle: reading },
        client.open_operation("/a", READ),
        client.open_operation("/a", WRITE),
        client.open_operation("/d", REPLACE),
    ] {
        let what = format!("{operation:?}");
        let refused = client.ask(operation).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Shredded, "{what}");
        assert!(refused.message.contains("record 7"), "{refused}");
    }
    client.expect_size("/a", 1 << 20).await;
    assert_eq!(client.names("/").await, [b"a".to_vec(), b"b".to_vec()]);
    let path = crate::path::VirtualPath::clean(b"/b").unwrap();
    client.done(Operation::Remove { path }).await;
    client.end().await;
    assert!(memory.file(b"a") == before, "it is not touched");

    assert_eq!(other.read(others_reading, 0, 1000).await, large[..1000]);
    other.put("/c", "c").await;
    assert_eq!(other.get("/c").await, b"c");
}
