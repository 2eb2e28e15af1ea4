//! The pinned host key, and how the gateway logs in.

use super::*;

#[tokio::test]
async fn a_server_with_another_host_key_is_refused_and_both_fingerprints_are_named() {
    let server = Server::start();
    assert!(client(server.settings()).stat("/").await.is_ok());
    let other = server.key.public_key().clone();
    let (kind, message) = message(
        &client(SftpSettings {
            host_key: other.clone(),
            ..server.settings()
        }),
        stat("/"),
    )
    .await;
    assert_eq!(kind, ErrorKind::Unavailable);
    for key in [other, server.settings().host_key] {
        let fingerprint = key.fingerprint(ssh_key::HashAlg::Sha256).to_string();
        assert!(message.contains(&fingerprint), "{message}");
    }
}

#[tokio::test]
async fn a_password_logs_in_and_a_wrong_one_or_an_unknown_key_is_told_from_it() {
    let server = Server::start();
    let password = |text: &str| Credential::Password(text.to_owned().into());
    let good = SftpSettings {
        credential: password(portcullis_tests::server::PASSWORD),
        ..server.settings()
    };
    assert!(client(good.clone()).stat("/").await.is_ok());
    let keys = files::folder("stranger").unwrap();
    let stranger = files::ssh_key(keys.path(), "stranger").unwrap();
    let stranger = std::fs::read_to_string(stranger).unwrap();
    let stranger = ssh_key::PrivateKey::from_openssh(stranger.as_bytes()).unwrap();
    for credential in [password("wrong"), Credential::Key(Arc::new(stranger))] {
        let settings = SftpSettings {
            credential,
            ..good.clone()
        };
        let (kind, message) = message(&client(settings), stat("/")).await;
        assert_eq!(kind, ErrorKind::Unavailable);
        assert!(message.contains("refused the login"), "{message}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = files::folder("unused-keys").unwrap();
    let path = files::ssh_key(keys.path(), "unused").unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let key = ssh_key::PrivateKey::from_openssh(text.as_bytes()).unwrap();
    let settings = SftpSettings {
        timeout: SHORT,
        ..settings(
            listener.local_addr().unwrap(),
            key.public_key().clone(),
            key,
        )
    };
    let begun = Instant::now();
    let (kind, _) = message(&client(settings.clone()), stat("/")).await;
    assert_eq!(kind, ErrorKind::TimedOut);
    assert!(begun.elapsed() < SHORT * 4);
    drop(listener);
    let (kind, message) = message(&client(settings), stat("/")).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(message.contains("can't be reached"), "{message}");
}
