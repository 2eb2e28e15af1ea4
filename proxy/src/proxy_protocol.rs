//! The PROXY protocol, versions 1 and 2: what a load balancer says of the client before the client's first byte
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Pure: bytes in, a header or what is wrong with it out. Nothing is read beyond the header.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// Section 2.1: the longest line of version 1, its end included.
pub const LINE_MAX: usize = 107;
/// Longest part of a version 2 header behind its first 16 bytes: addresses and any TLV that is in use, a client
/// certificate's name included. The protocol would allow 65,535.
pub const BODY_MAX: usize = 4096;

/// Section 2.2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;
const LINE_START: &[u8] = b"PROXY ";
/// Section 2.2.3.
const TYPE_CRC32C: u8 = 0x03;

/// What a whole header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The connection is forwarded for this client.
    Proxied {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// The peer speaks for itself (a health check), or does not know for whom.
    Local,
}

/// How far the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// So many more bytes can be read without reading beyond the header; at least 1.
    Needs(usize),
    Complete(Header),
}

/// Why the bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("the line of the PROXY header is not as version 1 has it")]
    Line,
    #[error("version or command of the PROXY header is unknown")]
    Command,
    #[error("the PROXY header is longer than {BODY_MAX} bytes")]
    TooLong,
    #[error("the addresses of the PROXY header are cut off or of no TCP connection")]
    Addresses,
    #[error("an extension of the PROXY header is cut off")]
    Extensions,
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
}

impl HeaderError {
    /// The code in records and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "proxy_header_missing",
            Self::Line
            | Self::Command
            | Self::TooLong
            | Self::Addresses
            | Self::Extensions
            | Self::Checksum => "proxy_header_invalid",
        }
    }
}

/// Looks at the first bytes of a connection, from its very first on.
///
/// # Errors
/// As soon as no further byte can make a header of them.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted);
    if begins(LINE_START) && !bytes.is_empty() {
        line(bytes)
    } else if begins(&SIGNATURE) {
        binary(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return match bytes.len() {
            // Where the line ends is only known once it has: byte by byte.
            length if length < LINE_START.len() => Ok(Parsed::Needs(LINE_START.len() - length)),
            length if length < LINE_MAX => Ok(Parsed::Needs(1)),
            _ => Err(HeaderError::Line),
        };
    };
    let text = bytes
        .get(LINE_START.len()..end)
        .and_then(|line| line.strip_suffix(b"\r"))
        .and_then(|line| str::from_utf8(line).ok())
        .ok_or(HeaderError::Line)?;
    let mut words = text.split(' ');
    let header = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => Header::Local,
        Some("TCP4") => addresses::<Ipv4Addr>(words).ok_or(HeaderError::Line)?,
        Some("TCP6") => addresses::<Ipv6Addr>(words).ok_or(HeaderError::Line)?,
        _ => return Err(HeaderError::Line),
    };
    Ok(Parsed::Complete(header))
}

/// Both addresses, both ports, and nothing else.
fn addresses<'a, A: FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Option<Header> {
    let mut address = || Some(words.next()?.parse::<A>().ok()?.into());
    let (source, destination) = (address()?, address()?);
    let mut port = || {
        let word = words.next()?;
        let is_canonical = word == "0" || !word.starts_with(['0', '+']);
        word.parse::<u16>().ok().filter(|_| is_canonical)
    };
    let (source_port, destination_port) = (port()?, port()?);
    words.next().is_none().then_some(Header::Proxied {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let Some(&[command, family, high, low]) = bytes
        .get(SIGNATURE.len()..)
        .and_then(|rest| rest.first_chunk::<4>())
    else {
        // The shortest line of version 1 is shorter than this header: at first only what tells them apart.
        let known = if bytes.len() < SIGNATURE.len() {
            SIGNATURE.len()
        } else {
            FIXED
        };
        return Ok(Parsed::Needs(known - bytes.len()));
    };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Command),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > BODY_MAX {
        return Err(HeaderError::TooLong);
    }
    let whole = FIXED + length;
    let Some(header) = bytes.get(..whole) else {
        return Ok(Parsed::Needs(whole - bytes.len()));
    };
    let body = header.get(FIXED..).unwrap_or_default();
    let (said, extensions) = match family {
        // AF_UNSPEC: no addresses, whatever the bytes are.
        0x00 => (Header::Local, &[][..]),
        0x11 => split::<4, 12>(body, |address| IpAddr::from(*address))?,
        0x21 => split::<16, 36>(body, |address| IpAddr::from(*address))?,
        // Of a local connection everything is to be skipped.
        _ if is_local => (Header::Local, &[][..]),
        _ => return Err(HeaderError::Addresses),
    };
    if is_local {
        return Ok(Parsed::Complete(Header::Local));
    }
    check(header, extensions)?;
    Ok(Parsed::Complete(said))
}

