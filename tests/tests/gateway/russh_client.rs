//! The client of the crate `russh-sftp`, which keeps handles as text.

use std::fs;

use anyhow::{Result, ensure};
use portcullis_tests::{
    account::Mount,
    files,
    place::Place,
    proxy::{Backend, Plan},
};
use russh_sftp::client::SftpSession;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
    time::timeout,
};

use crate::wire::{PATIENCE, log_in};

/// Channels, and so handles, that begin at random numbers.
const CHANNELS: usize = 16;

#[test]
fn a_client_that_takes_handles_for_text_gets_its_files_through() -> Result<()> {
    let stored = files::folder("stored")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("peer", Backend::local(stored.path()))
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "peer", ".")])?;
    let sent: Vec<u8> = (0..300_000_u32).map(|index| index as u8).collect();
    Runtime::new()?.block_on(async {
        let connection = log_in(proxy.address, &alice).await?;
        for number in 0..CHANNELS {
            let channel = connection.channel().await?;
            timeout(PATIENCE, channel.request_subsystem(true, "sftp")).await??;
            let sftp = timeout(PATIENCE, SftpSession::new(channel.into_stream())).await??;
            let name = format!("{number}.bin");
            let path = format!("/inbox/{name}");
            let mut file = timeout(PATIENCE, sftp.create(&path)).await??;
            timeout(PATIENCE, file.write_all(&sent)).await??;
            timeout(PATIENCE, file.shutdown()).await??;
            ensure!(fs::read(stored.path().join(&name))? == sent, "{name}");

            let mut file = timeout(PATIENCE, sftp.open(&path)).await??;
            let mut received = Vec::new();
            timeout(PATIENCE, file.read_to_end(&mut received)).await??;
            ensure!(received == sent, "{name}, read back");
        }
        Ok(())
    })
}
