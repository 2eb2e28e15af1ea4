//! Learns the negotiated algorithms from the two KEXINIT packets that begin a connection in clear (RFC 4253
//! section 7.1), since the library does not tell a server.

use std::sync::{Arc, OnceLock};

use crate::cipher_policy::{is_authenticated_cipher, is_post_quantum};

/// Longest packet of which a peer may expect that it is read (RFC 4253 section 6.1).
const LONGEST_PACKET: usize = 35_000;
/// Longest identification line, and the most lines before it, that the tap waits for.
const LONGEST_IDENTIFICATION: usize = 8 * 1024;

const MESSAGE_IGNORE: u8 = 2;
const MESSAGE_UNIMPLEMENTED: u8 = 3;
const MESSAGE_DEBUG: u8 = 4;
const MESSAGE_KEXINIT: u8 = 20;
/// A client that says so resets its sequence numbers and refuses stray messages (the answer to CVE-2023-48795).
const STRICT_KEY_EXCHANGE: &str = "kex-strict-c-v00@openssh.com";

/// What both sides settled on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Negotiated {
    pub(super) key_exchange: String,
    pub(super) host_key: String,
    /// From client to server; the presets have the same list in both directions.
    pub(super) cipher: String,
    /// `None` with a cipher that authenticates by itself.
    pub(super) mac: Option<String>,
    pub(super) is_strict: bool,
}

impl Negotiated {
    /// True if recorded traffic stays secret from a later quantum computer.
    pub(super) fn is_post_quantum(&self) -> bool {
        is_post_quantum(&self.key_exchange)
    }
}

/// A list in which both sides have nothing in common, so that the connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disagreement {
    /// Of which algorithms, as records name them.
    pub(super) about: &'static str,
    /// What the client has; any text.
    pub(super) offered: Vec<String>,
}

/// What the tap saw so far.
#[derive(Debug, Default)]
pub(super) struct Observed {
    client_version: OnceLock<Vec<u8>>,
    outcome: OnceLock<Result<Negotiated, Disagreement>>,
}

impl Observed {
    /// The client's identification, without the line's end (RFC 4253 section 4.2); any bytes.
    pub(super) fn client_version(&self) -> Option<&[u8]> {
        self.client_version.get().map(Vec::as_slice)
    }

    /// There once both KEXINIT packets went by, if the two agreed.
    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        self.outcome.get()?.as_ref().ok()
    }

    /// There once both KEXINIT packets went by, if they did not.
    pub(super) fn disagreement(&self) -> Option<&Disagreement> {
        self.outcome.get()?.as_ref().err()
    }
}

/// Watches both directions of a connection until the two packets went by.
#[derive(Debug, Default)]
pub(super) struct Tap {
    client: Direction,
    server: Direction,
    observed: Arc<Observed>,
}

/// The name-lists of a KEXINIT that matter here.
#[derive(Debug, Clone)]
struct Proposal {
    key_exchanges: Vec<String>,
    host_keys: Vec<String>,
    ciphers: Vec<String>,
    macs: Vec<String>,
}

#[derive(Debug)]
enum Direction {
    Identification(Vec<u8>),
    Packets(Vec<u8>),
    Found(Proposal),
    /// Something that is not SSH, or too long; the library will end the connection.
    GivenUp,
}

impl Default for Direction {
    fn default() -> Self {
        Self::Identification(Vec::new())
    }
}

impl Tap {
    /// Where what is seen appears.
    pub(super) fn observed(&self) -> Arc<Observed> {
        Arc::clone(&self.observed)
    }

    /// Bytes that came from the client. Returns false once there is nothing more to watch for.
    pub(super) fn received(&mut self, bytes: &[u8]) -> bool {
        if let Some(version) = self.client.feed(bytes) {
            let _ = self.observed.client_version.set(version);
        }
        self.settle()
    }

    /// Bytes that go to the client. Returns false once there is nothing more to watch for.
    pub(super) fn sent(&mut self, bytes: &[u8]) -> bool {
        self.server.feed(bytes);
        self.settle()
    }

    fn settle(&mut self) -> bool {
        match (&self.client, &self.server) {
            (Direction::Found(client), Direction::Found(server)) => {
                let _ = self.observed.outcome.set(negotiate(client, server));
                false
            }
            (Direction::GivenUp, _) | (_, Direction::GivenUp) => false,
            (
                Direction::Identification(_) | Direction::Packets(_) | Direction::Found(_),
                Direction::Identification(_) | Direction::Packets(_) | Direction::Found(_),
            ) => true,
        }
    }
}

