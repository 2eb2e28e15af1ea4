//! The configuration of a witness, which is a file of its own: `deploy/portcullis-witness.toml` shows every key.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use portcullis_journal::tree::key::{origin, read_verifier_keys};

use super::{
    ConfigError, Fault, Identity, MetricsConfig,
    files::host_name,
    metrics, parse_table, read,
    section::{Faults, Section},
    sinks::identity,
};

use crate::causes::chain;

/// All settings of a witness.
#[derive(Debug, PartialEq)]
pub struct WitnessConfig {
    pub listen: SocketAddr,
    /// What stands before `/add-checkpoint`: nothing, or a path that begins with a slash and ends without one.
    pub prefix: String,
    /// Name of the key, if it has to be made.
    pub name: String,
    pub signing_key: PathBuf,
    /// Where it keeps what it cosigned.
    pub directory: PathBuf,
    /// Without one it speaks plain HTTP.
    pub tls: Option<Identity>,
    pub metrics: Option<MetricsConfig>,
    pub logs: Vec<WitnessedLog>,
}

/// A log that is witnessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessedLog {
    /// The name of its keys.
    pub origin: String,
    pub key_file: PathBuf,
}

impl WitnessConfig {
    /// Reads and checks the file and every file that it names.
    ///
    /// # Errors
    /// All faults together.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        read(path)
            .and_then(|text| Self::parse(&text))
            .map_err(|faults| ConfigError {
                path: path.to_owned(),
                sha256: None,
                faults,
            })
    }

    /// As [`load`](Self::load), for text that is already read.
    ///
    /// # Errors
    /// All faults together.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let table = parse_table(text)?;
        let faults = Faults::default();
        let found = witness(Section::root(&table, &faults));
        let faults = faults.into_vec();
        found.filter(|_| faults.is_empty()).ok_or(faults)
    }
}

fn witness(mut root: Section<'_>) -> Option<WitnessConfig> {
    const ADDRESS: &str = "an address with a port, such as \"192.0.2.9:2025\"";
    let listen = root.required_text("listen", ADDRESS).and_then(|text| {
        let address = text.parse();
        address
            .map_err(|_| root.fault("listen", format!("expected {ADDRESS}, found {text:?}")))
            .ok()
    });
    let prefix = prefix(&mut root);
    let name = root
        .text("name", "the name of this witness's key")
        .map_or_else(|| format!("{}/witness", host_name()), str::to_owned);
    let signing_key = root.required_text("signing_key", "the path of the witness's signing key");
    let directory = root.required_text("directory", "where the witness keeps what it cosigned");
    let tls = match root.section("tls") {
        None => Some(None),
        Some(section) => tls(section).map(Some),
    };
    let metrics = root.section("metrics").map(metrics);
    let logs = logs(&mut root);
    root.finish();
    Some(WitnessConfig {
        listen: listen?,
        prefix: prefix?,
        name,
        signing_key: signing_key?.into(),
        directory: directory?.into(),
        tls: tls?,
        metrics: metrics.flatten(),
        logs,
    })
}

fn prefix(root: &mut Section<'_>) -> Option<String> {
    const PREFIX: &str = "a path such as \"/witness\"";
    let Some(text) = root.text("prefix", PREFIX) else {
        return Some(String::new());
    };
    let is_path = text.starts_with('/')
        && !text.ends_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte));
    if !is_path {
        root.fault("prefix", format!("expected {PREFIX}, found {text:?}"));
    }
    is_path.then(|| text.to_owned())
}

fn tls(mut section: Section<'_>) -> Option<Identity> {
    let found = identity(&mut section, "certificate_file", "key_file");
    if matches!(found, Some(None)) {
        section.fault(
            "certificate_file",
            "missing; expected the path of a PEM file",
        );
    }
    section.finish();
    found.flatten()
}

