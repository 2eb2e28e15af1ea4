//! What each client was seen to do: tests leave a note for each deed below cargo's target folder, and the table in
//! `docs/clients.md` is made of those notes alone.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::client::Client;
use crate::locate;
use crate::process::succeed;

/// The page with the table.
pub const PAGE: &str = "docs/clients.md";
const BEGINNING: &str = "<!-- made by `cargo xtask clients --write` from what the tests saw -->\n";
const END: &str = "<!-- end -->\n";
const LOGINS_BEGIN: &str = "<!-- made by `cargo xtask clients --write`: logins -->\n";
const LOGINS_END: &str = "<!-- end of logins -->\n";
const POLICIES_BEGIN: &str = "<!-- made by `cargo xtask clients --write`: algorithms -->\n";
const POLICIES_END: &str = "<!-- end of algorithms -->\n";

/// A program or library that partners use, as a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// One of those that take [`Step`](crate::client::Step)s.
    Session(Client),
    /// `scp` with the protocol of old.
    Scp,
    /// `pscp` with the protocol of old.
    Pscp,
    /// `sshfs`.
    Sshfs,
    /// `curl` of Debian 12, whose libssh2 is 1.10.
    OldCurl,
}

/// What a client did, as a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Uploaded a file that was found byte for byte.
    Upload,
    /// Downloaded a file byte for byte.
    Download,
    /// Went on with an upload that was interrupted.
    Resume,
    /// Listed a folder.
    List,
    /// Renamed a file.
    Rename,
    /// Copied a whole folder there and back.
    Folders,
}

impl Program {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 12] = [
        Self::Session(Client::Openssh),
        Self::Scp,
        Self::Sshfs,
        Self::Session(Client::Psftp),
        Self::Pscp,
        Self::Session(Client::Lftp),
        Self::Session(Client::Rclone),
        Self::Session(Client::Curl),
        Self::OldCurl,
        Self::Session(Client::Paramiko),
        Self::Session(Client::Asyncssh),
        Self::Session(Client::Ssh2),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Session(Client::Openssh) => "OpenSSH `sftp`",
            Self::Scp => "OpenSSH `scp -O`",
            Self::Sshfs => "sshfs",
            Self::Session(Client::Psftp) => "PuTTY `psftp`",
            Self::Pscp => "PuTTY `pscp -scp`",
            Self::Session(Client::Lftp) => "lftp",
            Self::Session(Client::Rclone) => "rclone",
            Self::Session(Client::Curl) => "libcurl, libssh2 1.11",
            Self::OldCurl => "`curl`, libssh2 1.10",
            Self::Session(Client::Paramiko) => "paramiko",
            Self::Session(Client::Asyncssh) => "asyncssh",
            Self::Session(Client::Ssh2) => "ssh2 (npm)",
        }
    }

    /// What the program says that it is, cut to the first two numbers.
    fn version(self) -> Result<String> {
        let said = match self {
            Self::Session(Client::Openssh) | Self::Scp => said(Command::new("ssh").arg("-V"))?,
            Self::Sshfs => {
                // It names its libraries too.
                let said = said(Command::new("sshfs").arg("--version"))?;
                let own = said.split("SSHFS version").nth(1);
                own.unwrap_or(&said).to_owned()
            }
            Self::Session(Client::Psftp) => said(Command::new("psftp").arg("-V"))?,
            Self::Pscp => said(Command::new("pscp").arg("-V"))?,
            Self::Session(Client::Lftp) => said(Command::new("lftp").arg("--version"))?,
            Self::Session(Client::Rclone) => said(Command::new("rclone").arg("version"))?,
            Self::OldCurl => said(Command::new("curl").arg("--version"))?,
            Self::Session(Client::Curl) => {
                python("import pycurl; print(pycurl.version_info()[1])")?
            }
            Self::Session(Client::Paramiko) => {
                python("import paramiko; print(paramiko.__version__)")?
            }
            Self::Session(Client::Asyncssh) => {
                python("import asyncssh; print(asyncssh.__version__)")?
            }
            Self::Session(Client::Ssh2) => {
                let package = locate::node_packages()?.join("ssh2/package.json");
                let package: serde_json::Value =
                    serde_json::from_str(&fs::read_to_string(package)?)?;
                package
                    .get("version")
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            }
        };
        first_version(&said).with_context(|| format!("no version in {said:?}"))
    }

    fn folder(self) -> PathBuf {
        let name: String = self
            .name()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        notes().join(name)
    }
}

