//! Interrupted uploads: resumed by the clients that partners use, and whole after any kill.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::wire::{Frame, kind, log_in, open, status};
use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, Step};
use portcullis_tests::evidence::{self, Deed, Program};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CHUNK: usize = 32 << 10;
/// No multiple of any packet size.
const SIZE: usize = 3 * 1024 * 1024 + 4_711;
/// Of files that are stored in extents.
const ENCRYPTED_SIZE: usize = 3 * EXTENT + 600_011;
const EXTENT: usize = 16 << 20;
/// As it is stored: a header of 74 bytes, and 32 more for each 64 KiB.
const STORED_EXTENT: usize = 74 + EXTENT + 256 * 32;
const HEAD: usize = 512;
const PATH: &[u8] = b"/inbox/report.bin";

/// A proxy in front of one place to store in.
struct Gateway {
    proxy: Proxy,
    alice: Account,
    stored: PathBuf,
    upstream: Option<Openssh>,
    _legacy: Option<Vsftpd>,
    /// Bytes of the files that are uploaded, at most.
    size: usize,
    /// Of a file that is interrupted, so many are kept or more; what is behind them may have to be sent again.
    least: usize,
    _folders: Vec<TempDir>,
}

impl Gateway {
    fn local() -> Result<Self> {
        Self::on_a_disk(Backend::local)
    }

    fn on_a_disk(backend: impl FnOnce(&Path) -> Backend) -> Result<Self> {
        let disk = files::folder("stored")?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("peer", backend(disk.path()))
            .start()?;
        let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", "/")])?;
        Ok(Self {
            proxy,
            alice,
            stored: disk.path().to_path_buf(),
            upstream: None,
            _legacy: None,
            size: SIZE,
            least: 0,
            _folders: vec![disk],
        })
    }

    /// What is stored is encrypted, in extents.
    fn encrypted() -> Result<Self> {
        Ok(Self {
            size: ENCRYPTED_SIZE,
            least: EXTENT,
            ..Self::on_a_disk(|storage| Backend::local(storage).encrypted())?
        })
    }

    fn encrypted_openssh() -> Result<Self> {
        Ok(Self {
            size: ENCRYPTED_SIZE,
            least: EXTENT,
            ..Self::over_openssh(|backend| backend.with("encryption = \"on\""))?
        })
    }

    fn encrypted_ftp(tls: Tls) -> Result<Self> {
        let server = Vsftpd::start(Place::Loopback, tls)?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("peer", Backend::vsftpd(&server).with("encryption = \"on\""))
            .start()?;
        let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", "/")])?;
        Ok(Self {
            proxy,
            alice,
            stored: server.home.clone(),
            upstream: None,
            _legacy: Some(server),
            size: ENCRYPTED_SIZE,
            least: EXTENT,
            _folders: Vec::new(),
        })
    }

    fn openssh() -> Result<Self> {
        Self::over_openssh(|backend| backend)
    }

    fn over_openssh(changed: impl FnOnce(Backend) -> Backend) -> Result<Self> {
        let keys = files::folder("keys")?;
        let key = files::ssh_key(keys.path(), "gateway")?;
        let server = Openssh::start(Place::Loopback, Subsystem::Internal, &key)?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("peer", changed(Backend::openssh(&server, &key)))
            .start()?;
        let directory = server.home.display().to_string();
        let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", &directory)])?;
        Ok(Self {
            proxy,
            alice,
            stored: server.home.clone(),
            upstream: Some(server),
            _legacy: None,
            size: SIZE,
            least: 0,
            _folders: vec![keys],
        })
    }

    fn published(&self) -> PathBuf {
        self.stored.join("report.bin")
    }

    /// What clients read.
    fn content(&self, runtime: &Runtime) -> Result<Vec<u8>> {
        runtime.block_on(async {
            let connection = log_in(self.proxy.address, &self.alice).await?;
            let mut wire = connection.sftp().await?;
            wire.get(PATH).await
        })
    }