/// RFC 4253 section 7.1: the client's first choice that the server has, list by list.
fn negotiate(client: &Proposal, server: &Proposal) -> Result<Negotiated, Disagreement> {
    let first = |about: &'static str, client: &[String], server: &[String]| {
        let common = client.iter().find(|name| server.contains(name));
        common.cloned().ok_or_else(|| Disagreement {
            about,
            offered: client.to_vec(),
        })
    };
    let key_exchange = first("kex", &client.key_exchanges, &server.key_exchanges)?;
    let host_key = first("hostkey", &client.host_keys, &server.host_keys)?;
    let cipher = first("cipher", &client.ciphers, &server.ciphers)?;
    let mac = if is_authenticated_cipher(&cipher) {
        None
    } else {
        Some(first("mac", &client.macs, &server.macs)?)
    };
    Ok(Negotiated {
        key_exchange,
        host_key,
        cipher,
        mac,
        is_strict: client
            .key_exchanges
            .iter()
            .any(|name| name == STRICT_KEY_EXCHANGE),
    })
}

impl Direction {
    /// Returns the peer's identification when it is complete.
    fn feed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Found(_) | Self::GivenUp => return None,
            Self::Identification(buffer) | Self::Packets(buffer) => {
                buffer.extend_from_slice(bytes);
            }
        }
        let identification = self.take_identification();
        self.find_proposal();
        identification
    }

    /// RFC 4253 section 4.2: lines may come before the one that begins with `SSH-`.
    fn take_identification(&mut self) -> Option<Vec<u8>> {
        let Self::Identification(buffer) = self else {
            return None;
        };
        let mut start = 0;
        while let Some(length) = buffer
            .get(start..)
            .and_then(|rest| rest.iter().position(|&byte| byte == b'\n'))
        {
            let end = start + length + 1;
            let line = buffer.get(start..end).unwrap_or_default().trim_ascii_end();
            if line.starts_with(b"SSH-") {
                let identification = line.to_vec();
                *self = Self::Packets(buffer.split_off(end));
                return Some(identification);
            }
            start = end;
        }
        if buffer.len() > LONGEST_IDENTIFICATION {
            *self = Self::GivenUp;
        }
        None
    }

    fn find_proposal(&mut self) {
        let Self::Packets(buffer) = self else {
            return;
        };
        loop {
            let mut reader = Reader(buffer);
            let Some(length) = reader.number() else {
                return;
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if !(2..=LONGEST_PACKET).contains(&length) {
                *self = Self::GivenUp;
                return;
            }
            let Some(packet) = reader.take(length) else {
                return;
            };
            // Padding length, message number, message; the padding behind is not looked at.
            match packet.get(1).copied() {
                Some(MESSAGE_KEXINIT) => {
                    *self = Proposal::parse(packet.get(2..).unwrap_or_default())
                        .map_or(Self::GivenUp, Self::Found);
                    return;
                }
                Some(MESSAGE_IGNORE | MESSAGE_UNIMPLEMENTED | MESSAGE_DEBUG) => {
                    buffer.drain(..4 + length);
                }
                Some(_) | None => {
                    *self = Self::GivenUp;
                    return;
                }
            }
        }
    }
}

