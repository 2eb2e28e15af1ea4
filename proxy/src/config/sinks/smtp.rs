//! `kind = "smtp"`: a mail for each alert.

use std::path::Path;

use chrono::NaiveDate;
use portcullis_audit::sink::Address;

use super::tls::{SinkTls, no_tls, plaintext_exception, tls};
use crate::{
    config::{
        backends::{ServerAddress, parse_server_address},
        files::{self, Secret},
        section::Section,
    },
    exception::Exception,
};

/// RFC 6409 and RFC 8314.
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;
/// A distribution list is longer, and has one address.
const RECIPIENTS_MAX: usize = 20;
/// What leaves room for the rest of a subject.
const PREFIX_CHARS_MAX: usize = 40;

/// The way of mails.
#[derive(Debug, PartialEq)]
pub struct MailConfig {
    pub address: ServerAddress,
    pub transport: MailTransport,
    pub login: Option<MailLogin>,
    pub from: Address,
    pub to: Vec<Address>,
    pub subject_prefix: String,
}

/// How a connection for mail is protected.
#[derive(Debug, PartialEq)]
pub enum MailTransport {
    StartTls(SinkTls),
    Implicit(SinkTls),
    /// In clear, for as long as the exception lasts.
    Plaintext(Exception),
}

/// A user of the mail server.
#[derive(Debug, PartialEq)]
pub struct MailLogin {
    pub user: String,
    pub password: Secret,
}

pub(super) fn mail(section: &mut Section<'_>, today: NaiveDate) -> Option<MailConfig> {
    const EXPECTED: &str = "a host with or without a port, such as \"mail.example.org\"";
    const CHOICE: &str = "\"starttls\", \"implicit\", or \"none\" with a plaintext_exception";
    let mode = section.text("tls", CHOICE).unwrap_or("starttls");
    let port = if mode == "implicit" {
        SUBMISSIONS_PORT
    } else {
        SUBMISSION_PORT
    };
    let text = section.required_text("address", EXPECTED);
    let address = text.and_then(|text| parse_server_address(text, port));
    if let (Some(text), None) = (text, &address) {
        section.fault("address", format!("expected {EXPECTED}, found {text:?}"));
    }
    let host = address.as_ref().map(|address| address.host.clone());
    let allowed = plaintext_exception(section, today);
    let is_clear = mode == "none";
    if !is_clear && allowed.is_some() {
        section.fault(
            "plaintext_exception",
            format!("has no use with tls = {mode:?}; remove it"),
        );
    }
    let transport = match mode {
        "starttls" => tls(section, host).map(MailTransport::StartTls),
        "implicit" => tls(section, host).map(MailTransport::Implicit),
        "none" => no_tls(section, allowed).map(MailTransport::Plaintext),
        other => {
            section.fault("tls", format!("expected {CHOICE}, found {other:?}"));
            None
        }
    };
    let login = login(section);
    if is_clear && !matches!(login, Some(None)) {
        section.fault(
            "user",
            "a password is never sent in clear; remove user and password_file, or tls = \"none\"",
        );
    }
    let from = section.required_text("from", "the sender, such as \"Gateway <gw@example.org>\"");
    let from = from.and_then(|text| parsed(section, "from", text));
    let to = to(section);
    let prefix = section
        .text("subject_prefix", "the beginning of each subject")
        .unwrap_or("[portcullis]");
    if prefix.chars().count() > PREFIX_CHARS_MAX || prefix.contains(char::is_control) {
        section.fault(
            "subject_prefix",
            format!("expected up to {PREFIX_CHARS_MAX} visible characters, found {prefix:?}"),
        );
    }
    Some(MailConfig {
        address: address?,
        transport: transport?,
        login: login?,
        from: from?,
        to: to?,
        subject_prefix: prefix.to_owned(),
    })
}

/// `Some(None)` if there is none.
fn login(section: &mut Section<'_>) -> Option<Option<MailLogin>> {
    const PAIR: &str = "missing; a user needs a password, and a password its user";
    let user = section.text("user", "the name of a user of the mail server");
    let path = section.text(
        "password_file",
        "the path of a file whose first line is the password",
    );
    match (user, path) {
        (None, None) => {
            let is_wrong = section.has("user") || section.has("password_file");
            (!is_wrong).then_some(None)
        }
        (Some(_), None) => {
            section.fault("password_file", PAIR);
            None
        }
        (None, Some(_)) => {
            section.fault("user", PAIR);
            None
        }
        (Some(user), Some(path)) => {
            let password = files::password(Path::new(path))
                .map_err(|problem| section.fault("password_file", problem))
                .ok()?;
            Some(Some(MailLogin {
                user: user.to_owned(),
                password,
            }))
        }
    }
}

fn to(section: &mut Section<'_>) -> Option<Vec<Address>> {
    const EXPECTED: &str = "a list of mail addresses, such as [\"oncall@example.org\"]";
    if !section.has("to") {
        section.fault("to", format!("missing; expected {EXPECTED}"));
    }
    let texts = section.texts("to", EXPECTED)?;
    if texts.is_empty() || texts.len() > RECIPIENTS_MAX {
        section.fault(
            "to",
            format!(
                "expected 1 to {RECIPIENTS_MAX} addresses, found {}; one may be that of a distribution list",
                texts.len()
            ),
        );
        return None;
    }
    texts
        .into_iter()
        .map(|(index, text)| parsed(section, &format!("to[{index}]"), text))
        .collect()
}

fn parsed(section: &Section<'_>, key: &str, text: &str) -> Option<Address> {
    Address::parse(text)
        .map_err(|error| section.fault(key, error.to_string()))
        .ok()
}
