//! Who hears of what the journal has.

mod webhook;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::aiosmtpd::{Aiosmtpd, Mail};
use portcullis_tests::server::rsyslog::Rsyslog;
use portcullis_tests::server::{PASSWORD, USER};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::sessions::{body, text};
use crate::sinks::lines;
use webhook::Webhook;

const SECRET: &str = "a secret that nobody else has";

struct World {
    proxy: Proxy,
    alice: Account,
    here: TempDir,
    _storage: TempDir,
}

/// `sections` with `%` for a folder of secrets.
fn world(sections: &str) -> Result<World> {
    let storage = files::folder("storage")?;
    let here = files::folder("partner")?;
    files::secret(&here.path().join("hook.secret"), SECRET)?;
    files::secret(&here.path().join("mail.password"), PASSWORD)?;
    let sections = sections.replace('%', &here.path().display().to_string());
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .sections(&sections)
        .start()?;
    let mut mount = Mount::all("/archive", "archive", "/");
    mount
        .permissions
        .retain(|permission| *permission != "mkdir");
    let alice = proxy.account("alice", &[mount])?;
    fs::write(storage.path().join("file"), vec![b'x'; 1000])?;
    Ok(World {
        proxy,
        alice,
        here,
        _storage: storage,
    })
}

impl World {
    /// A login with a wrong password: one failed step.
    fn wrong_password(&self) -> Result<()> {
        let before = self.records_of("auth.step", "failure")?.len();
        let connection = OpensshConnection::with_answers(
            &self.proxy,
            &self.alice,
            Factors::KeyThenPassword,
            "not the password",
            "",
        )?
        .option("NumberOfPasswordPrompts=1");
        let output = connection.sftp(Place::Loopback, "ls\n", PATIENCE)?;
        ensure!(!output.status.success(), "a wrong password is right");
        let after = self.records_of("auth.step", "failure")?.len();
        ensure!(after == before + 1, "{before} failures and then {after}");
        Ok(())
    }

