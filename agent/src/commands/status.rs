//! `status`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::render;
use crate::{
    config::Config,
    control::{
        ProtectedStatus, StatusReply,
        client::{Client, ClientError},
    },
    datapath::{InterfaceState, InterfaceStatus, RunsAs, TableKind, pins::Pins},
    record,
    state::heartbeat::Life,
};

/// Protected sources that are shown one by one.
const MAX_PROTECTED: usize = 16;

pub(super) async fn status(client: &Client, config: &Path, json: bool) -> Result<String> {
    match client.get::<StatusReply>("/v1/status").await {
        Ok(status) => render(&status, json, text),
        Err(error @ ClientError::Connect { .. }) => match dead(config) {
            Some(dead) => {
                // What is known is the answer; that the daemon is dead is the failure.
                let answer = render(&dead, json, dead_text)?;
                io::stdout().write_all(answer.as_bytes())?;
                Err(error.into())
            }
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// What can be said without a daemon.
#[derive(Debug, Serialize)]
struct Dead {
    daemon: &'static str,
    since: DateTime<Utc>,
    /// Whether the service was stopped in order.
    stopped: bool,
    last_pid: u32,
    version: String,
    /// Interfaces whose links are pinned: their packets are judged as the daemon left it.
    enforcing: Vec<String>,
}

fn dead(config: &Path) -> Option<Dead> {
    let config = Config::load(config).ok()?;
    let life = Life::last(&config.state_dir)?;
    let since = life.dead_since()?;
    Some(Dead {
        daemon: "dead",
        since,
        stopped: life.stopped.is_some(),
        last_pid: life.pid,
        version: life.version,
        enforcing: config
            .pin_dir
            .exists()
            .then(|| Pins::lock(&config.pin_dir).ok())
            .flatten()
            .map(|pins| pins.linked())
            .unwrap_or_default(),
    })
}

fn dead_text(dead: &Dead) -> String {
    let how = if dead.stopped {
        "was stopped"
    } else {
        "is gone, and said nothing"
    };
    let mut text = format!(
        "portcullis-agent {}: NO DAEMON since {}: process {} {how}\n",
        dead.version,
        record::time(dead.since),
        dead.last_pid
    );
    text.push_str(&if dead.enforcing.is_empty() {
        "NOT ENFORCING: no link is pinned\n".to_owned()
    } else {
        format!(
            "enforcement continues on {}; nothing is changed, and bans don't end, until a daemon runs\n",
            dead.enforcing.join(", ")
        )
    });
    text
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
    let _ = writeln!(
        text,
        "lists      revision {}, generation {}, {mode}",
        status.revision, status.generation
    );
    let _ = writeln!(
        text,
        "           {} allowed, {} protected, {} banned",
        status.allowed, status.protected, status.banned
    );
    for list in status.lists.iter().filter(|_| status.lists.len() > 1) {
        let _ = writeln!(text, "           {}: {} entries", list.name, list.entries);
    }
    write_protected(&mut text, &status.protected_sources);
    let table = match &status.table.table {
        TableKind::Compiled => "compiled".to_owned(),
        TableKind::LpmTrie { reason } => format!("LPM trie of the kernel: {reason}"),
    };
    let _ = writeln!(
        text,
        "table      {table}, {} IPv4 and {} IPv6 prefixes, {} KiB",
        status.table.prefixes4,
        status.table.prefixes6,
        status.table.memory_bytes / 1024
    );
    if let Some(readback) = &status.readback {
        let _ = writeln!(
            text,
            "readback   {}, {} drifts repaired",
            record::time(readback.checked),
            readback.drifts
        );
    }
    if let Some(pending) = &status.pending {
        let _ = writeln!(
            text,
            "PENDING    revision {} of {} is taken back in {} s unless it is confirmed",
            pending.revision, pending.by, pending.seconds_left
        );
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "WARNING    {warning}");
    }
    if let Some(outage) = &status.outage {
        let _ = writeln!(
            text,
            "outage     no daemon from {} to {}",
            record::time(outage.since),
            record::time(outage.until)
        );
    }
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

fn write_protected(text: &mut String, sources: &[ProtectedStatus]) {
    let (shown, left_out) = sources.split_at(sources.len().min(MAX_PROTECTED));
    for (at, source) in shown.iter().enumerate() {
        let title = if at == 0 { "protected" } else { "" };
        let prefix = source.prefix.to_string();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{title:<10} {prefix:<22} {}",
            source.origins.join(", ")
        );
    }
    if !left_out.is_empty() {
        let _ = writeln!(
            text,
            "           and {} more: --json has all",
            left_out.len()
        );
    }
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
