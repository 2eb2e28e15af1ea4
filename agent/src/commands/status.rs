//! `status`.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::Result;

use super::render;
use crate::{
    control::{StatusReply, client::Client},
    datapath::{InterfaceState, InterfaceStatus, RunsAs},
};

pub(super) async fn status(client: &Client, json: bool) -> Result<String> {
    let status: StatusReply = client.get("/v1/status").await?;
    render(&status, json, text)
}

fn text(status: &StatusReply) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "portcullis-agent {}, process {}, up {} s",
        status.version, status.pid, status.uptime_seconds
    );
    let mode = if status.monitor {
        "monitor: nothing is dropped"
    } else {
        "enforcing"
    };
    let _ = writeln!(text, "lists      generation {}, {mode}", status.generation);
    let _ = writeln!(
        text,
        "           {} allowed, {} protected, {} banned",
        status.allowed, status.protected, status.banned
    );
    let journal = if status.journal_healthy {
        "can be written"
    } else {
        "CAN'T BE WRITTEN: no change is made"
    };
    let _ = writeln!(text, "journal    {journal}");
    if let Some(lag) = &status.lag {
        let _ = writeln!(
            text,
            "LAGGING    the kernel does not enforce what is wanted: {lag}"
        );
    }
    for interface in &status.interfaces {
        let _ = writeln!(text, "interface  {}", describe(interface));
    }
    for (title, counters) in [
        ("passed", &status.counters.passed),
        ("dropped", &status.counters.dropped),
        ("would drop", &status.counters.would_drop),
        ("odd", &status.counters.odd),
    ] {
        write_counters(&mut text, title, counters);
    }
    text
}

fn describe(status: &InterfaceStatus) -> String {
    let name = &status.name;
    match &status.state {
        InterfaceState::Enforcing {
            mode: RunsAs::Native,
            program,
            ..
        } => format!("{name}: enforcing, native, program {program}"),
        InterfaceState::Enforcing {
            mode: RunsAs::Generic,
            program,
            ..
        } => {
            format!(
                "{name}: enforcing, generic (in the network stack, not in the driver), program {program}"
            )
        }
        InterfaceState::Gone => format!("{name}: GONE; it is taken when it comes back"),
        InterfaceState::Occupied {
            program,
            program_name,
            ..
        } => {
            format!("{name}: NOT ENFORCING, XDP program {program} ({program_name}) is on the hook")
        }
        InterfaceState::Failed { error, .. } => format!("{name}: NOT ENFORCING, {error}"),
    }
}

fn write_counters(text: &mut String, title: &str, counters: &BTreeMap<String, u64>) {
    for (reason, count) in counters.iter().filter(|(_, count)| **count > 0) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{title:<10} {reason:<22} {count:>12}");
    }
}