    /// A session with these commands of `sftp`, each of which may fail.
    fn session(&mut self, commands: &str) -> Result<()> {
        let connection =
            OpensshConnection::new(&self.proxy, &mut self.alice, Factors::KeyThenPassword)?;
        let output = connection.sftp(Place::Loopback, commands, PATIENCE)?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn download(&mut self, files: usize) -> Result<()> {
        let to = self.here.path().join("down").display().to_string();
        let line = format!("get /archive/file \"{to}\"\n");
        self.session(&line.repeat(files))
    }

    fn records_of(&self, event: &str, outcome: &str) -> Result<Vec<Value>> {
        let mut records = self.proxy.records()?;
        records
            .retain(|record| text(record, "event") == event && text(record, "outcome") == outcome);
        Ok(records)
    }

    /// The alerts on record once all that is there now was judged.
    fn alerts(&self) -> Result<Vec<Value>> {
        let last = self.proxy.records()?.last().map(seq).context("a record")?;
        let cursor = self.proxy.folder().join("journal.sinks/.alerts.cursor");
        wait_for("the rules to have seen everything", || {
            let kept: Value = serde_json::from_slice(&fs::read(&cursor).ok()?).ok()?;
            (kept.get("next")?.as_u64()? > last).then_some(())
        })?;
        self.records_of("log.alert", "success")
    }

    fn alert(&self) -> Result<Value> {
        let alerts = self.alerts()?;
        ensure!(alerts.len() == 1, "{alerts:#?}");
        alerts.into_iter().next().context("an alert")
    }
}

fn seq(record: &Value) -> u64 {
    record["seq"].as_u64().unwrap_or_default()
}

fn rule(name: &str, kind: &str, to: &str, more: &str) -> String {
    format!("[[alert]]\nname = \"{name}\"\nkind = \"{kind}\"\nto = [\"{to}\"]\n{more}")
}

/// A sink that appends alerts to a file.
fn to_file(path: &Path) -> String {
    format!(
        "[[sink]]\nname = \"pager\"\nkind = \"file\"\npath = \"{}\"\nrecords = \"alerts\"\n",
        path.display()
    )
}

#[test]
fn wrong_passwords_reach_a_webhook_signed_at_the_threshold_and_not_before() -> Result<()> {
    let hook = Webhook::start(&[500])?;
    let world = world(&format!(
        "{}{}",
        hook.sink("pager", "secret_file = \"%/hook.secret\"\n"),
        rule("logins", "brute_force", "pager", "failures = 3\n"),
    ))?;
    world.wrong_password()?;
    world.wrong_password()?;
    ensure!(world.alerts()?.is_empty(), "two of three");
    world.wrong_password()?;
    let alert = world.alert()?;
    ensure!(
        body(&alert, "kind") == "brute_force" && body(&alert, "subject") == "127.0.0.1",
        "{alert}"
    );
    let failures = world.records_of("auth.step", "failure")?;
    ensure!(
        alert["body"]["count"] == 3
            && alert["body"]["first"] == failures[0]["seq"]
            && alert["body"]["last"] == failures[2]["seq"],
        "{alert}"
    );

    // Refused once, and tried again.
    let (refused, taken) = (hook.request()?, hook.request()?);
    ensure!(refused.body == taken.body, "not the same alert");
    for request in [refused, taken] {
        let signature = request.header("x-portcullis-signature");
        ensure!(signature == request.signature(SECRET)?, "{request:?}");
        ensure!(
            signature != request.signature("another secret")?,
            "{request:?}"
        );
        ensure!(
            request.header("content-type") == "application/json",
            "{request:?}"
        );
        ensure!(request.record()? == alert, "{request:?}");
    }
    // In its quiet time the source is not told of again.
    for _ in 0..3 {
        world.wrong_password()?;
    }
    world.alert()?;
    ensure!(hook.is_quiet(), "told of again");
    Ok(())
}

fn mail_sink(server: &Aiosmtpd, more: &str) -> Result<String> {
    Ok(format!(
        "[[sink]]\nname = \"oncall\"\nkind = \"smtp\"\naddress = \"{}\"\npinned_certificate_sha256 = \"{}\"\n\
         from = \"Gateway <gw@example.org>\"\nto = [\"oncall@example.org\", \"gone@example.org\"]\n\
         user = \"{USER}\"\npassword_file = \"%/mail.password\"\n{more}",
        server.address,
        server.certificate.sha256()?,
    ))
}

fn first_mail(server: &Aiosmtpd) -> Result<Mail> {
    wait_for("a mail", || server.mails().ok()?.into_iter().next())
}

#[test]
fn a_mass_download_is_a_mail_over_starttls_at_the_threshold_and_not_before() -> Result<()> {
    let server = Aiosmtpd::start(Place::Loopback, &["refuse=gone@example.org"])?;
    let mut world = world(&format!(
        "{}{}",
        mail_sink(&server, "")?,
        rule("downloads", "mass_download", "oncall", "files = 4\n"),
    ))?;
    world.download(3)?;
    ensure!(world.alerts()?.is_empty(), "three of four");
    world.download(1)?;
    let alert = world.alert()?;
    let mail = first_mail(&server)?;
    ensure!(
        mail.is_encrypted && mail.user.as_deref() == Some(USER),
        "{mail:?}"
    );
    // One of two addresses is gone: that is in the log and keeps the mail from nobody else.
    ensure!(
        mail.from == "gw@example.org" && mail.to == ["oncall@example.org"],
        "{mail:?}"
    );
    let log = world.proxy.process.log();
    ensure!(
        log.contains("no mail for one of several") && log.contains("gone@example.org"),
        "{log}"
    );
    let found = mail.text.replace("=\r\n", "").replace("=3D", "=");
    for part in [
        "Many downloads: alice",
        "Who or what  alice",
        "How much     4 files within 60 min",
        &format!(
            "Records      {} to {}",
            alert["body"]["first"], alert["body"]["last"]
        ),
    ] {
        ensure!(found.contains(part), "{part}: {found}");
    }

    // The command of the mail shows the records that it is about.
    let command = found
        .lines()
        .find_map(|line| line.trim().strip_prefix("portcullis-proxy "))
        .context("no command")?;
    let words: Vec<&str> = command.split_whitespace().chain(["--json"]).collect();
    let shown = world.proxy.command(&words)?;
    let shown: Vec<u64> = shown
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|line| seq(&line["record"]))
        .collect();
    for which in ["first", "last"] {
        let wanted = alert["body"][which].as_u64().context("a number")?;
        ensure!(shown.contains(&wanted), "{wanted} is not in {shown:?}");
    }
    ensure!(server.mails()?.len() == 1, "more than one mail");
    Ok(())
}

#[test]
fn a_mail_goes_over_tls_from_the_start_where_that_is_asked_for() -> Result<()> {
    let server = Aiosmtpd::start(Place::Loopback, &["implicit"])?;
    let world = world(&format!(
        "{}{}",
        mail_sink(&server, "tls = \"implicit\"\n")?,
        rule("logins", "brute_force", "oncall", "failures = 1\n"),
    ))?;
    world.wrong_password()?;
    let mail = first_mail(&server)?;
    ensure!(mail.is_encrypted && mail.to.len() == 2, "{mail:?}");
    Ok(())
}

