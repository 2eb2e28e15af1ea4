//! `explain` names the rule that decides, and where it was set.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::Mount;
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

const SOURCE: &str = "203.0.113.7";

fn gateway() -> Result<(Proxy, TempDir)> {
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .server("accept", "\"any\"")
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    let mount = Mount {
        permissions: vec!["list", "read"],
        ..Mount::all("/archive", "archive", "/")
    };
    proxy.account("alice", &[mount])?;
    Ok((proxy, storage))
}

fn ask(proxy: &Proxy, more: &[&str]) -> Result<Output> {
    let mut command = Command::new(locate::binary("portcullis-proxy")?);
    command
        .args(["explain", "--json", "--config"])
        .arg(&proxy.config);
    command.args(more);
    Ok(command.output()?)
}

/// What the stage says, as `ANSWER RULE SET_BY`, and the exit code.
fn stage(proxy: &Proxy, stage: &str, more: &[&str]) -> Result<(String, Option<i32>)> {
    let output = ask(proxy, more)?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let stages = said
        .get("stages")
        .and_then(Value::as_array)
        .context("stages")?;
    let found = stages
        .iter()
        .find(|found| found.get("stage").and_then(Value::as_str) == Some(stage))
        .with_context(|| format!("{stage} in {said}"))?;
    let field = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default();
    let text = format!("{} {} {}", field("answer"), field("rule"), field("set_by"));
    Ok((text, output.status.code()))
}

/// Asks about alice at [`SOURCE`].
fn alice(proxy: &Proxy, wanted: &str, more: &[&str]) -> Result<String> {
    let about = ["--user", "alice", "--source", SOURCE];
    Ok(stage(proxy, wanted, &[&about, more].concat())?.0)
}

#[track_caller]
fn says(said: &str, answer: &str, parts: &[&str]) -> Result<()> {
    let is_so = said.starts_with(answer) && parts.iter().all(|part| said.contains(part));
    ensure!(is_so, "{said:?} is not {answer} with {parts:?}");
    Ok(())
}

#[test]
fn each_stage_names_the_rule_that_lets_in_and_the_one_that_does_not() -> Result<()> {
    let (proxy, _storage) = gateway()?;
    says(&alice(&proxy, "nic", &[])?, "unknown", &["no agent"])?;
    says(
        &alice(&proxy, "cipher", &[])?,
        "allowed",
        &["hipaa-2026", "cipher_policy"],
    )?;

    says(&alice(&proxy, "account", &[])?, "allowed", &[])?;
    proxy.command(&["account", "set", "alice", "--source", "192.0.2.0/24"])?;
    says(
        &alice(&proxy, "account", &[])?,
        "denied",
        &["source", "account set alice --source"],
    )?;
    proxy.command(&[
        "account",
        "set",
        "alice",
        "--source",
        "none",
        "--expires",
        "2020-01-31",
    ])?;
    says(
        &alice(&proxy, "account", &[])?,
        "denied",
        &["expired", "--expires"],
    )?;
    proxy.command(&["account", "set", "alice", "--expires", "none"])?;

    says(
        &alice(&proxy, "factors", &[])?,
        "allowed",
        &["two-class", "1 key(s)"],
    )?;
    proxy.command(&["account", "add", "bob"])?;
    let bob = ["--user", "bob", "--source", SOURCE];
    says(
        &stage(&proxy, "factors", &bob)?.0,
        "denied",
        &["password absent"],
    )?;
    let nobody = ["--user", "nobody", "--source", SOURCE];
    let (said, code) = stage(&proxy, "account", &nobody)?;
    says(&said, "denied", &["no account nobody"])?;
    ensure!(code == Some(1), "exit code {code:?}");

    for (op, path, answer, parts) in [
        ("read", "/archive/a.csv", "allowed", "/archive"),
        ("delete", "/archive/a.csv", "denied", "missing_permission"),
        ("list", "/", "allowed", "above the mounts"),
        ("read", "/elsewhere", "denied", "no_such_mount"),
        ("read", "/archive/../elsewhere", "denied", "no_such_mount"),
    ] {
        let said = alice(&proxy, "path", &["--op", op, "--path", path])?;
        says(&said, answer, &[parts])?;
    }
    for words in [
        "group add lab",
        "group mount lab /lab --backend archive --directory / --permissions list,read --rule /sealed/**=list",
        "group member lab --add alice",
    ] {
        let words: Vec<_> = words.split(' ').collect();
        proxy.command(&words)?;
    }
    for (path, answer, rule) in [
        (
            "/lab/a.csv",
            "allowed",
            "group lab, mount /lab, permissions",
        ),
        (
            "/lab/sealed/a.csv",
            "denied",
            "group lab, mount /lab, rule 1",
        ),
    ] {
        let said = alice(&proxy, "path", &["--op", "read", "--path", path])?;
        says(&said, answer, &[rule, "group mount lab /lab"])?;
    }
    let about = ["--user", "alice", "--source", SOURCE];
    ensure!(
        ask(&proxy, &about)?.status.code() == Some(2),
        "nobody asked the network card"
    );
    Ok(())
}

