//! `audit manifest`: what a session delivered, signed with the journal's key.

use std::{
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use portcullis_audit::{
    filter::{Criteria, Filter},
    hidden::{Revealer, is_token},
    text::quoted,
};
use portcullis_journal::{
    manifest::{Manifest, ManifestError, Scope, Unsealing, Wish, of_session},
    proof::ProofError,
    read::Record,
    tree::key::{SigningKey, public_key_path, read_verifier_keys},
};
use serde_json::Map;

use super::{
    Logs, complain,
    export::write_new,
    hidden::{PathKeyArgs, UnsealArgs},
    put,
    search::session,
    session::{DIGITS, only_one},
};
use crate::path::VirtualPath;

/// A running daemon signs within a minute.
const PATIENCE: Duration = Duration::from_secs(70);
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct ManifestArgs {
    /// The session's number, or how it begins; it has to be over
    #[arg(value_name = "SESSION", value_parser = session)]
    id: String,
    /// Only what lies in this mount of the session, such as /inbox
    #[arg(long, value_name = "PATH", conflicts_with = "path", value_parser = wish)]
    mount: Option<Wish>,
    /// Only this file or what lies below this directory
    #[arg(long, value_name = "PATH", value_parser = wish)]
    path: Option<Wish>,
    #[command(flatten)]
    path_key: PathKeyArgs,
    #[command(flatten)]
    unseal: UnsealArgs,
    /// The manifest, a new file; standard output if left out
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl ManifestArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        let config = logs.journal()?;
        let [directory] = logs.directories.as_slice() else {
            bail!("a manifest is of one log");
        };
        if *directory != config.directory {
            bail!(
                "only the gateway's own journal can be signed for: leave --log out, and ask on the gateway"
            );
        }
        let mut filters = Map::new();
        put(&mut filters, "session", Some(&self.id));
        let asked = self.mount.as_ref().or(self.path.as_ref());
        let asked = asked.map(|wish| String::from_utf8_lossy(&wish.path));
        put(&mut filters, "path", asked);
        put(
            &mut filters,
            "output",
            self.output.as_ref().and_then(|file| file.to_str()),
        );
        if self.unseal.is_given() {
            filters.insert("unseal".to_owned(), true.into());
        }
        logs.note_reading("manifest", filters)?;

        // Whoever may sign for the gateway is whoever can read its key.
        let key = SigningKey::read(&config.signing_key)
            .context("sign the manifest; root and the daemon's user can")?;
        let keys = read_verifier_keys(&public_key_path(&config.signing_key))?;
        let revealer = self.unseal.revealer()?;
        let scope = self.scope(logs, revealer.is_some())?;
        let id = self.whole_id(logs)?;
        let begun = Instant::now();
        let manifest = loop {
            let unseal = |record: &mut Record| {
                if let Some(revealer) = &revealer {
                    Revealer::reveal(revealer, record);
                }
            };
            let unsealing: Option<Unsealing<'_>> = revealer.is_some().then_some(&unseal);
            match of_session(directory, &id, &scope, &keys, unsealing) {
                Err(ManifestError::Log(ProofError::NotCovered { .. }))
                    if begun.elapsed() < PATIENCE =>
                {
                    if begun.elapsed() < LOOK {
                        complain("waiting for the next checkpoint, at most a minute");
                    }
                    thread::sleep(LOOK);
                }
                made => break made?,
            }
        };
        let signed = manifest.sign(&key)?;
        // What can't be checked is of no use to anybody.
        Manifest::check(signed.as_bytes(), &keys)?;
        let Some(file) = &self.output else {
            return Ok(output.write_all(signed.as_bytes())?);
        };
        let digest = write_new(file, |out| Ok(out.write_all(signed.as_bytes())?))?;
        writeln!(
            output,
            "{} file(s): {}, SHA-256 {digest}",
            manifest.entries.len(),
            quoted(file.as_os_str().as_encoded_bytes())
        )?;
        Ok(())
    }

    fn scope(&self, logs: &Logs, is_unsealed: bool) -> anyhow::Result<Scope> {
        let Some(wish) = self.mount.as_ref().or(self.path.as_ref()) else {
            return Ok(Scope::All);
        };
        let mut wish = wish.clone();
        wish.is_mount = self.mount.is_some();
        if !is_unsealed && !is_token(&wish.path) {
            let key = self.path_key.key(logs)?;
            wish.token = key.map(|key| key.token(&wish.path).into_bytes());
        }
        Ok(Scope::At(wish))
    }

    fn whole_id(&self, logs: &Logs) -> anyhow::Result<String> {
        if self.id.len() == DIGITS {
            return Ok(self.id.clone());
        }
        let filter = Filter::from(Criteria {
            session: Some(self.id.clone()),
            ..Criteria::default()
        });
        only_one(logs, &filter)?.with_context(|| {
            format!(
                "no session begins with {}; `audit search --user NAME --event session` shows those of a person",
                self.id
            )
        })
    }
}

/// A path, or a token, such as a log or a collector shows.
fn wish(text: &str) -> Result<Wish, String> {
    let path = if is_token(text.as_bytes()) {
        text.as_bytes().to_vec()
    } else {
        let path = VirtualPath::clean(text.as_bytes()).map_err(|error| error.to_string())?;
        path.as_bytes().to_vec()
    };
    Ok(Wish {
        path,
        token: None,
        is_mount: false,
    })
}
