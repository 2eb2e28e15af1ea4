//! Lists of passwords that nobody may set, on disk and never in memory: the whole list of Have I Been Pwned has some 40 GiB.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use sha1::{Digest as _, Sha1};

/// Hexadecimal digits of a SHA-1.
const HASH_DIGITS: usize = 40;
/// Longest line of a hash list, in bytes: hash, colon, count.
const HASH_LINE_MAX: u64 = 80;
/// Below so many bytes a search reads on line by line.
const SCAN_BYTES: u64 = 4096;
/// Longest line of a word list that is compared, in bytes; a longer one is no password that could be set.
const WORD_MAX: u64 = 4 * super::MAX_BYTES as u64 + 2;

/// Why a list can't be searched. Nothing is known then, so the password can't be set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} is not a sorted list of SHA-1 hashes, one `HASH:COUNT` a line (at byte {at})",
        path.display()
    )]
    NotHashes { path: PathBuf, at: u64 },
}

/// True if the SHA-1 of `password` is in the list at `path`, which is sorted by hash, as Have I Been Pwned's downloader
/// writes it. Binary search: some 35 reads in 40 GiB.
///
/// # Errors
/// If the file can't be read, or what is read is no such line.
pub fn is_in_hash_list(path: &Path, password: &[u8]) -> Result<bool, ListError> {
    let wanted = hexadecimal(&Sha1::digest(password));
    let mut list = HashList::open(path)?;
    // The first line of the wanted hash, if there is one, begins in low..=high.
    let (mut low, mut high) = (0, list.length);
    while high.saturating_sub(low) > SCAN_BYTES {
        let middle = low + (high - low) / 2;
        match list.first_after(middle)? {
            Some((_, hash)) if hash == wanted => return Ok(true),
            Some((begin, hash)) if hash < wanted => low = begin,
            Some(_) | None => high = middle,
        }
    }
    list.scan(low, &wanted)
}

struct HashList<'a> {
    path: &'a Path,
    file: BufReader<File>,
    length: u64,
}

impl<'a> HashList<'a> {
    fn open(path: &'a Path) -> Result<Self, ListError> {
        let read_error = |source| ListError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read_error)?;
        let length = file.metadata().map_err(read_error)?.len();
        Ok(Self {
            path,
            // Small: a search jumps.
            file: BufReader::with_capacity(512, file),
            length,
        })
    }

    /// The first line that begins behind `at`, and where.
    fn first_after(&mut self, at: u64) -> Result<Option<(u64, [u8; HASH_DIGITS])>, ListError> {
        self.seek(at)?;
        let (rest, _) = self.line(at)?;
        let begin = at + rest;
        let (length, hash) = self.line(begin)?;
        match hash {
            _ if length == 0 => Ok(None),
            Some(hash) => Ok(Some((begin, hash))),
            None => Err(self.not_hashes(begin)),
        }
    }

    /// Looks line by line from the line that begins at `from`, until one is greater.
    fn scan(&mut self, from: u64, wanted: &[u8; HASH_DIGITS]) -> Result<bool, ListError> {
        self.seek(from)?;
        let mut at = from;
        loop {
            let (length, hash) = self.line(at)?;
            match hash {
                _ if length == 0 => return Ok(false),
                Some(hash) if hash >= *wanted => return Ok(hash == *wanted),
                Some(_) => at += length,
                None => return Err(self.not_hashes(at)),
            }
        }
    }

    fn seek(&mut self, to: u64) -> Result<(), ListError> {
        let sought = self.file.seek(SeekFrom::Start(to));
        sought.map(|_| ()).map_err(|source| self.read_error(source))
    }

    /// Length of the line that is next, and the hash in it if it is whole.
    fn line(&mut self, at: u64) -> Result<(u64, Option<[u8; HASH_DIGITS]>), ListError> {
        let mut line = Vec::new();
        let read = self
            .file
            .by_ref()
            .take(HASH_LINE_MAX)
            .read_until(b'\n', &mut line);
        let length = read.map_err(|source| self.read_error(source))? as u64;
        if length == HASH_LINE_MAX {
            return Err(self.not_hashes(at));
        }
        let hash = line
            .split_first_chunk::<HASH_DIGITS>()
            .and_then(|(hash, rest)| {
                let mut hash = *hash;
                hash.make_ascii_lowercase();
                let ends = matches!(rest.first(), None | Some(b':' | b'\r' | b'\n'));
                (ends && hash.iter().all(u8::is_ascii_hexdigit)).then_some(hash)
            });
        Ok((length, hash))
    }

    fn read_error(&self, source: io::Error) -> ListError {
        ListError::Read {
            path: self.path.to_owned(),
            source,
        }
    }

    fn not_hashes(&self, at: u64) -> ListError {
        ListError::NotHashes {
            path: self.path.to_owned(),
            at,
        }
    }
}