impl Deed {
    /// The columns, each with its heading.
    const COLUMNS: [(Self, &'static str); 6] = [
        (Self::Upload, "Upload"),
        (Self::Download, "Download"),
        (Self::Resume, "Resume"),
        (Self::List, "List"),
        (Self::Rename, "Rename"),
        (Self::Folders, "Whole folders"),
    ];

    fn file(self) -> String {
        format!("{self:?}")
    }
}

/// Notes that `program` did all this, to be called once a test has seen that it came out right.
///
/// # Errors
/// When the program doesn't say its version, or the note can't be written.
pub fn note(program: Program, deeds: &[Deed]) -> Result<()> {
    let folder = program.folder();
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("version"), program.version()?)?;
    for deed in deeds {
        fs::write(folder.join(deed.file()), "")?;
    }
    Ok(())
}

/// What a login was tried with: a cipher policy of the gateway, or a way to show two factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// With this cipher policy.
    Policy(&'static str),
    /// In this way.
    Login(Way),
}

/// A way to show two factors, as the account's settings and the client's options have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Password and code, a prompt each.
    TwoRounds,
    /// Password and code, both prompts in one request.
    OneRound,
    /// The password with the code behind it.
    AppendedCode,
    /// Public key, then password.
    KeyThenPassword,
    /// Public key, then code, under the policy `possession-pair`.
    KeyThenCode,
    /// Password, then public key.
    PasswordThenKey,
    /// Certificate, then password.
    CertificateThenPassword,
    /// A public key alone, while its MFA window is open.
    Window,
}

/// The cipher policies, in the order of the table.
pub const POLICIES: [&str; 4] = ["hipaa-2026", "fips-140-3", "pq-only", "legacy-compat"];

impl Way {
    /// The columns, each with its heading.
    pub const COLUMNS: [(Self, &'static str); 8] = [
        (Self::TwoRounds, "Password, then code"),
        (Self::OneRound, "Both in one round"),
        (Self::AppendedCode, "Code behind the password"),
        (Self::KeyThenPassword, "Key, then password"),
        (Self::KeyThenCode, "Key, then code"),
        (Self::PasswordThenKey, "Password, then key"),
        (Self::CertificateThenPassword, "Certificate, then password"),
        (Self::Window, "Key in its MFA window"),
    ];
}

impl Trial {
    fn file(self) -> String {
        match self {
            Self::Policy(name) => format!("Policy-{name}"),
            Self::Login(way) => format!("Login{way:?}"),
        }
    }
}

/// Notes what came of a client's login: `tested`, or what the gateway recorded, or what the client said.
///
/// # Errors
/// When the note can't be written.
pub fn note_login(program: Program, trial: Trial, found: &str) -> Result<()> {
    let folder = program.folder();
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(trial.file()), found)?;
    Ok(())
}

/// Forgets what earlier runs saw.
///
/// # Errors
/// When the notes can't be removed.
pub fn forget() -> Result<()> {
    let notes = notes();
    if notes.exists() {
        fs::remove_dir_all(&notes).with_context(|| format!("remove {}", notes.display()))?;
    }
    Ok(())
}

/// The page with a new table between its marks.
///
/// # Errors
/// When the page has no marks, or a program left no note: its tests were not run.
pub fn page_with_table(page: &str) -> Result<String> {
    let page = between(page, BEGINNING, END, &table()?)?;
    let ways = Way::COLUMNS.map(|(way, heading)| (Trial::Login(way), heading.to_owned()));
    let page = between(&page, LOGINS_BEGIN, LOGINS_END, &logins(&ways)?)?;
    let policies = POLICIES.map(|name| (Trial::Policy(name), format!("`{name}`")));
    between(&page, POLICIES_BEGIN, POLICIES_END, &logins(&policies)?)
}

/// The page with another text between two of its lines.
fn between(page: &str, beginning: &str, end: &str, text: &str) -> Result<String> {
    let (before, rest) = page
        .split_once(beginning)
        .with_context(|| format!("{PAGE} lacks the line {beginning:?}"))?;
    let (_, after) = rest
        .split_once(end)
        .with_context(|| format!("{PAGE} lacks the line {end:?}"))?;
    Ok(format!("{before}{beginning}{text}{end}{after}"))
}

