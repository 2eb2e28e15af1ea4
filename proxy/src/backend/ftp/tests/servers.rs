//! The rules of all backends, and FTP's own, against real servers.

use std::{path::Path, sync::Arc};

use portcullis_tests::{
    place::Place,
    server::{
        inetutils_ftpd::InetutilsFtpd,
        proftpd::{Proftpd, Protocol},
        pure_ftpd::PureFtpd,
        vsftpd::{Tls, Vsftpd},
    },
};

use super::{super::FtpService, FtpTls, implicit, pinned, settings};
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

macro_rules! conforms {
    ($name:ident, $subject:expr) => {
        conforms!($name, $subject, without nothing);
    };
    ($name:ident, $subject:expr, without $exceptions:tt) => {
        mod $name {
            use super::*;

            async fn start() -> Subject {
                $subject
            }

            crate::backend::conformance::suite!(super::start, without $exceptions);
        }
    };
}

fn vsftpd(tls: Tls) -> Subject {
    let server = Vsftpd::start(Place::Loopback, tls).unwrap();
    let (address, home) = (server.address, server.home.clone());
    let tls = match &server.certificate {
        None => FtpTls::None,
        Some(certificate) if tls == Tls::ImplicitWithSessionReuse => implicit(pinned(certificate)),
        Some(certificate) => pinned(certificate),
    };
    subject(address, tls, &home, server)
}

fn proftpd(protocol: Protocol) -> Subject {
    let server = Proftpd::start(Place::Loopback, protocol, None).unwrap();
    let (address, home) = (server.address, server.home.clone());
    let tls = match &server.certificate {
        None => FtpTls::None,
        Some(certificate) if protocol == Protocol::FtpsImplicit => implicit(pinned(certificate)),
        Some(certificate) => pinned(certificate),
    };
    subject(address, tls, &home, server)
}

fn pure_ftpd(tls: bool) -> Subject {
    let server = PureFtpd::start(Place::Loopback, tls).unwrap();
    let (address, home) = (server.address, server.home.clone());
    let tls = server.certificate.as_ref().map_or(FtpTls::None, pinned);
    subject(address, tls, &home, server)
}

fn inetutils_ftpd() -> Subject {
    let server = InetutilsFtpd::start(Place::Loopback).unwrap();
    let (address, home) = (server.address, server.home.clone());
    subject(address, FtpTls::None, &home, server)
}

conforms!(on_vsftpd, vsftpd(Tls::None));
conforms!(
    on_vsftpd_with_tls_and_session_reuse,
    vsftpd(Tls::ExplicitWithSessionReuse)
);
conforms!(
    on_vsftpd_with_tls_1_3_and_session_reuse,
    vsftpd(Tls::Explicit13WithSessionReuse)
);
conforms!(
    on_vsftpd_with_implicit_tls,
    vsftpd(Tls::ImplicitWithSessionReuse)
);
conforms!(
    on_proftpd_with_tls_and_session_reuse,
    proftpd(Protocol::Ftps)
);
conforms!(on_proftpd_with_tls_1_3, proftpd(Protocol::Ftps13));
conforms!(
    on_proftpd_with_implicit_tls,
    proftpd(Protocol::FtpsImplicit)
);
conforms!(on_pure_ftpd, pure_ftpd(false));
conforms!(on_pure_ftpd_with_tls, pure_ftpd(true));
// Its listing of many names takes as long as its one-packet replies.
conforms!(
    on_inetutils_ftpd,
    inetutils_ftpd(),
    without[a_listing_names_everything_once_and_nothing_else]
);

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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn servers_that_do_not_demand_session_reuse_and_those_with_implicit_tls_take_eight_in_a_row()
     {
        for tls in [Tls::Explicit, Tls::ImplicitWithSessionReuse] {
            let subject = super::vsftpd(tls);
            eight_uploads_and_downloads(&subject.client()).await;
        }
        let subject = proftpd(Protocol::FtpsImplicit);
        eight_uploads_and_downloads(&subject.client()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn implicit_and_explicit_tls_are_not_taken_for_each_other() {
        for (server, client_is_implicit) in [
            (Tls::ExplicitWithSessionReuse, true),
            (Tls::ImplicitWithSessionReuse, false),
        ] {
            let server = Vsftpd::start(Place::Loopback, server).unwrap();
            let pinned = pinned(server.certificate.as_ref().unwrap());
            let tls = if client_is_implicit {
                implicit(pinned)
            } else {
                pinned
            };
            let mut settings = settings(server.address, tls);
            settings.timeout = Duration::from_secs(2);
            use crate::backend::BackendService as _;
            let service = FtpService::new(settings).unwrap();
            let client = Client::new(service.session(b"", &crate::testing::owner()));
            assert!(client.stat("/a").await.is_err());
            // vsftpd answers TLS that it takes for a command with "Please login with USER and PASS".
            let commands = server.commands();
            assert!(!commands.contains("\"USER "), "{commands}");
        }
    }
}
