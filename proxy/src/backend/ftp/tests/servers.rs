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
