//! `[[sink]]`: collectors that the log goes to, and who hears of alerts.

mod smtp;
mod tls;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::NaiveDate;
use portcullis_audit::{
    format::{Format, syslog},
    sink::{Begin, Selection, Token, Url},
};

pub use self::{
    smtp::{MailConfig, MailTransport},
    tls::{Identity, SinkTls, SinkTransport},
};
use super::{
    backends::{ServerAddress, parse_server_address},
    files::{self, Secret},
    section::Section,
};
use crate::exception::Exception;
pub(super) use tls::identity;
use tls::{tls, transport};

/// RFC 5425 section 4.1.
const SYSLOG_PORT: u16 = 6514;
/// A collector that is silent for so long is tried anew; syslog counts a message as delivered a second later.
const TIMEOUT_SECONDS: u64 = 10;
/// Mail servers look up and scan before they answer.
const MAIL_TIMEOUT_SECONDS: u64 = 60;
/// Most records in one request.
const BATCH_RECORDS: u64 = 500;
/// An alert that nobody took for so long is given up; it stays on record.
const GIVE_UP_MINUTES: u64 = 24 * 60;
const GIVE_UP_MINUTES_MAX: u64 = 30 * 24 * 60;
/// Shortest secret of signatures.
const SIGNING_BYTES_MIN: usize = 16;
/// Longest syslog message that may be asked for: a record has at most 1 MiB.
const MESSAGE_BYTES_MAX: u64 = 2 << 20;
/// Private enterprise numbers have 32 bits at most.
const ENTERPRISE_MAX: u64 = u32::MAX as u64;

/// One sink.
#[derive(Debug, PartialEq)]
pub struct SinkConfig {
    /// Unique; part of file names.
    pub name: String,
    pub target: SinkTarget,
    pub checkpoints: bool,
    pub begin: Begin,
    pub selection: Selection,
    pub timeout: Duration,
}

/// Where records go, and how.
#[derive(Debug, PartialEq)]
pub enum SinkTarget {
    Syslog {
        address: ServerAddress,
        transport: SinkTransport,
        format: Format,
        facility: u8,
        enterprise: u32,
        app_name: String,
        message_bytes: usize,
    },
    File {
        path: PathBuf,
        format: Format,
    },
    Https {
        url: Url,
        tls: SinkTls,
        token: Option<Secret>,
        /// Of HMAC-SHA-256 over requests.
        signing: Option<Secret>,
        format: Format,
        batch: usize,
    },
    Smtp(MailConfig),
}

impl SinkConfig {
    /// Whether it gets nothing but alerts that name it.
    pub fn takes_only_alerts(&self) -> bool {
        match self.selection {
            Selection::All => false,
            Selection::Alerts { .. } => true,
        }
    }

    /// Who allowed it to send in clear.
    pub fn plaintext_exception(&self) -> Option<&Exception> {
        match &self.target {
            SinkTarget::Syslog {
                transport: SinkTransport::Plaintext(exception),
                ..
            }
            | SinkTarget::Smtp(MailConfig {
                transport: MailTransport::Plaintext(exception),
                ..
            }) => Some(exception),
            SinkTarget::Syslog {
                transport: SinkTransport::Tls(_),
                ..
            }
            | SinkTarget::Smtp(MailConfig {
                transport: MailTransport::StartTls(_) | MailTransport::Implicit(_),
                ..
            })
            | SinkTarget::File { .. }
            | SinkTarget::Https { .. } => None,
        }
    }
}

/// All sinks. One with a fault is left out, and so is the second of a name.
pub(super) fn sinks(sections: Vec<Section<'_>>, today: NaiveDate) -> Vec<SinkConfig> {
    let mut found: Vec<SinkConfig> = Vec::new();
    for mut section in sections {
        let name = name(&mut section, "such as \"siem\"");
        if let Some(name) = &name
            && found.iter().any(|other| other.name == *name)
        {
            section.fault("name", format!("{name:?} names another sink too"));
        }
        found.extend(sink(section, name, today));
    }
    found
}

pub(super) fn name(section: &mut Section<'_>, example: &str) -> Option<String> {
    let expected = format!("up to 32 small letters, digits, - and _, {example}");
    let text = section.required_text("name", &expected)?;
    let is_name = text.len() <= 32
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
        });
    if !is_name {
        section.fault("name", format!("expected {expected}, found {text:?}"));
        return None;
    }
    Some(text.to_owned())
}

