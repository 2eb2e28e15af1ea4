//! Text with a checksum, for aids that stand beside the log: against rot, not against forgers.

const DIGITS: usize = 8;

/// `text` behind its CRC-32 and a line break.
pub(crate) fn seal(text: &[u8]) -> Vec<u8> {
    let mut sealed = format!("{:08x}\n", crc32fast::hash(text)).into_bytes();
    sealed.extend_from_slice(text);
    sealed
}

/// What [`seal`] was given; `None` if it is not that any more.
pub(crate) fn open(sealed: &[u8]) -> Option<&[u8]> {
    let (digits, text) = sealed.split_at_checked(DIGITS)?;
    let text = text.strip_prefix(b"\n")?;
    (format!("{:08x}", crc32fast::hash(text)).as_bytes() == digits).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_opens() {
        let sealed = seal(b"text");
        assert_eq!(open(&sealed), Some(&b"text"[..]));
        for at in 0..sealed.len() {
            assert_eq!(open(&sealed[..at]), None);
            let mut changed = sealed.clone();
            changed[at] ^= 4;
            assert_eq!(open(&changed), None);
        }
    }
}
