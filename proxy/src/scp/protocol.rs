//! The lines of the scp protocol, as BSD's rcp defined it and scp programs speak it.

use bytes::Bytes;

/// Longest line, in bytes: a name of 255 bytes, or a message.
pub(super) const MAX_LINE: usize = 4096;

/// What the side that sends files says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// `C`: a file, whose bytes follow.
    File { mode: u32, size: u64, name: Bytes },
    /// `D`: what follows lies in this directory, up to `E`.
    Directory { mode: u32, name: Bytes },
    /// `E`
    Up,
    /// `T`: times of the next file or directory, in seconds since 1970.
    Times { modified: u32, accessed: u32 },
    /// It could not send something, and goes on.
    Warning(Bytes),
    /// It gives up.
    Fatal(Bytes),
}

/// Why a line is none of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a line of the unknown kind {0:#04x}")]
    Kind(u8),
    #[error("a line whose numbers can't be read")]
    Number,
    #[error("a name that is empty, ., .., or has a slash or a NUL")]
    Name,
    #[error("a file of more than 2^63 bytes")]
    Size,
    #[error("a line of more than {MAX_LINE} bytes")]
    TooLong,
    #[error("the end of a directory that was not begun")]
    Up,
    #[error("a directory, although -r was not given")]
    NotRecursive,
    #[error("directories more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("{0:#04x} where a file's or a line's acknowledgement belongs")]
    Acknowledgement(u8),
    #[error("the connection ended inside a file or a line")]
    Cut,
}

/// How deep directories go, on either way.
pub(super) const MAX_DEPTH: usize = 64;

/// The name in a line, if it has one.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(line: &Bytes) -> Option<Bytes> {
    match parse(line).ok()? {
        Record::File { name, .. } | Record::Directory { name, .. } => Some(name),
        Record::Up | Record::Times { .. } | Record::Warning(_) | Record::Fatal(_) => None,
    }
}

/// Understands a line, without its newline.
pub(super) fn parse(line: &Bytes) -> Result<Record, Malformed> {
    let (&kind, rest) = line.split_first().ok_or(Malformed::Kind(b'\n'))?;
    match kind {
        1 => Ok(Record::Warning(line.slice(1..))),
        2 => Ok(Record::Fatal(line.slice(1..))),
        b'C' => {
            let (mode, size, name) = entry(line, rest)?;
            Ok(Record::File { mode, size, name })
        }
        b'D' => {
            // The size says nothing.
            let (mode, _, name) = entry(line, rest)?;
            Ok(Record::Directory { mode, name })
        }
        b'E' if rest.is_empty() => Ok(Record::Up),
        b'T' => {
            let mut numbers = rest.split(|&byte| byte == b' ').map(decimal);
            let mut next = || numbers.next().ok_or(Malformed::Number)?;
            let (modified, _, accessed, _) = (next()?, next()?, next()?, next()?);
            if numbers.next().is_some() {
                return Err(Malformed::Number);
            }
            // Version 3 of SFTP has 32 bits for a time.
            Ok(Record::Times {
                modified: u32::try_from(modified).map_err(|_| Malformed::Number)?,
                accessed: u32::try_from(accessed).map_err(|_| Malformed::Number)?,
            })
        }
        other => Err(Malformed::Kind(other)),
    }
}

/// `MODE SIZE NAME`
fn entry(line: &Bytes, rest: &[u8]) -> Result<(u32, u64, Bytes), Malformed> {
    let mut fields = rest.splitn(3, |&byte| byte == b' ');
    let mut next = || fields.next().ok_or(Malformed::Number);
    let (mode, size, name) = (next()?, next()?, next()?);
    if mode.len() != 4 || !mode.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return Err(Malformed::Number);
    }
    let mode = mode
        .iter()
        .fold(0, |mode, digit| mode << 3 | u32::from(digit - b'0'));
    let size = decimal(size)?;
    if size > i64::MAX as u64 {
        return Err(Malformed::Size);
    }
    let is_plain = !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0);
    if !is_plain {
        return Err(Malformed::Name);
    }
    Ok((mode, size, line.slice_ref(name)))
}

fn decimal(digits: &[u8]) -> Result<u64, Malformed> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Number);
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(Malformed::Number)
}

/// A `C` or `D` line. A newline in the name would begin another line; it is sent as OpenSSH does.
pub(super) fn entry_line(kind: u8, mode: u32, size: u64, name: &[u8]) -> Vec<u8> {
    let mut line = format!("{}{:04o} {size} ", char::from(kind), mode & 0o7777).into_bytes();
    for &byte in name {
        if byte == b'\n' {
            line.extend(b"\\^J");
        } else {
            line.push(byte);
        }
    }
    line.push(b'\n');
    line
}

