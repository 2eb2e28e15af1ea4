//! The seven steps. Each says what it does, shows evidence from outside the product where there is
//! any, and fails when the evidence is missing.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use portcullis_tests::account::Factors;
use portcullis_tests::client::{OpensshConnection, ssh_answers};
use portcullis_tests::files;
use portcullis_tests::process::{PATIENCE, finish_within, wait_for};
use portcullis_tests::proxy::records;
use serde_json::Value;

use super::stage::{FAILURES, GUESSER, PARTNER, STRANGER, Stage};
use crate::process;

/// How long a host tries before it gives up: a drop gives no answer at all.
const TRY: Duration = Duration::from_secs(3);
const SIZE: usize = 8 * 1024 * 1024 + 1;
const UPLOAD: &str = "/inbox/lab-results.bin";

pub(super) fn a_stranger_is_dropped(stage: &mut Stage) -> Result<String> {
    let before = stage.agent.dropped("not_listed")?;
    println!("stranger: ssh-keyscan {}", stage.proxy.address);
    ensure!(
        !ssh_answers(stage.at_stranger(), stage.proxy.address, TRY)?,
        "the stranger got an answer"
    );
    println!("stranger: no answer after {} s", TRY.as_secs());
    let dropped = stage.agent.dropped("not_listed")?.saturating_sub(before);
    println!("gateway:  portcullis-agent counts {dropped} more drops as not_listed");
    ensure!(dropped > 0, "the agent counted no drop");
    let seen = connections_from(&stage.proxy.records()?, &STRANGER.to_string());
    println!("gateway:  portcullis-proxy saw {seen} connections from {STRANGER}");
    ensure!(seen == 0, "the proxy saw the stranger");
    println!("partner:  ssh-keyscan {}", stage.proxy.address);
    ensure!(
        ssh_answers(stage.at_partner(), stage.proxy.address, TRY)?,
        "the partner got no answer either"
    );
    println!("partner:  the proxy answers");
    Ok(format!(
        "{dropped} packets dropped, 0 connections reached the proxy"
    ))
}

pub(super) fn the_agent_says_why(stage: &mut Stage) -> Result<String> {
    let stranger = STRANGER.to_string();
    let port = stage.proxy.address.port().to_string();
    let arguments = ["why", &stranger, "--proto", "tcp", "--port", &port];
    let before = agent_says(stage, &arguments)?;
    ensure!(
        before.status.code() == Some(3),
        "the stranger isn't said to be dropped: {}",
        before.status
    );
    let said = String::from_utf8_lossy(&before.stdout);
    ensure!(
        said.contains("not_listed") && said.contains(&format!("allow add {stranger}")),
        "neither the reason nor the remedy is named"
    );
    let partner = PARTNER.to_string();
    let arguments = ["why", &partner, "--proto", "tcp", "--port", &port];
    ensure!(
        agent_says(stage, &arguments)?.status.success(),
        "the partner isn't said to pass"
    );
    let examined = agent_says(stage, &["doctor", "internet0"])?;
    ensure!(examined.status.success(), "doctor has no answer");
    Ok("not_listed, with the command that lets him in; nothing was sent for it".to_owned())
}

pub(super) fn a_partner_uploads_and_downloads(stage: &mut Stage) -> Result<String> {
    let desk = stage.desk.path().to_path_buf();
    let (original, returned) = (desk.join("lab-results.bin"), desk.join("returned.bin"));
    fs::write(&original, files::random_bytes(SIZE)?)?;

    println!(
        "partner:  sftp alice@{} (password, then one-time password)",
        stage.proxy.address.ip()
    );
    let connection =
        OpensshConnection::new(&stage.proxy, &mut stage.alice, Factors::PasswordThenCode)?;
    let batch = format!(
        "put {} {UPLOAD}\nls -l /inbox\nget {UPLOAD} {}\n",
        original.display(),
        returned.display()
    );
    let output = connection.sftp(stage.at_partner(), &batch, 2 * PATIENCE)?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("          {line}");
    }
    ensure!(
        output.status.success(),
        "sftp ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let stored = stage.legacy_server.home.join("lab-results.bin");
    let sums = [
        ("partner:  sent     ", sha256(&original)?),
        ("legacy:   stored   ", sha256(&stored)?),
        ("partner:  fetched  ", sha256(&returned)?),
    ];
    for (what, sum) in &sums {
        println!("{what} sha256 {sum}");
    }
    let [(_, sent), (_, on_disk), (_, fetched)] = &sums;
    ensure!(
        sent == on_disk && sent == fetched,
        "the file changed on its way"
    );

    let one_factor = stage
        .proxy
        .records()?
        .iter()
        .filter(|record| text(record, "/event") == "op.intent")
        .filter(|record| text(record, "/user/name") != "alice")
        .count();
    ensure!(one_factor == 0, "{one_factor} operations weren't alice's");
    let short: String = sent.chars().take(12).collect();
    Ok(format!(
        "{SIZE} bytes, sha256 {short}... on both sides and in vsftpd's folder"
    ))
}

