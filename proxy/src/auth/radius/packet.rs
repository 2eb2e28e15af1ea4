//! The two packets of a RADIUS check: an Access-Request with the code (RFC 2865, PAP), and the reply to it.
//!
//! RADIUS hides the code and proves the reply with MD5, and nothing else is on offer over UDP. Message-Authenticator
//! (RFC 3579 section 3.2) is an HMAC over the whole packet: it goes first into each request and each reply must have one,
//! which is what keeps an attacker on the path from turning a refusal into an acceptance (CVE-2024-3596, "BlastRADIUS";
//! draft-ietf-radext-deprecating-radius section 5). MD5 stays in this file.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::auth::Secret;

/// Longest code that RFC 2865 section 5.2 can carry, in bytes.
pub(super) const CODE_MAX: usize = 128;
/// Longest value of an attribute, in bytes.
pub const VALUE_MAX: usize = 253;
/// Longest packet, in bytes (RFC 2865 section 3).
pub(super) const PACKET_MAX: usize = 4096;
const HEADER_BYTES: usize = 20;
const BLOCK_BYTES: usize = 16;

const ACCESS_REQUEST: u8 = 1;
const ACCESS_ACCEPT: u8 = 2;
const ACCESS_REJECT: u8 = 3;
const ACCESS_CHALLENGE: u8 = 11;

const USER_NAME: u8 = 1;
const USER_PASSWORD: u8 = 2;
const SERVICE_TYPE: u8 = 6;
const CALLING_STATION_ID: u8 = 31;
const NAS_IDENTIFIER: u8 = 32;
const PROXY_STATE: u8 = 33;
const NAS_PORT_TYPE: u8 = 61;
const MESSAGE_AUTHENTICATOR: u8 = 80;

/// Service-Type `Authenticate Only` (RFC 2865 section 5.6): the gateway wants a verdict, no attributes.
const AUTHENTICATE_ONLY: [u8; 4] = [0, 0, 0, 8];
/// NAS-Port-Type `Virtual` (RFC 2865 section 5.41).
const VIRTUAL: [u8; 4] = [0, 0, 0, 5];

type Authenticator = [u8; BLOCK_BYTES];

/// What a request asks.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) user: &'a str,
    /// Of 1 to [`CODE_MAX`] bytes.
    pub(super) code: &'a Secret,
    pub(super) nas_identifier: &'a str,
    /// The client's address, as text.
    pub(super) calling_station: &'a str,
}

/// An Access-Request, and what its reply is proven with. A retransmission is the same bytes (RFC 2865 section 2.5).
pub(super) struct Request {
    bytes: Zeroizing<Vec<u8>>,
    identifier: u8,
    authenticator: Authenticator,
}

/// A verified verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Accept,
    Reject,
    /// The server wants another answer first.
    Challenge,
}

/// Why a question can't be put into a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{attribute} of {bytes} bytes does not fit into a RADIUS attribute")]
pub(super) struct Oversized {
    attribute: &'static str,
    bytes: usize,
}

/// Why a packet is not the reply. It is dropped, and the wait goes on (RFC 2865 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReplyError {
    #[error("the packet is shorter than it says, or than its header")]
    Length,
    #[error("code {0} is not one of a reply")]
    Code(u8),
    #[error("the identifier is not that of the request")]
    Identifier,
    #[error("an attribute has an impossible length")]
    Attribute,
    #[error(
        "no Message-Authenticator; the server has to send one: update it, or configure it as docs/remote-factors.md says"
    )]
    NoMessageAuthenticator,
    #[error("the Message-Authenticator is wrong; is the shared secret the same on both sides?")]
    MessageAuthenticator,
    #[error("the Response Authenticator is wrong; is the shared secret the same on both sides?")]
    ResponseAuthenticator,
    #[error("a Proxy-State, though the request had none")]
    ProxyState,
}

