//! Fields of a line that are found without reading it as JSON.
//!
//! In the canonical form a key of the envelope follows the body, and no text can hold an unescaped quote: the last place where
//! a key stands with its quotes is that of the envelope.

use std::sync::LazyLock;

use memchr::memmem::FinderRev;

/// A field whose value is a text that needs no escapes.
pub(super) struct Field(LazyLock<FinderRev<'static>>);

static EVENT: Field = Field(LazyLock::new(|| FinderRev::new("\"event\":\"")));
static SESSION: Field = Field(LazyLock::new(|| FinderRev::new("\"session_id\":\"")));

impl Field {
    pub(super) const EVENT: &Self = &EVENT;
    pub(super) const SESSION: &Self = &SESSION;

    /// The text up to the next quote.
    pub(super) fn of<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let at = self.0.rfind(line)? + self.0.needle().len();
        let rest = line.get(at..)?;
        rest.get(..memchr::memchr(b'"', rest)?)
    }
}
