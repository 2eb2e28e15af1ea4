//! The lines above the panes: lists, interfaces, and what is wrong.

use ratatui::{
    style::Stylize as _,
    text::{Line, Span},
};

use super::text::{duration, grouped};
use crate::{
    control::StatusReply,
    datapath::{InterfaceState, InterfaceStatus, RunsAs},
};

/// Interfaces shown one by one.
const INTERFACES: usize = 3;

/// The lines above the panes: lists, interfaces, and what is wrong.
pub(super) fn head(status: &StatusReply) -> Vec<Line<'static>> {
    let mode = if status.monitor {
        Span::raw("MONITOR: nothing is dropped").yellow()
    } else {
        Span::raw("enforcing")
    };
    let mut lines = vec![
        Line::from(vec![
            Span::raw(format!("portcullis-agent {}", status.version)).bold(),
            Span::raw(format!(
                "  up {}  generation {}  ",
                duration(status.uptime_seconds),
                status.generation
            )),
            mode,
        ]),
        Line::raw(format!(
            "{} allowed  {} protected  {} banned  revision {}",
            grouped(status.allowed as u64),
            grouped(status.protected as u64),
            grouped(status.banned as u64),
            status.revision
        )),
    ];
    lines.extend(status.interfaces.iter().take(INTERFACES).map(interface));
    if status.interfaces.len() > INTERFACES {
        let more = status.interfaces.len() - INTERFACES;
        lines.push(Line::raw(format!("and {more} more interfaces")));
    }
    let mut warn = |text: String| lines.push(Line::raw(text).red().bold());
    if let Some(pending) = &status.pending {
        warn(format!(
            "Revision {} by {} is taken back in {} s unless it is confirmed: allow confirm",
            pending.revision, pending.by, pending.seconds_left
        ));
    }
    let drifts = status
        .readback
        .as_ref()
        .map_or(0, |readback| readback.drifts);
    if drifts > 0 {
        warn(format!(
            "DRIFT: the kernel's tables were not as wanted, and were repaired, {drifts} times"
        ));
    }
    if let Some(lag) = &status.lag {
        warn(format!(
            "LAGGING: the kernel does not enforce what is wanted: {lag}"
        ));
    }
    for warning in &status.warnings {
        warn(warning.clone());
    }
    if !status.journal_healthy {
        warn("The journal can't be written: no change is made".to_owned());
    }
    lines
}

fn interface(status: &InterfaceStatus) -> Line<'static> {
    let name = &status.name;
    match &status.state {
        InterfaceState::Enforcing {
            mode: RunsAs::Native,
            ..
        } => Line::raw(format!("{name}: enforcing, native")),
        InterfaceState::Enforcing {
            mode: RunsAs::Generic,
            ..
        } => Line::raw(format!("{name}: enforcing, generic (slow)")).yellow(),
        InterfaceState::Gone => Line::raw(format!("{name}: GONE")).yellow(),
        InterfaceState::Occupied { program_name, .. } => Line::raw(format!(
            "{name}: NOT ENFORCING, another XDP program ({program_name})"
        ))
        .red(),
        InterfaceState::Failed { error, .. } => {
            Line::raw(format!("{name}: NOT ENFORCING, {error}")).red()
        }
    }
}
