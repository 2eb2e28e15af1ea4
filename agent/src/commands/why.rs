//! `why`: what becomes of a packet, and why.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use chrono::{DateTime, SecondsFormat, Utc};

use super::Output;
use crate::{
    answers::{
        names,
        question::WhyQuery,
        why::{Cover, Since, WhyReply},
    },
    cli::WhyArguments,
    control::client::Client,
    entry::Entry,
};

/// Exit code of a packet that would be dropped.
const DROPPED: u8 = 3;

pub(super) async fn why(client: &Client, arguments: WhyArguments, json: bool) -> Result<Output> {
    let query = serde_urlencoded::to_string(query(arguments)).context("make the query")?;
    let reply: WhyReply = client.get(&format!("/v1/why?{query}")).await?;
    Ok(Output {
        exit: if reply.passes { 0 } else { DROPPED },
        text: super::render(&reply, json, text)?,
    })
}

fn query(arguments: WhyArguments) -> WhyQuery {
    WhyQuery {
        address: arguments.address,
        protocol: arguments.proto,
        port: arguments.port,
        source_port: arguments.from_port,
        to: arguments.to,
        vlan: arguments.vlan,
        syn: arguments.syn,
        fragment: arguments.fragment,
        interface: arguments.interface,
    }
}

fn text(reply: &WhyReply) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = headline(&mut text, reply);
    if let Some(disagreement) = &reply.disagreement {
        let _ = line(&mut text, "DRIFT", disagreement);
    }
    let _ = line(&mut text, "because", &reply.meaning);
    let program = format!("class {}, generation {}", reply.class, reply.generation);
    let _ = line(&mut text, "program", &program);
    for interface in &reply.interfaces {
        let state = match (interface.judged, interface.monitored) {
            (false, _) => "not enforced",
            (true, true) => "monitored: drops are counted, not done",
            (true, false) => "enforced",
        };
        let _ = line(
            &mut text,
            "interface",
            &format!("{} {state}", interface.name),
        );
    }
    if let Some(judged) = &reply.judged_as {
        let _ = line(&mut text, "judged as", &judged.to_string());
    }
    if let Some(scope) = &reply.scope {
        let _ = line(&mut text, "may use", &scope.to_string());
    }
    covering(&mut text, reply);
    if let Some(last) = &reply.last_drop {
        let report = &last.report;
        let what = format!(
            "{} on {}: {}, {}, generation {}; {} reported",
            at(report.time),
            report.interface,
            report.reason,
            names::endpoint(report.protocol, report.destination_port),
            report.generation,
            last.reported
        );
        let _ = line(&mut text, "last drop", &what);
    }
    for note in &reply.notes {
        let _ = line(&mut text, "note", note);
    }
    if let Some(remedy) = &reply.remedy {
        let _ = line(&mut text, "to let in", remedy);
    }
    text
}

fn headline(text: &mut String, reply: &WhyReply) -> std::fmt::Result {
    let packet = &reply.packet;
    let what = names::endpoint(packet.protocol, packet.destination_port);
    let verdict = if reply.passes { "PASSES" } else { "DROPPED" };
    write!(text, "{} to {what}", reply.address)?;
    if packet.later_fragment {
        write!(text, ", a later fragment")?;
    }
    if packet.syn {
        write!(text, ", SYN")?;
    }
    if !packet.vlans.is_empty() {
        let vlans: Vec<String> = packet.vlans.iter().map(u16::to_string).collect();
        write!(text, ", VLAN {}", vlans.join(" in "))?;
    }
    writeln!(text, ": {verdict}, {}", reply.reason)
}

fn covering(text: &mut String, reply: &WhyReply) {
    if let Some(cover) = &reply.decided_by {
        // Writing to a string does not fail.
        let _ = line(text, "decided by", &describe(cover));
    }
    let others = reply
        .covering
        .iter()
        .filter(|cover| Some(*cover) != reply.decided_by.as_ref());
    for cover in others {
        let _ = line(text, "also", &describe(cover));
    }
    if reply.covering.is_empty() {
        let _ = line(text, "covered by", "no entry, ban or protection");
    }
}

fn line(text: &mut String, title: &str, what: &str) -> std::fmt::Result {
    writeln!(text, "  {title:<11}{what}")
}

