//! A question of `why`, as it is asked and as it is meant.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use serde::{Deserialize, Serialize};

use super::{
    frame::{ICMP, ICMPV6, MAX_TAGS, Packet, TCP},
    names,
};

/// The port that a made-up packet comes from, unless another is asked for: of the dynamic ones.
const SOURCE_PORT: u16 = 50_000;
/// The highest VLAN identifier; 4095 is reserved (802.1Q).
const LAST_VLAN: u16 = 4094;

/// The query of `GET /v1/why`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyQuery {
    /// The source address.
    pub address: String,
    /// A name or a number; TCP if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The destination address; this host's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// VLAN identifiers, the outermost first, with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<String>,
    /// A TCP packet that opens a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub syn: bool,
    /// A fragment behind the first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fragment: bool,
    /// Only as if it came in on this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// A question that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub packet: Packet,
    /// Whether the question says what the packet is, and not only who sends it.
    pub is_specific: bool,
    pub interface: Option<String>,
}

/// Why a question can't be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuestionError {
    #[error(
        "`{text}` is not an address, such as 198.51.100.7 or 2001:db8::7 (one, without a zone)"
    )]
    Address { text: String },
    #[error("{0}")]
    Protocol(String),
    #[error("{protocol} has no ports")]
    NoPorts { protocol: String },
    #[error("a later fragment has neither ports nor flags")]
    FragmentWithPorts,
    #[error("only a TCP packet has SYN")]
    SynWithoutTcp,
    #[error("{source_address} and {destination} are of two families")]
    Families {
        source_address: IpAddr,
        destination: IpAddr,
    },
    #[error("`{text}` is no list of at most {MAX_TAGS} VLAN identifiers up to {LAST_VLAN}")]
    Vlan { text: String },
}

impl Question {
    /// Reads a query. `own` gives an address of this host that packets of a source would be for.
    ///
    /// # Errors
    /// If it contradicts itself, or a value is none.
    pub fn new(
        query: &WhyQuery,
        own: impl FnOnce(IpAddr) -> Option<IpAddr>,
    ) -> Result<Self, QuestionError> {
        let source = address(&query.address)?;
        let destination = match &query.to {
            Some(to) => address(to)?,
            None => own(source).unwrap_or_else(|| documentation(source)),
        };
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(QuestionError::Families {
                source_address: source,
                destination,
            });
        }
        let protocol = match query.protocol.as_deref().map(names::parse_protocol) {
            Some(protocol) => protocol.map_err(QuestionError::Protocol)?,
            None => TCP,
        };
        // Each family has its own, and people say `icmp` for both.
        let protocol = match protocol {
            ICMP if source.is_ipv6() => ICMPV6,
            protocol => protocol,
        };
        let has_ports = query.port.is_some() || query.source_port.is_some();
        if query.syn && protocol != TCP {
            return Err(QuestionError::SynWithoutTcp);
        }
        if has_ports && !names::has_ports(protocol) {
            return Err(QuestionError::NoPorts {
                protocol: names::protocol(protocol).into_owned(),
            });
        }
        if query.fragment && (has_ports || query.syn) {
            return Err(QuestionError::FragmentWithPorts);
        }
        Ok(Self {
            packet: Packet {
                source,
                destination,
                protocol,
                source_port: query.source_port.unwrap_or(SOURCE_PORT),
                destination_port: query.port.unwrap_or(0),
                vlans: query.vlan.as_deref().map_or(Ok(Vec::new()), vlans)?,
                syn: query.syn,
                later_fragment: query.fragment,
            },
            is_specific: query.protocol.is_some() || has_ports || query.fragment,
            interface: query.interface.clone(),
        })
    }
}

