//! Frames for tests, built header by header.

use std::{vec, vec::Vec};

pub(crate) const TCP: u8 = 6;
pub(crate) const ICMPV6: u8 = 58;

/// A frame under construction.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    destination: [u8; 6],
    tags: Vec<u16>,
    ethertype: u16,
    rest: Vec<u8>,
}

impl Frame {
    pub(crate) fn ethernet(ethertype: u16, rest: &[u8]) -> Self {
        Self {
            destination: [0x02, 0, 0, 0, 0, 1],
            tags: Vec::new(),
            ethertype,
            rest: rest.to_vec(),
        }
    }

    pub(crate) fn to(mut self, destination: [u8; 6]) -> Self {
        self.destination = destination;
        self
    }

    /// Puts a tag around what is there; the first call makes the innermost.
    pub(crate) fn tagged(mut self, tpid: u16) -> Self {
        self.tags.insert(0, tpid);
        self
    }

    pub(crate) fn ipv4(source: [u8; 4]) -> Ipv4 {
        Ipv4 {
            source,
            options: 0,
            fragment: 0,
            protocol: TCP,
        }
    }

    pub(crate) fn ipv6(source: [u8; 16]) -> Ipv6 {
        Ipv6 {
            source,
            hop_limit: 64,
            next: None,
            extensions: Vec::new(),
            protocol: TCP,
            payload: vec![0; 20],
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.destination.to_vec();
        bytes.extend_from_slice(&[0x02, 0, 0, 0, 0, 2]);
        for tpid in &self.tags {
            bytes.extend_from_slice(&tpid.to_be_bytes());
            bytes.extend_from_slice(&[0, 7]);
        }
        bytes.extend_from_slice(&self.ethertype.to_be_bytes());
        bytes.extend_from_slice(&self.rest);
        bytes
    }
}

/// An IPv4 packet with twenty bytes of TCP.
#[derive(Debug, Clone)]
pub(crate) struct Ipv4 {
    source: [u8; 4],
    options: u8,
    fragment: u16,
    protocol: u8,
}

impl Ipv4 {
    /// With so many words of options, at most ten.
    pub(crate) fn options(mut self, words: u8) -> Self {
        self.options = words;
        self
    }

    /// With this field of flags and offset.
    pub(crate) fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    pub(crate) fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }

    pub(crate) fn frame(&self) -> Frame {
        let header = 20 + usize::from(self.options) * 4;
        let mut packet = vec![0x45 + self.options, 0];
        packet.extend_from_slice(&u16::try_from(header + 20).unwrap().to_be_bytes());
        packet.extend_from_slice(&[0, 1]);
        packet.extend_from_slice(&self.fragment.to_be_bytes());
        packet.extend_from_slice(&[64, self.protocol, 0, 0]);
        packet.extend_from_slice(&self.source);
        packet.extend_from_slice(&[192, 0, 2, 1]);
        packet.resize(header, 1);
        packet.resize(header + 20, 0);
        Frame::ethernet(0x0800, &packet)
    }
}

/// An IPv6 packet.
#[derive(Debug, Clone)]
pub(crate) struct Ipv6 {
    source: [u8; 16],
    hop_limit: u8,
    next: Option<u8>,
    /// Each header's number, and its bytes behind the next-header field.
    extensions: Vec<(u8, Vec<u8>)>,
    protocol: u8,
    payload: Vec<u8>,
}

impl Ipv6 {
    pub(crate) fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// With this number in the last next-header field, whatever follows.
    pub(crate) fn next(mut self, number: u8) -> Self {
        self.next = Some(number);
        self
    }

    pub(crate) fn icmp(mut self, kind: u8) -> Self {
        self.protocol = ICMPV6;
        self.payload = vec![kind, 0, 0, 0];
        self
    }

    /// With another extension header of `words` times eight bytes behind the first eight.
    pub(crate) fn extension(mut self, number: u8, words: u8) -> Self {
        let mut bytes = vec![words];
        bytes.resize(7 + usize::from(words) * 8, 0);
        self.extensions.push((number, bytes));
        self
    }

    /// With an authentication header of `words` times four bytes behind the first eight.
    pub(crate) fn authentication(mut self, words: u8) -> Self {
        let mut bytes = vec![words];
        bytes.resize(7 + usize::from(words) * 4, 0);
        self.extensions.push((51, bytes));
        self
    }

    /// With a fragment header of this field of offset and flag.
    pub(crate) fn fragment(mut self, field: u16) -> Self {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&field.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 1]);
        self.extensions.push((44, bytes));
        self
    }

    pub(crate) fn frame(&self) -> Frame {
        let mut numbers: Vec<u8> = self.extensions.iter().map(|(number, _)| *number).collect();
        numbers.push(self.next.unwrap_or(self.protocol));
        let mut following = numbers.into_iter();
        let mut packet = vec![
            0x60,
            0,
            0,
            0,
            0,
            0,
            following.next().unwrap(),
            self.hop_limit,
        ];
        packet.extend_from_slice(&self.source);
        packet.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        for (_, bytes) in &self.extensions {
            packet.push(following.next().unwrap());
            packet.extend_from_slice(bytes);
        }
        packet.extend_from_slice(&self.payload);
        Frame::ethernet(0x86dd, &packet)
    }
}