    fn names(&self) -> Result<Vec<String>> {
        fs::read_dir(&self.stored)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Uploads the first bytes and drops the connection; returns when the account sees what is kept.
    fn interrupt(&self, runtime: &Runtime, content: &[u8], bytes: usize) -> Result<()> {
        self.send_and_drop(runtime, content, (0, bytes), open::UPLOAD)
    }

    fn send_and_drop(
        &self,
        runtime: &Runtime,
        content: &[u8],
        (from, until): (usize, usize),
        flags: u32,
    ) -> Result<()> {
        runtime.block_on(async {
            let connection = log_in(self.proxy.address, &self.alice).await?;
            let mut wire = connection.sftp().await?;
            let handle = wire.open(PATH, flags).await?;
            let part = content.get(from..until).context("a part of the content")?;
            for (number, chunk) in part.chunks(CHUNK).enumerate() {
                let written = wire
                    .write(&handle, u64::try_from(from + number * CHUNK)?, chunk)
                    .await?;
                ensure!(written == Some(status::OK), "{written:?}");
            }
            Ok(())
        })?;
        wait_for("the interrupted upload to show", || {
            runtime.block_on(self.size()).ok().flatten()
        })?;
        ensure!(!self.published().exists(), "the final name shows");
        Ok(())
    }

    /// The bytes of the only file that is stored.
    fn stored_bytes(&self) -> Result<Vec<u8>> {
        let names = self.names()?;
        let [name] = &*names else {
            bail!("{names:?} are stored");
        };
        Ok(fs::read(self.stored.join(name))?)
    }

    async fn size(&self) -> Result<Option<u64>> {
        let connection = log_in(self.proxy.address, &self.alice).await?;
        connection.sftp().await?.size(PATH).await
    }
}

/// A real client goes on with the upload of a local file.
fn go_on(gateway: &mut Gateway, client: Client, local: PathBuf) -> Result<()> {
    let remote = String::from_utf8_lossy(PATH).into_owned();
    client.session(
        Place::Loopback,
        &gateway.proxy,
        &mut gateway.alice,
        Factors::KeyThenPassword,
        &[Step::Resume { local, remote }],
    )?;
    Ok(())
}

/// A client goes on with an upload that broke off after two thirds, and the journal has the digest of the whole.
fn resumes(mut gateway: Gateway, client: Client) -> Result<()> {
    let here = files::folder("partner")?;
    let size = gateway.size;
    let content = files::random_bytes(size)?;
    let local = here.path().join("report.bin");
    fs::write(&local, &content)?;
    let runtime = Runtime::new()?;
    gateway.interrupt(&runtime, &content, size * 2 / 3)?;
    go_on(&mut gateway, client, local)?;
    // Before it is read back, which is summed up too.
    let records = gateway.proxy.records()?;
    ensure!(
        gateway.content(&runtime)? == content,
        "the file differs from the original"
    );
    ensure!(gateway.names()? == ["report.bin"], "{:?}", gateway.names());
    let summary = records
        .iter()
        .rfind(|record| record.get("event").and_then(Value::as_str) == Some("xfer.summary"))
        .and_then(|record| record.get("body"))
        .context("the journal sums the transfer up")?;
    let field = |name| summary.get(name).cloned().unwrap_or_default();
    ensure!(field("sha256_source") == "reread", "{summary}");
    let mut digest = String::new();
    for byte in Sha256::digest(&content) {
        digest.push_str(&format!("{byte:02x}"));
    }
    ensure!(field("sha256") == digest.as_str(), "{summary}");
    let sent = field("bytes").as_u64().context("bytes were counted")?;
    ensure!(
        sent < u64::try_from(size)? / 2,
        "{sent} bytes were sent again of {size}"
    );
    evidence::note(Program::Session(client), &[Deed::Resume])
}

#[test]
fn openssh_resumes_on_a_local_disk() -> Result<()> {
    resumes(Gateway::local()?, Client::Openssh)
}

#[test]
fn openssh_resumes_on_an_sftp_server() -> Result<()> {
    resumes(Gateway::openssh()?, Client::Openssh)
}

#[test]
fn openssh_resumes_on_an_encrypted_disk() -> Result<()> {
    resumes(Gateway::encrypted()?, Client::Openssh)
}

#[test]
fn openssh_resumes_on_an_encrypted_sftp_server() -> Result<()> {
    resumes(Gateway::encrypted_openssh()?, Client::Openssh)
}

#[test]
fn openssh_resumes_on_an_encrypted_ftp_server() -> Result<()> {
    resumes(Gateway::encrypted_ftp(Tls::None)?, Client::Openssh)
}

#[test]
fn lftp_resumes_on_an_encrypted_ftp_server_with_tls() -> Result<()> {
    resumes(
        Gateway::encrypted_ftp(Tls::ExplicitWithSessionReuse)?,
        Client::Lftp,
    )
}

/// Of each extent that was ever begun, the IV that its key is derived with.
fn ivs_of_extents(stored: &[u8]) -> impl Iterator<Item = &[u8]> {
    let extents = stored.get(HEAD..).unwrap_or_default();
    extents
        .chunks(STORED_EXTENT)
        .filter_map(|extent| extent.get(10..42))
}

#[test]
fn an_upload_to_an_encrypted_ftp_server_that_is_cut_again_and_again_uses_no_iv_twice() -> Result<()>
{
    const CANARY: &[u8] = b"Jane Doe, born 1980-01-01, HIV positive";
    let mut gateway = Gateway::encrypted_ftp(Tls::None)?;
    let mut content = files::random_bytes(ENCRYPTED_SIZE)?;
    for at in (0..ENCRYPTED_SIZE - CANARY.len()).step_by(100_003) {
        let place = content.get_mut(at..at + CANARY.len());
        place.context("within it")?.copy_from_slice(CANARY);
    }
    let runtime = Runtime::new()?;
    let extent_and = |more| EXTENT + more;
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let (mut from, mut flags) = (0, open::UPLOAD);
    for until in [
        extent_and(300_000),
        extent_and(200_000),
        2 * EXTENT + 150_001,
        3 * EXTENT + 131_073,
    ] {
        gateway.send_and_drop(&runtime, &content, (from, until), flags)?;
        let stored = gateway.stored_bytes()?;
        let kept = runtime.block_on(gateway.size())?.context("it is kept")?;
        from = usize::try_from(kept)?;
        ensure!(from == until / EXTENT * EXTENT, "{from} of {until}");
        // Those of what is kept are there still, and all others are new.
        let ivs: Vec<_> = ivs_of_extents(&stored).map(<[u8]>::to_vec).collect();
        let known = ivs.iter().take_while(|iv| seen.contains(iv)).count();
        let fresh = ivs.get(known..).unwrap_or_default();
        ensure!(!fresh.is_empty(), "{until}");
        ensure!(fresh.iter().all(|iv| !seen.contains(iv)), "{until}");
        let written = stored.get(HEAD + known * STORED_EXTENT..);
        let found = memmem::find(written.unwrap_or_default(), CANARY);
        ensure!(found.is_none(), "plaintext is stored");
        seen.extend_from_slice(fresh);
        flags = open::WRITE | open::CREATE | open::APPEND;
    }
    let here = files::folder("partner")?;
    let local = here.path().join("report.bin");
    fs::write(&local, &content)?;
    go_on(&mut gateway, Client::Openssh, local)?;
    ensure!(gateway.content(&runtime)? == content);
    let stored = gateway.stored_bytes()?;
    let ivs: Vec<_> = ivs_of_extents(&stored).map(<[u8]>::to_vec).collect();
    let is_seen: Vec<_> = ivs.iter().map(|iv| seen.contains(iv)).collect();
    ensure!(is_seen == [true, true, true, false], "{is_seen:?}");
    let found = memmem::find(&stored, CANARY);
    ensure!(found.is_none(), "plaintext is stored");
    Ok(())
}

#[test]
fn a_client_goes_back_within_what_is_kept_on_an_encrypted_sftp_server() -> Result<()> {
    let gateway = Gateway::encrypted_openssh()?;
    let content = files::random_bytes(ENCRYPTED_SIZE)?;
    let runtime = Runtime::new()?;
    gateway.interrupt(&runtime, &content, 2 * EXTENT + 300_000)?;
    runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        let handle = wire.open(PATH, open::WRITE).await?;
        let answered = AtomicU64::new(0);
        write_from(&mut wire, &handle, &content, EXTENT + 700_001, &answered).await
    })?;
    ensure!(gateway.content(&runtime)? == content);
    ensure!(gateway.names()? == ["report.bin"], "{:?}", gateway.names());
    Ok(())
}

