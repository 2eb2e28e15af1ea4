//! What the kernel says about an interface, and when something about interfaces changes (rtnetlink).

use std::{fs, io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, netlink, recv,
    send, socket_with,
};
use tokio::io::unix::AsyncFd;

/// An interface that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    /// The XDP program on its hook.
    pub attached: Option<Attached>,
}

/// An XDP program on an interface, whoever put it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    pub program: u32,
    pub mode: AttachedMode,
}

/// Where the kernel runs an XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedMode {
    Native,
    Generic,
    Offloaded,
}

/// `NETLINK_ROUTE` is the protocol number 0.
const ROUTE: Option<rustix::net::Protocol> = None;
const HEADER: usize = 16;
const INTERFACE_MESSAGE: usize = 16;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
/// Attribute types carry two flag bits on top.
const TYPE_MASK: u16 = 0x3fff;
const RTMGRP_LINK: u32 = 1;
/// More than any answer about one interface.
const ANSWER: usize = 64 * 1024;

/// Asks the kernel about the interface called `name`; `None` when there is none.
///
/// # Errors
/// If the kernel can't be asked, or answers what can't be read.
pub fn query(name: &str) -> io::Result<Option<Interface>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        ROUTE,
    )?;
    connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    send(&socket, &request(name), SendFlags::empty())?;
    let mut answer = vec![0_u8; ANSWER];
    let (received, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    parse_answer(answer.get(..received).unwrap_or_default())
}

/// The names of all interfaces of this network namespace.
///
/// # Errors
/// If the kernel does not list them.
pub fn names() -> io::Result<Vec<String>> {
    // Of the calling thread's namespace, unlike /sys, which is that of whoever mounted it.
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    Ok(table
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect())
}

fn request(name: &str) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend_from_slice(&[0; HEADER + INTERFACE_MESSAGE]);
    put_attribute(&mut message, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    // No statistics: the answer stays small.
    put_attribute(&mut message, IFLA_EXT_MASK, &8_u32.to_ne_bytes());
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let header = [
        length.to_ne_bytes().as_slice(),
        &RTM_GETLINK.to_ne_bytes(),
        &NLM_F_REQUEST.to_ne_bytes(),
    ]
    .concat();
    for (to, from) in message.iter_mut().zip(header) {
        *to = from;
    }
    message
}

fn put_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn parse_answer(answer: &[u8]) -> io::Result<Option<Interface>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed rtnetlink answer");
    let kind = word16(answer, 4).ok_or_else(malformed)?;
    match kind {
        NLMSG_ERROR => {
            let error = word32(answer, HEADER).ok_or_else(malformed)?.cast_signed();
            match io::Error::from_raw_os_error(-error) {
                error if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                    Ok(None)
                }
                error => Err(error),
            }
        }
        RTM_NEWLINK => {
            let index = word32(answer, HEADER + 4).ok_or_else(malformed)?;
            let attributes = answer
                .get(HEADER + INTERFACE_MESSAGE..)
                .ok_or_else(malformed)?;
            let attached = attribute(attributes, IFLA_XDP).and_then(parse_xdp);
            Ok(Some(Interface { index, attached }))
        }
        _ => Err(malformed()),
    }
}

fn parse_xdp(attributes: &[u8]) -> Option<Attached> {
    // XDP_ATTACHED_DRV, _SKB, _HW and _MULTI; 0 is none. Several are an offloaded one and the driver's, and then none is the one.
    let mode = match attribute(attributes, IFLA_XDP_ATTACHED)?.first()? {
        0 => return None,
        2 => AttachedMode::Generic,
        3 => AttachedMode::Offloaded,
        _ => AttachedMode::Native,
    };
    let program = attribute(attributes, IFLA_XDP_PROG_ID)
        .or_else(|| attribute(attributes, IFLA_XDP_DRV_PROG_ID))
        .and_then(|value| word32(value, 0))
        .unwrap_or(0);
    Some(Attached { program, mode })
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(word16(attributes, 0)?);
        let kind = word16(attributes, 2)?;
        let value = attributes.get(4..length)?;
        if kind & TYPE_MASK == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Announcements that an interface appeared, vanished or changed.
#[derive(Debug)]
pub struct Changes {
    socket: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Begins to listen. To be called within a runtime.
    ///
    /// # Errors
    /// If the kernel refuses the socket.
    pub fn subscribe() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, ROUTE)?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, RTMGRP_LINK))?;
        // SAFETY: the `AsyncFd` owns the descriptor, and nothing here takes it out or closes it before.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Resolves when something was announced. What it was is not told: who wants to know asks with [`query`].
    pub async fn changed(&mut self) {
        match self.socket.readable().await {
            Ok(mut ready) => {
                drain(self.socket.get_ref());
                ready.clear_ready();
            }
            // Without the announcements the daemon's own tick remains.
            Err(_) => std::future::pending().await,
        }
    }
}

fn drain(socket: &OwnedFd) {
    let mut scrap = [0_u8; 4096];
    // An overrun is an error too, and one more thing to throw away.
    while match recv(socket, scrap.as_mut_slice(), RecvFlags::TRUNC) {
        Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => true,
        Err(_) => false,
    } {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_exists_and_has_no_program() {
        assert_eq!(
            query("lo").unwrap(),
            Some(Interface {
                index: 1,
                attached: None
            })
        );
    }

    #[test]
    fn loopback_is_among_the_names() {
        assert!(names().unwrap().iter().any(|name| name == "lo"));
    }

    #[test]
    fn beside_an_offloaded_program_the_driver_s_is_told() {
        let mut attributes = Vec::new();
        put_attribute(&mut attributes, IFLA_XDP_ATTACHED, &[4]);
        put_attribute(&mut attributes, IFLA_XDP_DRV_PROG_ID, &77_u32.to_ne_bytes());
        put_attribute(&mut attributes, 7, &78_u32.to_ne_bytes());
        assert_eq!(
            parse_xdp(&attributes),
            Some(Attached {
                program: 77,
                mode: AttachedMode::Native
            })
        );
    }

    #[test]
    fn an_interface_that_does_not_exist_is_none() {
        assert_eq!(query("no-such-if0").unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(answer in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_answer(&answer);
        }
    }
}
