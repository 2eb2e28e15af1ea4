//! One drop in words, as a line of `GET /v1/events` has it.

use std::{borrow::Cow, net::IpAddr};

use agent_ebpf::{layout::PacketEvent, verdict::Verdict};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A packet that was dropped, or would have been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropReport {
    /// When the event was read, up to a tenth of a second after the drop.
    pub time: DateTime<Utc>,
    /// The interface's name, or its index where it has gone.
    pub interface: String,
    pub reason: Cow<'static, str>,
    /// Absent where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    pub ethertype: u16,
    pub protocol: u8,
    /// The port it came from, for TCP, UDP and SCTP; 0 where there is none.
    pub source_port: u16,
    /// The port it was for; 0 where there is none.
    pub destination_port: u16,
    /// Of the outermost tag that was in the frame; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Bytes of the packet.
    pub length: u32,
    pub generation: u64,
    /// True in monitor mode: the packet passed.
    pub monitored: bool,
    /// The packet's first bytes, in hexadecimal; only where they were asked for.
    #[serde(default, with = "hex_bytes", skip_serializing_if = "Vec::is_empty")]
    pub head: Vec<u8>,
}

impl DropReport {
    /// What an event from the kernel says.
    pub fn new(event: &PacketEvent, interface: Option<String>, now: DateTime<Utc>) -> Self {
        Self {
            time: now,
            interface: interface.unwrap_or_else(|| format!("index {}", event.interface)),
            reason: Cow::Borrowed(event.verdict().map_or("unknown", Verdict::name)),
            source: event.source_address(),
            ethertype: event.ethertype(),
            protocol: event.protocol,
            source_port: event.source_port(),
            destination_port: event.destination_port(),
            vlan: event.vlan(),
            length: event.length,
            generation: event.generation,
            monitored: event.monitored != 0,
            head: event.head().to_vec(),
        }
    }

    /// The same without the packet's bytes.
    pub fn without_head(&self) -> Self {
        Self {
            interface: self.interface.clone(),
            reason: self.reason.clone(),
            head: Vec::new(),
            ..*self
        }
    }
}

mod hex_bytes {
    //! Bytes as a text of hexadecimal digits.

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::testing::report;

    #[test]
    fn a_report_is_read_back_as_it_was_written_with_and_without_its_bytes() {
        let whole = DropReport {
            vlan: Some(7),
            head: vec![0, 0x0a, 0xff],
            ..report("198.51.100.7")
        };
        for report in [whole.without_head(), whole] {
            let text = serde_json::to_string(&report).unwrap();
            assert_eq!(text.contains("000aff"), !report.head.is_empty(), "{text}");
            assert_eq!(serde_json::from_str::<DropReport>(&text).unwrap(), report);
        }
    }
}
