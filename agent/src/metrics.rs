//! Every metric: its name, labels and help text.

pub mod endpoint;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::datapath::{Counters, InterfaceState, InterfaceStatus};

const PACKETS: &str = "portcullis_agent_packets_total";
const WOULD_DROP: &str = "portcullis_agent_monitored_drops_total";
const ODD: &str = "portcullis_agent_odd_packets_total";
const INTERFACE_ENFORCED: &str = "portcullis_agent_interface_enforced";
const ALLOWED: &str = "portcullis_agent_allowed_prefixes";
const BANS: &str = "portcullis_agent_bans";
const GENERATION: &str = "portcullis_agent_generation";
const JOURNAL_HEALTHY: &str = "portcullis_agent_journal_healthy";

/// Tells the recorder what each metric means.
pub fn describe() {
    describe_counter!(
        PACKETS,
        Unit::Count,
        "Packets by verdict (pass, drop) and reason, since the maps were made"
    );
    describe_counter!(
        WOULD_DROP,
        Unit::Count,
        "Packets that monitor mode let pass, by the reason they would have been dropped for"
    );
    describe_counter!(
        ODD,
        Unit::Count,
        "Packets with an oddity, whatever became of them"
    );
    describe_gauge!(
        INTERFACE_ENFORCED,
        "1 while packets of the interface are judged, 0 while it is gone, occupied or failed"
    );
    describe_gauge!(ALLOWED, Unit::Count, "Prefixes on the allowlist");
    describe_gauge!(BANS, Unit::Count, "Bans in force");
    describe_gauge!(GENERATION, "Generation of the lists in force");
    describe_gauge!(
        JOURNAL_HEALTHY,
        "1 while the journal can be written; while it is 0, no change is made"
    );
}

/// Takes over what the engine knows.
pub fn state(
    packets: &Counters,
    allowed: usize,
    bans: usize,
    generation: u64,
    is_journal_healthy: bool,
) {
    for (verdict, reasons) in [("pass", &packets.passed), ("drop", &packets.dropped)] {
        for (reason, count) in reasons {
            counter!(PACKETS, "verdict" => verdict, "reason" => reason.clone()).absolute(*count);
        }
    }
    for (reason, count) in &packets.would_drop {
        counter!(WOULD_DROP, "reason" => reason.clone()).absolute(*count);
    }
    for (oddity, count) in &packets.odd {
        counter!(ODD, "oddity" => oddity.clone()).absolute(*count);
    }
    gauge!(ALLOWED).set(approximate(allowed));
    gauge!(BANS).set(approximate(bans));
    gauge!(GENERATION).set(generation as f64);
    gauge!(JOURNAL_HEALTHY).set(f64::from(u8::from(is_journal_healthy)));
}

/// Takes over how the interfaces stand.
pub fn interfaces(interfaces: &[InterfaceStatus]) {
    for status in interfaces {
        let is_enforced = match status.state {
            InterfaceState::Enforcing { .. } => 1.0,
            InterfaceState::Gone
            | InterfaceState::Occupied { .. }
            | InterfaceState::Failed { .. } => 0.0,
        };
        gauge!(INTERFACE_ENFORCED, "interface" => status.name.clone()).set(is_enforced);
    }
}

/// Exact up to 2^53, which no list reaches.
fn approximate(count: usize) -> f64 {
    count as f64
}