#[test]
fn lftp_resumes_on_an_encrypted_disk() -> Result<()> {
    resumes(Gateway::encrypted()?, Client::Lftp)
}

#[test]
fn psftp_resumes_on_an_encrypted_disk() -> Result<()> {
    resumes(Gateway::encrypted()?, Client::Psftp)
}

#[test]
fn lftp_resumes_on_a_local_disk() -> Result<()> {
    resumes(Gateway::local()?, Client::Lftp)
}

#[test]
fn lftp_resumes_on_an_sftp_server() -> Result<()> {
    resumes(Gateway::openssh()?, Client::Lftp)
}

#[test]
fn psftp_resumes_on_a_local_disk() -> Result<()> {
    resumes(Gateway::local()?, Client::Psftp)
}

#[test]
fn paramiko_resumes_on_a_local_disk() -> Result<()> {
    resumes(Gateway::local()?, Client::Paramiko)
}

#[test]
fn asyncssh_resumes_on_a_local_disk() -> Result<()> {
    resumes(Gateway::local()?, Client::Asyncssh)
}

#[test]
fn libcurl_resumes_on_a_local_disk() -> Result<()> {
    resumes(Gateway::local()?, Client::Curl)
}

#[test]
fn ssh2_resumes_on_a_local_disk() -> Result<()> {
    resumes(Gateway::local()?, Client::Ssh2)
}

