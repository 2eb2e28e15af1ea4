//! Prefixes and lifetimes as people write them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    #[error("`{text}` is neither an address nor ADDRESS/LENGTH")]
    Syntax { text: String },
    #[error("`{text}` has bits set behind its length; did you mean {corrected}?")]
    HostBits { text: String, corrected: IpNet },
}

/// Reads an address or a prefix. An IPv4-mapped IPv6 prefix is the IPv4 prefix, as it is for packets.
///
/// # Errors
/// If it is neither, or has host bits set: the message names the prefix that was probably meant.
pub fn parse(text: &str) -> Result<IpNet, PrefixError> {
    let syntax = || PrefixError::Syntax {
        text: text.to_owned(),
    };
    let net: IpNet = if text.contains('/') {
        text.parse().map_err(|_| syntax())?
    } else {
        IpNet::from(text.parse::<IpAddr>().map_err(|_| syntax())?)
    };
    let corrected = net.trunc();
    if corrected != net {
        return Err(PrefixError::HostBits {
            text: text.to_owned(),
            corrected,
        });
    }
    Ok(unmapped(net))
}

/// The prefix as packets have it: an IPv4-mapped IPv6 prefix is the IPv4 prefix.
pub fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let (Some(address), Some(length)) =
        (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
    else {
        return net;
    };
    Ipv4Net::new(address, length).map_or(net, IpNet::from)
}

/// Whether two prefixes have an address in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Whether the prefix is one address.
pub fn is_host(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The prefixes of the machine itself.
pub fn loopback() -> [IpNet; 2] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
    ]
}

/// Why a text is not a lifetime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration such as 90s, 10m, 12h or 7d")]
pub struct DurationError {
    text: String,
}

/// Reads a duration: a whole number and one of `s`, `m`, `h`, `d`.
///
/// # Errors
/// For anything else, zero included.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let wrong = || DurationError {
        text: text.to_owned(),
    };
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(seconds) {
        None | Some(0) => Err(wrong()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpNet {
        parse(text).unwrap()
    }

    #[test]
    fn host_bits_are_an_error_that_names_the_prefix_meant() {
        assert_eq!(prefix("203.0.113.0/24").to_string(), "203.0.113.0/24");
        let error = parse("203.0.113.7/24").unwrap_err();
        assert!(
            error.to_string().contains("did you mean 203.0.113.0/24?"),
            "{error}"
        );
        let error = parse("2001:db8::1/64").unwrap_err();
        assert!(
            error.to_string().contains("did you mean 2001:db8::/64?"),
            "{error}"
        );
    }

    #[test]
    fn an_address_is_a_prefix_of_full_length() {
        assert_eq!(prefix("203.0.113.7"), prefix("203.0.113.7/32"));
        assert_eq!(prefix("2001:db8::7"), prefix("2001:db8::7/128"));
    }

    #[test]
    fn a_mapped_prefix_is_its_ipv4_prefix_and_its_neighbour_is_not() {
        assert_eq!(prefix("::ffff:203.0.113.0/120"), prefix("203.0.113.0/24"));
        assert_eq!(prefix("::ffff:203.0.113.7"), prefix("203.0.113.7"));
        assert_eq!(prefix("::fffe:203.0.113.7").max_prefix_len(), 128);
        assert_eq!(prefix("::/0").max_prefix_len(), 128);
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "",
            "203.0.113",
            "203.0.113.7/33",
            "203.0.113.0/24/8",
            "host.example",
            "203.0.113.0/-1",
            " 203.0.113.7",
        ] {
            assert!(
                matches!(parse(text), Err(PrefixError::Syntax { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn durations_have_one_number_and_one_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for text in [
            "",
            "s",
            "0s",
            "10",
            "-1s",
            "+1s",
            "1.5h",
            "10 m",
            "99999999999999999999d",
            "1h30m",
            "1µ",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn overlap_is_containment_either_way() {
        assert!(overlap(&prefix("203.0.113.0/24"), &prefix("203.0.113.7")));
        assert!(overlap(&prefix("203.0.113.7"), &prefix("203.0.113.0/24")));
        assert!(!overlap(
            &prefix("203.0.113.0/25"),
            &prefix("203.0.113.128/25")
        ));
        assert!(!overlap(&prefix("0.0.0.0/0"), &prefix("2001:db8::/32")));
    }
}
