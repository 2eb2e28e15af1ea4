//! `[[alert]]`, and the sinks that take alerts.

use std::time::Duration;

use portcullis_audit::{
    alert::{Per, Watched},
    sink::{Begin, Selection},
};

use super::*;
use crate::config::SinkTarget;

const PAGER: &str =
    "[[sink]]\nname = \"pager\"\nkind = \"https\"\nurl = \"https://h/\"\nrecords = \"alerts\"\n";
const TO_PAGER: &str = "[[alert]]\nname = \"disk\"\nkind = \"disk\"\nto = [\"pager\"]\n";

impl Files {
    fn of_alerts(&self, text: &str) -> Result<Config, Vec<String>> {
        let text = format!("{MINIMAL}{text}");
        self.parse(&text).map_err(|_| self.faults(&text))
    }

    /// An alert of the kind with these lines.
    fn rule(&self, kind: &str, lines: &str) -> Result<Rule, Vec<String>> {
        let text = format!("[[alert]]\nname = \"a\"\nkind = \"{kind}\"\n{lines}");
        let config = self.of_alerts(&text)?;
        Ok(config.alerts.into_iter().next().unwrap())
    }
}

#[test]
fn each_kind_has_the_documented_defaults() {
    let files = Files::new();
    let of = |kind: &str| {
        let rule = files.rule(kind, "").unwrap();
        (
            rule.watched,
            rule.window.num_seconds(),
            rule.quiet.num_seconds(),
        )
    };
    let (failures, denials) = (10, 20);
    let brute_force = Watched::BruteForce {
        failures,
        per: Per::Source,
    };
    assert_eq!(of("brute_force"), (brute_force, 300, 3600));
    let mass_download = Watched::MassDownload {
        bytes: Some(10 << 30),
        files: Some(1000),
    };
    assert_eq!(of("mass_download"), (mass_download, 3600, 3600));
    let denial_burst = Watched::DenialBurst {
        denials,
        per: Per::User,
    };
    assert_eq!(of("denial_burst"), (denial_burst, 300, 3600));
    let expiring = Watched::RelaxationExpiring { days: 14 };
    assert_eq!(of("relaxation_expiring"), (expiring, 0, 86_400));
    let behind = Watched::SinkBehind {
        seconds: 300,
        records: 100_000,
    };
    assert_eq!(of("sink_behind"), (behind, 0, 3600));
    assert_eq!(of("verify_failed"), (Watched::VerifyFailed, 0, 3600));
    assert_eq!(of("disk"), (Watched::Disk, 0, 3600));
    assert_eq!(of("files_altered"), (Watched::FilesAltered, 0, 3600));
}

#[test]
fn a_threshold_for_downloads_that_is_given_stands_alone() {
    let files = Files::new();
    let of = |lines: &str| files.rule("mass_download", lines).unwrap().watched;
    let by = |bytes, files| Watched::MassDownload { bytes, files };
    assert_eq!(of("mib = 1\n"), by(Some(1 << 20), None));
    assert_eq!(of("files = 5\n"), by(None, Some(5)));
    assert_eq!(of("files = 5\nmib = 1\n"), by(Some(1 << 20), Some(5)));
}

#[test]
fn hours_are_those_of_accounts_in_their_zone() {
    let rule = Files::new()
        .rule(
            "off_hours",
            "hours = \"Mon-Fri 07:00-19:00 Europe/Berlin\"\n",
        )
        .unwrap();
    let Watched::OffHours(hours) = rule.watched else {
        panic!("{rule:?}")
    };
    let at = |text: &str| (hours.have)(text.parse().unwrap());
    // Monday; Berlin is an hour ahead.
    assert!(at("2026-11-23T06:00:00Z") && at("2026-11-23T17:59:59Z"));
    assert!(!at("2026-11-23T05:59:59Z") && !at("2026-11-23T18:00:00Z"));
    assert!(!at("2026-11-22T12:00:00Z"), "a Sunday");
}