#[test]
fn a_mail_server_without_starttls_gets_nothing_and_the_log_says_why() -> Result<()> {
    let server = Aiosmtpd::start(Place::Loopback, &["no-starttls"])?;
    let world = world(&format!(
        "{}{}",
        mail_sink(&server, "")?,
        rule("logins", "brute_force", "oncall", "failures = 1\n"),
    ))?;
    world.wrong_password()?;
    world.alert()?;
    wait_for("the reason", || {
        let log = world.proxy.process.log();
        log.contains("offers no STARTTLS, and was sent nothing")
            .then_some(())
    })?;
    ensure!(server.mails()?.is_empty(), "it got a mail");
    Ok(())
}

#[test]
fn a_burst_of_refusals_is_an_alert_of_its_user_at_the_threshold_and_not_before() -> Result<()> {
    let (out, server) = (files::folder("out")?, Rsyslog::start(Place::Loopback)?);
    let path = out.path().join("alerts");
    let siem = format!(
        "[[sink]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"{}\"\nrecords = \"alerts\"\n\
         pinned_certificate_sha256 = \"{}\"\n",
        server.address,
        server.certificate.sha256()?,
    );
    let denials = rule(
        "denials",
        "denial_burst",
        "pager\", \"siem",
        "denials = 3\n",
    );
    let mut world = world(&format!("{}{siem}{denials}", to_file(&path)))?;
    world.session("-mkdir /archive/a\n-mkdir /archive/b\n")?;
    ensure!(world.alerts()?.is_empty(), "two of three");
    world.session("-mkdir /archive/c\n")?;
    let alert = world.alert()?;
    ensure!(
        body(&alert, "subject") == "alice" && alert["body"]["to"] == json!(["pager", "siem"]),
        "{alert}"
    );
    let told = wait_for("the alert in the file", || lines(&path).into_iter().next())?;
    ensure!(told == alert, "{told}");
    ensure!(lines(&path).len() == 1, "it got more than the alert");
    wait_for("the alert at rsyslog", || {
        server
            .messages()
            .ok()
            .filter(|messages| !messages.is_empty())
    })?;
    let messages = server.messages()?;
    let [message] = messages.as_slice() else {
        anyhow::bail!("{messages:#?}")
    };
    // Log audit, error.
    ensure!(
        message.id == "log.alert" && message.priority == "107",
        "{message:?}"
    );
    ensure!(
        serde_json::from_str::<Value>(&message.text)? == alert,
        "{message:?}"
    );
    Ok(())
}

#[test]
fn what_was_counted_before_a_kill_counts_and_no_alert_comes_twice() -> Result<()> {
    let out = files::folder("out")?;
    let path = out.path().join("alerts");
    let mut world = world(&format!(
        "{}{}",
        to_file(&path),
        rule("logins", "brute_force", "pager", "failures = 3\n"),
    ))?;
    world.wrong_password()?;
    world.wrong_password()?;
    world.proxy.crash_and_restart()?;
    ensure!(world.alerts()?.is_empty(), "two of three");
    world.wrong_password()?;
    let alert = world.alert()?;
    ensure!(alert["body"]["count"] == 3, "{alert}");
    wait_for("the alert in the file", || lines(&path).into_iter().next())?;
    for _ in 0..2 {
        world.proxy.crash_and_restart()?;
        ensure!(world.alert()? == alert, "another one");
    }
    ensure!(lines(&path) == [alert], "{:#?}", lines(&path));
    Ok(())
}

#[test]
fn a_reload_adds_rules_and_goes_on_with_what_the_others_have_counted() -> Result<()> {
    let out = files::folder("out")?;
    let path = out.path().join("alerts");
    let logins = rule("logins", "brute_force", "pager", "failures = 3\n");
    let world = world(&format!("{}{logins}", to_file(&path)))?;
    world.wrong_password()?;
    world.wrong_password()?;
    let users = rule(
        "users",
        "brute_force",
        "pager",
        "failures = 3\nper = \"user\"\n",
    );
    let record = world
        .proxy
        .reload(|text| text.replace(&logins, &format!("{logins}{users}")))?;
    ensure!(record["body"]["changed"] == json!(["alert"]), "{record}");
    ensure!(world.alerts()?.is_empty(), "two of three");
    world.wrong_password()?;
    let alerts = world.alerts()?;
    let mut subjects: Vec<&str> = alerts.iter().map(|alert| body(alert, "subject")).collect();
    subjects.sort_unstable();
    ensure!(subjects == ["127.0.0.1", "alice"], "{alerts:#?}");

    let wrong = world
        .proxy
        .reload(|text| text.replace("failures = 3", "failures = 0"))?;
    ensure!(
        text(&wrong, "outcome") == "failure"
            && wrong.to_string().contains("alert[0].failures: expected"),
        "{wrong}"
    );
    Ok(())
}

