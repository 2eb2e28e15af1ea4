//! Mounts below mounts, as a client sees them.

use super::*;

/// A client with a mount at `/`, one at `/in/lab` and one at `/in/lab/deep`, each on a backend of its own.
async fn nested() -> (Client, [Memory; 3]) {
    let memories = [Memory::new(), Memory::new(), Memory::new()];
    let services = ["outer", "lab", "deep"]
        .into_iter()
        .zip(&memories)
        .map(|(name, memory)| (name.to_owned(), Arc::new(memory.clone()) as _))
        .collect();
    let mounts = [("/", "outer"), ("/in/lab", "lab"), ("/in/lab/deep", "deep")]
        .map(|(at, backend)| testing::everything(at, backend));
    let client = Client::serving(
        services,
        mounts.into(),
        Extensions::default(),
        testing::journal,
    );
    (client.greeted().await, memories)
}

impl Client {
    async fn list(&mut self, directory: &[u8]) -> Vec<String> {
        let Reply::Handle(handle) = self.ask(Packet::new(11).string(directory)).await else {
            panic!("OPENDIR of {directory:?}");
        };
        let mut found = Vec::new();
        loop {
            match self.ask(Packet::new(12).handle(handle)).await {
                Reply::Names(names) => found.extend(
                    names
                        .into_iter()
                        .map(|(name, _)| String::from_utf8_lossy(&name).into_owned()),
                ),
                Reply::Status(Status::Eof) => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            self.ask(Packet::new(8).handle(handle)).await,
            Reply::Attributes(..)
        ));
        assert_eq!(self.status(close(handle)).await, Status::Ok);
        found.sort();
        found
    }
}

#[tokio::test]
async fn a_mount_stands_in_the_listing_of_the_one_above_it_once() {
    let (mut client, [outer, lab, deep]) = nested().await;
    outer.put(b"a", b"");
    lab.put(b"b", b"");
    deep.put(b"c", b"");
    assert_eq!(client.list(b"/").await, ["a", "in"]);
    assert_eq!(client.list(b"/in").await, ["lab"], "the backend has none");
    assert_eq!(client.list(b"/in/lab").await, ["b", "deep"]);
    assert_eq!(client.list(b"/in/lab/deep").await, ["c"]);

    // What the outer backend has there is hidden where a mount stands, and shown beside it.
    outer.make_directory(b"in");
    outer.put(b"in/beside", b"");
    outer.make_directory(b"in/lab");
    outer.put(b"in/lab/hidden", b"");
    assert_eq!(client.list(b"/").await, ["a", "in"]);
    assert_eq!(client.list(b"/in").await, ["beside", "lab"]);
    assert_eq!(client.list(b"/in/lab").await, ["b", "deep"]);
    let hidden = client.status(stat(b"/in/lab/hidden")).await;
    assert_eq!(hidden, Status::NoSuchFile);
}

#[tokio::test]
async fn a_long_listing_has_each_name_and_each_mount_once() {
    let (mut client, [outer, ..]) = nested().await;
    outer.make_directory(b"in");
    for number in 0..450 {
        outer.put(format!("in/{number:03}").as_bytes(), b"");
    }
    let mut expected: Vec<String> = (0..450).map(|number| format!("{number:03}")).collect();
    expected.push("lab".to_owned());
    assert_eq!(client.list(b"/in").await, expected);
}

#[tokio::test]
async fn files_go_to_the_nearest_mount_and_what_leads_to_one_is_a_directory_that_stays() {
    let (mut client, [outer, lab, deep]) = nested().await;
    client.put(b"/x", b"outer").await;
    client.put(b"/in/lab/x", b"lab").await;
    client.put(b"/in/lab/deep/x", b"deep").await;
    for (memory, content) in [(&outer, "outer"), (&lab, "lab"), (&deep, "deep")] {
        assert_eq!(memory.file(b"x").unwrap(), content.as_bytes());
    }
    for on_the_way in [&b"/in"[..], b"/in/lab", b"/in/lab/deep"] {
        let Reply::Attributes(flags, rest) = client.ask(stat(on_the_way)).await else {
            panic!("no attributes");
        };
        let at = if flags & 1 != 0 { 8 } else { 0 } + if flags & 2 != 0 { 8 } else { 0 };
        let mode = u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
        assert_eq!(mode & 0o170_000, 0o040_000, "{on_the_way:?}");
        let rmdir = Packet::new(15).string(on_the_way);
        assert_eq!(client.status(rmdir).await, Status::PermissionDenied);
        let rename = Packet::new(18).string(on_the_way).string(b"/gone");
        let refused = client.status(rename).await;
        assert!(matches!(
            refused,
            Status::PermissionDenied | Status::Failure
        ));
    }
    // A file of the backend where a directory has to be is hidden by it.
    outer.put(b"in", b"a file");
    assert_eq!(client.list(b"/in").await, ["lab"]);
    assert_ne!(client.status(open(b"/in", READ)).await, Status::Ok);
    assert_eq!(client.status(stat(b"/in/other")).await, Status::NoSuchFile);
}