impl Request {
    /// `identifier` and `authenticator` are to be random.
    pub(super) fn new(
        question: &Question<'_>,
        secret: &[u8],
        identifier: u8,
        authenticator: Authenticator,
    ) -> Result<Self, Oversized> {
        let code = question.code.expose();
        if code.is_empty() || code.len() > CODE_MAX {
            return Err(Oversized {
                attribute: "User-Password",
                bytes: code.len(),
            });
        }
        let mut packet = Zeroizing::new(Vec::with_capacity(512));
        packet.extend([ACCESS_REQUEST, identifier, 0, 0]);
        packet.extend(authenticator);
        // First, so that no chosen text precedes it.
        let zeros = [0; BLOCK_BYTES];
        put(
            &mut packet,
            MESSAGE_AUTHENTICATOR,
            "Message-Authenticator",
            &zeros,
        )?;
        put(
            &mut packet,
            USER_NAME,
            "User-Name",
            question.user.as_bytes(),
        )?;
        let hidden = hide(code, secret, &authenticator);
        put(&mut packet, USER_PASSWORD, "User-Password", &hidden)?;
        put(
            &mut packet,
            NAS_IDENTIFIER,
            "NAS-Identifier",
            question.nas_identifier.as_bytes(),
        )?;
        put(
            &mut packet,
            CALLING_STATION_ID,
            "Calling-Station-Id",
            question.calling_station.as_bytes(),
        )?;
        put(
            &mut packet,
            SERVICE_TYPE,
            "Service-Type",
            &AUTHENTICATE_ONLY,
        )?;
        put(&mut packet, NAS_PORT_TYPE, "NAS-Port-Type", &VIRTUAL)?;
        let length = u16::try_from(packet.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        overwrite(&mut packet, 2, &length);
        let proof = hmac_md5(secret, &[&packet]);
        overwrite(&mut packet, HEADER_BYTES + 2, &proof);
        Ok(Self {
            bytes: packet,
            identifier,
            authenticator,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads a reply to this request and believes it only if the holder of `secret` made it.
    pub(super) fn read_reply(&self, packet: &[u8], secret: &[u8]) -> Result<Reply, ReplyError> {
        let (&[code, identifier, high, low], rest) =
            packet.split_first_chunk().ok_or(ReplyError::Length)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        // What follows the length is padding.
        let rest = length
            .checked_sub(4)
            .filter(|_| length <= PACKET_MAX)
            .and_then(|length| rest.get(..length))
            .ok_or(ReplyError::Length)?;
        let (claimed, attributes) = rest
            .split_first_chunk::<BLOCK_BYTES>()
            .ok_or(ReplyError::Length)?;
        let reply = match code {
            ACCESS_ACCEPT => Reply::Accept,
            ACCESS_REJECT => Reply::Reject,
            ACCESS_CHALLENGE => Reply::Challenge,
            other => return Err(ReplyError::Code(other)),
        };
        if identifier != self.identifier {
            return Err(ReplyError::Identifier);
        }
        let at = message_authenticator(attributes)?;
        let (before, proof, after) = split_proof(attributes, at).ok_or(ReplyError::Attribute)?;
        let start = [code, identifier, high, low];
        let zeros = [0; BLOCK_BYTES];
        let expected = hmac_md5(
            secret,
            &[&start, &self.authenticator, before, &zeros, after],
        );
        if !bool::from(expected.ct_eq(proof)) {
            return Err(ReplyError::MessageAuthenticator);
        }
        let expected = md5_of(&[&start, &self.authenticator, attributes, secret]);
        if !bool::from(expected.ct_eq(claimed)) {
            return Err(ReplyError::ResponseAuthenticator);
        }
        Ok(reply)
    }
}

/// Where the value of the only Message-Authenticator begins. All attributes are looked at.
fn message_authenticator(attributes: &[u8]) -> Result<usize, ReplyError> {
    let mut found = None;
    let mut rest = attributes;
    let mut at = 0;
    while let Some((&[kind, length], _)) = rest.split_first_chunk::<2>() {
        let length = usize::from(length);
        let value_bytes = length.checked_sub(2).ok_or(ReplyError::Attribute)?;
        match kind {
            PROXY_STATE => return Err(ReplyError::ProxyState),
            MESSAGE_AUTHENTICATOR if value_bytes != BLOCK_BYTES || found.is_some() => {
                return Err(ReplyError::MessageAuthenticator);
            }
            MESSAGE_AUTHENTICATOR => found = Some(at + 2),
            _ => {}
        }
        rest = rest.get(length..).ok_or(ReplyError::Attribute)?;
        at += length;
    }
    if !rest.is_empty() {
        return Err(ReplyError::Attribute);
    }
    found.ok_or(ReplyError::NoMessageAuthenticator)
}

fn split_proof(attributes: &[u8], at: usize) -> Option<(&[u8], &[u8], &[u8])> {
    let (before, rest) = attributes.split_at_checked(at)?;
    let (proof, after) = rest.split_at_checked(BLOCK_BYTES)?;
    Some((before, proof, after))
}

fn put(
    packet: &mut Vec<u8>,
    kind: u8,
    attribute: &'static str,
    value: &[u8],
) -> Result<(), Oversized> {
    let oversized = Oversized {
        attribute,
        bytes: value.len(),
    };
    if value.is_empty() || value.len() > VALUE_MAX {
        return Err(oversized);
    }
    let length = u8::try_from(value.len() + 2).map_err(|_| oversized)?;
    packet.extend([kind, length]);
    packet.extend_from_slice(value);
    Ok(())
}

/// RFC 2865 section 5.2: padded with zeros to whole blocks, each covered with a hash that starts with the secret.
fn hide(code: &[u8], secret: &[u8], authenticator: &Authenticator) -> Zeroizing<Vec<u8>> {
    let mut hidden: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::with_capacity(CODE_MAX));
    let mut before = *authenticator;
    for block in code.chunks(BLOCK_BYTES) {
        let mut cover = md5_of(&[secret, &before]);
        for (cover, byte) in cover.iter_mut().zip(block) {
            *cover ^= byte;
        }
        hidden.extend(cover);
        before = cover;
    }
    hidden
}

fn overwrite(packet: &mut [u8], at: usize, value: &[u8]) {
    for (byte, value) in packet.iter_mut().skip(at).zip(value) {
        *byte = *value;
    }
}

fn md5_of(parts: &[&[u8]]) -> Authenticator {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

fn hmac_md5(secret: &[u8], parts: &[&[u8]]) -> Authenticator {
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(secret) else {
        // HMAC takes keys of any length.
        return [0; BLOCK_BYTES];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// What a peer on the path may send in place of the server.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_reply(packet: &[u8]) {
    const SECRET: &[u8] = b"a secret of the fuzzer";
    let code = Secret::from("123456");
    let question = Question {
        user: "alice",
        code: &code,
        nas_identifier: "gateway",
        calling_station: "192.0.2.7",
    };
    let request = Request::new(&question, SECRET, 7, [0x5a; BLOCK_BYTES]);
    if let Ok(request) = request
        && request.read_reply(packet, SECRET).is_ok()
    {
        // Without the secret there is no verdict; the fuzzer does not find 128 bits of HMAC.
        assert!(message_authenticator(packet.get(HEADER_BYTES..).unwrap_or_default()).is_ok());
    }
}

#[cfg(test)]
pub(super) mod tests;
