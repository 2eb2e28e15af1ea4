//! Against real servers (root, `cargo xtask setup`), and against a scripted one for what those never do.

mod downloads;
mod odd_servers;
mod protection;
mod scripted;
mod servers;
mod uploads;

use std::time::Duration;

use super::{FtpSettings, FtpTls, Password, TlsTrust};
use crate::path::VirtualPath;

fn path(name: impl AsRef<[u8]>) -> VirtualPath {
    VirtualPath::clean(name.as_ref()).unwrap()
}

fn settings(address: impl ToString, tls: FtpTls) -> FtpSettings {
    FtpSettings {
        address: address.to_string(),
        user: portcullis_tests::server::USER.to_owned(),
        password: Password::new(portcullis_tests::server::PASSWORD),
        tls,
        timeout: Duration::from_secs(15),
    }
}

fn pinned(certificate: &portcullis_tests::files::Certificate) -> FtpTls {
    let fingerprint = certificate.sha256().unwrap();
    FtpTls::Explicit {
        server_name: "localhost".to_owned(),
        trust: TlsTrust::Pinned(hex::decode(fingerprint).unwrap().try_into().unwrap()),
    }
}