/// The address of this host that the kernel would answer `remote` from, if there is a route. Nothing is sent.
pub fn own_address(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // Connecting a datagram socket only looks the route up. The discard port, which nobody serves.
    socket.connect(SocketAddr::new(remote, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn address(text: &str) -> Result<IpAddr, QuestionError> {
    text.parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| QuestionError::Address {
            text: text.to_owned(),
        })
}

/// An address that is nobody's, of the same family.
fn documentation(source: IpAddr) -> IpAddr {
    if source.is_ipv4() {
        Ipv4Addr::new(192, 0, 2, 1).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    }
}

fn vlans(text: &str) -> Result<Vec<u16>, QuestionError> {
    let vlans: Option<Vec<u16>> = text
        .split(',')
        .map(|vlan| vlan.trim().parse().ok().filter(|vlan| *vlan <= LAST_VLAN))
        .collect();
    vlans
        .filter(|vlans| vlans.len() <= MAX_TAGS)
        .ok_or_else(|| QuestionError::Vlan {
            text: text.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: WhyQuery) -> Result<Question, QuestionError> {
        Question::new(&query, |_| None)
    }

    fn about(address: &str) -> WhyQuery {
        WhyQuery {
            address: address.to_owned(),
            ..WhyQuery::default()
        }
    }

    #[test]
    fn an_address_alone_is_a_tcp_packet_to_this_host() {
        let own: IpAddr = "192.0.2.9".parse().unwrap();
        let question = Question::new(&about("198.51.100.7"), |_| Some(own)).unwrap();
        assert_eq!(question.packet.protocol, TCP);
        assert_eq!(question.packet.destination, own);
        assert!(!question.is_specific);
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_stands_for() {
        let question = ask(about("::ffff:198.51.100.7")).unwrap();
        assert_eq!(question.packet.source.to_string(), "198.51.100.7");
    }

    #[test]
    fn icmp_is_each_family_s_own() {
        for (address, protocol) in [("198.51.100.7", ICMP), ("2001:db8::7", ICMPV6)] {
            let question = ask(WhyQuery {
                protocol: Some("icmp".to_owned()),
                ..about(address)
            })
            .unwrap();
            assert_eq!(question.packet.protocol, protocol);
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_and_its_neighbour_is_not() {
        let text = |text: &str| Some(text.to_owned());
        let with = |change: fn(&mut WhyQuery)| {
            let mut query = about("198.51.100.7");
            change(&mut query);
            query
        };
        for (good, bad, words) in [
            (
                about("198.51.100.7"),
                about("198.51.100.0/24"),
                "is not an address",
            ),
            (about("fe80::1"), about("fe80::1%eth0"), "without a zone"),
            (
                with(|query| query.port = Some(22)),
                WhyQuery {
                    protocol: text("icmp"),
                    ..with(|query| query.port = Some(22))
                },
                "icmp has no ports",
            ),
            (
                with(|query| query.syn = true),
                WhyQuery {
                    protocol: text("udp"),
                    ..with(|query| query.syn = true)
                },
                "only a TCP packet has SYN",
            ),
            (
                with(|query| query.fragment = true),
                with(|query| {
                    query.fragment = true;
                    query.port = Some(22);
                }),
                "a later fragment",
            ),
            (
                WhyQuery {
                    to: text("192.0.2.1"),
                    ..about("198.51.100.7")
                },
                WhyQuery {
                    to: text("2001:db8::1"),
                    ..about("198.51.100.7")
                },
                "of two families",
            ),
            (
                WhyQuery {
                    vlan: text("4094, 7"),
                    ..about("198.51.100.7")
                },
                WhyQuery {
                    vlan: text("4095"),
                    ..about("198.51.100.7")
                },
                "VLAN identifiers up to 4094",
            ),
            (
                WhyQuery {
                    vlan: text("1,2,3,4,5,6,7,8"),
                    ..about("198.51.100.7")
                },
                WhyQuery {
                    vlan: text("1,2,3,4,5,6,7,8,9"),
                    ..about("198.51.100.7")
                },
                "at most 8",
            ),
        ] {
            assert!(ask(good.clone()).is_ok(), "{good:?}");
            let error = ask(bad).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn this_host_answers_itself_from_itself() {
        assert_eq!(
            own_address(Ipv4Addr::LOCALHOST.into()),
            Some(Ipv4Addr::LOCALHOST.into())
        );
    }
}