fn sink(mut section: Section<'_>, name: Option<String>, today: NaiveDate) -> Option<SinkConfig> {
    const KINDS: &str = "\"syslog\", \"file\", \"https\" or \"smtp\"";
    let kind = section.required_text("kind", KINDS);
    let is_mail = kind == Some("smtp");
    let format = if is_mail { None } else { format(&mut section) };
    let selection = selection(&mut section, is_mail);
    let takes_all = selection == Some(Selection::All);
    let checkpoints = section.flag("checkpoints", takes_all);
    let begin = begin(&mut section, takes_all);
    let timeout = if is_mail {
        MAIL_TIMEOUT_SECONDS
    } else {
        TIMEOUT_SECONDS
    };
    let timeout = section.number("timeout_seconds", 1..=600, timeout);
    let target = match kind {
        Some("syslog") => syslog(&mut section, format, today),
        Some("file") => file(&mut section, format),
        Some("https") => https(&mut section, format, takes_all),
        Some("smtp") => smtp::mail(&mut section, today).map(SinkTarget::Smtp),
        Some(other) => {
            section.fault("kind", format!("expected {KINDS}, found {other:?}"));
            return None;
        }
        // What belongs to which kind can't be told.
        None => return None,
    };
    section.finish();
    Some(SinkConfig {
        name: name?,
        target: target?,
        checkpoints,
        begin: begin?,
        selection: selection?,
        timeout: Duration::from_secs(timeout),
    })
}

fn format(section: &mut Section<'_>) -> Option<Format> {
    const CHOICE: &str = "\"json\", \"ocsf\" or \"cef\"";
    if !section.has("format") {
        // Known even where it is left out.
        let _ = section.text("format", CHOICE);
        return Some(Format::Json);
    }
    let text = section.text("format", CHOICE)?;
    let format = [Format::Json, Format::Ocsf, Format::Cef]
        .into_iter()
        .find(|format| format.name() == text);
    if format.is_none() {
        section.fault("format", format!("expected {CHOICE}, found {text:?}"));
    }
    format
}

/// Which records; with what belongs to alerts alone.
fn selection(section: &mut Section<'_>, is_mail: bool) -> Option<Selection> {
    const CHOICE: &str = "\"all\" or \"alerts\"";
    let is_given = section.has("records");
    match section.text("records", CHOICE) {
        Some("alerts") => {}
        Some("all") if is_mail => {
            section.fault(
                "records",
                "a mail for each record is too many; write \"alerts\", or leave it out",
            );
            return None;
        }
        Some("all") => return all(section),
        None if is_mail && !is_given => {}
        None if !is_given => return all(section),
        Some(other) => {
            section.fault("records", format!("expected {CHOICE}, found {other:?}"));
            return None;
        }
        None => return None,
    }
    let minutes = section.number(GIVE_UP, 1..=GIVE_UP_MINUTES_MAX, GIVE_UP_MINUTES);
    if section.flag("checkpoints", false) {
        section.fault(
            "checkpoints",
            "go with all records; set it to false, or records = \"all\"",
        );
    }
    Some(Selection::Alerts {
        give_up: Duration::from_secs(minutes * 60),
    })
}

const GIVE_UP: &str = "give_up_minutes";

fn all(section: &mut Section<'_>) -> Option<Selection> {
    if section.has(GIVE_UP) {
        section.number(GIVE_UP, 1..=GIVE_UP_MINUTES_MAX, GIVE_UP_MINUTES);
        section.fault(
            GIVE_UP,
            "is for records = \"alerts\": no other record is ever given up; remove it",
        );
    }
    Some(Selection::All)
}

/// Old alerts wake nobody; other records are for a collector that has all.
fn begin(section: &mut Section<'_>, takes_all: bool) -> Option<Begin> {
    const CHOICE: &str = "\"oldest\" or \"now\"";
    if !section.has("begin") {
        // Known even where it is left out.
        let _ = section.text("begin", CHOICE);
        return Some(if takes_all { Begin::Oldest } else { Begin::Now });
    }
    match section.text("begin", CHOICE)? {
        "oldest" => Some(Begin::Oldest),
        "now" => Some(Begin::Now),
        other => {
            section.fault("begin", format!("expected {CHOICE}, found {other:?}"));
            None
        }
    }
}

