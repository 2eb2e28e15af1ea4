//! The answers about lists, for people.

use std::fmt::Write as _;

use crate::{
    control::{ChangeReply, DiffReply, HistoryReply},
    guard::{Impact, Preview},
    lists::ListName,
    record,
    sources::format::{self, Format},
    state::{HistoryEntry, Outcome},
};

pub(super) fn change(done: &ChangeReply) -> String {
    let mut text = String::new();
    if let Some(shown) = &done.preview {
        preview(&mut text, shown);
    }
    let counts = done.counts;
    let changed = match counts.changed {
        0 => String::new(),
        changed => format!(", {changed} changed"),
    };
    let verb = if done.applied || done.preview.is_none() {
        ""
    } else {
        "would be "
    };
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "{verb}{} put in, {} taken out{changed}; ",
        counts.added, counts.removed
    );
    let _ = if verb.is_empty() {
        writeln!(
            text,
            "{} allowed, revision {}, in force as generation {}",
            done.entries, done.revision, done.generation
        )
    } else {
        writeln!(
            text,
            "nothing was changed, the lists are at revision {}",
            done.revision
        )
    };
    if let Some(until) = done.confirm_by {
        let _ = writeln!(
            text,
            "TO BE CONFIRMED until {}: `allow confirm`, or it is taken back",
            record::time(until)
        );
    }
    text
}

fn preview(text: &mut String, preview: &Preview) {
    let counts = preview.counts;
    for (sign, examples, count) in [
        ('+', &preview.examples.added, counts.added),
        ('-', &preview.examples.removed, counts.removed),
        ('~', &preview.examples.changed, counts.changed),
    ] {
        for example in examples {
            let _ = writeln!(text, "{sign} {example}");
        }
        if let Some(more) = count.checked_sub(examples.len()).filter(|more| *more > 0) {
            let _ = writeln!(text, "{sign} ... and {more} more");
        }
    }
    impact(text, &preview.impact);
}

fn impact(text: &mut String, impact: &Impact) {
    if let Some(address) = impact.own_session {
        let _ = writeln!(text, "CUTS YOUR OWN SESSION from {address}");
    }
    if impact.cut_flows > 0 {
        let _ = writeln!(text, "cuts {} live connections:", impact.cut_flows);
        for flow in &impact.flows {
            let _ = writeln!(
                text,
                "  {} to protocol {} port {}",
                flow.address, flow.protocol, flow.local_port
            );
        }
    }
    if !impact.sources.is_empty() {
        let _ = writeln!(text, "cuts sources that pass now (packets in the sample):");
        for source in &impact.sources {
            let _ = writeln!(text, "  {:<39} {}", source.address, source.packets);
        }
    }
}

pub(super) fn history(history: &HistoryReply) -> String {
    let mut text = String::new();
    for HistoryEntry { revision, outcome } in &history.revisions {
        let outcome = match outcome {
            None => "",
            Some(Outcome::Waiting) => " (waits for its confirmation)",
            Some(Outcome::Confirmed) => " (confirmed)",
            Some(Outcome::Reverted) => " (not confirmed, taken back)",
        };
        let _ = write!(
            text,
            "{:>6}  {}  {:<8} +{} -{} ~{}  {} entries  {}{outcome}",
            revision.revision,
            record::time(revision.time),
            revision.action,
            revision.counts.added,
            revision.counts.removed,
            revision.counts.changed,
            revision.entries,
            revision.by.as_deref().unwrap_or("the agent"),
        );
        if let Some(ticket) = &revision.ticket {
            let _ = write!(text, "  [{ticket}]");
        }
        if let Some(reason) = &revision.reason {
            let _ = write!(text, "  {reason}");
        }
        text.push('\n');
    }
    text
}

pub(super) fn diff(diff: &DiffReply) -> String {
    let mut text = String::new();
    let line = |text: &mut String, sign: char, list: &ListName, entry: &crate::entry::Entry| {
        let written = format::write(Format::Text, std::slice::from_ref(entry));
        let _ = writeln!(text, "{sign} {list}: {}", written.trim_end());
    };
    for listed in &diff.removed {
        line(&mut text, '-', &listed.list, &listed.entry);
    }
    for listed in &diff.added {
        line(&mut text, '+', &listed.list, &listed.entry);
    }
    for changed in &diff.changed {
        line(&mut text, '-', &changed.list, &changed.before);
        line(&mut text, '+', &changed.list, &changed.after);
    }
    if text.is_empty() {
        text.push_str("no difference\n");
    }
    text
}