#[test]
fn every_fault_of_every_alert_is_named_with_the_way_out() {
    let files = Files::new();
    for (kind, lines, fault) in [
        ("pigeon", "", "alert[0].kind: expected \"brute_force\""),
        (
            "brute_force",
            "failures = 0\n",
            "alert[0].failures: expected a whole number from 1",
        ),
        (
            "brute_force",
            "per = \"day\"\n",
            "alert[0].per: expected \"source\" or \"user\", found \"day\"",
        ),
        (
            "brute_force",
            "window_seconds = 0\n",
            "alert[0].window_seconds: expected a whole number from 1",
        ),
        (
            "brute_force",
            "quiet_seconds = 0\n",
            "alert[0].quiet_seconds: expected a whole number from 1",
        ),
        (
            "mass_download",
            "mib = \"10\"\n",
            "alert[0].mib: expected a whole number",
        ),
        (
            "off_hours",
            "",
            "alert[0].hours: missing; expected the working hours, such as \"Mon-Fri",
        ),
        (
            "off_hours",
            "hours = \"Mon-Fri 07:00-19:00 Europe/Atlantis\"\n",
            "alert[0].hours: \"Europe/Atlantis\" is not a time zone",
        ),
        (
            "off_hours",
            "hours = \"Mon-Fri 19:00\"\n",
            "expected hours such as",
        ),
        (
            "disk",
            "window_seconds = 5\n",
            "alert[0].window_seconds: unknown key; known here: kind, name, quiet_seconds, to",
        ),
        (
            "disk",
            "to = [\"pager\"]\n",
            "alert[0].to[0]: no [[sink]] has the name \"pager\"; there is no [[sink]]",
        ),
        (
            "disk",
            "to = \"pager\"\n",
            "alert[0].to: expected a list of names of sinks, such as [\"pager\"]",
        ),
    ] {
        let faults = files.rule(kind, lines).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(fault), "{faults:?}");
    }
    let twice = files.of_alerts(&[PAGER, TO_PAGER, TO_PAGER].concat());
    assert_eq!(
        twice.unwrap_err(),
        ["alert[1].name: \"disk\" names another alert too"]
    );
    let again = TO_PAGER.replace("[\"pager\"]", "[\"pager\", \"pager\"]");
    let twice = [PAGER, &again].concat();
    assert_eq!(
        files.of_alerts(&twice).unwrap_err(),
        ["alert[0].to[1]: names \"pager\" a second time; remove it"]
    );
    let wrong = TO_PAGER.replace("[\"pager\"]", "[\"phone\"]");
    assert_eq!(
        files.of_alerts(&[PAGER, &wrong].concat()).unwrap_err(),
        ["alert[0].to[0]: no [[sink]] has the name \"phone\"; there are pager"]
    );
}

#[test]
fn a_sink_for_alerts_begins_now_without_checkpoints_and_sends_each_by_itself() {
    let config = Files::new().of_alerts(&[PAGER, TO_PAGER].concat()).unwrap();
    let sink = &config.sinks[0];
    assert!(!sink.checkpoints && sink.begin == Begin::Now);
    let give_up = Duration::from_secs(24 * 3600);
    assert_eq!(sink.selection, Selection::Alerts { give_up });
    assert!(matches!(sink.target, SinkTarget::Https { batch: 1, .. }));
}

#[test]
fn a_sink_that_takes_alerts_and_gets_none_is_a_fault_and_so_are_keys_of_the_other_selection() {
    let files = Files::new();
    assert!(files.of_alerts(&[PAGER, TO_PAGER].concat()).is_ok());
    let faults = |text: &str| files.of_alerts(text).map(|_| ()).unwrap_err();
    assert_eq!(
        faults(PAGER),
        [
            "sink: \"pager\" takes alerts, and no [[alert]] has it in `to`: add it there, or remove the sink"
        ]
    );
    let all = PAGER.replace("records = \"alerts\"", "give_up_minutes = 5");
    assert!(faults(&[&all, TO_PAGER].concat())[0].contains("is for records = \"alerts\""));
    let checkpoints = format!("{PAGER}checkpoints = true\n{TO_PAGER}");
    assert!(faults(&checkpoints)[0].contains("checkpoints: go with all records"));
    let some = format!("{}{TO_PAGER}", PAGER.replace("\"alerts\"", "\"some\""));
    assert_eq!(
        faults(&some),
        ["sink[0].records: expected \"all\" or \"alerts\", found \"some\""]
    );
}

