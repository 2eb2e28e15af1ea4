//! The messages of LDAPv3 (RFC 4511) that a check of a password needs.

use zeroize::Zeroizing;

use super::{
    ber::{self, Malformed, Reader, Writer},
    filter::{Filter, Values},
};
use crate::auth::Secret;

/// RFC 4511 section 4.14.1.
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

const BIND_REQUEST: u8 = ber::application(0);
const BIND_RESPONSE: u8 = ber::application(1);
/// Has no content.
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = ber::application(3);
const SEARCH_ENTRY: u8 = ber::application(4);
const SEARCH_DONE: u8 = ber::application(5);
const SEARCH_REFERENCE: u8 = ber::application(19);
const EXTENDED_REQUEST: u8 = ber::application(23);
const EXTENDED_RESPONSE: u8 = ber::application(24);

const VERSION: u32 = 3;
const NEVER_DEREFERENCE: u32 = 0;

/// A result code of RFC 4511 section 4.1.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResultCode(pub(super) u32);

impl ResultCode {
    pub(super) const SUCCESS: Self = Self(0);
    pub(super) const TIME_LIMIT_EXCEEDED: Self = Self(3);
    pub(super) const SIZE_LIMIT_EXCEEDED: Self = Self(4);
    pub(super) const ADMIN_LIMIT_EXCEEDED: Self = Self(11);
    pub(super) const INVALID_CREDENTIALS: Self = Self(49);
    pub(super) const BUSY: Self = Self(51);
    pub(super) const UNAVAILABLE: Self = Self(52);
    pub(super) const OTHER: Self = Self(80);

    /// The server could not look, which says nothing of the user.
    pub(super) fn is_outage(self) -> bool {
        matches!(
            self,
            Self::TIME_LIMIT_EXCEEDED
                | Self::ADMIN_LIMIT_EXCEEDED
                | Self::BUSY
                | Self::UNAVAILABLE
                | Self::OTHER
        )
    }
}

/// Where a search looks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope {
    Entry = 0,
    Subtree = 2,
}

/// What a search asks.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    pub(super) filter: &'a Filter,
    pub(super) values: Values<'a>,
    /// Entries at most.
    pub(super) size_limit: u32,
    /// Seconds that the server may take.
    pub(super) time_limit: u32,
    pub(super) attribute: &'a str,
}

/// An entry that a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dn: String,
    pub(super) attributes: Vec<(String, Vec<String>)>,
}

impl Entry {
    /// The values of an attribute; names of attributes have no case.
    pub(super) fn values(&self, attribute: &str) -> impl Iterator<Item = &str> {
        self.attributes
            .iter()
            .filter(move |(name, _)| name.eq_ignore_ascii_case(attribute))
            .flat_map(|(_, values)| values.iter().map(String::as_str))
    }
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    Bind(ResultCode),
    Extended(ResultCode),
    Entry(Entry),
    /// A part of the tree lies elsewhere. Not followed.
    Reference,
    SearchDone(ResultCode),
}

/// A simple bind. An empty password would be an anonymous one that always succeeds (RFC 4513 section 5.1.2): there is no
/// message for it.
pub(super) fn bind(id: u32, dn: &str, password: &Secret) -> Option<Zeroizing<Vec<u8>>> {
    if dn.is_empty() || password.is_empty() {
        return None;
    }
    Some(message(id, |writer| {
        writer.structure(BIND_REQUEST, |writer| {
            writer.number(ber::INTEGER, VERSION);
            writer.text(dn);
            writer.bytes(ber::context_primitive(0), password.expose());
        });
    }))
}

pub(super) fn unbind(id: u32) -> Zeroizing<Vec<u8>> {
    message(id, |writer| writer.bytes(UNBIND_REQUEST, &[]))
}

pub(super) fn start_tls(id: u32) -> Zeroizing<Vec<u8>> {
    message(id, |writer| {
        writer.structure(EXTENDED_REQUEST, |writer| {
            writer.bytes(ber::context_primitive(0), START_TLS.as_bytes());
        });
    })
}

pub(super) fn search(id: u32, search: &Search<'_>) -> Zeroizing<Vec<u8>> {
    message(id, |writer| {
        writer.structure(SEARCH_REQUEST, |writer| {
            writer.text(search.base);
            writer.number(ber::ENUMERATED, search.scope as u32);
            writer.number(ber::ENUMERATED, NEVER_DEREFERENCE);
            writer.number(ber::INTEGER, search.size_limit);
            writer.number(ber::INTEGER, search.time_limit);
            writer.flag(false);
            search.filter.write(writer, search.values);
            writer.structure(ber::SEQUENCE, |writer| writer.text(search.attribute));
        });
    })
}

