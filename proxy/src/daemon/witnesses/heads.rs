//! The journal's signed heads as a witness needs them: the newest, and those by which the key changed.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use portcullis_journal::{
    cosigned::head,
    tree::{
        checkpoint::{CHECKPOINTS, Head, notes},
        keyring::is_handover,
    },
};

/// Bytes that are read at once.
const AT_ONCE: u64 = 1 << 20;
/// What a signature line begins with.
const SIGNATURE: &[u8] = "\u{2014} ".as_bytes();

/// A head with its note.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Signed {
    pub(super) head: Head,
    pub(super) note: Vec<u8>,
}

/// Heads as they are signed.
#[derive(Debug)]
pub(super) struct Heads {
    path: PathBuf,
    /// Bytes of the file that were read.
    read: u64,
    newest: Option<Signed>,
    /// In order; a witness has to see each.
    handovers: Vec<Signed>,
}

impl Heads {
    pub(super) fn of(directory: &Path) -> Self {
        Self {
            path: directory.join(CHECKPOINTS),
            read: 0,
            newest: None,
            handovers: Vec::new(),
        }
    }

    /// Reads what was signed since the last look.
    ///
    /// # Errors
    /// If the file can't be read.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        while file.metadata()?.len() > self.read {
            file.seek(SeekFrom::Start(self.read))?;
            let mut text = Vec::new();
            file.by_ref().take(AT_ONCE).read_to_end(&mut text)?;
            let mut taken = 0;
            for note in notes(&text).0 {
                let is_handover = is_handover(note);
                let rest = text.get(taken + note.len()..).unwrap_or_default();
                // Its second signature is being written.
                if is_handover && signatures(note) < 2 && SIGNATURE.starts_with(rest) {
                    break;
                }
                taken += note.len();
                let Some(head) = head(note) else { continue };
                let signed = Signed {
                    head,
                    note: note.to_vec(),
                };
                if is_handover {
                    self.handovers.push(signed.clone());
                }
                if self
                    .newest
                    .as_ref()
                    .is_none_or(|newest| newest.head.size <= head.size)
                {
                    self.newest = Some(signed);
                }
            }
            if taken == 0 {
                break;
            }
            self.read += taken as u64;
        }
        Ok(())
    }

    /// The newest head, if it covers so many records at least.
    pub(super) fn newest(&self, least: u64) -> Option<&Signed> {
        let newest = self.newest.as_ref();
        newest.filter(|signed| signed.head.size >= least)
    }

    /// The head that a witness is to cosign next, which has cosigned so many records.
    pub(super) fn after(&self, cosigned: u64) -> Option<&Signed> {
        let later = |signed: &&Signed| signed.head.size > cosigned;
        self.handovers
            .iter()
            .find(later)
            .or_else(|| self.newest.as_ref().filter(later))
    }
}

fn signatures(note: &[u8]) -> usize {
    note.split(|&byte| byte == b'\n')
        .filter(|line| line.starts_with(SIGNATURE))
        .count()
}

#[cfg(test)]
mod tests {
    use portcullis_journal::{Event, EventKind, Journal, Options, tree::key::SigningKey};

    use super::*;

    #[tokio::test]
    async fn the_newest_head_comes_next_but_never_before_a_change_of_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::default_in(folder.path().join("log"));
        let mut heads = Heads::of(&options.directory);
        let mut run = 0;
        let mut next = async |heads: &mut Heads, cosigned, changes_key: bool| {
            let (journal, _) = Journal::open(options.clone()).unwrap();
            if changes_key {
                SigningKey::prepare_next(&options.signing_key).unwrap();
                journal.change_key().await.unwrap();
            }
            run += 1;
            let mut event = Event::new(EventKind::ConnectionOpen);
            event.body.insert("run".to_owned(), run.into());
            journal.append(event).await.unwrap();
            journal.close().await.unwrap();
            heads.look().unwrap();
            heads.after(cosigned).cloned()
        };
        // log.start, the record, log.stop
        assert_eq!(next(&mut heads, 0, false).await.unwrap().head.size, 3);
        assert_eq!(next(&mut heads, 3, false).await.unwrap().head.size, 6);
        let handover = next(&mut heads, 6, true).await.unwrap();
        assert!(is_handover(&handover.note));
        assert_eq!(handover.head.size, 8);
        // Whoever has seen nothing needs it too, and after it the newest.
        assert_eq!(heads.after(0), Some(&handover));
        assert_eq!(heads.after(8).unwrap().head.size, 10);
        assert_eq!(heads.after(10), None);
    }

    #[test]
    fn what_is_being_written_is_read_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut heads = Heads::of(folder.path());
        assert!(heads.look().is_err());
        let hash = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        SigningKey::open(&folder.path().join("key"), "gw").unwrap();
        let key = std::fs::read_to_string(folder.path().join("key.pub")).unwrap();
        let note = format!(
            "gw\n7\n{hash}\nsuccessor {}\n\n\u{2014} gw AAAAAAAA\n\u{2014} gw AAAAAAAB\n",
            key.trim()
        );
        for cut in 1..note.len() {
            let mut heads = Heads::of(folder.path());
            std::fs::write(folder.path().join(CHECKPOINTS), &note.as_bytes()[..cut]).unwrap();
            heads.look().unwrap();
            assert_eq!(heads.after(0), None, "cut at {cut}");
            std::fs::write(folder.path().join(CHECKPOINTS), &note).unwrap();
            heads.look().unwrap();
            assert_eq!(heads.after(0).unwrap().note, note.as_bytes());
        }
    }
}
