//! ProFTPD's mod_sftp, an older server with other habits: no `limits@openssh.com`, no fsync, no RENAME over an existing file.

use portcullis_tests::server::proftpd::{Proftpd, Protocol};

use super::*;

// READLINK makes every target absolute.
suite!(super::subject, without links_are_stored_as_they_were_given);

async fn subject() -> Subject {
    let (server, settings) = start();
    Subject {
        service: Arc::new(SftpService::new(settings)),
        directory: Vec::new(),
        disk: Some(server.home.clone()),
        keep: Box::new(server),
    }
}

#[tokio::test]
async fn a_server_that_can_not_copy_serves_updates_up_to_the_limit() {
    let (server, settings) = start();
    let client = client(SftpSettings {
        copy_limit: 10,
        ..settings
    });
    std::fs::write(server.home.join("small"), "0123456789").unwrap();
    std::fs::write(server.home.join("large"), "0123456789a").unwrap();
    let handle = client.open("/small", WRITE).await;
    client.write(handle, 0, "ZERO").await;
    client.close(handle).await;
    assert_eq!(client.get("/small").await, b"ZERO456789");
    let open = client.open_operation("/large", WRITE);
    let (kind, message) = message(&client, open).await;
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("copy_limit_bytes"), "{message}");
    client.put("/large", "replaced").await;
    assert_eq!(client.get("/large").await, b"replaced");
    client.end().await;
    let mut names: Vec<_> = std::fs::read_dir(&server.home)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["large", "small"]);
}

/// mod_sftp takes SYMLINK's arguments in OpenSSH's order, as the gateway sends them.
#[tokio::test]
async fn a_link_points_from_where_it_should_to_what_it_should() {
    let (server, settings) = start();
    let client = client(settings);
    client.put("/a", "content").await;
    client
        .done(Operation::Symlink {
            target: "a".into(),
            link: VirtualPath::clean(b"/link").unwrap(),
        })
        .await;
    let link = std::fs::read_link(server.home.join("link")).unwrap();
    assert_eq!(link.file_name().unwrap(), "a");
    assert_eq!(client.get("/link").await, b"content");
}

fn start() -> (Proftpd, SftpSettings) {
    let keys = files::folder("upstream-keys").unwrap();
    let path = files::ssh_key(keys.path(), "login").unwrap();
    let server = Proftpd::start(Place::Loopback, Protocol::Sftp, Some(&path)).unwrap();
    let key = std::fs::read_to_string(&path).unwrap();
    let key = ssh_key::PrivateKey::from_openssh(key.as_bytes()).unwrap();
    let host_key = ssh_key::PublicKey::from_openssh(server.host_key.as_deref().unwrap()).unwrap();
    let settings = settings(server.address, host_key, key);
    (server, settings)
}
