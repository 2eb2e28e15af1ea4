//! HAProxy: a load balancer that says in a PROXY header for whom it connects.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;

use anyhow::Result;
use tempfile::TempDir;

use crate::files;
use crate::locate;
use crate::place::Place;
use crate::process::Running;

/// A running HAProxy with a port for each form of the header.
#[derive(Debug)]
pub struct Haproxy {
    /// Sends version 1, a line of text.
    pub text: SocketAddr,
    /// Sends version 2 with a checksum.
    pub binary: SocketAddr,
    /// The process.
    pub process: Running,
    _scratch: TempDir,
}

impl Haproxy {
    /// Starts it in front of `gateway`.
    ///
    /// # Errors
    /// When it isn't unpacked (`cargo xtask setup`), or ends.
    pub fn start(place: Place<'_>, gateway: SocketAddr) -> Result<Self> {
        let program = locate::peer("haproxy", "usr/sbin/haproxy")?;
        let scratch = files::folder("haproxy")?;
        let [text, binary] =
            [2222, 2223].map(|port| SocketAddr::new(place.address(), place.port(port)));
        let mut configuration = String::from(
            "defaults\n  mode tcp\n  timeout connect 30s\n  timeout client 120s\n  timeout server 120s\n",
        );
        for (name, listen, header) in [
            ("text", text, "send-proxy"),
            (
                "binary",
                binary,
                "send-proxy-v2 proxy-v2-options unique-id,crc32c",
            ),
        ] {
            let _ = write!(
                configuration,
                "listen {name}\n  bind {listen}\n  unique-id-format %ci-%cp\n  server gateway {gateway} {header}\n"
            );
        }
        let config = scratch.path().join("haproxy.cfg");
        fs::write(&config, configuration)?;
        let mut command = place.command(&program.display().to_string());
        command.arg("-db").arg("-f").arg(&config);
        let log = scratch.path().join("haproxy.log");
        let mut process = Running::start("haproxy", &mut command, &log)?;
        for address in [text, binary] {
            process.wait_until_listening(address.port())?;
        }
        Ok(Self {
            text,
            binary,
            process,
            _scratch: scratch,
        })
    }
}