impl Proposal {
    fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.take(16)?;
        let key_exchanges = reader.names()?;
        let host_keys = reader.names()?;
        let ciphers = reader.names()?;
        reader.names()?;
        let macs = reader.names()?;
        Some(Self {
            key_exchanges,
            host_keys,
            ciphers,
            macs,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn names(&mut self) -> Option<Vec<String>> {
        let length = usize::try_from(self.number()?).ok()?;
        let list = String::from_utf8_lossy(self.take(length)?);
        Some(list.split(',').map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let padding = 8;
        let mut packet = u32::try_from(1 + payload.len() + padding)
            .unwrap()
            .to_be_bytes()
            .to_vec();
        packet.push(8);
        packet.extend_from_slice(payload);
        packet.extend_from_slice(&[0; 8]);
        packet
    }

    fn kexinit(lists: [&str; 5]) -> Vec<u8> {
        let mut payload = vec![MESSAGE_KEXINIT];
        payload.extend_from_slice(&[7; 16]);
        for list in lists {
            payload.extend_from_slice(&u32::try_from(list.len()).unwrap().to_be_bytes());
            payload.extend_from_slice(list.as_bytes());
        }
        packet(&payload)
    }

    fn server() -> Vec<u8> {
        let mut bytes = b"SSH-2.0-Portcullis\r\n".to_vec();
        bytes.extend(kexinit([
            "mlkem768x25519-sha256,curve25519-sha256,ext-info-s,kex-strict-s-v00@openssh.com",
            "ssh-ed25519",
            "aes256-gcm@openssh.com,aes256-ctr",
            "aes256-gcm@openssh.com,aes256-ctr",
            "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
        ]));
        bytes
    }

    fn client() -> Vec<u8> {
        let mut bytes = b"SSH-2.0-Client_1.0\r\n".to_vec();
        bytes.extend(packet(&[MESSAGE_IGNORE, 0, 0, 0, 0]));
        bytes.extend(kexinit([
            "sntrup761x25519-sha512@openssh.com,curve25519-sha256,kex-strict-c-v00@openssh.com",
            "ssh-rsa,ssh-ed25519",
            "aes256-ctr,aes256-gcm@openssh.com",
            "aes256-ctr,aes256-gcm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
        ]));
        bytes
    }

    fn expected() -> Negotiated {
        Negotiated {
            key_exchange: "curve25519-sha256".to_owned(),
            host_key: "ssh-ed25519".to_owned(),
            cipher: "aes256-ctr".to_owned(),
            mac: Some("hmac-sha2-256-etm@openssh.com".to_owned()),
            is_strict: true,
        }
    }

    #[test]
    fn the_clients_first_choice_that_the_server_has_is_found_however_the_bytes_are_cut() {
        for step in [1, 2, 3, 7, 64, 10_000] {
            let mut tap = Tap::default();
            let observed = tap.observed();
            for bytes in server().chunks(step) {
                tap.sent(bytes);
            }
            let mut is_watching = true;
            for bytes in client().chunks(step) {
                is_watching = tap.received(bytes);
            }
            assert!(!is_watching);
            assert_eq!(observed.negotiated(), Some(&expected()));
            assert_eq!(observed.client_version(), Some(&b"SSH-2.0-Client_1.0"[..]));
        }
    }

    #[test]
    fn the_list_without_a_common_name_is_known_with_what_the_client_has() {
        let lists = [
            "sntrup761x25519-sha512@openssh.com,curve25519-sha256",
            "ssh-ed25519",
            "aes256-ctr",
            "aes256-ctr",
            "hmac-sha2-256,hmac-sha1",
        ];
        for (position, about, offered) in [
            (0, "kex", "diffie-hellman-group14-sha1,ext-info-c"),
            (1, "hostkey", "ssh-rsa"),
            (2, "cipher", "chacha20-poly1305@openssh.com,3des-cbc"),
            // Only needed with a cipher that does not authenticate by itself.
            (4, "mac", "hmac-sha2-256,hmac-sha1"),
        ] {
            let mut lists = lists;
            lists[position] = offered;
            let mut tap = Tap::default();
            tap.sent(&server());
            tap.received(b"SSH-2.0-Client_1.0\r\n");
            assert!(!tap.received(&kexinit(lists)));
            let offered = offered.split(',').map(str::to_owned).collect();
            assert_eq!(
                tap.observed().disagreement(),
                Some(&Disagreement { about, offered })
            );
            assert_eq!(tap.observed().negotiated(), None);
        }
    }

    #[test]
    fn a_packet_of_length_zero_or_four_gigabytes_ends_the_watch() {
        for length in [0_u32, 1, 40_000, u32::MAX] {
            let mut tap = Tap::default();
            let mut bytes = b"SSH-2.0-x\r\n".to_vec();
            bytes.extend(length.to_be_bytes());
            bytes.extend([0; 8]);
            assert!(!tap.received(&bytes), "{length}");
            assert_eq!(tap.observed().negotiated(), None);
        }
    }

    #[test]
    fn an_endless_identification_ends_the_watch() {
        let mut tap = Tap::default();
        assert!(!tap.received(&vec![b'x'; LONGEST_IDENTIFICATION + 1]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_a_packet(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..40)
        ) {
            let mut tap = Tap::default();
            tap.received(b"SSH-2.0-x\r\n");
            for chunk in chunks {
                tap.received(&chunk);
                if let Direction::Packets(buffer) = &tap.client {
                    prop_assert!(buffer.len() <= LONGEST_PACKET + 4 + 2000);
                }
            }
        }
    }
}