/// True if `password` is a line of the plain list at `path`, whatever the case of its letters. Reads the whole list.
///
/// # Errors
/// If the file can't be read.
pub fn is_in_word_list(path: &Path, password: &str) -> Result<bool, ListError> {
    let read_error = |source| ListError::Read {
        path: path.to_owned(),
        source,
    };
    let wanted = password.to_lowercase();
    let mut list = BufReader::new(File::open(path).map_err(read_error)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = list.by_ref().take(WORD_MAX);
        if limited.read_until(b'\n', &mut line).map_err(read_error)? == 0 {
            return Ok(false);
        }
        let word = line.strip_suffix(b"\n").unwrap_or(&line);
        let word = word.strip_suffix(b"\r").unwrap_or(word);
        if std::str::from_utf8(word).is_ok_and(|word| word.to_lowercase() == wanted) {
            return Ok(true);
        }
    }
}

/// In the digits that [`HashList`] yields.
fn hexadecimal(hash: &[u8]) -> [u8; HASH_DIGITS] {
    let mut digits = [0; HASH_DIGITS];
    // A SHA-1 has half as many bytes.
    let _ = hex::encode_to_slice(hash, &mut digits);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_of(lines: &[String]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, lines.concat()).unwrap();
        file
    }

    fn hash_of(password: &str) -> String {
        hex::encode(Sha1::digest(password))
    }

    /// Passwords `password 0`, `password 1` ... in the downloader's form.
    fn sorted(count: usize) -> Vec<String> {
        let mut lines: Vec<_> = (0..count)
            .map(|number| {
                let hash = hash_of(&format!("password {number}")).to_uppercase();
                format!("{hash}:{number}\r\n")
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn the_hash_is_that_of_have_i_been_pwned() {
        // What its range search answers for the password "password".
        assert_eq!(
            hash_of("password"),
            "5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8"
        );
    }

    #[test]
    fn each_line_of_a_list_is_found_and_nothing_else() {
        for count in [1, 2, 50, 90, 200, 3000] {
            let file = list_of(&sorted(count));
            let found = |password: &str| is_in_hash_list(file.path(), password.as_bytes()).unwrap();
            for number in 0..count {
                assert!(found(&format!("password {number}")), "{number} of {count}");
            }
            for number in count..count + 300 {
                assert!(!found(&format!("password {number}")), "{number} of {count}");
            }
        }
    }

    #[test]
    fn lists_without_counts_in_small_letters_or_without_a_last_newline_are_read_too() {
        let mut lines: Vec<_> = sorted(500)
            .iter()
            .map(|line| line[..HASH_DIGITS].to_lowercase() + "\n")
            .collect();
        lines.last_mut().unwrap().pop();
        let file = list_of(&lines);
        for number in 0..500 {
            let password = format!("password {number}");
            assert!(is_in_hash_list(file.path(), password.as_bytes()).unwrap());
        }
        assert!(!is_in_hash_list(file.path(), b"another").unwrap());
        let empty = list_of(&[]);
        assert!(!is_in_hash_list(empty.path(), b"another").unwrap());
    }

    #[test]
    fn what_is_no_hash_list_is_an_error_and_not_a_clean_bill() {
        let words = list_of(&vec!["correct horse battery\n".to_owned(); 1000]);
        let one_line = list_of(&["x".repeat(10_000)]);
        let short = list_of(&["5BAA61\n".to_owned()]);
        for file in [&words, &one_line, &short] {
            let looked = is_in_hash_list(file.path(), b"correct horse battery");
            assert!(
                matches!(looked, Err(ListError::NotHashes { .. })),
                "{looked:?}"
            );
        }
        let missing = is_in_hash_list(Path::new("/nowhere/list"), b"x");
        assert!(matches!(missing, Err(ListError::Read { .. })));
    }

    #[test]
    fn a_word_list_knows_whole_lines_in_any_case() {
        let file = list_of(&[
            "letmein\r\n".to_owned(),
            "x".repeat(20_000) + "\n",
            "Correct Horse Battery\n".to_owned(),
            "\u{c4}pfel im Garten".to_owned(),
        ]);
        let found = |password| is_in_word_list(file.path(), password).unwrap();
        assert!(found("LetMeIn") && found("correct horse battery"));
        assert!(found("\u{e4}pfel im garten"));
        assert!(!found("correct horse") && !found("correct horse battery!"));
        assert!(is_in_word_list(Path::new("/nowhere/list"), "x").is_err());
    }
}
