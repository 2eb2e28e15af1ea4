//! Green End's server as sshd's subsystem: it speaks versions 3 to 6 and carries requests out in threads. It has no
//! `limits@openssh.com`, no `lsetstat@openssh.com`, and SYMLINK in the draft's order, which it announces.

use super::*;

// Of 150 handles it gets 22 wrong.
suite!(super::subject, without many_handles_are_open_at_once_and_not_mixed_up);

async fn subject() -> Subject {
    start().subject()
}

fn start() -> Server {
    Server::start_with(Subsystem::GreenEnd, "")
}

#[tokio::test]
async fn the_announced_order_of_a_link_and_its_target_is_kept_to() {
    let server = start();
    let client = client(server.settings());
    client
        .done(Operation::Symlink {
            target: "a".into(),
            link: VirtualPath::clean(b"/link").unwrap(),
        })
        .await;
    assert_eq!(server.names(), ["link"]);
    let link = std::fs::read_link(server.sshd.home.join("link")).unwrap();
    assert_eq!(link.as_os_str(), "a");
}

#[tokio::test]
async fn what_the_server_lacks_is_said_to_be_unsupported() {
    let server = start();
    let client = client(server.settings());
    std::fs::write(server.sshd.home.join("a"), "content").unwrap();
    let lsetstat = Operation::Lsetstat {
        path: VirtualPath::clean(b"/a").unwrap(),
        attributes: crate::operation::Attributes {
            permissions: Some(0o600),
            ..Default::default()
        },
    };
    let (kind, message) = message(&client, lsetstat).await;
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("lsetstat@openssh.com"), "{message}");
}

#[tokio::test]
async fn no_more_handles_are_opened_than_the_server_can_keep_apart() {
    let server = start();
    let client = client(server.settings());
    std::fs::write(server.sshd.home.join("a"), "content").unwrap();
    let mut handles = Vec::new();
    for _ in 0..128 {
        handles.push(client.open("/a", READ).await);
    }
    let (kind, message) = message(&client, client.open_operation("/a", READ)).await;
    assert_eq!(kind, ErrorKind::Failure);
    assert!(message.contains("128 open handles"), "{message}");
    for handle in handles {
        assert_eq!(client.read(handle, 0, 7).await, "content");
        client.close(handle).await;
    }
    assert_eq!(client.get("/a").await, b"content");
}