#[test]
fn the_listener_is_explained_with_the_line_of_the_configuration() -> Result<()> {
    let (proxy, _storage) = gateway()?;
    let text = fs::read_to_string(&proxy.config)?;
    let line = 1 + text
        .lines()
        .position(|line| line.starts_with("accept"))
        .context("the line of accept")?;
    let here = format!("{}:{line} (server.accept)", proxy.config.display());
    says(
        &alice(&proxy, "listener", &[])?,
        "allowed",
        &["anywhere", &here],
    )?;
    fs::write(&proxy.config, text.replace("\"any\"", "\"listed-sources\""))?;
    says(
        &alice(&proxy, "listener", &[])?,
        "denied",
        &["source_not_listed", &here],
    )?;
    proxy.command(&["account", "set", "alice", "--source", "203.0.113.0/24"])?;
    says(
        &alice(&proxy, "listener", &[])?,
        "allowed",
        &["203.0.113.0/24", "alice"],
    )
}

#[test]
fn a_machine_hears_of_its_first_missing_control_and_a_sealed_account_of_its_seal() -> Result<()> {
    let (proxy, _storage) = gateway()?;
    let mount = Mount {
        permissions: vec!["list", "read"],
        ..Mount::all("/out", "archive", "/out")
    };
    proxy.account_of_kind("robot", "machine", &[mount])?;
    let robot = ["--user", "robot", "--source", SOURCE];
    says(
        &stage(&proxy, "factors", &robot)?.0,
        "allowed",
        &["two-class"],
    )?;
    proxy.command(&[
        "account",
        "set",
        "robot",
        "--owner",
        "Billing",
        "--source",
        SOURCE,
        "--hours",
        "Mon-Sun 00:00-24:00",
    ])?;
    let expires = (chrono::Utc::now() + chrono::TimeDelta::days(30)).date_naive();
    proxy.command(&[
        "account",
        "policy",
        "robot",
        "machine",
        "--reason",
        "nightly",
        "--approver",
        "J. Doe",
        "--expires",
        &expires.to_string(),
        "--direction",
        "get",
        "--daily-volume",
        "1G",
    ])?;
    says(
        &stage(&proxy, "factors", &robot)?.0,
        "allowed",
        &["policy machine", "account policy robot machine"],
    )?;
    proxy.command(&["account", "set", "robot", "--source", "203.0.113.0/24"])?;
    says(
        &stage(&proxy, "factors", &robot)?.0,
        "denied",
        &["machine_lacks_single_source", "single-source"],
    )?;

    proxy.account_of_kind("rescue", "break-glass", &[])?;
    let rescue = ["--user", "rescue", "--source", SOURCE];
    says(
        &stage(&proxy, "account", &rescue)?.0,
        "denied",
        &["break_glass_sealed: sealed", "break-glass open rescue"],
    )
}
