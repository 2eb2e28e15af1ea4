//! `watch`: drops as they happen.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
    path::Path,
    pin::pin,
    time::Duration,
};

use agent_ebpf::layout::HEAD_BYTES;
use anyhow::{Context as _, Result};

use crate::{
    answers::{
        feed::{Line, Tally},
        filter::EventQuery,
        names,
        pcap::Writer,
        reasons::{self, Explanation},
        report::DropReport,
    },
    cli::WatchArguments,
    control::client::Client,
};

/// How long to wait for the last sums.
const LAST_SUMS: Duration = Duration::from_secs(2);

/// Why watching ends.
enum End {
    /// All was shown, and the sums came after it.
    Told,
    Output(io::Error),
}

pub(super) async fn watch(client: &Client, arguments: WatchArguments, json: bool) -> Result<()> {
    let capture = match &arguments.pcap {
        Some(path) => {
            Some(capture(path).with_context(|| format!("write the capture {}", path.display()))?)
        }
        None => None,
    };
    let path = format!(
        "/v1/events?{}",
        serde_urlencoded::to_string(query(&arguments)).context("make the query")?
    );
    let is_on_stdout = arguments.pcap.as_deref() == Some(Path::new("-"));
    let mut screen = Screen {
        json,
        silent: is_on_stdout,
        capture,
        limit: arguments.count,
        tally: Tally::default(),
        shown: 0,
        reasons: BTreeSet::new(),
    };
    let ended = follow(client, &path, &mut screen, arguments.lasting).await?;
    let written = match ended {
        Err(End::Output(error)) => Err(error),
        Ok(()) | Err(End::Told) => screen.sum_up(),
    };
    match written {
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn query(arguments: &WatchArguments) -> EventQuery {
    EventQuery {
        source: arguments.source.clone(),
        reason: (!arguments.reason.is_empty()).then(|| arguments.reason.join(",")),
        port: arguments.port,
        protocol: arguments.proto.clone(),
        interface: arguments.interface.clone(),
        monitored: match (arguments.monitored, arguments.dropped) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            (true, true) | (false, false) => None,
        },
        head: arguments.pcap.is_some(),
    }
}

fn capture(path: &Path) -> io::Result<Writer<Box<dyn Write>>> {
    let output: Box<dyn Write> = if path == Path::new("-") {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(path)?)
    };
    Writer::new(output, u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
}

/// Shows what comes until the end, and the sums up to it.
async fn follow(
    client: &Client,
    path: &str,
    screen: &mut Screen,
    lasting: Option<Duration>,
) -> Result<Result<(), End>> {
    let is_over = Cell::new(false);
    let mut lines = pin!(client.lines(path, |line| screen.line(line, &is_over)));
    tokio::select! {
        ended = &mut lines => return Ok(ended?),
        () = end(lasting) => is_over.set(true),
    }
    match tokio::time::timeout(LAST_SUMS, lines).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Ok(Ok(())),
    }
}

