//! Lines of a log, read one at a time with bounded memory, and the fields that the chain needs.

use std::{
    borrow::Cow,
    fmt,
    io::{self, BufRead},
};

use serde::{Deserialize, Deserializer, de};

/// Longest line of a log, in bytes, without its newline.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// One line as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Whole, with a newline, which is not part of the text.
    Whole,
    /// Ends with the file.
    Torn,
    /// Too long to be a record; the text holds only its beginning.
    TooLong,
    End,
}

/// Reads the next line into `text`; says how many bytes it took, newline included.
pub(crate) fn read_line(input: &mut dyn BufRead, text: &mut Vec<u8>) -> io::Result<(Found, u64)> {
    text.clear();
    let mut taken = 0;
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            let found = match (taken, text.len()) {
                (0, _) => Found::End,
                (_, length) if length > MAX_LINE => Found::TooLong,
                _ => Found::Torn,
            };
            return Ok((found, taken));
        }
        let newline = memchr::memchr(b'\n', available);
        let part = available
            .get(..newline.unwrap_or(available.len()))
            .unwrap_or_default();
        // One byte more than allowed is kept, as the mark of a line that is too long.
        let room = (MAX_LINE + 1).saturating_sub(text.len());
        text.extend_from_slice(part.get(..room).unwrap_or(part));
        let used = part.len() + usize::from(newline.is_some());
        input.consume(used);
        taken += used as u64;
        if newline.is_some() {
            return Ok((
                if text.len() > MAX_LINE {
                    Found::TooLong
                } else {
                    Found::Whole
                },
                taken,
            ));
        }
    }
}

/// What the chain and the list of open operations need of a record.
#[derive(Debug, Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(deserialize_with = "integer")]
    pub(crate) seq: u64,
    #[serde(borrow)]
    pub(crate) prev: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) event: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) ts: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) boot_id: Cow<'a, str>,
    #[serde(deserialize_with = "integer")]
    pub(crate) mono_ns: u64,
    #[serde(borrow)]
    pub(crate) session_id: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "some_integer")]
    pub(crate) op_id: Option<u64>,
}

/// Reads an integer as the canonical form writes it: a string of digits when it is too large for a JSON number.
pub(crate) fn integer<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    input.deserialize_any(Integer)
}

pub(crate) fn some_integer<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    integer(input).map(Some)
}

struct Integer;

impl de::Visitor<'_> for Integer {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer of 64 bits, as a number or as a string")
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<u64, E> {
        Ok(n)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'a> Envelope<'a> {
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The hash of the line before it, as the record says it.
    pub(crate) fn prev_hash(&self) -> Option<[u8; 32]> {
        let mut hash = [0; 32];
        hex::decode_to_slice(self.prev.as_bytes(), &mut hash).ok()?;
        Some(hash)
    }

    /// Whether the record says that it follows the line with that hash.
    pub(crate) fn follows(&self, hash: &[u8; 32]) -> bool {
        let mut expected = [0; 64];
        hex::encode_to_slice(hash, &mut expected).is_ok() && self.prev.as_bytes() == expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_be_up_for_a_year() {
        let line = br#"{"boot_id":"b","event":"op.intent","mono_ns":"31536000000000000","op_id":"18446744073709551615",
            "prev":"00","seq":1,"ts":"t"}"#;
        let envelope = Envelope::parse(line).unwrap();
        assert_eq!(
            (envelope.mono_ns, envelope.op_id),
            (31_536_000_000_000_000, Some(u64::MAX))
        );
    }

    #[test]
    fn lines_come_whole_torn_or_too_long_whatever_the_buffer_holds() {
        let long = "x".repeat(MAX_LINE + 5);
        let text = format!("one\n\n{long}\n{}\ntorn", &long[..MAX_LINE]);
        for capacity in [1, 7, 1 << 16] {
            let mut input = io::BufReader::with_capacity(capacity, text.as_bytes());
            let mut line = Vec::new();
            let mut next = || {
                let (found, taken) = read_line(&mut input, &mut line).unwrap();
                (found, taken, line.len())
            };
            assert_eq!(next(), (Found::Whole, 4, 3));
            assert_eq!(next(), (Found::Whole, 1, 0));
            assert_eq!(next(), (Found::TooLong, MAX_LINE as u64 + 6, MAX_LINE + 1));
            assert_eq!(next(), (Found::Whole, MAX_LINE as u64 + 1, MAX_LINE));
            assert_eq!(next(), (Found::Torn, 4, 4));
            assert_eq!(next(), (Found::End, 0, 0));
        }
    }
}