/// A `T` line.
pub(super) fn times_line(modified: u32, accessed: u32) -> Vec<u8> {
    format!("T{modified} 0 {accessed} 0\n").into_bytes()
}

/// A message that the other side shows; it goes on with the next file.
pub(super) fn warning(about: &[u8], why: &str) -> Vec<u8> {
    message(1, about, why)
}

/// A message after which this side ends.
pub(super) fn fatal(why: &str) -> Vec<u8> {
    message(2, b"", why)
}

fn message(kind: u8, about: &[u8], why: &str) -> Vec<u8> {
    let mut line = vec![kind];
    line.extend(b"scp: ");
    // A name comes from the other side or from a server: its control characters are not for a terminal.
    line.extend(
        about
            .iter()
            .map(|&byte| if byte.is_ascii_control() { b'?' } else { byte }),
    );
    if !about.is_empty() {
        line.extend(b": ");
    }
    line.extend(why.as_bytes());
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(line: &str) -> Result<Record, Malformed> {
        parse(&Bytes::copy_from_slice(line.as_bytes()))
    }

    #[test]
    fn lines_are_what_the_protocol_says() {
        let file = |name: &str| Record::File {
            mode: 0o644,
            size: 12,
            name: Bytes::copy_from_slice(name.as_bytes()),
        };
        assert_eq!(parsed("C0644 12 a"), Ok(file("a")));
        assert_eq!(parsed("C0644 12 a b  c"), Ok(file("a b  c")));
        assert_eq!(parsed("C0644 12 ..."), Ok(file("...")));
        assert_eq!(
            parsed("D2755 0 d"),
            Ok(Record::Directory {
                mode: 0o2755,
                name: "d".into()
            })
        );
        assert_eq!(parsed("E"), Ok(Record::Up));
        assert_eq!(
            parsed("T1700000000 0 1600000000 5"),
            Ok(Record::Times {
                modified: 1_700_000_000,
                accessed: 1_600_000_000
            })
        );
        assert_eq!(parsed("\x01oops"), Ok(Record::Warning("oops".into())));
        assert_eq!(parsed("\x02oops"), Ok(Record::Fatal("oops".into())));
    }

    #[test]
    fn names_that_lead_elsewhere_and_numbers_that_are_none_are_refused() {
        for name in ["", ".", "..", "a/b", "/", "../a", "a\0b"] {
            assert_eq!(
                parsed(&format!("C0644 12 {name}")),
                Err(Malformed::Name),
                "{name:?}"
            );
            assert_eq!(
                parsed(&format!("D0755 0 {name}")),
                Err(Malformed::Name),
                "{name:?}"
            );
        }
        for (line, why) in [
            ("", Malformed::Kind(b'\n')),
            ("X", Malformed::Kind(b'X')),
            ("E ", Malformed::Kind(b'E')),
            ("C", Malformed::Number),
            ("C0644", Malformed::Number),
            ("C0644 12", Malformed::Number),
            ("C644 12 a", Malformed::Number),
            ("C0648 12 a", Malformed::Number),
            ("C00644 12 a", Malformed::Number),
            ("C0644 -1 a", Malformed::Number),
            ("C0644 +1 a", Malformed::Number),
            ("C0644  1 a", Malformed::Number),
            ("C0644 99999999999999999999 a", Malformed::Number),
            ("C0644 9223372036854775808 a", Malformed::Size),
            ("T1 0 2", Malformed::Number),
            ("T1 0 2 0 3", Malformed::Number),
            ("T-1 0 2 0", Malformed::Number),
            ("T4294967296 0 0 0", Malformed::Number),
        ] {
            assert_eq!(parsed(line), Err(why), "{line:?}");
        }
    }

    #[test]
    fn what_is_sent_is_one_line_whatever_the_name() {
        assert_eq!(
            entry_line(b'C', 0o100_644, 5, b"a\nC0777 1 b"),
            b"C0644 5 a\\^JC0777 1 b\n"
        );
        assert_eq!(
            warning(b"a\n\x1b[2J", "Permission denied"),
            b"\x01scp: a??[2J: Permission denied\n"
        );
        assert_eq!(times_line(5, 6), b"T5 0 6 0\n");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_record_or_refused(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(Record::File { name, .. } | Record::Directory { name, .. }) = parse(&line.into()) {
                prop_assert!(!name.contains(&b'/') && &name[..] != b"..");
            }
        }
    }
}
