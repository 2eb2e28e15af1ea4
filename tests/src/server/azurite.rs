//! Azurite: Microsoft's own server with the interface of Azure Blob Storage.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::started_once;
use crate::files;
use crate::locate;
use crate::place::{Place, free_port};
use crate::process::{Running, succeed_within};

/// The storage account that the server has.
pub const ACCOUNT: &str = "gatewaystore";
/// Its key: 32 bytes in base64.
pub const KEY: &str = "cG9ydGN1bGxpcy1henVyaXRlLXRlc3Qta2V5LTAwMDE=";
/// The container that it has.
pub const CONTAINER: &str = "partners";

/// Node reads some 400 packages first, which takes seconds, and more on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// A shared access signature for the account (Azure, "Create an account SAS", version 2020-12-06), and a request with it
/// that makes a container.
const SCRIPT: &str = "\
import base64, hashlib, hmac, sys, urllib.parse as p, urllib.request as u
account, key, url = sys.argv[1:4]
f = dict(sv='2022-11-02', ss='b', srt='sco', sp='rwdlac', se='2099-12-31T00:00:00Z')
text = '\\n'.join([account, f['sp'], f['ss'], f['srt'], '', f['se'], '', '', f['sv'], '', ''])
f['sig'] = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
sas = p.urlencode(f)
if url:
    u.urlopen(u.Request(url + '?restype=container&' + sas, method='PUT', headers={'Content-Length': '0'}), timeout=10)
print(sas)";

/// A running Azurite with one container.
#[derive(Debug)]
pub struct Azurite {
    /// Where it listens.
    pub address: SocketAddr,
    /// A shared access signature that allows everything below the account.
    pub signature: String,
    /// The process.
    pub process: Running,
    scratch: TempDir,
}

impl Azurite {
    /// Starts it and makes the container.
    ///
    /// # Errors
    /// When it isn't installed (`cargo xtask setup`) or does not come up.
    pub fn start(place: Place<'_>) -> Result<Self> {
        let program = locate::peer("azurite", "node_modules/azurite/dist/src/blob/main.js")?;
        let scratch = files::folder("azurite")?;
        let address = SocketAddr::new(place.address(), free_port());
        // The program ends with the thread that starts it at the latest: a shared server outlives every test.
        let mut command = place.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "node"])
            .arg(&program)
            .arg("--blobHost")
            .arg(address.ip().to_string())
            .arg("--blobPort")
            .arg(address.port().to_string())
            .arg("--location")
            .arg(scratch.path())
            .args(["--disableTelemetry", "--silent"])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        let log = scratch.path().join("output.log");
        let mut process =
            Running::start("azurite", &mut command, &log)?.with_patience(STARTS_WITHIN);
        process.wait_until_listening(address.port())?;
        let python = locate::python_tool("python")?;
        let url = format!("http://{address}/{ACCOUNT}/{CONTAINER}");
        let mut make = place.command(&python.display().to_string());
        let signature =
            succeed_within(make.args(["-c", SCRIPT, ACCOUNT, KEY, &url]), STARTS_WITHIN)
                .context("make a container")?
                .trim()
                .to_owned();
        Ok(Self {
            address,
            signature,
            process,
            scratch,
        })
    }

    /// One server for all tests of this process: it ends with the process. Tests keep to directories of their own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Azurite> = OnceLock::new();
        started_once(&SHARED, "Azurite", || {
            let server = Self::start(Place::Loopback)?;
            let folder = server.scratch.path().to_owned();
            Ok((server, folder))
        })
    }

    /// The URL of the account.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.address)
    }

    /// rclone with the server as its remote `store:`, another client than the one under test.
    #[must_use]
    pub fn rclone(&self, place: Place<'_>) -> Command {
        let mut rclone = place.command("rclone");
        rclone
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_CONFIG_STORE_TYPE", "azureblob")
            .env(
                "RCLONE_CONFIG_STORE_SAS_URL",
                format!("{}?{}", self.endpoint(), self.signature),
            );
        rclone
    }

    /// A file with the account's key.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn key_file(&self) -> Result<PathBuf> {
        let path = self.scratch.path().join("account.key");
        files::secret(&path, KEY)?;
        Ok(path)
    }

    /// A file with the shared access signature.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn signature_file(&self) -> Result<PathBuf> {
        let path = self.scratch.path().join("account.sas");
        files::secret(&path, &self.signature)?;
        Ok(path)
    }
}
