//! What programs ask of the running daemon about stored files: requests and answers are files in a folder beside the journal.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// What somebody asked the daemon for.
pub(super) struct Asked<T> {
    path: PathBuf,
    request: Result<T, String>,
    /// Unix user.
    uid: u32,
}

/// Takes the next request whose name ends so; the file is gone afterwards.
pub(super) fn next<T: DeserializeOwned>(folder: &Path, ending: &str) -> Option<Asked<T>> {
    let mut names: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == ending))
        .collect();
    names.sort();
    let path = names.into_iter().next()?;
    let about = fs::symlink_metadata(&path).ok()?;
    let text = fs::read(&path);
    fs::remove_file(&path).ok()?;
    let request = text
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    Some(Asked {
        path,
        request,
        uid: about.uid(),
    })
}

impl<T> Asked<T> {
    /// Does the work for the Unix user who asked, and tells how far it is.
    pub(super) async fn answer<A: Serialize + From<String>>(
        self,
        work: impl AsyncFnOnce(T, u32, &mut (dyn FnMut(&A) + Send)) -> A,
    ) {
        let answer = match self.request {
            Ok(request) => {
                let file = self.path.with_extension("progress");
                let answer = work(request, self.uid, &mut |answer| put(&file, answer)).await;
                let _ = fs::remove_file(&file);
                answer
            }
            Err(problem) => problem.into(),
        };
        put(&self.path.with_extension("result"), &answer);
    }
}

/// Whoever asked may be gone.
fn put(file: &Path, answer: &impl Serialize) {
    let new = file.with_extension("new");
    let written = serde_json::to_vec(answer)
        .map_err(io::Error::other)
        .and_then(|text| fs::write(&new, text))
        .and_then(|()| fs::rename(&new, file));
    if let Err(error) = written {
        tracing::warn!(file = %file.display(), %error, "the answer about stored files is lost");
    }
}