fn syslog(
    section: &mut Section<'_>,
    format: Option<Format>,
    today: NaiveDate,
) -> Option<SinkTarget> {
    const EXPECTED: &str = "a host with a port, such as \"siem.example.org:6514\"";
    const APP: &str = "up to 48 visible ASCII characters";
    let text = section.required_text("address", EXPECTED);
    let address = text.and_then(|text| parse_server_address(text, SYSLOG_PORT));
    if let (Some(text), None) = (text, &address) {
        section.fault("address", format!("expected {EXPECTED}, found {text:?}"));
    }
    let host = address.as_ref().map(|address| address.host.clone());
    let transport = transport(section, host, today);
    let facility = section.number("facility", 0..=23, syslog::FACILITY.into());
    let enterprise = section.number(
        "enterprise_number",
        1..=ENTERPRISE_MAX,
        syslog::ENTERPRISE.into(),
    );
    let app_name = section.text("app_name", APP).unwrap_or("portcullis-proxy");
    let is_app_name = app_name.len() <= 48 && app_name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_app_name {
        section.fault("app_name", format!("expected {APP}, found {app_name:?}"));
    }
    let least = u64::try_from(syslog::LEAST_MESSAGE_BYTES).unwrap_or(u64::MAX);
    let usual = u64::try_from(syslog::MESSAGE_BYTES).unwrap_or(u64::MAX);
    let message_bytes = section.number("max_message_bytes", least..=MESSAGE_BYTES_MAX, usual);
    Some(SinkTarget::Syslog {
        address: address?,
        transport: transport?,
        format: format?,
        facility: u8::try_from(facility).ok()?,
        enterprise: u32::try_from(enterprise).ok()?,
        app_name: app_name.to_owned(),
        message_bytes: usize::try_from(message_bytes).ok()?,
    })
}

fn file(section: &mut Section<'_>, format: Option<Format>) -> Option<SinkTarget> {
    let path = section.required_text("path", "the file that lines are appended to");
    let path = path.map(PathBuf::from);
    if let Some(path) = &path
        && !path.is_absolute()
    {
        section.fault("path", format!("{} is not absolute", path.display()));
    }
    Some(SinkTarget::File {
        path: path?,
        format: format?,
    })
}

fn https(section: &mut Section<'_>, format: Option<Format>, takes_all: bool) -> Option<SinkTarget> {
    let text = section.required_text(
        "url",
        "an address such as \"https://collector.example.org/ingest\"",
    );
    let url = text.and_then(|text| {
        Url::parse(text)
            .map_err(|error| section.fault("url", error.to_string()))
            .ok()
    });
    if section.has("server_name") {
        section.fault("server_name", "has no use here: the name is that in url");
        let _ = section.text("server_name", "a text");
    }
    let tls = tls(section, url.as_ref().map(|url| url.host().to_owned()));
    let path = section.text(
        "token_file",
        "the path of a file whose first line is the bearer token",
    );
    let token = path.map(|path| {
        let token = files::password(Path::new(path))
            .map_err(|problem| section.fault("token_file", problem))
            .ok()?;
        if Token::new(token.expose()).is_none() {
            section.fault(
                "token_file",
                format!("{path} has a token that no header can carry"),
            );
            return None;
        }
        Some(token)
    });
    let path = section.text(
        "secret_file",
        "the path of a file whose first line is the secret that requests are signed with",
    );
    let signing = path.map(|path| {
        let secret = files::password(Path::new(path));
        let secret = secret.and_then(|secret| match secret.expose().len() {
            SIGNING_BYTES_MIN.. => Ok(secret),
            bytes => Err(format!(
                "{path} has {bytes} bytes on its first line, and a secret that can't be guessed has {SIGNING_BYTES_MIN}: \
                 `openssl rand -hex 32 > {path}`"
            )),
        });
        secret
            .map_err(|problem| section.fault("secret_file", problem))
            .ok()
    });
    // A request for each alert.
    let batch = if takes_all { BATCH_RECORDS } else { 1 };
    let batch = section.number("batch_records", 1..=10_000, batch);
    Some(SinkTarget::Https {
        url: url?,
        tls: tls?,
        token: match token {
            None => None,
            Some(token) => Some(token?),
        },
        signing: match signing {
            None => None,
            Some(signing) => Some(signing?),
        },
        format: format?,
        batch: usize::try_from(batch).ok()?,
    })
}
