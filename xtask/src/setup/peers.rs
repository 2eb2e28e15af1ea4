//! The real servers that stand behind the gateway in demo, tests and benchmarks.
//!
//! They are unpacked, not installed: Debian's FTP servers conflict with each other, and a
//! server's package would register services and users on the developer's machine.

use std::path::PathBuf;

use anyhow::Result;
use portcullis_tests::locate;

use super::{Requirement, apt};

/// Package, the folder it goes to, and a file that tells that it is there.
const SERVERS: &[(&str, &str, &str)] = &[
    ("vsftpd", "vsftpd", "usr/sbin/vsftpd"),
    ("proftpd-core", "proftpd", "usr/sbin/proftpd"),
    (
        "proftpd-mod-crypto",
        "proftpd",
        "usr/lib/proftpd/mod_sftp.so",
    ),
    (
        "proftpd-mod-proxy",
        "proftpd",
        "usr/lib/proftpd/mod_proxy.so",
    ),
    ("pure-ftpd", "pure-ftpd", "usr/sbin/pure-ftpd"),
    ("inetutils-ftpd", "inetutils-ftpd", "usr/sbin/ftpd"),
    ("openssh-server", "openssh", "usr/sbin/sshd"),
    (
        "openssh-sftp-server",
        "openssh",
        "usr/lib/openssh/sftp-server",
    ),
    ("haproxy", "haproxy", "usr/sbin/haproxy"),
    // These three come with the libraries that nothing else needs.
    ("freeradius", "freeradius", "usr/sbin/freeradius"),
    (
        "freeradius-common",
        "freeradius",
        "usr/share/freeradius/dictionary",
    ),
    (
        "libfreeradius3",
        "freeradius",
        "usr/lib/freeradius/libfreeradius-server.so",
    ),
    (
        "libtalloc2",
        "freeradius",
        "usr/lib/x86_64-linux-gnu/libtalloc.so.2",
    ),
    (
        "libpcre3",
        "freeradius",
        "lib/x86_64-linux-gnu/libpcre.so.3",
    ),
    ("rsyslog", "rsyslog", "usr/sbin/rsyslogd"),
    (
        "rsyslog-openssl",
        "rsyslog",
        "usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_ossl.so",
    ),
    (
        "libestr0",
        "rsyslog",
        "usr/lib/x86_64-linux-gnu/libestr.so.0",
    ),
    (
        "libfastjson4",
        "rsyslog",
        "usr/lib/x86_64-linux-gnu/libfastjson.so.4",
    ),
    ("slapd", "slapd", "usr/sbin/slapd"),
    ("ldap-utils", "slapd", "usr/bin/ldapmodify"),
    (
        "libldap-2.5-0",
        "slapd",
        "usr/lib/x86_64-linux-gnu/libldap-2.5.so.0",
    ),
    ("libodbc2", "slapd", "usr/lib/x86_64-linux-gnu/libodbc.so.2"),
    ("libltdl7", "slapd", "usr/lib/x86_64-linux-gnu/libltdl.so.7"),
    ("gesftpserver", "gesftpserver", "usr/libexec/gesftpserver"),
    // A token for keys of stored files: a library, which needs no service.
    ("libsofthsm2", "softhsm2", "usr/lib/softhsm/libsofthsm2.so"),
    // One-time codes for sshd. The module's own place names the processor.
    (
        "libpam-google-authenticator",
        "google-authenticator",
        "usr/share/doc/libpam-google-authenticator/copyright",
    ),
];

/// What the unpacked servers load at run time.
const LIBRARIES: &[&str] = &[
    "libacl1",
    "libaudit1",
    "libcap-ng0",
    "libcap2",
    "libcom-err2",
    "libcrypt1",
    "libgnutls30",
    "libgssapi-krb5-2",
    "libhiredis0.14",
    "libidn2-0",
    "libkeyutils1",
    "libkrb5-3",
    "liblua5.3-0",
    "libmemcached11",
    "libmemcachedutil2",
    "libncursesw6",
    "libnsl2",
    "libopentracing-c-wrapper0",
    "libpam-modules",
    "libpam0g",
    "libpcap0.8",
    "libpcre2-8-0",
    "libpcre2-posix3",
    "libsasl2-2",
    "libselinux1",
    "libsodium23",
    "libsqlite3-0",
    "libssl3",
    "libsystemd0",
    "libtinfo6",
    "libtirpc3",
    "libwrap0",
    "netbase",
    "zlib1g",
];

pub(super) struct Libraries;

impl Requirement for Libraries {
    fn name(&self) -> String {
        "libraries of the peer servers".to_owned()
    }

    fn why(&self) -> &'static str {
        "the FTP servers, sshd and HAProxy are unpacked without their packages' dependencies"
    }

    fn missing(&self) -> Vec<String> {
        apt::missing(LIBRARIES)
    }

    fn install(&self) -> Result<()> {
        apt::install(LIBRARIES)
    }

    fn commands(&self) -> Vec<String> {
        vec![apt::install_command(LIBRARIES)]
    }
}

pub(super) struct Unpacked;

impl Unpacked {
    /// The packages that aren't unpacked, each with its folder.
    fn absent() -> Vec<(&'static str, PathBuf)> {
        SERVERS
            .iter()
            .map(|(package, folder, file)| (*package, peers().join(folder), file))
            .filter(|(_, folder, file)| !folder.join(file).exists())
            .map(|(package, folder, _)| (package, folder))
            .collect()
    }
}

impl Requirement for Unpacked {
    fn name(&self) -> String {
        format!("peer servers below {}", peers().display())
    }

    fn why(&self) -> &'static str {
        "demo and tests forward to real FTP and SFTP servers, and stand behind a real load balancer"
    }

    fn missing(&self) -> Vec<String> {
        Self::absent()
            .into_iter()
            .map(|(package, _)| package.to_owned())
            .collect()
    }

    fn install(&self) -> Result<()> {
        apt::unpack(&Self::absent())
    }

    fn commands(&self) -> Vec<String> {
        Self::absent()
            .into_iter()
            .map(|(package, folder)| {
                format!(
                    "apt-get download {package} && dpkg -x {package}_*.deb {}",
                    folder.display()
                )
            })
            .collect()
    }
}

fn peers() -> PathBuf {
    locate::target_folder().join("peers")
}
