//! Fields of a line that are found without reading it as JSON.
//!
//! In the canonical form a key of the envelope follows the body, and no text can hold an unescaped quote: the last place where
//! a key stands with its quotes is that of the envelope.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// A key of the envelope, with what stands before its value.
pub(crate) struct Key(LazyLock<Finder<'static>>);

pub(crate) static EVENT: Key = Key(LazyLock::new(|| Finder::new("\"event\":\"")));
pub(crate) static SESSION: Key = Key(LazyLock::new(|| Finder::new("\"session_id\":\"")));
pub(crate) static OUTCOME: Key = Key(LazyLock::new(|| Finder::new("\"outcome\":\"")));
/// Of an intent, in the body: there is no other of its name.
pub(crate) static OPERATION: Key = Key(LazyLock::new(|| Finder::new("\"sftp_op\":\"")));
pub(crate) static TIME: Key = Key(LazyLock::new(|| Finder::new("\"ts\":\"")));

impl Key {
    /// The text up to the next quote. Keys are asked for whose values need no escapes.
    pub(crate) fn of<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let at = self.0.find_iter(line).last()? + self.0.needle().len();
        let rest = line.get(at..)?;
        rest.get(..memchr::memchr(b'"', rest)?)
    }
}

/// A text that a line has or has not.
pub(crate) struct Mark(LazyLock<Finder<'static>>);

/// Of an intent that opens a file or a directory.
pub(crate) static OPENING: Mark = Mark(LazyLock::new(|| Finder::new("\"sftp_op\":\"open")));

/// Of an operation that gives a file another name.
pub(crate) static RENAME: Mark = Mark(LazyLock::new(|| Finder::new("rename\"")));

impl Mark {
    pub(crate) fn is_in(&self, line: &[u8]) -> bool {
        self.0.find(line).is_some()
    }
}

/// The number of the record.
pub(crate) fn seq(line: &[u8]) -> Option<u64> {
    static SEQ: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(",\"seq\":"));
    let at = SEQ.find_iter(line).last()? + SEQ.needle().len();
    let rest = line.get(at..)?;
    // A large one stands in quotes.
    let rest = rest.strip_prefix(b"\"").unwrap_or(rest);
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

/// The session's number.
pub(crate) fn session(line: &[u8]) -> Option<u128> {
    session_number(std::str::from_utf8(SESSION.of(line)?).ok()?)
}

/// 32 hexadecimal digits as a number.
pub(crate) fn session_number(digits: &str) -> Option<u128> {
    u128::from_str_radix(digits, 16).ok()
}

/// `text` as it stands within quotes in the canonical form.
pub(crate) fn escaped(text: &str) -> Vec<u8> {
    let mut quoted = serde_json::to_vec(text).unwrap_or_default();
    quoted.pop();
    quoted.drain(..quoted.len().min(1));
    quoted
}
