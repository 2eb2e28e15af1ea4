//! Answers to an operator's questions: why a packet passes or not, what is dropped now, and who is dropped most.
//!
//! Nothing here changes what is enforced. The modules are pure: the engine feeds them, the commands print them.

pub mod feed;
pub mod filter;
pub mod frame;
pub mod names;
pub mod pcap;
pub mod question;
pub mod rates;
pub mod reasons;
pub mod recent;
pub mod report;
mod sketch;
pub mod why;

#[cfg(test)]
pub(crate) mod testing {
    //! What several tests need.

    use super::report::DropReport;

    /// A report of a TCP packet to port 22.
    pub(crate) fn report(source: &str) -> DropReport {
        DropReport {
            time: "2026-11-22T02:50:16.242Z".parse().unwrap(),
            interface: "gw0".to_owned(),
            reason: "not_listed".into(),
            source: Some(source.parse().unwrap()),
            ethertype: 0x0800,
            protocol: 6,
            source_port: 40_000,
            destination_port: 22,
            vlan: None,
            length: 60,
            generation: 4,
            monitored: false,
            head: Vec::new(),
        }
    }
}
