//! Names of protocols and of well-known ports, as people write and read them.

use std::borrow::Cow;

use super::frame::{SCTP, TCP, UDP};
use crate::rule::PROTOCOLS;

/// Services worth a name in an answer: what a gateway is asked for most, and what scans knock at. IANA's names.
const SERVICES: [(u16, &str); 46] = [
    (20, "ftp-data"),
    (21, "ftp"),
    (22, "ssh"),
    (23, "telnet"),
    (25, "smtp"),
    (53, "domain"),
    (67, "bootps"),
    (68, "bootpc"),
    (69, "tftp"),
    (80, "http"),
    (88, "kerberos"),
    (110, "pop3"),
    (111, "sunrpc"),
    (123, "ntp"),
    (135, "epmap"),
    (137, "netbios-ns"),
    (138, "netbios-dgm"),
    (139, "netbios-ssn"),
    (143, "imap"),
    (161, "snmp"),
    (162, "snmptrap"),
    (179, "bgp"),
    (389, "ldap"),
    (443, "https"),
    (445, "microsoft-ds"),
    (500, "isakmp"),
    (514, "syslog"),
    (546, "dhcpv6-client"),
    (547, "dhcpv6-server"),
    (587, "submission"),
    (636, "ldaps"),
    (853, "domain-s"),
    (990, "ftps"),
    (993, "imaps"),
    (995, "pop3s"),
    (1433, "ms-sql-s"),
    (1900, "ssdp"),
    (2049, "nfs"),
    (3306, "mysql"),
    (3389, "ms-wbt-server"),
    (4500, "ipsec-nat-t"),
    (5060, "sip"),
    (5353, "mdns"),
    (5432, "postgresql"),
    (5900, "rfb"),
    (6379, "redis"),
];

/// A protocol's name, or its number.
pub fn protocol(number: u8) -> Cow<'static, str> {
    PROTOCOLS
        .iter()
        .find(|(_, known, _)| *known == number)
        .map_or_else(
            || Cow::Owned(format!("protocol {number}")),
            |(name, _, _)| Cow::Borrowed(*name),
        )
}

/// Whether the protocol has ports.
pub fn has_ports(number: u8) -> bool {
    matches!(number, TCP | UDP | SCTP)
}

/// Reads a protocol: a name, or a number.
///
/// # Errors
/// With what is expected, if it is neither.
pub fn parse_protocol(text: &str) -> Result<u8, String> {
    let by_name = PROTOCOLS
        .iter()
        .find(|(name, _, _)| *name == text)
        .map(|(_, number, _)| *number);
    let by_number = || {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok())
            .flatten()
    };
    by_name.or_else(by_number).ok_or_else(|| {
        let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _, _)| *name).collect();
        format!(
            "`{text}` is not a protocol; expected {} or a number up to 255",
            names.join(", ")
        )
    })
}

/// The service that is well known at a port.
pub fn service(port: u16) -> Option<&'static str> {
    SERVICES
        .binary_search_by_key(&port, |(known, _)| *known)
        .ok()
        .and_then(|index| SERVICES.get(index))
        .map(|(_, name)| *name)
}

/// Protocol and port as one word: `tcp/22 (ssh)`, `icmp`.
pub fn endpoint(number: u8, port: u16) -> String {
    let protocol = protocol(number);
    if !has_ports(number) || port == 0 {
        return protocol.into_owned();
    }
    match service(port) {
        Some(service) => format!("{protocol}/{port} ({service})"),
        None => format!("{protocol}/{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_found_so_the_table_is_in_order() {
        for (port, name) in SERVICES {
            assert_eq!(service(port), Some(name));
        }
        assert_eq!(service(24), None);
    }

    #[test]
    fn protocols_are_read_by_name_and_number_and_nothing_else() {
        assert_eq!(parse_protocol("tcp"), Ok(TCP));
        assert_eq!(parse_protocol("89"), Ok(89));
        for wrong in ["", "256", "-1", "+6", "TCPP", "tcp/22"] {
            assert!(
                parse_protocol(wrong).unwrap_err().contains("expected tcp"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_endpoint_names_what_has_a_name() {
        assert_eq!(endpoint(TCP, 22), "tcp/22 (ssh)");
        assert_eq!(endpoint(UDP, 40_000), "udp/40000");
        assert_eq!(endpoint(1, 22), "icmp");
        assert_eq!(endpoint(89, 0), "protocol 89");
    }
}