pub(super) fn the_journal_tells_and_is_verified(stage: &mut Stage) -> Result<String> {
    let records = stage.proxy.records()?;
    println!(
        "gateway:  the journal has {} records; of the upload, among others:",
        records.len()
    );
    let interesting = |record: &&Value| match text(record, "/event") {
        "auth.step" | "auth.result" | "xfer.summary" => true,
        "op.intent" => text(record, "/body/path").contains("lab-results"),
        _ => false,
    };
    for record in records.iter().filter(interesting).take(8) {
        println!("          {}", in_short(record));
    }
    let verdict = stage.proxy.verify(&stage.proxy.journal)?;
    print_indented(&verdict.stdout);
    ensure!(
        verdict.status.success(),
        "portcullis-verify refuses the journal: {}",
        String::from_utf8_lossy(&verdict.stderr)
    );

    let copy = stage.desk.path().join("journal-copy");
    process::run_quietly(
        Command::new("cp")
            .arg("-a")
            .arg(&stage.proxy.journal)
            .arg(&copy),
    )?;
    let changed = flip_a_byte(&copy)?;
    println!("auditor:  one letter of record {changed} is changed in a copy of the journal");
    let verdict = stage.proxy.verify(&copy)?;
    print_indented(&verdict.stdout);
    print_indented(&verdict.stderr);
    ensure!(
        !verdict.status.success(),
        "portcullis-verify accepts the changed copy"
    );
    let said = String::from_utf8_lossy(&verdict.stdout).into_owned()
        + &String::from_utf8_lossy(&verdict.stderr);
    let numbers: Vec<&str> = said
        .split(|letter: char| !letter.is_ascii_digit())
        .collect();
    ensure!(
        numbers.contains(&changed.to_string().as_str()),
        "portcullis-verify doesn't name record {changed}"
    );
    Ok(format!(
        "{} records verified; changed record {changed} named",
        records.len()
    ))
}

pub(super) fn the_allowlist_changes_live(stage: &mut Stage) -> Result<String> {
    let stranger = STRANGER.to_string();
    println!("gateway:  portcullis-agent allow add {stranger}");
    stage.agent.command(&["allow", "add", &stranger])?;
    ensure!(
        ssh_answers(stage.at_stranger(), stage.proxy.address, TRY)?,
        "the stranger gets no answer though allowed"
    );
    println!("stranger: the proxy answers");
    println!("gateway:  portcullis-agent allow remove {stranger}");
    stage.agent.command(&["allow", "remove", &stranger])?;
    ensure!(
        !ssh_answers(stage.at_stranger(), stage.proxy.address, TRY)?,
        "the stranger still gets an answer"
    );
    println!("stranger: no answer after {} s", TRY.as_secs());
    Ok("allowed: answer; removed: silence; no restart".to_owned())
}

pub(super) fn a_change_takes_itself_back(stage: &mut Stage) -> Result<String> {
    let list = stage.desk.path().join("list.txt");
    fs::write(&list, format!("{STRANGER} ticket=NET-7\n"))?;
    let list = list.display().to_string();
    let arguments = ["allow", "replace", &list, "--confirm-within", "10s"];
    let changed = agent_says(stage, &arguments)?;
    ensure!(
        changed.status.success(),
        "{}",
        String::from_utf8_lossy(&changed.stderr)
    );
    let answers = |stage: &Stage| ssh_answers(stage.at_partner(), stage.proxy.address, TRY);
    ensure!(!answers(stage)?, "the partner is still let in");
    println!("partner:  no answer, and nobody confirms");
    wait_for("the change to be taken back", || {
        answers(stage).ok()?.then_some(())
    })?;
    println!("partner:  the proxy answers again");

    // The kernel went back by itself; the daemon notes it within half a second.
    wait_for("the history to say so", || {
        let history = stage.agent.command(&["allow", "history"]).ok()?;
        history.contains("taken back").then_some(())
    })?;
    agent_says(stage, &["allow", "history"])?;

    ensure!(
        agent_says(stage, &arguments)?.status.success()
            && agent_says(stage, &["allow", "confirm"])?.status.success(),
        "the change isn't confirmed"
    );
    let revision = stage
        .agent
        .status()?
        .get("revision")
        .and_then(Value::as_u64)
        .context("the lists have a revision")?;
    let before = revision.saturating_sub(1).to_string();
    ensure!(
        agent_says(stage, &["allow", "rollback", &before])?
            .status
            .success()
            && answers(stage)?,
        "the partner is not let in after the rollback"
    );
    println!("partner:  the proxy answers");
    Ok("unconfirmed: taken back after 10 s; confirmed: rolled back".to_owned())
}