/// True if the two pages say the same, versions aside: those are of the machine that the tests ran on.
#[must_use]
pub fn say_the_same(one: &str, other: &str) -> bool {
    without_versions(one) == without_versions(other)
}

fn table() -> Result<String> {
    let mut table = "| Client | Version |".to_owned();
    for (_, heading) in Deed::COLUMNS {
        let _ = write!(table, " {heading} |");
    }
    table.push('\n');
    table.push_str(&"| --- ".repeat(2 + Deed::COLUMNS.len()));
    table.push_str("|\n");
    for program in Program::ALL {
        let folder = program.folder();
        let version = fs::read_to_string(folder.join("version"))
            .with_context(|| format!("no test has noted what {} can", program.name()))?;
        let did = |deed: Deed| folder.join(deed.file()).exists();
        let _ = write!(table, "| {} | {version} |", program.name());
        for (deed, _) in Deed::COLUMNS {
            let cell = if did(deed) { "tested" } else { "-" };
            let _ = write!(table, " {cell} |");
        }
        table.push('\n');
    }
    Ok(table)
}

/// A row for each program, a column for each trial.
fn logins(columns: &[(Trial, String)]) -> Result<String> {
    let mut table = "| Client |".to_owned();
    for (_, heading) in columns {
        let _ = write!(table, " {heading} |");
    }
    table.push('\n');
    table.push_str(&"| --- ".repeat(1 + columns.len()));
    table.push_str("|\n");
    for program in Program::ALL {
        let _ = write!(table, "| {} |", program.name());
        for (trial, heading) in columns {
            let found = fs::read_to_string(program.folder().join(trial.file()))
                .with_context(|| format!("no test has tried {} with {heading}", program.name()))?;
            let _ = write!(table, " {found} |");
        }
        table.push('\n');
    }
    Ok(table)
}

/// The page with a blank for the second cell of each line of a table.
fn without_versions(page: &str) -> String {
    page.lines()
        .map(|line| {
            let mut cells: Vec<&str> = line.split('|').collect();
            if cells.len() == Deed::COLUMNS.len() + 4
                && let Some(version) = cells.get_mut(2)
            {
                *version = "";
            }
            cells.join("|") + "\n"
        })
        .collect()
}

fn notes() -> PathBuf {
    locate::target_folder().join("clients-seen")
}

fn python(script: &str) -> Result<String> {
    succeed(Command::new(locate::python_tool("python")?).args(["-c", script]))
}

/// All that a program prints about itself, on either stream.
fn said(command: &mut Command) -> Result<String> {
    let output = crate::process::finish_within(command, crate::process::PATIENCE)?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// The first two numbers with a dot between them.
fn first_version(said: &str) -> Option<String> {
    let is_part = |character: char| character.is_ascii_digit() || character == '.';
    said.split(|character| !is_part(character))
        .find_map(|word| {
            let mut numbers = word.split('.').filter(|number| !number.is_empty());
            Some(format!("{}.{}", numbers.next()?, numbers.next()?))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        for (said, version) in [
            ("OpenSSH_9.2p1 Debian-2+deb12u7, OpenSSL 3.0.17", "9.2"),
            ("LFTP | Version 4.9.2 | Copyright (c) 1996-2020", "4.9"),
            ("psftp: Release 0.78\nBuild platform: 64-bit Unix", "0.78"),
            ("rclone v1.60.1-DEV\n- os/version: debian 12.12", "1.60"),
            ("1.17.0", "1.17"),
        ] {
            assert_eq!(first_version(said).as_deref(), Some(version), "{said}");
        }
        assert_eq!(first_version("no number 7 with a dot. here"), None);
    }

    #[test]
    fn another_version_says_the_same_and_another_cell_does_not() {
        let row = |version: &str, cell: &str| {
            format!(
                "# Clients\n| sshfs | {version} |{}\n",
                format!(" {cell} |").repeat(Deed::COLUMNS.len())
            )
        };
        assert!(say_the_same(&row("3.7", "tested"), &row("3.8", "tested")));
        assert!(!say_the_same(&row("3.7", "tested"), &row("3.7", "-")));
        assert!(!say_the_same("other text", "another text"));
    }
}
