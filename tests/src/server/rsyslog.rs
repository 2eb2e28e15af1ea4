//! rsyslog: takes syslog over TLS and writes each message on a line of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::unpacked_libraries;
use crate::files::{self, Certificate};
use crate::locate;
use crate::place::Place;
use crate::process::Running;

/// One message as rsyslog understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Facility and severity, such as `109`.
    pub priority: String,
    /// `MSGID`
    pub id: String,
    /// With its brackets.
    pub structured_data: String,
    /// The text.
    pub text: String,
}

/// A running rsyslog.
#[derive(Debug)]
pub struct Rsyslog {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate, for `localhost` and the address.
    pub certificate: Certificate,
    /// The process.
    pub process: Running,
    program: PathBuf,
    scratch: TempDir,
}

impl Rsyslog {
    /// Starts it.
    ///
    /// # Errors
    /// When it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>) -> Result<Self> {
        let program = locate::peer("rsyslog", "usr/sbin/rsyslogd")?;
        let scratch = files::folder("rsyslog")?;
        let address = SocketAddr::new(place.address(), place.port(6514));
        let certificate = Certificate::of_server(scratch.path(), &address.ip().to_string())?;
        fs::write(
            scratch.path().join("rsyslog.conf"),
            format!(
                "global(workDirectory=\"{here}\" maxMessageSize=\"128k\" \
                 defaultNetstreamDriverCAFile=\"{certificate}\" defaultNetstreamDriverCertFile=\"{certificate}\" \
                 defaultNetstreamDriverKeyFile=\"{key}\")\n\
                 module(load=\"imtcp\" streamDriver.name=\"ossl\" streamDriver.mode=\"1\" streamDriver.authMode=\"anon\")\n\
                 input(type=\"imtcp\" address=\"{ip}\" port=\"{port}\")\n\
                 template(name=\"all\" type=\"string\" string=\"%pri%\\t%msgid%\\t%structured-data%\\t%msg%\\n\")\n\
                 action(type=\"omfile\" file=\"{here}/messages\" template=\"all\" flushOnTXEnd=\"on\")\n",
                here = scratch.path().display(),
                certificate = certificate.certificate.display(),
                key = certificate.key.display(),
                ip = address.ip(),
                port = address.port(),
            ),
        )?;
        let process = run(&program, &scratch, address)?;
        Ok(Self {
            address,
            certificate,
            process,
            program,
            scratch,
        })
    }

    /// Starts it again after it was killed, on the same address and with what it had.
    ///
    /// # Errors
    /// When it doesn't come back.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = run(&self.program, &self.scratch, self.address)?;
        Ok(())
    }

    /// What it has taken so far.
    ///
    /// # Errors
    /// When its file can't be read.
    pub fn messages(&self) -> Result<Vec<Message>> {
        let path = self.scratch.path().join("messages");
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path)?;
        // The last line may be under way.
        let whole = text
            .rfind('\n')
            .map_or("", |end| text.get(..end).unwrap_or_default());
        whole
            .lines()
            .map(|line| {
                let mut fields = line.splitn(4, '\t').map(str::to_owned);
                let mut field = || fields.next().context("a line has four fields");
                Ok(Message {
                    priority: field()?,
                    id: field()?,
                    structured_data: field()?,
                    text: field()?,
                })
            })
            .collect()
    }
}

fn run(program: &std::path::Path, scratch: &TempDir, address: SocketAddr) -> Result<Running> {
    let folder = scratch.path();
    let mut command = Place::Loopback.command(&program.display().to_string());
    let module = format!(
        "usr/lib/{}-linux-gnu/rsyslog/imtcp.so",
        std::env::consts::ARCH
    );
    let module = locate::peer("rsyslog", &module)?;
    command
        .args(["-n", "-C", "-f"])
        .arg(folder.join("rsyslog.conf"))
        .arg("-i")
        .arg(folder.join("rsyslog.pid"))
        .arg("-M")
        .arg(module.parent().context("a module is in a folder")?)
        .env("LD_LIBRARY_PATH", unpacked_libraries("rsyslog"));
    // The one before was killed.
    let _ = fs::remove_file(folder.join("rsyslog.pid"));
    let mut process = Running::start("rsyslogd", &mut command, &folder.join("output.log"))?;
    process.wait_until_listening(address.port())?;
    Ok(process)
}
