//! Every metric: its name, labels and help text.

pub mod endpoint;

use chrono::{DateTime, TimeDelta, Utc};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::datapath::{Counters, InterfaceState, InterfaceStatus};

const PACKETS: &str = "portcullis_agent_packets_total";
const WOULD_DROP: &str = "portcullis_agent_monitored_drops_total";
const ODD: &str = "portcullis_agent_odd_packets_total";
const INTERFACE_ENFORCED: &str = "portcullis_agent_interface_enforced";
const ALLOWED: &str = "portcullis_agent_allowed_prefixes";
const PROTECTED: &str = "portcullis_agent_protected_sources";
const REVISION: &str = "portcullis_agent_revision";
const TABLE_BYTES: &str = "portcullis_agent_table_bytes";
const PENDING: &str = "portcullis_agent_change_pending";
const DRIFTS: &str = "portcullis_agent_drifts_total";
const START_TIME: &str = "portcullis_agent_start_time_seconds";
const LAST_OUTAGE: &str = "portcullis_agent_last_outage_seconds";
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
    describe_gauge!(ALLOWED, Unit::Count, "Entries of all lists together");
    describe_gauge!(
        PROTECTED,
        Unit::Count,
        "Sources that no list and no ban can cut"
    );
    describe_gauge!(REVISION, "Revision of the lists");
    describe_gauge!(
        TABLE_BYTES,
        Unit::Bytes,
        "Kernel memory of the tables in force"
    );
    describe_gauge!(PENDING, "1 while a change waits for its confirmation");
    describe_counter!(
        DRIFTS,
        Unit::Count,
        "Comparisons that found the kernel's tables changed, and repaired them"
    );
    describe_gauge!(
        START_TIME,
        Unit::Seconds,
        "When the daemon started, since the epoch"
    );
    describe_gauge!(
        LAST_OUTAGE,
        Unit::Seconds,
        "How long no daemon ran before this one; enforcement went on"
    );
    describe_gauge!(BANS, Unit::Count, "Bans in force");
    describe_gauge!(GENERATION, "Generation of the lists in force");
    describe_gauge!(
        JOURNAL_HEALTHY,
        "1 while the journal can be written; while it is 0, no change is made"
    );
}

/// What the engine knows beside the counters.
#[derive(Debug, Clone, Copy)]
pub struct State {
    pub allowed: usize,
    pub bans: usize,
    pub protected: usize,
    pub generation: u64,
    pub revision: u64,
    pub memory_bytes: u64,
    pub is_journal_healthy: bool,
    pub is_pending: bool,
}

/// Takes over what the engine knows.
pub fn state(packets: &Counters, state: &State) {
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
    gauge!(ALLOWED).set(approximate(state.allowed));
    gauge!(BANS).set(approximate(state.bans));
    gauge!(PROTECTED).set(approximate(state.protected));
    gauge!(GENERATION).set(state.generation as f64);
    gauge!(REVISION).set(state.revision as f64);
    gauge!(TABLE_BYTES).set(state.memory_bytes as f64);
    gauge!(JOURNAL_HEALTHY).set(f64::from(u8::from(state.is_journal_healthy)));
    gauge!(PENDING).set(f64::from(u8::from(state.is_pending)));
}

/// Takes over how often the kernel's tables had changed.
pub fn readback(drifts: u64) {
    counter!(DRIFTS).absolute(drifts);
}

/// Takes over when the daemon started, and how long none ran before.
pub fn life(started: DateTime<Utc>, outage: Option<TimeDelta>) {
    gauge!(START_TIME).set(started.timestamp() as f64);
    gauge!(LAST_OUTAGE).set(outage.map_or(0.0, |outage| outage.num_seconds() as f64));
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
