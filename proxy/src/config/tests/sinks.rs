//! `[[sink]]`

use portcullis_audit::{
    format::Format,
    sink::{Begin, Selection},
};

use super::*;
use crate::config::SinkTarget;

impl Files {
    fn sinks(&self, text: &str) -> Result<Vec<SinkConfig>, Vec<String>> {
        let text = format!("{MINIMAL}{text}");
        match self.parse(&text) {
            Ok(config) => Ok(config.sinks),
            Err(_) => Err(self.faults(&text)),
        }
    }

    /// A certificate with its key.
    fn certificate(&self, name: &str) {
        let made = rcgen::generate_simple_self_signed(vec!["siem.example.org".to_owned()]).unwrap();
        self.write(&format!("{name}.pem"), &made.cert.pem(), 0o644);
        self.write(
            &format!("{name}.key"),
            &made.signing_key.serialize_pem(),
            0o600,
        );
    }
}

const SYSLOG: &str =
    "[[sink]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"siem.example.org\"\n";

#[test]
fn a_syslog_sink_is_tls_with_the_usual_port_facility_and_length() {
    let files = Files::new();
    let sinks = files.sinks(SYSLOG).unwrap();
    let [
        SinkConfig {
            name,
            target:
                SinkTarget::Syslog {
                    address,
                    transport: SinkTransport::Tls(tls),
                    format: Format::Json,
                    facility: 13,
                    enterprise: 32473,
                    message_bytes: 8192,
                    ..
                },
            checkpoints: true,
            begin: Begin::Oldest,
            selection: Selection::All,
            timeout,
        },
    ] = sinks.as_slice()
    else {
        panic!("{sinks:?}")
    };
    assert_eq!((name.as_str(), address.port), ("siem", 6514));
    assert_eq!(tls.server_name, "siem.example.org");
    assert_eq!(timeout.as_secs(), 10);
}

#[test]
fn every_fault_of_every_sink_is_named() {
    let files = Files::new();
    let faults = files
        .sinks(
            "[[sink]]\nname = \"SIEM\"\nkind = \"syslog\"\naddress = \"\"\nfacility = 24\nformat = \"xml\"\nport = 1\n\
             [[sink]]\nname = \"a\"\nkind = \"file\"\npath = \"relative\"\n\
             [[sink]]\nname = \"a\"\nkind = \"https\"\nurl = \"http://h/\"\ntoken_file = \"%/nothing\"\n\
             [[sink]]\nname = \"b\"\nkind = \"pigeon\"\n",
        )
        .unwrap_err();
    let keys: Vec<_> = faults
        .iter()
        .map(|fault| fault.split(": ").next().unwrap())
        .collect();
    for key in [
        "sink[0].name",
        "sink[0].format",
        "sink[0].address",
        "sink[0].facility",
        "sink[0].port",
        "sink[1].path",
        "sink[2].url",
        "sink[2].token_file",
        "sink[3].kind",
    ] {
        assert!(keys.contains(&key), "{key}: {faults:?}");
    }
    let again = files.sinks(&[SYSLOG, SYSLOG].concat()).unwrap_err();
    assert_eq!(again, ["sink[1].name: \"siem\" names another sink too"]);
}

#[test]
fn sending_in_clear_needs_a_dated_exception_and_tls_none() {
    let files = Files::new();
    let exception = |day: &str| {
        format!(
            "plaintext_exception = {{ reason = \"old\", approver = \"J. Doe\", expires = \"{day}\" }}\n"
        )
    };
    let sinks = files
        .sinks(&format!(
            "{SYSLOG}tls = \"none\"\n{}",
            exception("2026-11-22")
        ))
        .unwrap();
    assert!(sinks[0].plaintext_exception().is_some());
    for (lines, fault) in [
        (
            "tls = \"none\"\n".to_owned(),
            "plaintext_exception: missing",
        ),
        (
            format!("tls = \"none\"\n{}", exception("2026-11-21")),
            "the exception ended on 2026-11-21",
        ),
        (
            exception("2027-01-01"),
            "has no use with tls = \"required\"",
        ),
        (
            format!(
                "tls = \"none\"\nca_file = \"x\"\n{}",
                exception("2027-01-01")
            ),
            "ca_file: has no use",
        ),
    ] {
        let faults = files.sinks(&format!("{SYSLOG}{lines}")).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(fault), "{faults:?}");
    }
}

#[test]
fn certificates_are_read_and_a_key_has_to_go_with_its_certificate() {
    let files = Files::new();
    files.certificate("own");
    files.certificate("other");
    files.write("rubbish", "no certificate\n", 0o600);
    let own = |certificate: &str, key: &str| {
        files.sinks(&format!(
            "{SYSLOG}client_certificate_file = \"%/{certificate}\"\nclient_key_file = \"%/{key}\"\n"
        ))
    };
    assert!(own("own.pem", "own.key").is_ok());
    let fault = |result: Result<_, Vec<String>>| -> String {
        result.map(|_: Vec<_>| ()).unwrap_err().concat()
    };
    assert!(fault(own("own.pem", "other.key")).contains("does not go with"));
    assert!(fault(own("rubbish", "own.key")).contains("there is no certificate in rubbish"));
    assert!(fault(own("own.pem", "rubbish")).contains("not a private key"));
    assert!(fault(own("own.pem", "own.pem")).contains("can be used by others"));
    let half = files.sinks(&format!("{SYSLOG}client_key_file = \"%/own.key\"\n"));
    assert!(fault(half).contains("client_certificate_file: missing"));
    let authority = |name: &str| files.sinks(&format!("{SYSLOG}ca_file = \"%/{name}\"\n"));
    assert!(authority("own.pem").is_ok());
    assert!(fault(authority("rubbish")).contains("sink[0].ca_file: there is no certificate"));
}

#[test]
fn a_token_is_a_secret() {
    let files = Files::new();
    let sink = "[[sink]]\nname = \"lake\"\nkind = \"https\"\nurl = \"https://c.example.org/x\"\ntoken_file = \"%/password\"\n";
    let sinks = files.sinks(sink).unwrap();
    assert!(!format!("{sinks:?}").contains("sesame"));
    files.write("password", "open sesame\n", 0o644);
    assert!(files.sinks(sink).is_err());
}

#[test]
fn cursors_are_beside_the_journal_if_nothing_else_is_said() {
    let files = Files::new();
    let directory = |line: &str| {
        let text = MINIMAL.replace("[journal]", &format!("[journal]\n{line}"));
        files.parse(&text).unwrap().journal.sinks
    };
    assert_eq!(directory(""), files.0.path().join("journal.sinks"));
    assert_eq!(directory("sinks_directory = \"/x\""), Path::new("/x"));
}