#[test]
fn an_upload_that_lost_its_connection_before_close_is_published_by_resuming_it() -> Result<()> {
    let mut gateway = Gateway::local()?;
    let here = files::folder("partner")?;
    let content = files::random_bytes(SIZE)?;
    let local = here.path().join("report.bin");
    fs::write(&local, &content)?;
    gateway.interrupt(&Runtime::new()?, &content, SIZE)?;
    let resume = Step::Resume {
        local,
        remote: String::from_utf8_lossy(PATH).into_owned(),
    };
    Client::Openssh.session(
        Place::Loopback,
        &gateway.proxy,
        &mut gateway.alice,
        Factors::KeyThenPassword,
        &[resume],
    )?;
    ensure!(fs::read(gateway.published())? == content);
    Ok(())
}

/// What a run of kills met.
#[derive(Debug, Default)]
struct Tally {
    published_before_the_kill: usize,
    begun_anew: usize,
    resumed: usize,
    bytes_spared: u64,
}

/// How many kills: `PORTCULLIS_KILL_ROUNDS`, else few enough for every run.
pub(crate) fn rounds() -> Result<usize> {
    match std::env::var("PORTCULLIS_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().context("PORTCULLIS_KILL_ROUNDS"),
        Err(_) => Ok(20),
    }
}

pub(crate) fn seed() -> Result<u64> {
    match std::env::var("PORTCULLIS_KILL_SEED") {
        Ok(seed) => seed.parse().context("PORTCULLIS_KILL_SEED"),
        Err(_) => Ok(fastrand::u64(..)),
    }
}

/// Uploads with many writes under way, as clients do, and counts the answered ones.
async fn upload(
    address: std::net::SocketAddr,
    alice: &Account,
    content: &[u8],
    answered: &AtomicU64,
) -> Result<()> {
    let connection = log_in(address, alice).await?;
    let mut wire = connection.sftp().await?;
    let handle = wire.open(PATH, open::UPLOAD).await?;
    write_from(&mut wire, &handle, content, 0, answered).await
}

async fn write_from(
    wire: &mut crate::wire::Wire,
    handle: &[u8],
    content: &[u8],
    from: usize,
    answered: &AtomicU64,
) -> Result<()> {
    /// As OpenSSH's client.
    const UNDER_WAY: usize = 64;
    let rest = content.get(from..).context("the rest of the content")?;
    let mut unanswered = 0;
    for (number, chunk) in rest.chunks(CHUNK).enumerate() {
        let offset = u64::try_from(from + number * CHUNK)?;
        let frame = Frame::request(kind::WRITE, 1_000_000 + u32::try_from(number)?)
            .string(handle)
            .u64(offset)
            .string(chunk);
        wire.send(&frame).await?;
        unanswered += 1;
        if unanswered == UNDER_WAY {
            take_answer(wire, answered).await?;
            unanswered -= 1;
        }
    }
    for _ in 0..unanswered {
        take_answer(wire, answered).await?;
    }
    match wire.close(handle).await? {
        Some(status::OK) => Ok(()),
        other => bail!("close: {other:?}"),
    }
}