fn logs(root: &mut Section<'_>) -> Vec<WitnessedLog> {
    let sections = root.tables("log");
    if sections.is_empty() {
        root.fault(
            "log",
            "missing; expected a table [[log]] with a key_file for each log that is witnessed",
        );
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for mut section in sections {
        let path = section.required_text(
            "key_file",
            "the path of the log's verifier keys, which stand in its <signing key>.pub",
        );
        let log = path.and_then(|path| {
            let key_file = PathBuf::from(path);
            let keys = read_verifier_keys(&key_file)
                .map_err(|error| section.fault("key_file", chain(&error)))
                .ok()?;
            let Some(origin) = origin(&keys) else {
                section.fault("key_file", format!("{path} has keys of several logs"));
                return None;
            };
            if !seen.insert(origin.to_owned()) {
                section.fault("key_file", format!("the log {origin:?} is there twice"));
            }
            Some(WitnessedLog {
                origin: origin.to_owned(),
                key_file,
            })
        });
        section.finish();
        found.extend(log);
    }
    found
}

#[cfg(test)]
mod tests {
    use portcullis_journal::tree::key::{SigningKey, public_key_path};
    use tempfile::TempDir;

    use super::*;

    fn folder(origins: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for origin in origins {
            SigningKey::open(&folder.path().join(origin), origin).unwrap();
        }
        folder
    }

    fn text(folder: &TempDir, origins: &[&str], more: &str) -> String {
        let here = folder.path().display();
        let mut text = format!(
            "listen = \"127.0.0.1:2025\"\nsigning_key = \"{here}/w.key\"\ndirectory = \"{here}/logs\"\n{more}"
        );
        for origin in origins {
            let key = public_key_path(&folder.path().join(origin));
            text.push_str(&format!("[[log]]\nkey_file = \"{}\"\n", key.display()));
        }
        text
    }

    #[test]
    fn a_log_is_named_by_its_keys() {
        let folder = folder(&["gw1", "gw2"]);
        let config = WitnessConfig::parse(&text(&folder, &["gw1", "gw2"], "prefix = \"/w/1\"\n"));
        let config = config.unwrap();
        let origins: Vec<_> = config.logs.iter().map(|log| log.origin.as_str()).collect();
        assert_eq!(origins, ["gw1", "gw2"]);
        assert_eq!(config.prefix, "/w/1");
        assert_eq!(config.tls, None);
    }

    #[test]
    fn the_sample_has_no_fault_but_its_files() {
        let sample = include_str!("../../../deploy/portcullis-witness.toml");
        for fault in WitnessConfig::parse(sample).unwrap_err() {
            let is_file =
                fault.problem.contains("can't be read") || fault.problem.contains("read key file");
            assert!(is_file, "{fault}");
        }
    }

    #[test]
    fn a_key_that_is_not_there_is_said_to_be_so() {
        let folder = folder(&[]);
        let faults = WitnessConfig::parse(&text(&folder, &["gw1"], "")).unwrap_err();
        let problem = &faults[0].problem;
        assert!(problem.contains("No such file or directory"), "{problem}");
    }

    #[test]
    fn every_fault_is_named_with_its_key() {
        let folder = folder(&["gw1"]);
        for (text, key) in [
            (text(&folder, &[], ""), "log"),
            (text(&folder, &["gw1", "gw1"], ""), "log[1].key_file"),
            (text(&folder, &["other"], ""), "log[0].key_file"),
            (text(&folder, &["gw1"], "prefix = \"w\"\n"), "prefix"),
            (text(&folder, &["gw1"], "prefix = \"/w/\"\n"), "prefix"),
            (text(&folder, &["gw1"], "lisen = 1\n"), "lisen"),
            (
                text(&folder, &["gw1"], "").replacen("127.0.0.1:2025", "here", 1),
                "listen",
            ),
            (text(&folder, &["gw1"], "[tls]\n"), "tls.certificate_file"),
            (
                text(&folder, &["gw1"], "[metrics]\nlisten = \"192.0.2.1:1\"\n"),
                "metrics.listen",
            ),
        ] {
            let faults = WitnessConfig::parse(&text).unwrap_err();
            let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
            assert_eq!(keys, [key], "{text}");
        }
    }
}
