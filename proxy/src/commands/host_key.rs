//! `host-key`: the keys that the gateway proves itself with.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use ssh_key::{HashAlg, LineEnding, PrivateKey, private::Ed25519Keypair};
use zeroize::Zeroizing;

use crate::{cli::ConfigArgs, config::Config};

/// Makes an Ed25519 key in `file`, and its public half beside it.
pub(super) fn generate(file: &Path) -> anyhow::Result<()> {
    let mut seed = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *seed).context("get random bytes from the kernel")?;
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));

    let mut private = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| {
            format!(
                "create {} (an existing key is not replaced: partners have pinned it)",
                file.display()
            )
        })?;
    private
        .write_all(
            key.to_openssh(LineEnding::LF)
                .context("encode the key")?
                .as_bytes(),
        )
        .and_then(|()| private.sync_all())
        .with_context(|| format!("write {}", file.display()))?;

    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);
    let public = key.public_key().to_openssh().context("encode the key")?;
    fs::write(&public_file, format!("{public}\n"))
        .with_context(|| format!("write {}", public_file.display()))?;

    super::print(&format!(
        "{}\n{public}",
        key.public_key().fingerprint(HashAlg::Sha256)
    ));
    Ok(())
}

/// Prints what partners need to recognise this gateway.
pub(super) fn show(arguments: &ConfigArgs) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config, super::today())?;
    for host_key in &config.server.host_keys {
        let public = host_key.key.public_key();
        super::print(&format!(
            "{} {}\n{}",
            public.fingerprint(HashAlg::Sha256),
            host_key.path.display(),
            public.to_openssh().context("encode the key")?
        ));
    }
    Ok(())
}