#[test]
fn a_login_outside_the_working_hours_is_an_alert_and_one_within_is_not() -> Result<()> {
    let out = files::folder("out")?;
    let path = out.path().join("alerts");
    let another_day = chrono::Utc::now() + chrono::TimeDelta::days(2);
    let other = format!("hours = \"{} 00:00-24:00\"\n", another_day.format("%a"));
    let all = "hours = \"Mon-Sun 00:00-24:00\"\n";
    let mut world = world(&format!(
        "{}{}{}",
        to_file(&path),
        rule("other-day", "off_hours", "pager", &other),
        rule("all-days", "off_hours", "pager", all),
    ))?;
    world.session("ls\n")?;
    let alert = world.alert()?;
    ensure!(
        body(&alert, "rule") == "other-day" && body(&alert, "subject") == "alice",
        "{alert}"
    );
    Ok(())
}

/// A collector that takes nothing, in clear until a day soon.
fn deaf(listener: &TcpListener, days: i64) -> Result<String> {
    let ends = (chrono::Utc::now() + chrono::TimeDelta::days(days)).format("%Y-%m-%d");
    Ok(format!(
        "[[sink]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"{}\"\ntls = \"none\"\ntimeout_seconds = 600\n\
         plaintext_exception = {{ reason = \"a test\", approver = \"test\", expires = \"{ends}\" }}\n",
        listener.local_addr()?
    ))
}

#[test]
fn an_exception_that_ends_soon_is_told_of_once_also_after_a_restart_and_a_later_one_not()
-> Result<()> {
    let (out, collector) = (files::folder("out")?, TcpListener::bind("127.0.0.1:0")?);
    let path = out.path().join("alerts");
    let expiring = |days| {
        rule(
            &format!("in-{days}"),
            "relaxation_expiring",
            "pager",
            &format!("days = {days}\n"),
        )
    };
    let mut world = world(&format!(
        "{}{}{}{}",
        deaf(&collector, 10)?,
        to_file(&path),
        expiring(14),
        expiring(5),
    ))?;
    let told = wait_for("the alert", || lines(&path).into_iter().next())?;
    ensure!(
        body(&told, "rule") == "in-14" && body(&told, "subject") == "sink siem: plaintext",
        "{told}"
    );
    world.proxy.crash_and_restart()?;
    world.wrong_password()?;
    world.alert()?;
    Ok(())
}

#[test]
fn a_sink_that_falls_behind_is_on_record_and_an_alert() -> Result<()> {
    let (out, collector) = (files::folder("out")?, TcpListener::bind("127.0.0.1:0")?);
    let path = out.path().join("alerts");
    let world = world(&format!(
        "{}{}{}",
        deaf(&collector, 300)?,
        to_file(&path),
        rule("behind", "sink_behind", "pager", "seconds = 2\n"),
    ))?;
    // With a deadline of ten minutes nothing of it counts as taken.
    let told = wait_for("the alert", || lines(&path).into_iter().next())?;
    ensure!(body(&told, "subject") == "siem", "{told}");
    let behind = world.records_of("log.sink", "failure")?;
    ensure!(
        text(&behind[0], "reason") == "behind"
            && behind[0]["body"]["lag_seconds"].as_u64() >= Some(2),
        "{behind:#?}"
    );
    Ok(())
}

#[test]
fn a_disk_that_fills_up_is_an_alert_before_the_journal_has_to_stop() -> Result<()> {
    const DISK: u64 = 12 << 20;
    let out = files::folder("out")?;
    let path = out.path().join("alerts");
    let proxy = Plan::new(Place::Loopback)?
        .journal_disk(DISK)
        .sections(&format!(
            "{}{}",
            to_file(&path),
            rule("disk", "disk", "pager", "")
        ))
        .start()?;
    let filler = vec![0; usize::try_from(DISK * 84 / 100)? - (1 << 20)];
    fs::write(proxy.journal.join("filler"), filler)?;
    let told = wait_for("the alert", || lines(&path).into_iter().next())?;
    ensure!(
        body(&told, "kind") == "disk" && body(&told, "subject") == "space_low",
        "{told}"
    );
    Ok(())
}

#[test]
fn an_alert_without_a_sink_is_a_record_and_check_says_so() -> Result<()> {
    let world = world("[[alert]]\nname = \"logins\"\nkind = \"brute_force\"\nfailures = 1\n")?;
    world.wrong_password()?;
    let alert = world.alert()?;
    ensure!(alert["body"]["to"] == json!([]), "{alert}");
    let said = world.proxy.command(&["check"])?;
    ensure!(
        said.contains("1 alert(s)")
            && said.contains("note: alert logins goes on record and to nobody"),
        "{said}"
    );
    Ok(())
}