/// Waits for the time to be over, or Ctrl-C.
async fn end(lasting: Option<Duration>) {
    let time = async {
        match lasting {
            Some(lasting) => tokio::time::sleep(lasting).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// What was shown so far, and where more of it goes.
struct Screen {
    json: bool,
    /// Standard output is the capture's.
    silent: bool,
    capture: Option<Writer<Box<dyn Write>>>,
    limit: Option<u64>,
    tally: Tally,
    shown: u64,
    /// Those that occurred.
    reasons: BTreeSet<Cow<'static, str>>,
}

impl Screen {
    /// Shows a line, unless `is_over`; ends with the first sums after that.
    fn line(&mut self, line: &str, is_over: &Cell<bool>) -> Result<(), End> {
        // A later daemon may send kinds of lines that are not known here.
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            return Ok(());
        };
        match line {
            Line::Tally { tally } => {
                self.tally = tally;
                if is_over.get() {
                    return Err(End::Told);
                }
            }
            Line::Report(report) if !is_over.get() => {
                self.show(&report).map_err(End::Output)?;
                self.shown += 1;
                if !self.reasons.contains(&report.reason) {
                    self.reasons.insert(report.reason);
                }
                is_over.set(self.limit.is_some_and(|limit| self.shown >= limit));
            }
            Line::Report(_) => {}
        }
        Ok(())
    }

    fn show(&mut self, report: &DropReport) -> io::Result<()> {
        if let Some(capture) = &mut self.capture {
            capture.packet(report.time, &report.head, report.length)?;
        }
        if self.silent {
            return Ok(());
        }
        let mut output = io::stdout();
        if self.json {
            writeln!(output, "{}", serde_json::to_string(report)?)
        } else {
            writeln!(output, "{}", describe(report))
        }
    }

    fn sum_up(&self) -> io::Result<()> {
        let tally = Tally {
            shown: self.shown,
            ..self.tally
        };
        if self.json && !self.silent {
            return writeln!(
                io::stdout(),
                "{}",
                serde_json::to_string(&Line::Tally { tally })?
            );
        }
        // Not among the results, so that they can be piped.
        let mut output = io::stderr();
        for reason in &self.reasons {
            if let Some(Explanation { meaning, remedy }) = reasons::by_name(reason) {
                writeln!(output, "{reason}: {meaning} Remedy: {remedy}")?;
            }
        }
        writeln!(output, "{}", summary(&tally))
    }
}

fn summary(tally: &Tally) -> String {
    let Tally {
        sums,
        shown,
        missed,
    } = tally;
    let left_out = sums.drops.saturating_sub(sums.reported);
    let mut text = format!(
        "{shown} shown; {} drops counted, {} of them reported",
        sums.drops.max(sums.reported),
        sums.reported
    );
    if left_out > 0 {
        text.push_str(&format!(
            ", {left_out} left out by the sample or its cap (events in the configuration)"
        ));
    }
    if *missed > 0 {
        text.push_str(&format!(
            ", {missed} missed since this watcher was too slow"
        ));
    }
    text
}

fn describe(report: &DropReport) -> String {
    let source = match (report.source, report.source_port) {
        (None, _) => "unknown source".to_owned(),
        (Some(source), 0) => source.to_string(),
        (Some(source), port) if source.is_ipv6() => format!("[{source}]:{port}"),
        (Some(source), port) => format!("{source}:{port}"),
    };
    let what = if report.source.is_some() {
        names::endpoint(report.protocol, report.destination_port)
    } else {
        format!("ethertype {:#06x}", report.ethertype)
    };
    let vlan = report
        .vlan
        .map_or_else(String::new, |vlan| format!(" vlan {vlan}"));
    let passed = if report.monitored {
        " (monitor: passed)"
    } else {
        ""
    };
    format!(
        "{} {} {:<20} {source} to {what}{vlan}, {} bytes{passed}",
        report
            .time
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        report.interface,
        report.reason,
        report.length
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::{feed::Sums, testing::report};

    #[test]
    fn a_line_names_source_destination_and_reason() {
        let dropped = DropReport {
            vlan: Some(7),
            monitored: true,
            ..report("2001:db8::7")
        };
        assert_eq!(
            describe(&dropped),
            "2026-11-22T02:50:16.242Z gw0 not_listed           [2001:db8::7]:40000 to tcp/22 (ssh) vlan 7, 60 bytes (monitor: passed)"
        );
        let malformed = DropReport {
            source: None,
            ..report("198.51.100.7")
        };
        assert!(describe(&malformed).contains("unknown source to ethertype 0x0800,"));
    }

    #[test]
    fn the_summary_says_what_was_left_out_and_only_if_there_was() {
        let tally = |drops, reported, missed| {
            summary(&Tally {
                sums: Sums { drops, reported },
                shown: 2,
                missed,
            })
        };
        assert_eq!(
            tally(3, 3, 0),
            "2 shown; 3 drops counted, 3 of them reported"
        );
        assert!(tally(1_003, 3, 0).contains("1000 left out by the sample"));
        assert!(tally(3, 3, 9).contains("9 missed"));
    }
}
