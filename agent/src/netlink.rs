//! Questions to the kernel over netlink: requests, dumps, and attributes in both.
//!
//! Messages are in the byte order of the machine, but for the addresses and ports in them. See netlink(7).

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink,
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout},
    },
};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
/// Attribute types carry two flag bits on top.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;
/// More than the kernel puts into one answer (`NLMSG_GOODSIZE` and dumps of 32 KiB).
const ANSWER: usize = 64 * 1024;
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// The kernel answers at once or never.
const PATIENCE: Duration = Duration::from_secs(2);
/// A dump is begun again so many times when what is dumped changes meanwhile.
const ATTEMPTS: usize = 5;
/// The most messages of one dump.
const MAX_MESSAGES: usize = 1 << 20;

/// A socket to one part of the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A message, without its header.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    pub body: &'a [u8],
}

impl Netlink {
    /// Interfaces, addresses, routes.
    ///
    /// # Errors
    /// If the kernel refuses the socket.
    pub fn route() -> io::Result<Self> {
        // `NETLINK_ROUTE` is the protocol number 0.
        Self::open(None)
    }

    /// Sockets (sock_diag(7)).
    ///
    /// # Errors
    /// If the kernel refuses the socket.
    pub fn sockets() -> io::Result<Self> {
        Self::open(Some(netlink::SOCK_DIAG))
    }

    /// Families that have names instead of numbers.
    ///
    /// # Errors
    /// If the kernel refuses the socket.
    pub fn generic() -> io::Result<Self> {
        Self::open(Some(netlink::GENERIC))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        // Without it a long dump comes in more pieces, no more.
        let _ = set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks for one answer.
    ///
    /// # Errors
    /// What the kernel answers, or if it answers what can't be read.
    pub fn ask(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        self.send(kind, NLM_F_REQUEST | NLM_F_ACK, body)?;
        let mut answer = None;
        self.receive(|message| {
            answer.get_or_insert_with(|| message.body.to_vec());
            true
        })?;
        answer.ok_or_else(|| {
            io::Error::new(io::ErrorKind::UnexpectedEof, "no answer from the kernel")
        })
    }

    /// Asks for everything there is; `read` gets each message, and may end the dump with `false`.
    /// What changes meanwhile makes the dump begin anew: `begin` is called before each.
    ///
    /// # Errors
    /// What the kernel answers, or if it answers what can't be read.
    pub fn dump<S>(
        &mut self,
        kind: u16,
        body: &[u8],
        begin: impl Fn() -> S,
        mut read: impl FnMut(&mut S, Message<'_>) -> bool,
    ) -> io::Result<S> {
        for attempt in 1..=ATTEMPTS {
            self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)?;
            let mut state = begin();
            let is_whole = self.receive(|message| read(&mut state, message))?;
            // What was interrupted every time is still the best that there is.
            if is_whole || attempt == ATTEMPTS {
                return Ok(state);
            }
        }
        Ok(begin())
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let message = [
            length.to_ne_bytes().as_slice(),
            &kind.to_ne_bytes(),
            &flags.to_ne_bytes(),
            &self.sequence.to_ne_bytes(),
            &[0; 4],
            body,
        ]
        .concat();
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Reads what belongs to the last request; gives whether nothing changed meanwhile.
    fn receive(&mut self, mut read: impl FnMut(Message<'_>) -> bool) -> io::Result<bool> {
        let mut buffer = vec![0_u8; ANSWER];
        let (mut is_whole, mut is_wanted, mut count) = (true, true, 0);
        loop {
            let received = match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, received)) => received,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if received > ANSWER {
                return Err(malformed());
            }
            let mut rest = buffer.get(..received).ok_or_else(malformed)?;
            while !rest.is_empty() {
                let length = word32(rest, 0).ok_or_else(malformed)? as usize;
                let message = rest.get(..length).ok_or_else(malformed)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                let kind = word16(message, 4).ok_or_else(malformed)?;
                let flags = word16(message, 6).ok_or_else(malformed)?;
                let body = message.get(HEADER..).ok_or_else(malformed)?;
                if word32(message, 8) != Some(self.sequence) {
                    // Left over from a request that was given up.
                    continue;
                }
                is_whole &= flags & NLM_F_DUMP_INTR == 0;
                match kind {
                    NLMSG_DONE => return status(body).map(|()| is_whole),
                    NLMSG_ERROR => return status(body).map(|()| is_whole),
                    _ => {
                        count += 1;
                        is_wanted =
                            is_wanted && count <= MAX_MESSAGES && read(Message { kind, body });
                        if !is_wanted && flags & NLM_F_MULTI != 0 {
                            // The rest is thrown away with the socket's next request.
                            return Ok(is_whole);
                        }
                    }
                }
            }
        }
    }
}

fn status(body: &[u8]) -> io::Result<()> {
    match word32(body, 0).map(u32::cast_signed) {
        None | Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed netlink answer")
}

/// The attributes in `bytes`, as type and value, up to the first that is malformed.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(word16(bytes, 0)?);
        let kind = word16(bytes, 2)?;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// The first attribute of a type.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// Appends an attribute.
pub fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Appends an attribute that has attributes in it.
pub fn put_nested(message: &mut Vec<u8>, kind: u16, attributes: &[u8]) {
    put(message, kind | NESTED, attributes);
}

pub fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Text with or without the zero that ends it.
pub fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RTM_GETLINK: u16 = 18;
    const IFLA_IFNAME: u16 = 3;

    #[test]
    fn a_dump_of_the_interfaces_has_loopback() {
        let names = Netlink::route()
            .unwrap()
            .dump(RTM_GETLINK, &[0; 16], Vec::new, |names, message| {
                names.push(attribute(&message.body[16..], IFLA_IFNAME).map(text));
                true
            })
            .unwrap();
        assert!(names.contains(&Some("lo".to_owned())), "{names:?}");
    }

    #[test]
    fn a_dump_that_was_given_up_does_not_disturb_the_next_question() {
        let mut netlink = Netlink::route().unwrap();
        netlink
            .dump(RTM_GETLINK, &[0; 16], || (), |(), _| false)
            .unwrap();
        let mut body = vec![0; 16];
        put(&mut body, IFLA_IFNAME, b"lo\0");
        let answer = netlink.ask(RTM_GETLINK, &body).unwrap();
        assert_eq!(
            attribute(&answer[16..], IFLA_IFNAME),
            Some(b"lo\0".as_slice())
        );
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        let mut body = vec![0; 16];
        put(&mut body, IFLA_IFNAME, b"no-such-if0\0");
        let error = Netlink::route()
            .unwrap()
            .ask(RTM_GETLINK, &body)
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    }

    proptest! {
        #[test]
        fn attributes_are_read_as_they_were_written(values in proptest::collection::vec((0_u16..100, proptest::collection::vec(any::<u8>(), 0..9)), 0..6)) {
            let mut message = Vec::new();
            for (kind, value) in &values {
                put(&mut message, *kind, value);
            }
            let read: Vec<_> = attributes(&message).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn any_bytes_have_attributes_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for (_, value) in attributes(&bytes) {
                prop_assert!(value.len() <= bytes.len());
            }
        }
    }
}
