//! Against real servers (root, `cargo xtask setup`), and against a scripted one for what those never do.

mod downloads;
mod layered;
mod modes;
mod odd_servers;
mod protection;
mod resets;
mod scripted;
mod servers;
mod updates;
mod uploads;

use std::time::{Duration, Instant};

use super::{FtpSettings, FtpTls, Password, TlsTrust, settings::Charset};
use crate::{backend::staging::UploadSettings, path::VirtualPath};

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
        keepalive: Duration::from_secs(60),
        charset: Charset::AsTheyAre,
        uploads: UploadSettings::default(),
        copy_limit: 64 << 20,
    }
}

fn pinned(certificate: &portcullis_tests::files::Certificate) -> FtpTls {
    let fingerprint = certificate.sha256().unwrap();
    FtpTls::Explicit {
        server_name: "localhost".to_owned(),
        trust: TlsTrust::Pinned(hex::decode(fingerprint).unwrap().try_into().unwrap()),
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same, from the first byte on.
fn implicit(tls: FtpTls) -> FtpTls {
    match tls {
        FtpTls::Explicit { server_name, trust } => FtpTls::Implicit { server_name, trust },
        other @ (FtpTls::Implicit { .. } | FtpTls::None) => other,
    }
}