pub(super) fn wrong_codes_end_in_a_ban(stage: &mut Stage) -> Result<String> {
    let before = stage.agent.dropped("banned")?;
    let from_guesser = format!("BindAddress={GUESSER}");
    let wrong = |stage: &Stage| -> Result<OpensshConnection> {
        let code = stage.alice.phone.wrong_code();
        Ok(OpensshConnection::with_answers(
            &stage.proxy,
            &stage.alice,
            Factors::PasswordThenCode,
            &stage.alice.password,
            &code,
        )?
        .option(&from_guesser)
        .option("ConnectTimeout=3"))
    };
    for attempt in 1..=FAILURES {
        let output = wrong(stage)?.ssh(stage.at_partner(), &["-s", "sftp"])?;
        ensure!(!output.status.success(), "a wrong code was accepted");
        let said = String::from_utf8_lossy(&output.stderr);
        println!(
            "guesser:  {GUESSER}, right password, wrong code, attempt {attempt}: {}",
            said.lines().last().unwrap_or_default()
        );
    }
    let dropped = wait_for("the ban to hold on the wire", || {
        let attempt = wrong(stage).ok()?;
        let output = attempt.ssh(stage.at_partner(), &["-s", "sftp"]).ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.contains("timed out").then(|| said.trim().to_owned())
    })?;
    println!("guesser:  {dropped}");
    agent_says(stage, &["bans"])?;
    agent_says(stage, &["top", "--once"])?;
    let banned = stage.agent.dropped("banned")?.saturating_sub(before);
    println!("gateway:  portcullis-agent counts {banned} drops as banned");
    ensure!(banned > 0, "the agent counted no drop of the banned source");
    ensure!(
        ssh_answers(stage.at_partner(), stage.proxy.address, TRY)?,
        "the ban hit the partner's other machine too"
    );
    println!("partner:  {PARTNER} still gets an answer");
    Ok(format!(
        "{FAILURES} wrong codes, then {banned} packets of {GUESSER} dropped"
    ))
}

/// Runs a command of the agent, and shows it with what it says.
fn agent_says(stage: &Stage, arguments: &[&str]) -> Result<Output> {
    println!("gateway:  portcullis-agent {}", arguments.join(" "));
    let mut command = stage
        .at_gateway()
        .command(&stage.agent.program().display().to_string());
    command
        .args(arguments)
        .arg("--socket")
        .arg(&stage.agent.socket);
    let output = finish_within(&mut command, PATIENCE)?;
    print_indented(&output.stdout);
    print_indented(&output.stderr);
    Ok(output)
}

/// A record in one line: number, time, event, outcome, and what the event is about.
fn in_short(record: &Value) -> String {
    let time: String = text(record, "/ts").chars().skip(11).take(15).collect();
    let about: Vec<String> = [
        "factor",
        "factors",
        "is_mfa",
        "sftp_op",
        "direction",
        "bytes",
        "sha256",
        "path",
    ]
    .iter()
    .filter_map(|field| Some((field, record.pointer("/body")?.get(field)?)))
    .map(|(field, value)| format!("{field}={value}"))
    .collect();
    format!(
        "{:>4} {time} {:<12} {:<7} {}",
        record
            .get("seq")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
        text(record, "/event"),
        text(record, "/outcome"),
        about.join(" ")
    )
}

fn connections_from(records: &[Value], address: &str) -> usize {
    records
        .iter()
        .filter(|record| text(record, "/src/ip") == address)
        .count()
}

/// Changes one letter of the upload's path in its intent, and returns that record's number.
fn flip_a_byte(journal: &Path) -> Result<u64> {
    let record = records(journal)?
        .into_iter()
        .find(|record| {
            text(record, "/event") == "op.intent"
                && text(record, "/body/path").contains("lab-results")
        })
        .context("the journal has no intent of the upload")?;
    let number = record
        .get("seq")
        .and_then(Value::as_u64)
        .context("a record has a number")?;
    for entry in fs::read_dir(journal)? {
        let path = entry?.path();
        let Ok(before) = fs::read_to_string(&path) else {
            continue;
        };
        let mut lines: Vec<String> = before.lines().map(str::to_owned).collect();
        let is_the_one = |line: &&mut String| {
            serde_json::from_str::<Value>(line)
                .is_ok_and(|found| found.get("seq").and_then(Value::as_u64) == Some(number))
        };
        let Some(line) = lines.iter_mut().find(is_the_one) else {
            continue;
        };
        *line = line.replacen("lab-results", "lab-resulta", 1);
        let after = lines.join("\n") + "\n";
        ensure!(
            after.len() == before.len() && after != before,
            "one letter is changed"
        );
        fs::write(&path, after)?;
        return Ok(number);
    }
    bail!("no segment of the copy has record {number}")
}

fn sha256(file: &Path) -> Result<String> {
    let printed = process::run_quietly(Command::new("sha256sum").arg(file))?;
    printed
        .split_whitespace()
        .next()
        .map(str::to_owned)
        .context("sha256sum prints the sum first")
}

fn text<'r>(record: &'r Value, pointer: &str) -> &'r str {
    record
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn print_indented(bytes: &[u8]) {
    for line in String::from_utf8_lossy(bytes).lines().take(12) {
        println!("          {line}");
    }
}