async fn take_answer(wire: &mut crate::wire::Wire, answered: &AtomicU64) -> Result<()> {
    let reply = wire.reply().await?;
    ensure!(reply.status() == Some(status::OK), "{reply:?}");
    answered.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Kills the gateway, and the server behind it if there is one, at random points of uploads. Whatever stands under the final
/// name is whole, and what is resumed ends byte-identical.
#[expect(
    clippy::print_stdout,
    reason = "a failure is repeated with the printed seed"
)]
fn survives_kills(mut gateway: Gateway) -> Result<()> {
    let seed = seed()?;
    let rounds = if gateway.least == 0 {
        rounds()?
    } else {
        rounds()? / 4
    };
    println!("PORTCULLIS_KILL_SEED={seed} PORTCULLIS_KILL_ROUNDS={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let runtime = Runtime::new()?;
    let mut tally = Tally::default();
    for round in 0..rounds {
        if let Err(error) = one_kill(&mut gateway, &runtime, &mut random, &mut tally) {
            let failure = last_failure(&gateway.proxy)?;
            return Err(error.context(format!(
                "round {round} of PORTCULLIS_KILL_SEED={seed}; the journal's last failure: {failure}"
            )));
        }
    }
    println!("{rounds} kills: {tally:?}");
    ensure!(
        tally.resumed * 4 >= rounds,
        "few kills fell into an upload: {tally:?}"
    );
    gateway.proxy.journal_is_sound()
}

fn last_failure(proxy: &Proxy) -> Result<Value> {
    let mut records = proxy.records()?;
    let is_failure =
        |record: &Value| record.get("outcome").and_then(Value::as_str) == Some("failure");
    let last = records.iter().rposition(is_failure);
    Ok(last.map_or(Value::Null, |at| records.swap_remove(at)))
}

fn one_kill(
    gateway: &mut Gateway,
    runtime: &Runtime,
    random: &mut fastrand::Rng,
    tally: &mut Tally,
) -> Result<()> {
    let (size, least) = (gateway.size, gateway.least);
    let length = random.usize(1 + 2 * least..size);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect();
    let content = Arc::new(content);
    let chunks = u64::try_from(content.len().div_ceil(CHUNK))?;
    let answered = Arc::new(AtomicU64::new(0));
    let uploading = {
        let (content, answered) = (Arc::clone(&content), Arc::clone(&answered));
        let (address, alice) = (gateway.proxy.address, gateway.alice.clone());
        runtime.spawn(async move { upload(address, &alice, &content, &answered).await })
    };
    let enough = random.u64(u64::try_from(least / CHUNK)?..=chunks);
    wait_for("the moment of the kill", || {
        (answered.load(Ordering::Relaxed) >= enough || uploading.is_finished()).then_some(())
    })?;
    // Anywhere within the next write, or between the last one and the publication.
    thread::sleep(Duration::from_micros(random.u64(0..3000)));
    let server_dies_first = random.bool();
    if server_dies_first && let Some(server) = &mut gateway.upstream {
        server.crash_and_restart()?;
    }
    gateway.proxy.crash_and_restart()?;
    if !server_dies_first && let Some(server) = &mut gateway.upstream {
        server.crash_and_restart()?;
    }
    let was_acknowledged = runtime.block_on(uploading)?.is_ok();
    if gateway.published().exists() {
        tally.published_before_the_kill += 1;
        whole(gateway, runtime, &content)?;
    } else {
        ensure!(
            !was_acknowledged,
            "CLOSE was answered, and no file is there"
        );
        resume(gateway, runtime, &content, tally)?;
        whole(gateway, runtime, &content)?;
        ensure!(gateway.names()? == ["report.bin"], "{:?}", gateway.names()?);
    }
    for name in gateway.names()? {
        fs::remove_file(gateway.stored.join(name))?;
    }
    Ok(())
}

fn whole(gateway: &Gateway, runtime: &Runtime, content: &[u8]) -> Result<()> {
    let stored = gateway.content(runtime)?;
    ensure!(
        stored == content,
        "{} of {} bytes stand under the final name, or others",
        stored.len(),
        content.len()
    );
    Ok(())
}

/// Goes on as OpenSSH's `reput` does, or begins anew if there is nothing to go on with.
fn resume(gateway: &Gateway, runtime: &Runtime, content: &[u8], tally: &mut Tally) -> Result<()> {
    runtime.block_on(async {
        let connection = log_in(gateway.proxy.address, &gateway.alice).await?;
        let mut wire = connection.sftp().await?;
        let kept = wire.size(PATH).await?;
        let flags = if kept.is_some() {
            tally.resumed += 1;
            open::WRITE | open::CREATE | open::APPEND
        } else {
            tally.begun_anew += 1;
            open::UPLOAD
        };
        let from = usize::try_from(kept.unwrap_or(0))?;
        ensure!(from < content.len(), "{from} bytes of {}", content.len());
        tally.bytes_spared += kept.unwrap_or(0);
        let handle = wire.open(PATH, flags).await?;
        write_from(&mut wire, &handle, content, from, &AtomicU64::new(0)).await
    })
}

#[test]
fn a_killed_gateway_leaves_nothing_incomplete_on_a_local_disk_and_every_upload_is_resumed()
-> Result<()> {
    survives_kills(Gateway::local()?)
}

#[test]
fn a_killed_gateway_leaves_nothing_incomplete_on_an_encrypted_disk_and_every_upload_is_resumed()
-> Result<()> {
    survives_kills(Gateway::encrypted()?)
}

#[test]
fn a_killed_gateway_leaves_nothing_incomplete_on_an_encrypted_ftp_server_and_every_upload_is_resumed()
-> Result<()> {
    survives_kills(Gateway::encrypted_ftp(Tls::None)?)
}

#[test]
fn a_killed_gateway_and_server_leave_nothing_incomplete_on_sftp_and_every_upload_is_resumed()
-> Result<()> {
    survives_kills(Gateway::openssh()?)
}
