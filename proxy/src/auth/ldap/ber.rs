//! The part of BER that LDAP uses (RFC 4511 section 5.1): tags of one byte, definite lengths.
//!
//! The reader takes slices out of what is there and follows no nesting by itself, so that a peer can make it neither
//! allocate nor recurse.

use zeroize::Zeroizing;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

const CONSTRUCTED: u8 = 0x20;

/// `[APPLICATION number]` of a structure.
pub(super) const fn application(number: u8) -> u8 {
    0x40 | CONSTRUCTED | number
}

/// `[number]` of a structure.
pub(super) const fn context(number: u8) -> u8 {
    0x80 | CONSTRUCTED | number
}

/// `[number]` of plain bytes.
pub(super) const fn context_primitive(number: u8) -> u8 {
    0x80 | number
}

/// The bytes are no BER of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not BER as LDAP uses it")]
pub(super) struct Malformed;

/// Writes elements one after the other.
#[derive(Default)]
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(super) fn bytes(&mut self, tag: u8, value: &[u8]) {
        self.0.push(tag);
        let length = value.len();
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => self.0.push(short),
            _ => {
                let digits = length.to_be_bytes();
                let zeros = digits.iter().take_while(|&&digit| digit == 0).count();
                let digits = digits.get(zeros..).unwrap_or_default();
                // At most eight digits.
                self.0
                    .push(0x80 | u8::try_from(digits.len()).unwrap_or(0x7f));
                self.0.extend_from_slice(digits);
            }
        }
        self.0.extend_from_slice(value);
    }

    pub(super) fn text(&mut self, value: &str) {
        self.bytes(OCTET_STRING, value.as_bytes());
    }

    /// A number that is not negative.
    pub(super) fn number(&mut self, tag: u8, value: u32) {
        let digits = value.to_be_bytes();
        // The first bit is the sign; a leading zero stays where it is set.
        let zeros = digits.iter().take(3).take_while(|&&digit| digit == 0);
        let zeros = zeros.count();
        let needs_sign = digits.get(zeros).is_some_and(|&digit| digit & 0x80 != 0);
        if needs_sign && zeros == 0 {
            let mut signed = vec![0];
            signed.extend(digits);
            self.bytes(tag, &signed);
        } else {
            let from = zeros - usize::from(needs_sign);
            self.bytes(tag, digits.get(from..).unwrap_or_default());
        }
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.bytes(BOOLEAN, &[if value { 0xff } else { 0 }]);
    }

    /// A structure of what `content` writes.
    pub(super) fn structure(&mut self, tag: u8, content: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        content(&mut inner);
        self.bytes(tag, &inner.0);
    }

    pub(super) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Reads elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element: its tag and its content.
    pub(super) fn element(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (header, length) = header(self.0)?.ok_or(Malformed)?;
        let tag = *self.0.first().ok_or(Malformed)?;
        let end = header.checked_add(length).ok_or(Malformed)?;
        let content = self.0.get(header..end).ok_or(Malformed)?;
        self.0 = self.0.get(end..).ok_or(Malformed)?;
        Ok((tag, content))
    }

    pub(super) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        let (found, content) = self.element()?;
        if found == tag {
            Ok(content)
        } else {
            Err(Malformed)
        }
    }

    /// A number that is not negative and fits.
    pub(super) fn number(&mut self, tag: u8) -> Result<u32, Malformed> {
        let digits = self.expect(tag)?;
        if digits.is_empty() || digits.len() > 5 {
            return Err(Malformed);
        }
        let value = digits
            .iter()
            .fold(0_u64, |value, &digit| value << 8 | u64::from(digit));
        u32::try_from(value).map_err(|_| Malformed)
    }
}

/// How long the header and the content of the element at the start of `bytes` are; `None` if the header is not there
/// as a whole.
pub(super) fn header(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let Some((&[tag, first], rest)) = bytes.split_first_chunk::<2>() else {
        return Ok(None);
    };
    if tag & 0x1f == 0x1f {
        return Err(Malformed);
    }
    if first < 0x80 {
        return Ok(Some((2, usize::from(first))));
    }
    // 0x80 is the indefinite form; more than four digits are no length that is ever taken.
    let digits = usize::from(first & 0x7f);
    if !(1..=4).contains(&digits) {
        return Err(Malformed);
    }
    let Some(digits) = rest.get(..digits) else {
        return Ok(None);
    };
    let length = digits
        .iter()
        .fold(0_usize, |length, &digit| length << 8 | usize::from(digit));
    Ok(Some((2 + digits.len(), length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_numbers_are_written_as_x690_says_and_read_back() {
        for (length, header_bytes) in [(0, 2), (127, 2), (128, 3), (255, 3), (256, 4), (70_000, 5)]
        {
            let mut writer = Writer::default();
            writer.bytes(OCTET_STRING, &vec![7; length]);
            let bytes = writer.into_bytes();
            assert_eq!(bytes.len(), header_bytes + length);
            assert_eq!(
                Reader::new(&bytes).expect(OCTET_STRING).unwrap().len(),
                length
            );
        }
        for (number, bytes) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 127]),
            (128, &[2, 2, 0, 128]),
            (256, &[2, 2, 1, 0]),
            (0x7fff_ffff, &[2, 4, 0x7f, 0xff, 0xff, 0xff]),
            (u32::MAX, &[2, 5, 0, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let mut writer = Writer::default();
            writer.number(INTEGER, number);
            let written = writer.into_bytes();
            assert_eq!(&**written, bytes);
            assert_eq!(Reader::new(&written).number(INTEGER), Ok(number));
        }
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 0x01],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x1f, 0x01, 0x00],
        ] {
            assert_eq!(Reader::new(bytes).element(), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(
            Reader::new(&[2, 6, 0, 0, 0, 0, 0, 1]).number(INTEGER),
            Err(Malformed)
        );
    }
}
