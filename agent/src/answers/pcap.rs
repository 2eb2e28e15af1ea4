//! Capture files that tcpdump and Wireshark read: the pcap format with nanoseconds
//! (draft-ietf-opsawg-pcap), in the byte order of this machine.

use std::io::{self, Write};

use chrono::{DateTime, Utc};

/// Says the byte order, and that fractions of seconds are nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;

/// Writes packets into a capture.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Begins a capture of packets of which at most `snaplen` bytes are kept.
    ///
    /// # Errors
    /// If the output fails.
    pub fn new(mut output: W, snaplen: u32) -> io::Result<Self> {
        let (major, minor) = VERSION;
        output.write_all(&MAGIC.to_ne_bytes())?;
        output.write_all(&major.to_ne_bytes())?;
        output.write_all(&minor.to_ne_bytes())?;
        // Two reserved fields.
        output.write_all(&[0; 8])?;
        output.write_all(&snaplen.to_ne_bytes())?;
        output.write_all(&ETHERNET.to_ne_bytes())?;
        output.flush()?;
        Ok(Self { output })
    }

    /// Adds a packet of `length` bytes that begins with `head`, and lets it reach the file.
    ///
    /// # Errors
    /// If the output fails.
    pub fn packet(&mut self, time: DateTime<Utc>, head: &[u8], length: u32) -> io::Result<()> {
        // The format ends in 2106.
        let seconds = u32::try_from(time.timestamp()).unwrap_or(u32::MAX);
        // A leap second counts on beyond a thousand million.
        let nanoseconds = time.timestamp_subsec_nanos().min(999_999_999);
        let captured = u32::try_from(head.len()).unwrap_or(u32::MAX);
        let mut record = Vec::with_capacity(16 + head.len());
        for word in [seconds, nanoseconds, captured, length.max(captured)] {
            record.extend(word.to_ne_bytes());
        }
        record.extend(head);
        self.output.write_all(&record)?;
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a capture of this machine's byte order.
    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn a_capture_has_the_format_s_fields_and_the_packet() {
        let time = DateTime::from_timestamp(1_800_000_000, 123_456_789).unwrap();
        let mut capture = Vec::new();
        let mut writer = Writer::new(&mut capture, 96).unwrap();
        writer.packet(time, b"head", 1500).unwrap();
        assert_eq!(
            words(&capture[..24]),
            [0xa1b2_3c4d, words(&[2, 0, 4, 0])[0], 0, 0, 96, 1]
        );
        assert_eq!(
            words(&capture[24..40]),
            [1_800_000_000, 123_456_789, 4, 1500]
        );
        assert_eq!(&capture[40..], b"head");
    }

    #[test]
    fn a_packet_is_never_shorter_than_what_was_captured_of_it() {
        let mut capture = Vec::new();
        let mut writer = Writer::new(&mut capture, 96).unwrap();
        writer.packet(DateTime::UNIX_EPOCH, b"head", 3).unwrap();
        assert_eq!(words(&capture[24..40]), [0, 0, 4, 4]);
    }
}
