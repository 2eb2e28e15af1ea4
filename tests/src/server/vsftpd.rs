//! vsftpd: the legacy FTP server that hospitals still run. It has no MLSD.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use super::{home, isolated};
use crate::files::{self, Certificate};
use crate::locate;
use crate::place::Place;
use crate::process::Running;

/// How the server protects its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Plain FTP.
    None,
    /// Explicit TLS; each data connection must resume the control connection's session.
    ExplicitWithSessionReuse,
    /// Explicit TLS without that.
    Explicit,
    /// As [`Tls::ExplicitWithSessionReuse`], and nothing older than TLS 1.3.
    Explicit13WithSessionReuse,
    /// TLS from the first byte on; sessions are to be reused.
    ImplicitWithSessionReuse,
}

const ONLY_TLS_13: &str = "openssl_conf = settings\n[settings]\nssl_conf = ssl\n[ssl]\nsystem_default = default\n\
                           [default]\nMinProtocol = TLSv1.3\n";

fn yes(is_so: bool) -> &'static str {
    if is_so { "YES" } else { "NO" }
}

/// A running vsftpd.
#[derive(Debug)]
pub struct Vsftpd {
    /// Where it listens.
    pub address: SocketAddr,
    /// The account's folder, which clients see as `/`.
    pub home: PathBuf,
    /// Its certificate, with TLS.
    pub certificate: Option<Certificate>,
    /// The process.
    pub process: Running,
    _scratch: TempDir,
}

impl Vsftpd {
    /// Starts it.
    ///
    /// # Errors
    /// Without root, or when it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>, tls: Tls) -> Result<Self> {
        let program = locate::peer("vsftpd", "usr/sbin/vsftpd")?;
        let scratch = files::folder("vsftpd")?;
        let folder = scratch.path();
        let home = home(folder)?;
        fs::create_dir(folder.join("empty"))?;
        let address = SocketAddr::new(place.address(), place.port(21));
        let mut configuration = format!(
            "listen=YES\n\
             listen_address={ip}\n\
             listen_port={port}\n\
             background=NO\n\
             anonymous_enable=NO\n\
             local_enable=YES\n\
             write_enable=YES\n\
             local_umask=022\n\
             chroot_local_user=YES\n\
             allow_writeable_chroot=YES\n\
             local_root={home}\n\
             pam_service_name=vsftpd\n\
             check_shell=NO\n\
             seccomp_sandbox=NO\n\
             secure_chroot_dir={empty}\n\
             xferlog_enable=YES\n\
             log_ftp_protocol=YES\n\
             vsftpd_log_file={log}\n",
            ip = address.ip(),
            port = address.port(),
            home = home.display(),
            empty = folder.join("empty").display(),
            log = folder.join("commands.log").display(),
        );
        let certificate = match tls {
            Tls::None => None,
            Tls::ExplicitWithSessionReuse
            | Tls::Explicit
            | Tls::Explicit13WithSessionReuse
            | Tls::ImplicitWithSessionReuse => {
                let made = Certificate::of_server(folder, &address.ip().to_string())?;
                configuration.push_str(&format!(
                    "ssl_enable=YES\n\
                     force_local_logins_ssl=YES\n\
                     force_local_data_ssl=YES\n\
                     rsa_cert_file={}\n\
                     rsa_private_key_file={}\n\
                     require_ssl_reuse={}\n\
                     implicit_ssl={}\n\
                     ssl_ciphers=HIGH\n",
                    made.certificate.display(),
                    made.key.display(),
                    yes(tls != Tls::Explicit),
                    yes(tls == Tls::ImplicitWithSessionReuse),
                ));
                Some(made)
            }
        };
        let file = folder.join("vsftpd.conf");
        fs::write(&file, configuration)?;
        let mut command = isolated(place, folder, &home, &program)?;
        command.arg(&file);
        if tls == Tls::Explicit13WithSessionReuse {
            // vsftpd 3.0.3 knows no such setting; its library does.
            let library = folder.join("openssl.cnf");
            fs::write(&library, ONLY_TLS_13)?;
            command.env("OPENSSL_CONF", library);
        }
        let mut process = Running::start("vsftpd", &mut command, &folder.join("output.log"))?;
        process.wait_until_listening(address.port())?;
        Ok(Self {
            address,
            home,
            certificate,
            process,
            _scratch: scratch,
        })
    }

    /// The commands that clients sent, as the server logged them.
    #[must_use]
    pub fn commands(&self) -> String {
        fs::read_to_string(self._scratch.path().join("commands.log")).unwrap_or_default()
    }
}
