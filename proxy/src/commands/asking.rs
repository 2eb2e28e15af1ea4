//! Asks the running daemon for something that takes long, by files in a folder that its user and root may write to.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};

/// How often an answer is looked for.
const LOOK: Duration = Duration::from_millis(200);
/// A daemon takes a request at once, unless it is busy with another one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks, and waits for the answer. `ending` is how the names of such requests end; `shown` says in a line how far it is.
pub(super) fn ask<Q: Serialize, A: DeserializeOwned>(
    folder: &Path,
    ending: &str,
    request: &Q,
    shown: impl Fn(&A) -> String,
) -> anyhow::Result<A> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).context("draw a number for the request")?;
    let file = folder.join(hex::encode(id)).with_extension(ending);
    let new = file.with_extension("new");
    fs::write(&new, serde_json::to_vec(request)?)
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| {
            format!(
                "ask the daemon in {}; it makes the folder at its start, and its user and root may write there",
                folder.display()
            )
        })?;
    let answer = wait(&Files::of(&file), shown);
    if answer.is_err() {
        let _ = fs::remove_file(&file);
    }
    answer
}

struct Files {
    request: PathBuf,
    progress: PathBuf,
    result: PathBuf,
}

impl Files {
    fn of(request: &Path) -> Self {
        Self {
            request: request.to_owned(),
            progress: request.with_extension("progress"),
            result: request.with_extension("result"),
        }
    }
}

fn wait<A: DeserializeOwned>(files: &Files, shown: impl Fn(&A) -> String) -> anyhow::Result<A> {
    let begun = Instant::now();
    let shows = io::stderr().is_terminal();
    loop {
        match fs::read(&files.result) {
            Ok(text) => {
                let _ = fs::remove_file(&files.result);
                return serde_json::from_slice(&text).context("read the daemon's answer");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("read the daemon's answer"),
        }
        if files.request.exists() && begun.elapsed() > PATIENCE {
            anyhow::bail!(
                "the daemon has not taken the request: it is not running, or another one is under way"
            );
        }
        if shows
            && let Ok(text) = fs::read(&files.progress)
            && let Ok(now) = serde_json::from_slice::<A>(&text)
        {
            complain(&format!("\r{} ", shown(&now)));
        }
        thread::sleep(LOOK);
    }
}

/// Beside the results.
pub(super) fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
