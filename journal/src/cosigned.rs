//! `cosigned`: the heads of a log that its witnesses cosigned, beside its checkpoints and in the same form.
//!
//! A head that several witnesses cosigned is there several times. The daemon's threads that talk to witnesses write it, not the
//! journal's writer.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::tree::{
    checkpoint::{Head, Judged, judge, notes},
    cosignature::{WitnessKey, cosignatures},
};

/// Name of the file.
pub const COSIGNED: &str = "cosigned";

/// Bytes at the end of the file that are looked at: some hundred notes.
const TAIL: u64 = 1 << 20;

/// The file of a log that is open for writing. It has one writer.
#[derive(Debug)]
pub struct CosignedFile {
    file: File,
    length: u64,
}

impl CosignedFile {
    /// Opens the file in a log's directory, or makes it.
    ///
    /// # Errors
    /// If it can't be read or made.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(COSIGNED))?;
        File::open(directory)?.sync_all()?;
        let (text, end) = tail(&file)?;
        // What a crash tore is overwritten.
        let torn = notes(&text).1.len() as u64;
        Ok(Self {
            length: end - torn,
            file,
        })
    }

    /// Adds a note; durable on return.
    ///
    /// # Errors
    /// If it can't be written: then the file is as before.
    pub fn append(&mut self, note: &[u8]) -> io::Result<()> {
        let end = self.length + note.len() as u64;
        let written = self
            .file
            .write_all_at(note, self.length)
            .and_then(|()| self.file.set_len(end))
            .and_then(|()| self.file.sync_all());
        match written {
            Ok(()) => self.length = end,
            Err(_) => drop(self.file.set_len(self.length)),
        }
        written
    }

    /// The last head that a witness cosigned, as far as the end of the file tells.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn last(&self, witness: &WitnessKey) -> io::Result<Option<Head>> {
        let (text, _) = tail(&self.file)?;
        let witness = std::slice::from_ref(witness);
        let own = notes(&text)
            .0
            .into_iter()
            .rev()
            .find(|note| cosignatures(note, witness).is_ok_and(|own| !own.is_empty()));
        Ok(own.and_then(head))
    }
}

/// The head that a note says, whoever signed it; `None` if it is no checkpoint.
#[must_use]
pub fn head(note: &[u8]) -> Option<Head> {
    match judge(note, &[]) {
        Judged::OtherKey { head, .. } | Judged::Good(head) => Some(head),
        Judged::BadSignature { .. } | Judged::Malformed => None,
    }
}

/// The end of a file, from somewhere within a note on, and where it is.
fn tail(file: &File) -> io::Result<(Vec<u8>, u64)> {
    let end = file.metadata()?.len();
    let from = end.saturating_sub(TAIL);
    let mut text = vec![0; (end - from) as usize];
    file.read_exact_at(&mut text, from)?;
    Ok((text, end))
}

#[cfg(test)]
mod tests {
    use signed_note::Note;

    use super::*;
    use crate::tree::{Tree, checkpoint::sign, cosignature::CosigningKey, key::SigningKey};

    #[test]
    fn what_was_added_is_found_and_what_was_torn_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let log = SigningKey::open(&here.join("log.key"), "gw").unwrap();
        let witness = |name: &str| CosigningKey::open(&here.join(name), name).unwrap();
        let (one, other) = (witness("w1"), witness("w2"));
        let mut tree = Tree::default();
        let mut cosigned = |by: &CosigningKey| {
            tree.push(b"line");
            let mut note = Note::from_bytes(&sign(&tree, &log)).unwrap();
            by.cosign(&mut note, 7).unwrap();
            note.to_bytes()
        };
        let mut file = CosignedFile::open(here).unwrap();
        assert_eq!(file.last(one.public()).unwrap(), None);
        file.append(&cosigned(&one)).unwrap();
        let second = cosigned(&other);
        file.append(&second).unwrap();
        let size = |file: &CosignedFile, by: &CosigningKey| {
            file.last(by.public()).unwrap().map(|head| head.size)
        };
        assert_eq!((size(&file, &one), size(&file, &other)), (Some(1), Some(2)));
        let whole = std::fs::read(here.join(COSIGNED)).unwrap();
        let third = cosigned(&one);
        for cut in 1..second.len() {
            std::fs::write(here.join(COSIGNED), &whole[..whole.len() - cut]).unwrap();
            let mut file = CosignedFile::open(here).unwrap();
            file.append(&third).unwrap();
            let text = std::fs::read(here.join(COSIGNED)).unwrap();
            let (found, torn) = notes(&text);
            // Without its last line a note is one that nobody cosigned.
            assert!(
                found.iter().all(|note| head(note).is_some()),
                "{cut} bytes cut"
            );
            assert_eq!(torn.len(), 0);
            assert_eq!(size(&file, &one), Some(3));
        }
    }
}
