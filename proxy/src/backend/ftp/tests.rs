//! Against real servers (root, `cargo xtask setup`), and against a scripted one for what those never do.

mod behaviour;
mod scripted;
mod servers;

use std::time::Duration;

use super::{FtpSettings, FtpTls, Password, TlsTrust};

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
