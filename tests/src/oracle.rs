//! What the agent must make of a frame, worked out a second time.
//!
//! Nothing here shares code with the agent: headers are read from slices, and rules are searched one after the other with `ipnet`. It is
//! slow and plain on purpose, so that a reader can hold it against the RFCs and against the precedence in the agent's documentation. A
//! test says what it expects, and this says what is expected of frames that nobody thought of.

mod headers;
mod rules;

pub use headers::{Headers, Kind, Packet, read};
pub use rules::{Action, Rule, Span, Standing, standing};

/// What an operator set for frames that the rules alone don't decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    pub drop_fragments: bool,
    pub drop_long_extension_chains: bool,
    pub drop_unknown_extension_headers: bool,
    pub judge_deep_tags: bool,
    pub pass_other_ethernet: bool,
    pub nat64: bool,
}

impl Policy {
    /// Every policy there is.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..64_u8).map(|bits| {
            let is_set = |bit: u8| bits & (1 << bit) != 0;
            Self {
                drop_fragments: is_set(0),
                drop_long_extension_chains: is_set(1),
                drop_unknown_extension_headers: is_set(2),
                judge_deep_tags: is_set(3),
                pass_other_ethernet: is_set(4),
                nat64: is_set(5),
            }
        })
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    pub passes: bool,
    /// The reason's name, as in the agent's metrics.
    pub reason: &'static str,
}

const fn pass(reason: &'static str) -> Judgement {
    Judgement {
        passes: true,
        reason,
    }
}

const fn dropped(reason: &'static str) -> Judgement {
    Judgement {
        passes: false,
        reason,
    }
}

/// Judges a frame by these rules, with no flow learned and no rate limited.
pub fn judge(frame: &[u8], rules: &[Rule], policy: Policy) -> Judgement {
    let headers = match read(frame, policy) {
        Ok(headers) => headers,
        Err(reason) => return dropped(reason),
    };
    if headers.has_deep_tags && !policy.judge_deep_tags {
        return dropped("too_many_tags");
    }
    let packet = match headers.kind {
        Kind::Essential(reason) => return pass(reason),
        Kind::OtherEthernet if policy.pass_other_ethernet => return pass("other_ethernet_passed"),
        Kind::OtherEthernet => return dropped("other_ethernet"),
        Kind::Packet(packet) => packet,
    };
    if packet.is_fragment && policy.drop_fragments {
        return dropped("fragment");
    }
    if packet.has_long_chain && policy.drop_long_extension_chains {
        return dropped("long_extension_chain");
    }
    if packet.has_unknown_extension && policy.drop_unknown_extension_headers {
        return dropped("unknown_extension_header");
    }
    match standing(rules, packet.source) {
        Standing::Protected => pass("protected"),
        Standing::Banned => dropped("banned"),
        Standing::Denied => dropped("denied"),
        Standing::Allowed => pass("allowed"),
        Standing::Scoped(spans) => {
            let is_permitted = packet.protocol.is_some_and(|protocol| {
                spans.iter().any(|span| span.permits(protocol, packet.port))
            });
            if is_permitted {
                pass("allowed")
            } else {
                dropped("out_of_scope")
            }
        }
        Standing::NotListed => dropped("not_listed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, action: Action) -> Rule {
        Rule {
            prefix: prefix.parse().unwrap(),
            action,
        }
    }

    /// A UDP datagram to port 53 from 192.0.2.`last`.
    fn datagram(last: u8) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, last]);
        frame.extend_from_slice(&[192, 0, 2, 1, 4, 0, 0, 53, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn the_oracle_keeps_the_written_precedence() {
        let dns = vec![Span {
            protocol: 17,
            first: 53,
            last: 53,
        }];
        let web = vec![Span {
            protocol: 6,
            first: 443,
            last: 443,
        }];
        let rules = [
            rule("192.0.2.1/32", Action::Ban),
            rule("192.0.2.0/31", Action::Protect),
            rule("192.0.2.0/29", Action::Ban),
            rule("192.0.2.2/32", Action::Allow(None)),
            rule("192.0.2.0/24", Action::Allow(None)),
            rule("192.0.2.16/28", Action::Deny),
            rule("192.0.2.24/29", Action::Allow(Some(dns))),
            rule("192.0.2.28/30", Action::Allow(Some(web.clone()))),
            rule("192.0.2.32/28", Action::Deny),
            rule("192.0.2.32/28", Action::Allow(None)),
            rule("192.0.2.40/29", Action::Allow(Some(web))),
        ];
        for (last, expected) in [
            (1, pass("protected")),
            (2, dropped("banned")),
            (8, pass("allowed")),
            (16, dropped("denied")),
            (24, pass("allowed")),
            (28, pass("allowed")),
            (32, dropped("denied")),
            (40, dropped("out_of_scope")),
            (48, pass("allowed")),
        ] {
            assert_eq!(
                judge(&datagram(last), &rules, Policy::default()),
                expected,
                "192.0.2.{last}"
            );
        }
        assert_eq!(
            judge(&datagram(48), &rules[..1], Policy::default()),
            dropped("not_listed")
        );
    }
}
