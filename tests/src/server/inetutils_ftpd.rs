//! GNU inetutils' ftpd: BSD's, as it was before RFC 3659. No FEAT, no MLSD, LIST by `/bin/ls`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use super::{home, isolated};
use crate::files;
use crate::locate;
use crate::place::Place;
use crate::process::Running;

/// A running ftpd.
#[derive(Debug)]
pub struct InetutilsFtpd {
    /// Where it listens.
    pub address: SocketAddr,
    /// The account's home, where its sessions begin; clients see the whole file system.
    pub home: PathBuf,
    /// The process.
    pub process: Running,
    _scratch: TempDir,
}

/// What inetd would do.
const LISTEN: &str = "
import socket, subprocess, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=50)
while True:
    client, _ = server.accept()
    subprocess.Popen([sys.argv[3], '--auth=default'], stdin=client, stdout=client, close_fds=True)
    client.close()
";

impl InetutilsFtpd {
    /// Starts it.
    ///
    /// # Errors
    /// Without root, or when it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>) -> Result<Self> {
        let program = locate::peer("inetutils-ftpd", "usr/sbin/ftpd")?;
        let scratch = files::folder("inetutils-ftpd")?;
        let folder = scratch.path();
        let home = home(folder)?;
        let address = SocketAddr::new(place.address(), place.port(21));
        let mut command = isolated(place, folder, &home, Path::new("python3"))?;
        command
            .args(["-c", LISTEN])
            .arg(address.ip().to_string())
            .arg(address.port().to_string())
            .arg(program);
        let mut process = Running::start("ftpd", &mut command, &folder.join("output.log"))?;
        process.wait_until_listening(address.port())?;
        Ok(Self {
            address,
            home,
            process,
            _scratch: scratch,
        })
    }
}
