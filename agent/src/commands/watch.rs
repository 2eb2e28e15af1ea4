//! `watch`: drops as they happen.

use std::io::{self, Write as _};

use anyhow::Result;

use crate::control::{DropReport, client::Client};

/// Why watching ends.
enum End {
    Enough,
    Output(io::Error),
}

pub(super) async fn watch(client: &Client, count: Option<u64>, json: bool) -> Result<()> {
    let mut left = count;
    let ended = client
        .lines("/v1/events", |line| {
            let text = if json {
                line.to_owned()
            } else {
                describe(line)
            };
            writeln!(io::stdout(), "{text}").map_err(End::Output)?;
            if let Some(left) = &mut left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    return Err(End::Enough);
                }
            }
            Ok(())
        })
        .await?;
    match ended {
        Err(End::Output(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(End::Enough | End::Output(_)) => Ok(()),
    }
}

fn describe(line: &str) -> String {
    let Ok(report) = serde_json::from_str::<DropReport>(line) else {
        return line.to_owned();
    };
    let source = report
        .source
        .map_or_else(|| "unknown source".to_owned(), |source| source.to_string());
    let port = if report.destination_port == 0 {
        String::new()
    } else {
        format!(" port {}", report.destination_port)
    };
    let passed = if report.monitored {
        " (monitor: passed)"
    } else {
        ""
    };
    format!(
        "{} {} {:<20} {source} protocol {}{port}, {} bytes{passed}",
        report.time, report.interface, report.reason, report.protocol, report.length
    )
}
