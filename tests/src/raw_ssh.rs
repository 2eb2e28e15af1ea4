//! An SSH client that says whatever it is told to, at whatever moment: what a penetration tester brings along.
//!
//! It speaks one set of algorithms (`curve25519-sha256`, `ssh-ed25519`, `aes256-gcm@openssh.com`) straight from RFC 4253,
//! RFC 8731 and RFC 5647, apart from the SSH library of the proxy. It does not look at the host key's signature: both ends
//! derive the same keys from the exchange hash or can't read each other's first packet, and it only ever goes to a server
//! of the test.

mod exchange;
mod message;
mod user_key;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, Nonce, Tag};
use aes_gcm::{Aes256Gcm, KeyInit};
use anyhow::{Context, Result, bail, ensure};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

pub use message::{Fields, Message, number};
pub use user_key::UserKey;

use crate::account::Account;
use crate::process::PATIENCE;
use exchange::Exchange;

/// How the client names itself.
const IDENTIFICATION: &str = "SSH-2.0-Raw_1";
/// Bytes of a tag of AES-GCM.
const TAG: usize = 16;
/// The largest packet that an honest server sends, in bytes.
const LARGEST: usize = 256 * 1024;

/// What came from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A packet's payload: message number and fields.
    Message(Vec<u8>),
    /// The server closed the connection.
    Closed,
}

/// A connection to a server, at some point of the protocol: the caller says what comes next.
pub struct Transport {
    stream: TcpStream,
    sending: Option<Direction>,
    receiving: Option<Direction>,
    server_identification: String,
    exchange: Option<Exchange>,
    session_id: Option<Vec<u8>>,
    is_strict: bool,
}

/// Key and counter of one direction (RFC 5647 section 7.1).
pub(crate) struct Direction {
    cipher: Aes256Gcm,
    nonce: [u8; 12],
}

impl Direction {
    pub(crate) fn new(key: &[u8], nonce: &[u8]) -> Result<Self> {
        Ok(Self {
            cipher: Aes256Gcm::new_from_slice(key)
                .map_err(|_| anyhow::anyhow!("AES-256 has keys of 32 bytes"))?,
            nonce: nonce
                .get(..12)
                .and_then(|nonce| nonce.try_into().ok())
                .context("GCM has nonces of 12 bytes")?,
        })
    }

    /// The nonce for this packet; the next one gets its successor.
    fn advance(&mut self) -> Nonce<Aes256Gcm> {
        let nonce = self.nonce;
        for byte in self.nonce.iter_mut().skip(4).rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        nonce.into()
    }

    fn seal(&mut self, length: [u8; 4], body: &mut [u8]) -> Result<Tag<Aes256Gcm>> {
        let nonce = self.advance();
        self.cipher
            .encrypt_inout_detached(&nonce, &length, InOutBuf::from(body))
            .map_err(|_| anyhow::anyhow!("the packet can't be sealed"))
    }

    fn open(&mut self, length: [u8; 4], body: &mut [u8], tag: [u8; TAG]) -> Result<()> {
        let nonce = self.advance();
        self.cipher
            .decrypt_inout_detached(&nonce, &length, InOutBuf::from(body), &tag.into())
            .map_err(|_| anyhow::anyhow!("a packet of the server has a wrong tag"))
    }
}