fn describe(cover: &Cover) -> String {
    match cover {
        Cover::Protected { prefix, origin } => format!("{prefix} protected: {origin}"),
        Cover::Ban(ban) => {
            let reason = if ban.reason.is_empty() {
                String::new()
            } else {
                format!(", \"{}\"", ban.reason)
            };
            format!(
                "{} banned by {} until {}{reason}",
                ban.source,
                ban.by,
                at(ban.expires)
            )
        }
        Cover::Entry { list, entry, since } => {
            let mut text = format!("{} in {list}", entry.prefix);
            for part in details(entry) {
                text.push_str(", ");
                text.push_str(&part);
            }
            if let Some(since) = since {
                text.push_str(", ");
                text.push_str(&came(since));
            }
            text
        }
    }
}

fn details(entry: &Entry) -> impl Iterator<Item = String> {
    let named =
        |name: &str, text: &Option<String>| text.as_ref().map(|text| format!("{name} {text}"));
    [
        entry.deny.then(|| "denied".to_owned()),
        entry.scope.as_ref().map(ToString::to_string),
        named("owner", &entry.owner),
        named("ticket", &entry.ticket),
        entry.comment.as_ref().map(|text| format!("\"{text}\"")),
        entry
            .expires
            .map(|expires| format!("until {}", at(expires))),
    ]
    .into_iter()
    .flatten()
}

fn came(since: &Since) -> String {
    let by = since
        .by
        .as_ref()
        .map_or_else(String::new, |by| format!(" by {by}"));
    format!("since revision {} ({}{by})", since.revision, at(since.time))
}

fn at(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as the daemon sends it.
    fn reply(change: impl FnOnce(&mut serde_json::Value)) -> WhyReply {
        let mut reply = serde_json::json!({
            "address": "203.0.113.9",
            "packet": {
                "protocol": 6, "protocol_name": "tcp", "source_port": 50000, "destination": "192.0.2.1",
                "destination_port": 22, "vlans": [], "syn": false, "later_fragment": false
            },
            "passes": true, "reason": "allowed", "meaning": "An entry covers it.", "class": "scoped", "generation": 12,
            "interfaces": [
                {"name": "eth0", "judged": true, "monitored": false},
                {"name": "eth1", "judged": true, "monitored": true},
                {"name": "eth2", "judged": false, "monitored": false}
            ],
            "decided_by": {
                "kind": "entry", "list": "file:partner.txt", "prefix": "203.0.113.0/24", "scope": "tcp/22",
                "owner": "Lab North", "ticket": "NET-12", "comment": "until the move", "expires": "2026-12-31T00:00:00Z",
                "since": {"revision": 4, "time": "2026-11-20T08:00:00Z", "by": "alice"}
            },
            "covering": [
                {"kind": "ban", "source": "203.0.113.9/32", "expires": "2026-11-22T00:00:00Z", "reason": "", "by": "root"}
            ],
            "scope": "tcp/22",
            "notes": []
        });
        change(&mut reply);
        serde_json::from_value(reply).unwrap()
    }

    #[test]
    fn an_answer_says_verdict_reason_entry_and_interfaces() {
        assert_eq!(
            text(&reply(|_| {})),
            "\
203.0.113.9 to tcp/22 (ssh): PASSES, allowed
  because    An entry covers it.
  program    class scoped, generation 12
  interface  eth0 enforced
  interface  eth1 monitored: drops are counted, not done
  interface  eth2 not enforced
  may use    tcp/22
  decided by 203.0.113.0/24 in file:partner.txt, tcp/22, owner Lab North, ticket NET-12, \"until the move\", until 2026-12-31T00:00:00Z, since revision 4 (2026-11-20T08:00:00Z by alice)
  also       203.0.113.9/32 banned by root until 2026-11-22T00:00:00Z
"
        );
    }

    #[test]
    fn a_drop_comes_with_its_remedy_and_a_disagreement_comes_first() {
        let text = text(&reply(|reply| {
            reply["passes"] = false.into();
            reply["reason"] = "not_listed".into();
            reply["remedy"] = "portcullis-agent allow add 203.0.113.9".into();
            reply["disagreement"] = "the loaded program says not_listed".into();
            reply["packet"]["vlans"] = vec![7, 8].into();
            reply["packet"]["syn"] = true.into();
        }));
        assert!(
            text.starts_with(
                "203.0.113.9 to tcp/22 (ssh), SYN, VLAN 7 in 8: DROPPED, not_listed\n  DRIFT      the loaded program says not_listed\n"
            ),
            "{text}"
        );
        assert!(
            text.ends_with("  to let in  portcullis-agent allow add 203.0.113.9\n"),
            "{text}"
        );
    }
}