/// Two addresses of `A` bytes and two ports, `ALL` bytes together, and the extensions behind them.
fn split<const A: usize, const ALL: usize>(
    body: &[u8],
    address: impl Fn(&[u8; A]) -> IpAddr,
) -> Result<(Header, &[u8]), HeaderError> {
    let read = || {
        let (fixed, extensions) = body.split_first_chunk::<ALL>()?;
        let (source, rest) = fixed.split_first_chunk::<A>()?;
        let (destination, ports) = rest.split_first_chunk::<A>()?;
        let &[a, b, c, d] = ports.first_chunk::<4>()?;
        let header = Header::Proxied {
            source: SocketAddr::new(address(source), u16::from_be_bytes([a, b])),
            destination: SocketAddr::new(address(destination), u16::from_be_bytes([c, d])),
        };
        Some((header, extensions))
    };
    read().ok_or(HeaderError::Addresses)
}

/// Walks the extensions; of those the checksum alone is looked at.
fn check(header: &[u8], mut extensions: &[u8]) -> Result<(), HeaderError> {
    while !extensions.is_empty() {
        let (&[kind, high, low], rest) = extensions
            .split_first_chunk::<3>()
            .ok_or(HeaderError::Extensions)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = rest.get(..length).ok_or(HeaderError::Extensions)?;
        if kind == TYPE_CRC32C {
            let wanted = <[u8; 4]>::try_from(value).map_err(|_| HeaderError::Checksum)?;
            // Over the whole header with zeros in the checksum's place.
            let at = header.len() - rest.len();
            let before = header.get(..at).unwrap_or_default();
            let after = rest.get(length..).unwrap_or_default();
            let sum = crc32c(before.iter().chain(&[0; 4]).chain(after));
            if sum != u32::from_be_bytes(wanted) {
                return Err(HeaderError::Checksum);
            }
        }
        extensions = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}

/// RFC 3720 section 12.1, bit by bit: a header has some hundred bytes.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(sum & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxied(source: &str, destination: &str) -> Header {
        Header::Proxied {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// A version 2 header, its length filled in.
    fn binary_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 22];

    fn v6() -> Vec<u8> {
        let mut body = Vec::new();
        for address in ["2001:db8::7", "2001:db8::1"] {
            body.extend(address.parse::<Ipv6Addr>().unwrap().octets());
        }
        body.extend([0x9c, 0x40, 0, 22]);
        body
    }

    fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value);
        bytes
    }

    /// With a right checksum between two other extensions.
    fn with_checksum() -> Vec<u8> {
        let mut body = V4.to_vec();
        body.extend(extension(0x04, b"padding"));
        let at = FIXED + body.len() + 3;
        body.extend(extension(TYPE_CRC32C, &[0; 4]));
        body.extend(extension(0x02, b"gateway.example.org"));
        let mut header = binary_header(0x21, 0x11, &body);
        let sum = crc32c(header.iter());
        header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn complete(bytes: &[u8]) -> Header {
        match parse(bytes) {
            Ok(Parsed::Complete(header)) => header,
            other => panic!("{other:?} of {bytes:?}"),
        }
    }

    fn good() -> Vec<(Vec<u8>, Header)> {
        let v4 = proxied("192.0.2.7:40000", "198.51.100.1:22");
        let v6_header = proxied("[2001:db8::7]:40000", "[2001:db8::1]:22");
        vec![
            (
                b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 22\r\n".to_vec(),
                v4,
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 22\r\n".to_vec(),
                v6_header,
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Local),
            (
                b"PROXY UNKNOWN ffff::1 anything 1 2\r\n".to_vec(),
                Header::Local,
            ),
            (binary_header(0x21, 0x11, &V4), v4),
            (binary_header(0x21, 0x21, &v6()), v6_header),
            (with_checksum(), v4),
            (binary_header(0x20, 0x00, &[]), Header::Local),
            (binary_header(0x20, 0x11, &V4), Header::Local),
            (binary_header(0x21, 0x00, b"ignored"), Header::Local),
        ]
    }

    #[test]
    fn a_header_of_each_kind_is_read_and_nothing_behind_it() {
        for (header, said) in good() {
            assert_eq!(complete(&header), said);
            let mut read = Vec::new();
            let mut stream = header.iter().copied().chain(*b"SSH-2.0-x\r\n");
            while let Parsed::Needs(more) = parse(&read).unwrap() {
                assert!(more > 0);
                read.extend(stream.by_ref().take(more));
            }
            assert_eq!(read, header, "read too much or too little");
        }
    }

    #[test]
    fn no_cut_header_is_whole() {
        for (header, _) in good() {
            for end in 0..header.len() {
                assert!(
                    matches!(parse(&header[..end]), Ok(Parsed::Needs(_))),
                    "{end}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_the_first_byte_that_differs() {
        for (bytes, error) in [
            (&b"S"[..], HeaderError::Missing),
            (b"PROXy", HeaderError::Missing),
            (b"\r\n\r\n\0\r\nQUIT\r", HeaderError::Missing),
            (b"p", HeaderError::Missing),
        ] {
            assert_eq!(parse(bytes), Err(error));
            assert!(parse(&bytes[..bytes.len() - 1]).is_ok());
        }
    }

    #[test]
    fn a_line_that_is_not_quite_right_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000 22\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000 22 \r\n",
            "PROXY TCP4 192.0.2.7  198.51.100.1 40000 22\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 22\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 22\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 22\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 1 22\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 22\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 22\r\n",
            "PROXY TCP6 fe80::1%eth0 fe80::2 1 22\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 22\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(HeaderError::Line), "{line:?}");
        }
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; LINE_MAX]].concat();
        assert!(parse(&endless[..LINE_MAX - 1]).is_ok());
        assert_eq!(parse(&endless[..LINE_MAX]), Err(HeaderError::Line));
    }

    #[test]
    fn a_binary_header_that_is_not_quite_right_is_refused() {
        for (header, error) in [
            (binary_header(0x11, 0x11, &V4), HeaderError::Command),
            (binary_header(0x22, 0x11, &V4), HeaderError::Command),
            (binary_header(0x21, 0x12, &V4), HeaderError::Addresses),
            (binary_header(0x21, 0x31, &[0; 216]), HeaderError::Addresses),
            (binary_header(0x21, 0x11, &V4[..11]), HeaderError::Addresses),
            (binary_header(0x21, 0x21, &V4), HeaderError::Addresses),
            (
                binary_header(0x21, 0x11, &[0; BODY_MAX + 1]),
                HeaderError::TooLong,
            ),
            (
                binary_header(0x21, 0x11, &[&V4[..], &[4, 0]].concat()),
                HeaderError::Extensions,
            ),
            (
                binary_header(0x21, 0x11, &[&V4[..], &[4, 0, 1]].concat()),
                HeaderError::Extensions,
            ),
            (
                binary_header(0x21, 0x11, &[&V4[..], &[3, 0, 1, 0]].concat()),
                HeaderError::Checksum,
            ),
        ] {
            assert_eq!(parse(&header), Err(error));
        }
    }

    #[test]
    fn any_flipped_bit_is_found_by_the_checksum_or_before() {
        let header = with_checksum();
        for bit in 0..header.len() * 8 {
            let mut flipped = header.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let is_taken = matches!(
                parse(&flipped),
                Ok(Parsed::Complete(Header::Proxied { .. }))
            );
            // Without its type the checksum is an extension as any other.
            let is_type = bit / 8 == FIXED + V4.len() + 3 + b"padding".len();
            assert!(!is_taken || is_type, "bit {bit}");
        }
    }

    #[test]
    fn the_checksum_is_the_one_of_the_rfc() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c([0_u8; 32].iter()), 0x8a91_36aa);
        assert_eq!(crc32c([0xff_u8; 32].iter()), 0x62a8_ab43);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_no_panic_and_asks_for_bounded_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0..3) {
            let start: &[u8] = match version {
                0 => b"",
                1 => b"PROXY TCP4 ",
                _ => &SIGNATURE,
            };
            let bytes = [start, &bytes].concat();
            if let Ok(Parsed::Needs(more)) = parse(&bytes) {
                prop_assert!(more > 0 && bytes.len() + more <= FIXED + BODY_MAX);
            }
        }
    }
}