impl Transport {
    /// Opens a TCP connection and says nothing. Reads and writes fail after [`PATIENCE`].
    ///
    /// To a loopback address it comes from some other one: what the server counts for a source is not shared between
    /// connections.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        match address {
            SocketAddr::V4(address) if address.ip().is_loopback() => {
                Self::connect_from(some_loopback_address(), address)
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => Self::over(
                TcpStream::connect(address).with_context(|| format!("connect to {address}"))?,
            ),
        }
    }

    /// The same from this address of this machine.
    ///
    /// # Errors
    /// When nobody listens, or the address is not this machine's.
    pub fn connect_from(source: Ipv4Addr, address: SocketAddrV4) -> Result<Self> {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&socket, &SocketAddrV4::new(source, 0))
            .with_context(|| format!("come from {source}"))?;
        connect(&socket, &address).with_context(|| format!("connect to {address}"))?;
        Self::over(TcpStream::from(socket))
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            sending: None,
            receiving: None,
            server_identification: String::new(),
            exchange: None,
            session_id: None,
            is_strict: true,
        })
    }

    /// Leaves the marker of the strict key exchange out of its KEXINIT.
    #[must_use]
    pub fn without_strict_exchange(mut self) -> Self {
        self.is_strict = false;
        self
    }

    /// How long a read may take.
    ///
    /// # Errors
    /// When the socket refuses it.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        Ok(self.stream.set_read_timeout(Some(patience))?)
    }

    /// This end's address: the `source` of the server's records.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_address(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// The session identifier, once keys were exchanged.
    ///
    /// # Errors
    /// Before that.
    pub fn session_id(&self) -> Result<&[u8]> {
        self.session_id
            .as_deref()
            .context("keys were not exchanged yet")
    }

    /// Exchanges identifications (RFC 4253 section 4.2).
    ///
    /// # Errors
    /// When the server sends none.
    pub fn identify(&mut self) -> Result<()> {
        self.send_bytes(format!("{IDENTIFICATION}\r\n").as_bytes())?;
        self.receive_identification()
    }

    /// Reads the server's identification.
    ///
    /// # Errors
    /// When it sends none.
    pub fn receive_identification(&mut self) -> Result<()> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            ensure!(line.len() < 255, "an identification has at most 255 bytes");
            line.extend_from_slice(&byte);
        }
        let line = String::from_utf8(line)?;
        ensure!(line.starts_with("SSH-2.0-"), "{line:?}");
        line.trim_end().clone_into(&mut self.server_identification);
        Ok(())
    }

    /// Sends KEXINIT.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_key_exchange_init(&mut self) -> Result<()> {
        let exchange = Exchange::new(
            IDENTIFICATION,
            &self.server_identification,
            self.is_strict && self.session_id.is_none(),
        );
        let init = exchange.client_init().clone();
        self.exchange = Some(exchange);
        self.send(&init)
    }

    /// Reads the server's KEXINIT.
    ///
    /// # Errors
    /// When something else comes.
    pub fn receive_key_exchange_init(&mut self) -> Result<()> {
        let init = self.expect(number::KEXINIT)?;
        self.exchange()?.server_init(init);
        Ok(())
    }

    /// Sends the ephemeral key.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_ephemeral_key(&mut self) -> Result<()> {
        let message = self.exchange()?.ephemeral_key();
        self.send(&message)
    }

    /// Reads the server's reply to it and derives the keys that [`Self::send_new_keys`] and
    /// [`Self::receive_new_keys`] switch to.
    ///
    /// # Errors
    /// When something else comes.
    pub fn receive_exchange_reply(&mut self) -> Result<()> {
        let reply = self.expect(number::KEX_ECDH_REPLY)?;
        let session_id = self.session_id.clone();
        let hash = self.exchange()?.derive(&reply, session_id.as_deref())?;
        self.session_id.get_or_insert(hash);
        Ok(())
    }

    /// Sends NEWKEYS; what is sent after it is under the new key.
    ///
    /// # Errors
    /// Before the keys are derived, or when the connection is gone.
    pub fn send_new_keys(&mut self) -> Result<()> {
        self.send(&Message::new(number::NEWKEYS))?;
        self.sending = Some(self.exchange()?.take_sending()?);
        Ok(())
    }

    /// Reads the server's NEWKEYS; what comes after it is under the new key.
    ///
    /// # Errors
    /// When something else comes.
    pub fn receive_new_keys(&mut self) -> Result<()> {
        self.expect(number::NEWKEYS)?;
        self.receiving = Some(self.exchange()?.take_receiving()?);
        Ok(())
    }

    /// The whole key exchange, the first or a later one.
    ///
    /// # Errors
    /// When the server does anything else.
    pub fn exchange_keys(&mut self) -> Result<()> {
        self.send_key_exchange_init()?;
        self.receive_key_exchange_init()?;
        self.send_ephemeral_key()?;
        self.receive_exchange_reply()?;
        self.receive_new_keys()?;
        self.send_new_keys()
    }

    /// Asks for a service and reads that it is accepted.
    ///
    /// # Errors
    /// When it isn't.
    pub fn request_service(&mut self) -> Result<()> {
        self.send(&Message::service_request("ssh-userauth"))?;
        self.expect(number::SERVICE_ACCEPT)?;
        Ok(())
    }

    /// From the first byte to the point where authentication begins.
    ///
    /// # Errors
    /// When the server does anything else.
    pub fn ready(address: SocketAddr) -> Result<Self> {
        Self::connect(address)?.made_ready()
    }

    /// The same on a connection that has said nothing yet.
    ///
    /// # Errors
    /// As [`Self::ready`].
    pub fn made_ready(mut self) -> Result<Self> {
        self.identify()?;
        self.exchange_keys()?;
        self.request_service()?;
        Ok(self)
    }

    /// Shows the account's key; the server acknowledges it by partial success.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn show_key(&mut self, account: &Account) -> Result<()> {
        let key = UserKey::read(&account.key)?;
        let request = key.request(self.session_id()?, &account.name);
        let answer = self.ask(&request)?;
        ensure!(is_partial_success(&answer), "the key: {answer:?}");
        Ok(())
    }

    /// Key, then the method `password`: a login that costs no code.
    ///
    /// # Errors
    /// When it is refused.
    pub fn log_in(&mut self, account: &Account) -> Result<()> {
        self.show_key(account)?;
        let answer = self.ask(&Message::password(&account.name, &account.password))?;
        ensure!(
            answer.first() == Some(&number::USERAUTH_SUCCESS),
            "the password after the key: {answer:?}"
        );
        Ok(())
    }

    /// Sends a message and reads the next one.
    ///
    /// # Errors
    /// When the server closes the connection instead.
    pub fn ask(&mut self, message: &Message) -> Result<Vec<u8>> {
        self.send(message)?;
        match self.hear()? {
            Heard::Message(answer) => Ok(answer),
            Heard::Closed => bail!("the server closed the connection"),
        }
    }

    /// Reads the next message, which must have this number.
    ///
    /// # Errors
    /// When another one comes, or none.
    pub fn expect(&mut self, number: u8) -> Result<Vec<u8>> {
        match self.hear()? {
            Heard::Message(message) if message.first() == Some(&number) => Ok(message),
            other @ (Heard::Message(_) | Heard::Closed) => {
                bail!("expected message {number}, got {other:?}")
            }
        }
    }

    /// Sends a packet, sealed from the first NEWKEYS on.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, message: &Message) -> Result<()> {
        let packet = self.packet(message)?;
        self.send_bytes(&packet)
    }

    /// Sends several packets at once, without waiting for an answer in between.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_together(&mut self, messages: &[Message]) -> Result<()> {
        let mut packets = Vec::new();
        for message in messages {
            packets.extend(self.packet(message)?);
        }
        self.send_bytes(&packets)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&self) -> Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Reads the next packet.
    ///
    /// # Errors
    /// When none comes in time, or it can't be read.
    pub fn hear(&mut self) -> Result<Heard> {
        let mut length = [0; 4];
        if !self.fill(&mut length)? {
            return Ok(Heard::Closed);
        }
        let size = usize::try_from(u32::from_be_bytes(length))?;
        ensure!(size <= LARGEST, "the server announces {size} bytes");
        let mut body = vec![0; size];
        if !self.fill(&mut body)? {
            return Ok(Heard::Closed);
        }
        if let Some(direction) = &mut self.receiving {
            let mut tag = [0; TAG];
            self.stream.read_exact(&mut tag)?;
            direction.open(length, &mut body, tag)?;
        }
        let padding = usize::from(*body.first().context("a packet has a padding length")?);
        let payload = size
            .checked_sub(padding)
            .and_then(|end| body.get(1..end))
            .context("the padding is within the packet")?;
        Ok(Heard::Message(payload.to_vec()))
    }

    /// Reads until the server closes the connection; returns what came before.
    ///
    /// # Errors
    /// When it doesn't close it in time.
    pub fn hear_to_the_end(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut heard = Vec::new();
        loop {
            match self.hear()? {
                Heard::Message(message) => heard.push(message),
                Heard::Closed => return Ok(heard),
            }
        }
    }

    /// False at the end of the stream: a server that was sent more than it read resets the connection.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error).context("the server says nothing"),
        }
    }

    fn packet(&mut self, message: &Message) -> Result<Vec<u8>> {
        let payload = message.bytes();
        // The length is outside of what has to fill whole blocks once it is not encrypted (RFC 5647 section 7.3).
        let (block, outside) = match self.sending {
            Some(_) => (16, 0),
            None => (8, 4),
        };
        let mut padding = block - (outside + 1 + payload.len()) % block;
        if padding < 4 {
            padding += block;
        }
        let mut body = vec![u8::try_from(padding)?];
        body.extend_from_slice(payload);
        body.resize(body.len() + padding, 0);
        let length = u32::try_from(body.len())?.to_be_bytes();
        let mut packet = length.to_vec();
        match &mut self.sending {
            Some(direction) => {
                let tag = direction.seal(length, &mut body)?;
                packet.extend_from_slice(&body);
                packet.extend_from_slice(&tag);
            }
            None => packet.extend_from_slice(&body),
        }
        Ok(packet)
    }

    fn exchange(&mut self) -> Result<&mut Exchange> {
        self.exchange.as_mut().context("KEXINIT was not sent yet")
    }
}

/// Another address of this machine's loopback each time.
#[must_use]
pub fn some_loopback_address() -> Ipv4Addr {
    Ipv4Addr::new(
        127,
        fastrand::u8(1..),
        fastrand::u8(..),
        fastrand::u8(1..255),
    )
}

/// True for USERAUTH_FAILURE with the flag for partial success (RFC 4252 section 5.1).
#[must_use]
pub fn is_partial_success(answer: &[u8]) -> bool {
    answer.first() == Some(&number::USERAUTH_FAILURE) && answer.last() == Some(&1)
}

/// True for USERAUTH_FAILURE without it.
#[must_use]
pub fn is_failure(answer: &[u8]) -> bool {
    answer.first() == Some(&number::USERAUTH_FAILURE) && answer.last() == Some(&0)
}
