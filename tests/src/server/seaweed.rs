//! SeaweedFS: an object store with the S3 interface.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{PASSWORD, started_once};
use crate::files;
use crate::locate;
use crate::place::{Place, free_port};
use crate::process::{Running, finish_within, wait_for};

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "GATEWAYKEY";
/// The bucket that it has.
pub const BUCKET: &str = "partners";

/// A running SeaweedFS with one bucket.
#[derive(Debug)]
pub struct Seaweed {
    /// Where its S3 interface listens.
    pub address: SocketAddr,
    /// The process.
    pub process: Running,
    scratch: TempDir,
}

impl Seaweed {
    /// Starts it, which takes some five seconds, and makes the bucket.
    ///
    /// # Errors
    /// When it isn't installed (`cargo xtask setup`) or does not come up.
    pub fn start(place: Place<'_>) -> Result<Self> {
        let program = locate::python_tool("weed")?;
        let scratch = files::folder("seaweed")?;
        let folder = scratch.path();
        fs::create_dir(folder.join("data"))?;
        let identities = folder.join("s3.json");
        files::secret(
            &identities,
            &format!(
                "{{\"identities\":[{{\"name\":\"gateway\",\"credentials\":[{{\"accessKey\":\"{ACCESS_KEY}\",\
                 \"secretKey\":\"{PASSWORD}\"}}],\"actions\":[\"Admin\",\"Read\",\"Write\",\"List\",\"Tagging\"]}}]}}"
            ),
        )?;
        let address = SocketAddr::new(place.address(), place.port(8333));
        // The program ends with the thread that starts it at the latest: a shared server outlives every test.
        let mut command = place.command("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&program)
            .arg("server")
            .arg(format!("-dir={}", folder.join("data").display()))
            .arg(format!("-ip={}", address.ip()))
            .arg(format!("-ip.bind={}", address.ip()))
            .args([
                "-filer",
                "-s3",
                "-volume.max=0",
                "-master.volumeSizeLimitMB=256",
            ])
            // What else it would start, at fixed ports or far away.
            .args([
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
            ])
            .arg(format!(
                "-s3.localSocket={}",
                folder.join("s3.sock").display()
            ))
            .arg(format!(
                "-filer.localSocket={}",
                folder.join("filer.sock").display()
            ))
            .arg(format!("-s3.port={}", address.port()))
            .arg(format!("-s3.config={}", identities.display()));
        // Each part has a port for HTTP and one for gRPC, which is 10,000 higher if it is not named.
        for option in [
            "-s3.port.grpc",
            "-master.port",
            "-master.port.grpc",
            "-volume.port",
            "-volume.port.grpc",
            "-filer.port.grpc",
        ] {
            command.arg(format!("{option}={}", free_port()));
        }
        let filer = SocketAddr::new(address.ip(), free_port());
        command.arg(format!("-filer.port={}", filer.port()));
        let mut process = Running::start("weed", &mut command, &folder.join("output.log"))?;
        process.wait_until_listening(address.port())?;
        // It listens before it can store: the first file shows that all its parts have found each other.
        for made in ["ready".to_owned(), format!("buckets/{BUCKET}/")] {
            let url = format!("http://{filer}/{made}");
            wait_for("SeaweedFS to store a file", || make(place, &url).ok())
                .with_context(|| process.log())?;
        }
        Ok(Self {
            address,
            process,
            scratch,
        })
    }

    /// One server for all tests of this process: it ends with the process. Tests keep to directories of their own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Seaweed> = OnceLock::new();
        started_once(&SHARED, "SeaweedFS", || {
            let server = Self::start(Place::Loopback)?;
            let folder = server.scratch.path().to_owned();
            Ok((server, folder))
        })
    }

    /// The URL of its S3 interface.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// rclone with the server as its remote `store:`, another client than the one under test.
    #[must_use]
    pub fn rclone(&self, place: Place<'_>) -> Command {
        let mut rclone = place.command("rclone");
        rclone
            // Its S3 library refuses to start with one; the connection is in clear.
            .env_remove("AWS_CA_BUNDLE")
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_CONFIG_STORE_TYPE", "s3")
            .env("RCLONE_CONFIG_STORE_PROVIDER", "Other")
            .env("RCLONE_CONFIG_STORE_ENDPOINT", self.endpoint())
            .env("RCLONE_CONFIG_STORE_ACCESS_KEY_ID", ACCESS_KEY)
            .env("RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY", PASSWORD)
            .env("RCLONE_CONFIG_STORE_REGION", "us-east-1");
        rclone
    }

    /// Files with the id and the secret of the access key.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn key_files(&self) -> Result<(PathBuf, PathBuf)> {
        let (id, secret) = (
            self.scratch.path().join("access.key"),
            self.scratch.path().join("secret.key"),
        );
        files::secret(&id, ACCESS_KEY)?;
        files::secret(&secret, PASSWORD)?;
        Ok((id, secret))
    }
}

/// Makes a small file on the filer, or a folder if the URL ends so.
fn make(place: Place<'_>, url: &str) -> Result<()> {
    const SCRIPT: &str = "import sys, urllib.request as u\n\
        how = dict(method='POST') if sys.argv[1].endswith('/') else dict(method='PUT', data=b'1')\n\
        u.urlopen(u.Request(sys.argv[1], **how), timeout=5)";
    let python = locate::python_tool("python")?;
    let mut command = place.command(&python.display().to_string());
    let output = finish_within(command.args(["-c", SCRIPT, url]), Duration::from_secs(10))?;
    ensure!(output.status.success(), "the filer refused");
    Ok(())
}