#[test]
fn a_secret_of_signatures_is_long_and_nobody_elses_and_is_never_shown() {
    let files = Files::new();
    let text = format!("{PAGER}secret_file = \"%/secret\"\n{TO_PAGER}");
    files.write("secret", "0123456789abcdef\n", 0o600);
    let config = files.of_alerts(&text).unwrap();
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    files.write("secret", "0123456789abcde\n", 0o600);
    let faults = files.of_alerts(&text).unwrap_err();
    assert!(faults[0].contains("openssl rand -hex 32 > "), "{faults:?}");
    files.write("secret", "0123456789abcdef\n", 0o644);
    let faults = files.of_alerts(&text).unwrap_err();
    assert!(faults[0].contains("can be used by others"), "{faults:?}");
}

const MAIL: &str = "[[sink]]\nname = \"pager\"\nkind = \"smtp\"\naddress = \"mail.example.org\"\n\
                    from = \"Gateway <gw@example.org>\"\nto = [\"oncall@example.org\"]\n";

#[test]
fn mail_needs_starttls_unless_it_is_said_otherwise_and_gets_alerts_alone() {
    let files = Files::new();
    let of = |lines: &str| {
        let config = files.of_alerts(&format!("{MAIL}{lines}{TO_PAGER}"));
        config.map(|config| config.sinks.into_iter().next().unwrap())
    };
    let target = |lines: &str| {
        let SinkTarget::Smtp(mail) = of(lines).unwrap().target else {
            panic!("{lines}")
        };
        (mail.address.port, mail.transport)
    };
    let sink = of("").unwrap();
    assert!(sink.takes_only_alerts() && sink.begin == Begin::Now);
    assert_eq!(sink.timeout.as_secs(), 60);
    assert!(matches!(target(""), (587, MailTransport::StartTls(_))));
    assert!(matches!(
        target("tls = \"implicit\"\n"),
        (465, MailTransport::Implicit(_))
    ));
    let clear = "tls = \"none\"\nplaintext_exception = { reason = \"relay on this host\", approver = \"J. Doe\", \
                 expires = \"2027-01-01\" }\n";
    assert!(matches!(target(clear), (587, MailTransport::Plaintext(_))));
    assert!(of(clear).unwrap().plaintext_exception().is_some());
    files.write("mail.password", "open sesame\n", 0o600);
    let login = "user = \"gw\"\npassword_file = \"%/mail.password\"\n";
    assert!(!format!("{:?}", of(login).unwrap()).contains("sesame"));
    for (lines, fault) in [
        (
            "tls = \"none\"\n".to_owned(),
            "plaintext_exception: missing",
        ),
        (
            clear.replace("none", "starttls"),
            "plaintext_exception: has no use with tls = \"starttls\"; remove it",
        ),
        (
            format!("{clear}{login}"),
            "user: a password is never sent in clear",
        ),
        (
            "tls = \"maybe\"\n".to_owned(),
            "tls: expected \"starttls\", \"implicit\", or \"none\"",
        ),
        ("user = \"gw\"\n".to_owned(), "password_file: missing"),
        (
            "password_file = \"%/mail.password\"\n".to_owned(),
            "user: missing",
        ),
        (
            "records = \"all\"\n".to_owned(),
            "records: a mail for each record is too many",
        ),
        ("format = \"cef\"\n".to_owned(), "format: unknown key"),
        (
            "subject_prefix = \"a\\nBcc: x\"\n".to_owned(),
            "subject_prefix: expected up to 40 visible",
        ),
    ] {
        let faults = of(&lines).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(fault), "{faults:?}");
    }
}

#[test]
fn a_mail_has_a_sender_and_somebody_to_go_to() {
    let files = Files::new();
    let faults = |from: &str, to: &str| {
        let text = format!("{MAIL}{TO_PAGER}").replace(from, to);
        files.of_alerts(&text).map(|_| ()).unwrap_err().concat()
    };
    let to = "to = [\"oncall@example.org\"]\n";
    assert!(faults(to, "").contains("sink[0].to: missing"));
    assert!(faults(to, "to = []\n").contains("sink[0].to: expected 1 to 20 addresses, found 0"));
    let wrong = faults("oncall@", "oncall ");
    assert!(
        wrong.contains("sink[0].to[0]: \"oncall example.org\" is not a mail address"),
        "{wrong}"
    );
    let wrong = faults("<gw@", "<gw");
    assert!(wrong.contains("sink[0].from: "), "{wrong}");
    let address = "address = \"mail.example.org\"\n";
    assert!(faults(address, "").contains("sink[0].address: missing"));
}