fn message(id: u32, operation: impl FnOnce(&mut Writer)) -> Zeroizing<Vec<u8>> {
    let mut writer = Writer::default();
    writer.structure(ber::SEQUENCE, |writer| {
        writer.number(ber::INTEGER, id);
        operation(writer);
    });
    writer.into_bytes()
}

/// Reads the content of one message: its number, and what it says. Controls are not looked at: none is asked for.
pub(super) fn parse(content: &[u8]) -> Result<(u32, Response), Malformed> {
    let mut reader = Reader::new(content);
    let id = reader.number(ber::INTEGER)?;
    let (tag, operation) = reader.element()?;
    let response = match tag {
        BIND_RESPONSE => Response::Bind(result(operation)?),
        EXTENDED_RESPONSE => Response::Extended(result(operation)?),
        SEARCH_DONE => Response::SearchDone(result(operation)?),
        SEARCH_REFERENCE => Response::Reference,
        SEARCH_ENTRY => Response::Entry(entry(operation)?),
        _ => return Err(Malformed),
    };
    Ok((id, response))
}

fn result(content: &[u8]) -> Result<ResultCode, Malformed> {
    Reader::new(content).number(ber::ENUMERATED).map(ResultCode)
}

fn entry(content: &[u8]) -> Result<Entry, Malformed> {
    let mut reader = Reader::new(content);
    let dn = text(reader.expect(ber::OCTET_STRING)?).ok_or(Malformed)?;
    let mut list = Reader::new(reader.expect(ber::SEQUENCE)?);
    let mut attributes = Vec::new();
    while !list.is_empty() {
        let mut attribute = Reader::new(list.expect(ber::SEQUENCE)?);
        let name = text(attribute.expect(ber::OCTET_STRING)?).ok_or(Malformed)?;
        let mut set = Reader::new(attribute.expect(ber::SET)?);
        let mut values = Vec::new();
        while !set.is_empty() {
            // A value that is no text is no name of a group.
            values.extend(text(set.expect(ber::OCTET_STRING)?));
        }
        attributes.push((name, values));
    }
    Ok(Entry { dn, attributes })
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// What a directory may send in place of an answer.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_message(bytes: &[u8]) {
    let Ok(Some((header, length))) = ber::header(bytes) else {
        return;
    };
    let end = header.saturating_add(length);
    if let Some(content) = bytes.get(header..end)
        && let Ok((_, Response::Entry(entry))) = parse(content)
    {
        let values = entry.attributes.iter().flat_map(|(name, values)| {
            std::iter::once(name.len()).chain(values.iter().map(String::len))
        });
        assert!(
            entry.dn.len() + values.sum::<usize>() <= content.len(),
            "no more text comes out than went in"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of the message, without its outer tag and length.
    fn content(bytes: &[u8]) -> &[u8] {
        Reader::new(bytes).expect(ber::SEQUENCE).unwrap()
    }

    #[test]
    fn a_bind_is_encoded_as_rfc_4511_says() {
        let bytes = bind(1, "cn=a", &Secret::from("pw")).unwrap();
        assert_eq!(
            hex::encode(&*bytes),
            "3012020101600d0201030404636e3d6180027077"
        );
    }

    #[test]
    fn there_is_no_bind_without_a_password_or_without_a_name() {
        assert!(bind(1, "cn=a", &Secret::from("x")).is_some());
        assert!(bind(1, "cn=a", &Secret::default()).is_none());
        assert!(bind(1, "", &Secret::from("x")).is_none());
    }

    #[test]
    fn an_entry_comes_out_as_it_went_in() {
        let mut writer = Writer::default();
        writer.number(ber::INTEGER, 5);
        writer.structure(SEARCH_ENTRY, |writer| {
            writer.text("uid=alice");
            writer.structure(ber::SEQUENCE, |writer| {
                writer.structure(ber::SEQUENCE, |writer| {
                    writer.text("memberOf");
                    writer.structure(ber::SET, |writer| {
                        writer.text("cn=a");
                        writer.bytes(ber::OCTET_STRING, &[0xff]);
                        writer.text("cn=b");
                    });
                });
            });
        });
        let bytes = writer.into_bytes();
        let (id, response) = parse(&bytes).unwrap();
        let Response::Entry(entry) = response else {
            panic!("{response:?}");
        };
        assert_eq!((id, entry.dn.as_str()), (5, "uid=alice"));
        assert_eq!(
            entry.values("MEMBEROF").collect::<Vec<_>>(),
            ["cn=a", "cn=b"]
        );
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Err(Malformed));
        }
    }

    #[test]
    fn a_request_is_no_response() {
        for bytes in [
            start_tls(1),
            unbind(2),
            bind(3, "a", &Secret::from("b")).unwrap(),
        ] {
            assert_eq!(parse(content(&bytes)), Err(Malformed));
        }
    }
}
