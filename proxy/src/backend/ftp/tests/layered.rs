//! What a layer that encrypts needs of a server to go on with an upload.

use std::sync::Arc;

use super::{
    super::FtpService,
    FtpTls, path,
    scripted::{REFUSED, Script, Scripted},
    settings,
};
use crate::{
    backend::{
        BackendService, ErrorKind,
        conformance::{Client, READ, REPLACE, WRITE},
        encrypted::tests::encrypted_alike,
    },
    operation::{Access, HandleId, Operation},
};

const EXTENT: usize = 16 << 20;
const APPEND: Access = Access {
    create: true,
    append: true,
    ..WRITE
};
const BOTH: Access = Access {
    read: true,
    ..REPLACE
};

fn plain(server: &Scripted) -> Arc<dyn BackendService> {
    Arc::new(FtpService::new(settings(server.address, FtpTls::None)).unwrap())
}

fn client(service: &Arc<dyn BackendService>) -> Client {
    Client::new(service.session(b"/", &crate::testing::owner()))
}

async fn send(client: &Client, access: Access, content: &[u8], from: usize) -> HandleId {
    let handle = client.open("/a", access).await;
    let mut offset = from;
    for data in content[from..].chunks(200_000) {
        client.write(handle, offset as u64, data.to_vec()).await;
        offset += data.len();
    }
    handle
}

fn content() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(5);
    std::iter::repeat_with(|| random.u8(..))
        .take(EXTENT + 300_000)
        .collect()
}

/// The gateway was killed, so that nobody asked the server what it can.
#[tokio::test]
async fn a_server_that_takes_no_rest_where_the_layer_goes_on_gets_the_file_from_its_beginning() {
    let content = content();
    for (features, rest, is_offered, is_published) in [
        (&["EPSV", "SIZE", "REST STREAM"][..], None, true, true),
        (&["EPSV", "SIZE"], None, true, true),
        (&["EPSV", "SIZE"], Some(REFUSED), false, true),
        // It takes REST and STOR, and stores from the beginning.
        (&["EPSV", "SIZE"], Some("350 as you say"), true, false),
    ] {
        let server = Scripted::start(Script {
            features,
            answers: rest.map(|answer| ("REST", answer)).into_iter().collect(),
            ..Script::default()
        })
        .await;
        let able = Scripted::start(Script::default()).await;
        // The keys are the same, the server is not.
        let [service, later] = encrypted_alike([plain(&able), plain(&server)]);
        let first = client(&service);
        send(&first, REPLACE, &content[..EXTENT + 200_000], 0).await;
        first.end().await;
        let staged = able.names().remove(0);
        server.has(&staged, &able.file(&staged).unwrap());

        let second = client(&later);
        let shown = second.stat("/a").await;
        assert_eq!(shown.is_ok(), is_offered, "{features:?} {rest:?}");
        let from = if is_offered { EXTENT } else { 0 };
        let handle = send(&second, APPEND, &content, from).await;
        let closed = second.ask(Operation::Close { handle }).await;
        assert_eq!(closed.is_ok(), is_published, "{features:?} {rest:?}");
        if is_published {
            assert!(second.get("/a").await == content);
        }
        second.end().await;
        let stands: &[&str] = if is_published { &["/a"] } else { &[] };
        assert_eq!(server.names(), stands, "{features:?} {rest:?}");
    }
}

#[tokio::test]
async fn an_upload_without_a_layer_is_not_read_and_goes_on() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let handle = client.open("/a", BOTH).await;
    client.write(handle, 0, "first,").await;
    let read = Operation::Read {
        handle,
        offset: 0,
        length: 5,
    };
    assert_eq!(client.refusal(read).await, ErrorKind::Unsupported);
    client.write(handle, 6, "second").await;
    client.close(handle).await;
    assert_eq!(server.file("/a").unwrap(), b"first,second");
}

#[tokio::test]
async fn a_layer_reads_what_it_wrote_once_and_then_writes_no_more() {
    let server = Scripted::start(Script::default()).await;
    let owner = crate::testing::owner().beneath_a_layer();
    let client = Client::new(plain(&server).session(b"/", &owner));
    assert!(client.can().rereads && !client.can().read_back);
    let handle = client.open("/a", BOTH).await;
    client.write(handle, 0, "first,").await;
    client.write(handle, 6, "second").await;
    assert_eq!(client.read(handle, 0, 6).await, "first,");
    assert_eq!(client.read(handle, 6, 100).await, "second");
    let reads = |command: &&String| command.starts_with("RETR");
    assert_eq!(server.commands().iter().filter(reads).count(), 1);
    client.close(handle).await;
    assert_eq!(client.get("/a").await, b"first,second");

    let handle = client.open("/b", BOTH).await;
    client.write(handle, 0, "first,").await;
    assert_eq!(client.read(handle, 0, 100).await, "first,");
    let more = Operation::Write {
        handle,
        offset: 6,
        data: "second".into(),
    };
    assert_eq!(client.refusal(more).await, ErrorKind::Unsupported);
    assert!(client.ask(Operation::Close { handle }).await.is_err());
    let open = client.open_operation("/b", READ);
    assert_eq!(client.refusal(open).await, ErrorKind::NotFound);
    client.done(Operation::Remove { path: path("/a") }).await;
    assert_eq!(server.names(), Vec::<String>::new());
}
