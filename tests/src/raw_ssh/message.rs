//! Messages, field by field (RFC 4251 section 5).

use anyhow::{Context, Result};

/// Message numbers (RFC 4250 section 4.1.2, RFC 8308).
pub mod number {
    pub const DISCONNECT: u8 = 1;
    pub const IGNORE: u8 = 2;
    pub const UNIMPLEMENTED: u8 = 3;
    pub const DEBUG: u8 = 4;
    pub const SERVICE_REQUEST: u8 = 5;
    pub const SERVICE_ACCEPT: u8 = 6;
    pub const EXT_INFO: u8 = 7;
    pub const KEXINIT: u8 = 20;
    pub const NEWKEYS: u8 = 21;
    pub const KEX_ECDH_INIT: u8 = 30;
    pub const KEX_ECDH_REPLY: u8 = 31;
    pub const USERAUTH_REQUEST: u8 = 50;
    pub const USERAUTH_FAILURE: u8 = 51;
    pub const USERAUTH_SUCCESS: u8 = 52;
    pub const USERAUTH_BANNER: u8 = 53;
    pub const USERAUTH_PK_OK: u8 = 60;
    pub const USERAUTH_INFO_REQUEST: u8 = 60;
    pub const USERAUTH_INFO_RESPONSE: u8 = 61;
    pub const GLOBAL_REQUEST: u8 = 80;
    pub const REQUEST_SUCCESS: u8 = 81;
    pub const REQUEST_FAILURE: u8 = 82;
    pub const CHANNEL_OPEN: u8 = 90;
    pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub const CHANNEL_REQUEST: u8 = 98;
    pub const CHANNEL_SUCCESS: u8 = 99;
}

/// The service that users authenticate for.
const CONNECTION: &str = "ssh-connection";

/// A packet's payload: a message number and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message without fields.
    #[must_use]
    pub fn new(number: u8) -> Self {
        Self(vec![number])
    }

    /// Adds a byte, or a boolean as 0 or 1.
    #[must_use]
    pub fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Adds a string with its length.
    #[must_use]
    pub fn string(self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX))
            .raw(value)
    }

    /// Adds bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Number and fields.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// SERVICE_REQUEST.
    #[must_use]
    pub fn service_request(name: &str) -> Self {
        Self::new(number::SERVICE_REQUEST).string(name)
    }

    /// A USERAUTH_REQUEST up to the fields of its method (RFC 4252 section 5).
    #[must_use]
    pub fn request(user: impl AsRef<[u8]>, method: impl AsRef<[u8]>) -> Self {
        Self::request_for(user, CONNECTION, method)
    }

    /// The same for another service.
    #[must_use]
    pub fn request_for(
        user: impl AsRef<[u8]>,
        service: impl AsRef<[u8]>,
        method: impl AsRef<[u8]>,
    ) -> Self {
        Self::new(number::USERAUTH_REQUEST)
            .string(user)
            .string(service)
            .string(method)
    }

    /// The method `none`.
    #[must_use]
    pub fn none(user: impl AsRef<[u8]>) -> Self {
        Self::request(user, "none")
    }

    /// The method `password`.
    #[must_use]
    pub fn password(user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Self {
        Self::request(user, "password").byte(0).string(password)
    }

    /// The method `keyboard-interactive` (RFC 4256 section 3.1).
    #[must_use]
    pub fn keyboard_interactive(user: impl AsRef<[u8]>) -> Self {
        Self::request(user, "keyboard-interactive")
            .string("")
            .string("")
    }

    /// Answers to its prompts.
    #[must_use]
    pub fn answers<A: AsRef<[u8]>>(answers: &[A]) -> Self {
        let count = u32::try_from(answers.len()).unwrap_or(u32::MAX);
        answers.iter().fold(
            Self::new(number::USERAUTH_INFO_RESPONSE).u32(count),
            |message, answer| message.string(answer),
        )
    }

    /// CHANNEL_OPEN of a session (RFC 4254 section 6.1).
    #[must_use]
    pub fn open_session() -> Self {
        Self::new(number::CHANNEL_OPEN)
            .string("session")
            .u32(0)
            .u32(1 << 20)
            .u32(1 << 15)
    }

    /// GLOBAL_REQUEST that asks for a port to be forwarded (RFC 4254 section 7.1).
    #[must_use]
    pub fn forward_request() -> Self {
        Self::new(number::GLOBAL_REQUEST)
            .string("tcpip-forward")
            .byte(1)
            .string("127.0.0.1")
            .u32(0)
    }
}

/// Reads the fields of a message one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// All after the message number.
    ///
    /// # Errors
    /// When there is not even that.
    pub fn of(message: &'a [u8]) -> Result<Self> {
        let (_, rest) = message.split_first().context("an empty message")?;
        Ok(Self(rest))
    }

    /// A number.
    ///
    /// # Errors
    /// At the end of the message.
    pub fn u32(&mut self) -> Result<u32> {
        let (value, rest) = self
            .0
            .split_first_chunk::<4>()
            .context("no number is left")?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*value))
    }

    /// A string.
    ///
    /// # Errors
    /// At the end of the message.
    pub fn string(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.u32()?)?;
        let (value, rest) = self
            .0
            .split_at_checked(length)
            .context("the string is longer than the message")?;
        self.0 = rest;
        Ok(value)
    }
}
