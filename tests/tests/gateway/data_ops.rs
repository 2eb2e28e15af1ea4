//! How many records the READs and WRITEs of a real client make, and that the log is sound with fewer.

use std::fs;

use anyhow::{Result, ensure};
use portcullis_tests::account::{Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::PATIENCE;
use portcullis_tests::proxy::{Backend, Plan};
use serde_json::Value;

use crate::sessions::text;

const MEBIBYTE: usize = 1 << 20;

fn is_intent_of_data(record: &Value) -> bool {
    let operation = record.pointer("/body/sftp_op").and_then(Value::as_str);
    text(record, "event") == "op.intent" && matches!(operation, Some("read" | "write"))
}

#[test]
fn a_file_goes_there_and_back_with_a_record_for_each_request_extent_or_file() -> Result<()> {
    let (storage, here) = (files::folder("storage")?, files::folder("here")?);
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let mut alice = proxy.account("alice", &[Mount::all("/inbox", "archive", "/")])?;
    let sent = files::random_bytes(20 * MEBIBYTE + 11)?;
    let original = here.path().join("original");
    fs::write(&original, &sent)?;

    let mut counts = Vec::new();
    let mut seen = 0;
    let mut configured = "each";
    for data_ops in ["each", "extent", "summary"] {
        proxy.reload(|text| {
            text.replace(&format!("data_ops = \"{configured}\"\n"), "")
                .replacen(
                    "[journal]\n",
                    &format!("[journal]\ndata_ops = \"{data_ops}\"\n"),
                    1,
                )
        })?;
        configured = data_ops;
        let back = here.path().join(data_ops);
        let connection = OpensshConnection::new(&proxy, &mut alice, Factors::KeyThenPassword)?;
        let batch = format!(
            "put {} /inbox/{data_ops}\nget /inbox/{data_ops} {}\n",
            original.display(),
            back.display()
        );
        let output = connection.sftp(Place::Loopback, &batch, 2 * PATIENCE)?;
        ensure!(
            output.status.success(),
            "{data_ops}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(fs::read(&back)? == sent, "{data_ops}: came back changed");
        let records = proxy.records()?;
        let new = records.get(seen..).unwrap_or_default();
        counts.push(
            new.iter()
                .filter(|record| is_intent_of_data(record))
                .count(),
        );
        seen = records.len();
        let summaries = new
            .iter()
            .filter(|record| record["event"] == "xfer.summary")
            .map(|record| record["body"]["bytes"].as_u64());
        let bytes = Some(sent.len() as u64);
        assert_eq!(summaries.collect::<Vec<_>>(), [bytes, bytes], "{data_ops}");
    }
    let [each, extent, summary] = counts[..] else {
        unreachable!("three ways were counted")
    };
    assert!(each > 2 * sent.len() / (256 << 10), "{each} for each");
    assert_eq!(extent, 4, "two extents of 16 MiB each way");
    assert_eq!(summary, 2, "one each way");
    proxy.journal_is_sound()
}
