//! The rules of all backends, and FTP's own, against vsftpd and ProFTPD.

use std::{path::Path, sync::Arc};

use portcullis_tests::{
    place::Place,
    server::{
        proftpd::{Proftpd, Protocol},
        vsftpd::{Tls, Vsftpd},
    },
};

use super::{super::FtpService, FtpTls, pinned, settings};
use crate::backend::conformance::Subject;

fn subject(
    address: impl ToString,
    tls: FtpTls,
    home: &Path,
    server: impl Send + Sync + 'static,
) -> Subject {
    Subject {
        service: Arc::new(FtpService::new(settings(address, tls)).unwrap()),
        directory: Vec::new(),
        disk: Some(home.to_owned()),
        keep: Box::new(server),
    }
}

mod vsftpd {
    use super::*;

    async fn start() -> Subject {
        let server = Vsftpd::start(Place::Loopback, Tls::None).unwrap();
        let home = server.home.clone();
        subject(server.address, FtpTls::None, &home, server)
    }

    crate::backend::conformance::suite!(super::start);
}

mod vsftpd_with_tls_and_session_reuse {
    use super::*;

    async fn start() -> Subject {
        let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse).unwrap();
        let tls = pinned(server.certificate.as_ref().unwrap());
        let home = server.home.clone();
        subject(server.address, tls, &home, server)
    }

    crate::backend::conformance::suite!(super::start);
}

mod proftpd_with_tls_and_session_reuse {
    use super::*;

    async fn start() -> Subject {
        let server = Proftpd::start(Place::Loopback, Protocol::Ftps, None).unwrap();
        let tls = pinned(server.certificate.as_ref().unwrap());
        let home = server.home.clone();
        subject(server.address, tls, &home, server)
    }

    crate::backend::conformance::suite!(super::start);
}

mod transfers {
    use std::time::Duration;

    use super::*;
    use crate::{
        backend::{
            ErrorKind, Origin,
            conformance::{Client, REPLACE},
        },
        operation::Operation,
        path::VirtualPath,
    };

    fn vsftpd(tls: Tls) -> (Vsftpd, FtpTls) {
        let server = Vsftpd::start(Place::Loopback, tls).unwrap();
        let tls = match &server.certificate {
            Some(certificate) => pinned(certificate),
            None => FtpTls::None,
        };
        (server, tls)
    }

    fn client(address: impl ToString, tls: FtpTls) -> Client {
        use crate::backend::BackendService as _;
        let service = FtpService::new(settings(address, tls)).unwrap();
        Client::new(service.session(b"", &crate::testing::owner()))
    }

    async fn eight_uploads_and_downloads(client: &Client) {
        for number in 0..8_u8 {
            let name = format!("/{number}");
            client.put(&name, vec![number; 100_000]).await;
            assert!(client.get(&name).await == vec![number; 100_000]);
        }
        // Uploads alone never read from a data connection: that is where session tickets run out.
        for number in 8..16_u8 {
            client.put(format!("/{number}"), vec![number; 1000]).await;
        }
        assert_eq!(client.names("/").await.len(), 16);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn vsftpd_that_demands_session_reuse_takes_one_upload_after_the_other() {
        let (server, tls) = vsftpd(Tls::ExplicitWithSessionReuse);
        eight_uploads_and_downloads(&client(server.address, tls)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn proftpd_that_demands_session_reuse_takes_one_upload_after_the_other() {
        let server = Proftpd::start(Place::Loopback, Protocol::Ftps, None).unwrap();
        let tls = pinned(server.certificate.as_ref().unwrap());
        eight_uploads_and_downloads(&client(server.address, tls)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn parallel_uploads_resume_each_their_own_control_connections_session() {
        let (server, tls) = vsftpd(Tls::ExplicitWithSessionReuse);
        let client = client(server.address, tls);
        for round in 0..3_u8 {
            let mut handles = Vec::new();
            for number in 0..3_u8 {
                handles.push(client.open(format!("/{round}-{number}"), REPLACE).await);
            }
            for handle in &handles {
                client.write(*handle, 0, vec![round; 50_000]).await;
            }
            for handle in handles {
                client.close(handle).await;
            }
        }
        assert_eq!(client.names("/").await.len(), 9);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_certificate_than_the_pinned_one_ends_the_connection_before_the_login() {
        let (server, _) = vsftpd(Tls::ExplicitWithSessionReuse);
        let other = FtpTls::Explicit {
            server_name: "localhost".to_owned(),
            trust: crate::backend::ftp::TlsTrust::Pinned([7; 32]),
        };
        let error = client(server.address, other).stat("/a").await.unwrap_err();
        assert_eq!(
            (error.kind, error.origin),
            (ErrorKind::Unavailable, Origin::Gateway),
            "{error}"
        );
        assert!(error.message.contains("pinned certificate"), "{error}");
        assert!(!server.commands().contains("USER"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_upload_that_is_cut_by_the_servers_death_is_an_error_and_not_a_file() {
        for tls in [Tls::None, Tls::ExplicitWithSessionReuse] {
            let (mut server, tls) = vsftpd(tls);
            let client = client(server.address, tls);
            client.put("/a", "old").await;
            let handle = client.open("/a", REPLACE).await;
            client.write(handle, 0, vec![1; 200_000]).await;
            server.process.kill().unwrap();
            let mut outcome = Ok(());
            for number in 1..100_u64 {
                let write = Operation::Write {
                    handle,
                    offset: number * 200_000,
                    data: vec![1; 200_000].into(),
                };
                if let Err(error) = client.ask(write).await {
                    outcome = Err(error);
                    break;
                }
            }
            let error = outcome.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.message.contains("FTP server 127.0.0.1:"), "{error}");
            let close = client.ask(Operation::Close { handle });
            assert!(
                tokio::time::timeout(Duration::from_secs(40), close)
                    .await
                    .unwrap()
                    .is_err()
            );
            assert_eq!(std::fs::read(server.home.join("a")).unwrap(), b"old");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn names_with_0xff_arrive_or_are_refused_and_never_change() {
        let server = Proftpd::start(Place::Loopback, Protocol::Ftp, None).unwrap();
        let proftpd = client(server.address, FtpTls::None);
        proftpd.put(b"/\xff\xfe", "x").await;
        assert_eq!(proftpd.names("/").await, [b"\xff\xfe"]);
        assert_eq!(proftpd.get(b"/\xff\xfe").await, b"x");

        let (server, tls) = vsftpd(Tls::None);
        let vsftpd = client(server.address, tls);
        let open = vsftpd.open_operation(b"/\xff\xfe", REPLACE);
        assert_eq!(vsftpd.refusal(open).await, ErrorKind::Unsupported);
        let stat = Operation::Stat {
            path: VirtualPath::clean(b"/\xff").unwrap(),
        };
        assert_eq!(vsftpd.refusal(stat).await, ErrorKind::Unsupported);
        vsftpd.put(b"/\xfe", "x").await;
        assert_eq!(vsftpd.names("/").await, [b"\xfe"]);
    }
}
