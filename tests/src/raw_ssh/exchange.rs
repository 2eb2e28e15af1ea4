//! The key exchange `curve25519-sha256` (RFC 8731) and the keys that come of it (RFC 4253 section 7.2).

use anyhow::{Context, Result};
use curve25519_dalek::MontgomeryPoint;
use sha2::{Digest, Sha256};

use super::Direction;
use super::message::{Fields, Message, number};

/// The marker of the strict key exchange, after the algorithm.
const STRICT: &str = ",kex-strict-c-v00@openssh.com";

/// One key exchange in progress.
pub(super) struct Exchange {
    identifications: [String; 2],
    client_init: Message,
    server_init: Vec<u8>,
    secret: [u8; 32],
    sending: Option<Direction>,
    receiving: Option<Direction>,
}

impl Exchange {
    pub(super) fn new(client: &str, server: &str, is_strict: bool) -> Self {
        let exchange = format!("curve25519-sha256{}", if is_strict { STRICT } else { "" });
        let mut init = Message::new(number::KEXINIT).raw(&random::<16>());
        for list in [
            exchange.as_str(),
            "ssh-ed25519",
            "aes256-gcm@openssh.com",
            "aes256-gcm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
            "none",
            "none",
            "",
            "",
        ] {
            init = init.string(list);
        }
        Self {
            identifications: [client.to_owned(), server.to_owned()],
            // No guessed packet follows; reserved.
            client_init: init.byte(0).u32(0),
            server_init: Vec::new(),
            secret: random(),
            sending: None,
            receiving: None,
        }
    }

    pub(super) fn client_init(&self) -> &Message {
        &self.client_init
    }

    pub(super) fn server_init(&mut self, init: Vec<u8>) {
        self.server_init = init;
    }

    pub(super) fn ephemeral_key(&self) -> Message {
        Message::new(number::KEX_ECDH_INIT).string(self.public())
    }

    /// Makes the keys of both directions; returns the exchange hash.
    pub(super) fn derive(&mut self, reply: &[u8], session_id: Option<&[u8]>) -> Result<Vec<u8>> {
        let mut fields = Fields::of(reply)?;
        let host_key = fields.string()?;
        let theirs = fields.string()?;
        let theirs: [u8; 32] = theirs
            .try_into()
            .context("a key of Curve25519 has 32 bytes")?;
        let shared = MontgomeryPoint(theirs).mul_clamped(self.secret).to_bytes();
        let shared = positive_number(&shared);

        let [client, server] = &self.identifications;
        // Strings without a message number before them.
        let hashed = [
            client.as_bytes(),
            server.as_bytes(),
            self.client_init.bytes(),
            &self.server_init,
            host_key,
            &self.public(),
            &theirs,
        ]
        .iter()
        .fold(Vec::new(), |mut all, field| {
            all.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            all.extend_from_slice(field);
            all
        });
        let hash = Sha256::new()
            .chain_update(&hashed)
            .chain_update(&shared)
            .finalize()
            .to_vec();
        let session_id = session_id.unwrap_or(&hash);
        let key = |letter: u8| {
            Sha256::new()
                .chain_update(&shared)
                .chain_update(&hash)
                .chain_update([letter])
                .chain_update(session_id)
                .finalize()
        };
        self.sending = Some(Direction::new(&key(b'C'), &key(b'A'))?);
        self.receiving = Some(Direction::new(&key(b'D'), &key(b'B'))?);
        Ok(hash)
    }

    pub(super) fn take_sending(&mut self) -> Result<Direction> {
        self.sending.take().context("no key was derived")
    }

    pub(super) fn take_receiving(&mut self) -> Result<Direction> {
        self.receiving.take().context("no key was derived")
    }

    fn public(&self) -> [u8; 32] {
        MontgomeryPoint::mul_base_clamped(self.secret).to_bytes()
    }
}

/// An `mpint` that is not negative (RFC 4251 section 5), with its length.
fn positive_number(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let mut digits: Vec<u8> = bytes.iter().skip(zeros).copied().collect();
    if digits.first().is_some_and(|first| first & 0x80 != 0) {
        digits.insert(0, 0);
    }
    let length = u32::try_from(digits.len()).unwrap_or(u32::MAX);
    [length.to_be_bytes().as_slice(), &digits].concat()
}

/// Not secret: the keys protect nothing but a test.
fn random<const N: usize>() -> [u8; N] {
    std::array::from_fn(|_| fastrand::u8(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4251, section 5.
    #[test]
    fn numbers_are_written_as_the_standard_does() {
        assert_eq!(positive_number(&[0, 0]), [0, 0, 0, 0]);
        assert_eq!(positive_number(&[0, 0x80]), [0, 0, 0, 2, 0, 0x80]);
        assert_eq!(positive_number(&[0x09, 0xa3]), [0, 0, 0, 2, 0x09, 0xa3]);
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn the_shared_secret_is_that_of_the_standard() {
        let unhex = |text: &str| -> [u8; 32] {
            std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        };
        let alice = unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let of_bob = MontgomeryPoint::mul_base_clamped(bob);
        assert_eq!(
            of_bob.mul_clamped(alice).to_bytes(),
            unhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
        );
        assert_eq!(
            of_bob.to_bytes(),
            unhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
    }
}
