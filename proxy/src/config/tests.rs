use std::{fs, os::unix::fs::PermissionsExt as _};

use portcullis_at_rest::{DataKey, escrow::Identity, key_file};
use portcullis_audit::hidden::AuditorSecret;

use super::*;
use crate::{policy::DataOps, sftp::Digests};

mod alerts;
mod auth;
mod backends;
mod encryption;
mod key_sets;
mod manifests;
mod presets;
mod sinks;
mod trust;
mod witnesses;

fn today() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 11, 22).unwrap()
}

/// A directory with a good host key, a password file and a data directory.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = Self(directory);
        let key = ssh_key::PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]));
        files.write(
            "host_key",
            &key.to_openssh(ssh_key::LineEnding::LF).unwrap(),
            0o600,
        );
        files.write("password", "open sesame\n", 0o640);
        fs::create_dir(files.0.path().join("data")).unwrap();
        let at = |name: &str| files.0.path().join(name);
        let escrow = Identity::generate().unwrap();
        key_file::write_kek(&at("kek"), &DataKey::random().unwrap()).unwrap();
        key_file::write_recipient(&at("escrow.pub"), escrow.recipient()).unwrap();
        files
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// `text` with `%` for the directory, and with keys for stored files.
    fn parse(&self, text: &str) -> Result<Config, Vec<Fault>> {
        self.parse_alone(&format!("{text}\n{ENCRYPTION}"))
    }

    /// `text` with `%` for the directory.
    fn parse_alone(&self, text: &str) -> Result<Config, Vec<Fault>> {
        Config::parse(&text.replace('%', self.0.path().to_str().unwrap()), today())
    }

    fn faults(&self, text: &str) -> Vec<String> {
        let directory = format!("{}/", self.0.path().display());
        self.parse(text)
            .unwrap_err()
            .into_iter()
            .map(|fault| fault.to_string().replace(&directory, ""))
            .collect()
    }
}

const ENCRYPTION: &str = r#"
[encryption]
key_file = "%/kek"
escrow_recipient_file = "%/escrow.pub"
spool_directory = "%"
"#;

const MINIMAL: &str = r#"
[server]
listen = ["127.0.0.1:2222"]
host_keys = ["%/host_key"]
[accounts]
database = "%/accounts.db"
[journal]
directory = "%/journal"
signing_key = "%/journal.key"
"#;

#[test]
fn digests_are_of_uploads_unless_all_are_asked_for() {
    let files = Files::new();
    let digests = |line: &str| {
        let text = MINIMAL.replace("[journal]", &format!("[journal]\n{line}"));
        files.parse(&text).map(|config| config.journal.digests)
    };
    assert_eq!(digests("").unwrap(), Digests::OfUploads);
    assert_eq!(
        digests("digests = \"uploads\"").unwrap(),
        Digests::OfUploads
    );
    assert_eq!(digests("digests = \"all\"").unwrap(), Digests::OfAll);
    assert_eq!(
        files.faults(&MINIMAL.replace("[journal]", "[journal]\ndigests = \"none\"")),
        ["journal.digests: \"none\": expected \"uploads\" or \"all\""]
    );
}

#[test]
fn each_read_and_write_is_on_record_unless_less_is_asked_for() {
    let files = Files::new();
    let data_ops = |line: &str| {
        let text = MINIMAL.replace("[journal]", &format!("[journal]\n{line}"));
        files.parse(&text).map(|config| config.journal.data_ops)
    };
    for (line, expected) in [
        ("", DataOps::Each),
        ("data_ops = \"each\"", DataOps::Each),
        ("data_ops = \"extent\"", DataOps::Extent),
        ("data_ops = \"summary\"", DataOps::Summary),
    ] {
        assert_eq!(data_ops(line).unwrap(), expected, "{line}");
    }
    assert_eq!(
        files.faults(&MINIMAL.replace("[journal]", "[journal]\ndata_ops = \"none\"")),
        ["journal.data_ops: \"none\": expected \"each\", \"extent\" or \"summary\""]
    );
}

#[test]
fn records_are_kept_for_ever_or_for_six_years_and_for_less_only_if_it_is_meant() {
    let files = Files::new();
    let with = |lines: &str| MINIMAL.replace("[journal]", &format!("[journal]\n{lines}"));
    let keep = |lines: &str| files.parse(&with(lines)).unwrap().journal.keep;
    assert_eq!(keep(""), None);
    assert_eq!(keep("keep_days = 2190"), TimeDelta::try_days(2190));
    assert_eq!(
        files.faults(&with("keep_days = 2189")),
        [
            "journal.keep_days: 2189 is less than the 2190 days that records are kept at least; if that is meant, set \
             keep_days_minimum too"
        ]
    );
    assert_eq!(
        keep("keep_days = 30\nkeep_days_minimum = 30"),
        TimeDelta::try_days(30)
    );
    let journal = files
        .parse(&with("compression_level = 0\nsegment_mib = 1"))
        .unwrap()
        .journal;
    assert_eq!(
        (journal.compression_level, journal.segment_bytes),
        (None, 1 << 20)
    );
    assert_eq!(files.faults(&with("compression_level = 20")).len(), 1);
}

#[test]
fn paths_are_clear_unless_they_are_hidden_and_sealed_needs_an_auditor() {
    let files = Files::new();
    let with = |lines: &str| MINIMAL.replace("[journal]", &format!("[journal]\n{lines}"));
    let journal = |lines: &str| files.parse(&with(lines)).unwrap().journal;
    let file = files.0.path().join("auditor");
    let (_, auditor) = AuditorSecret::generate(&file).unwrap();
    let public = files.0.path().join("auditor.pub");
    fs::write(&public, auditor.to_text()).unwrap();
    assert_eq!(journal("").paths, PathMode::Clear);
    assert_eq!(journal("path_mode = \"hmac\"").paths, PathMode::Hmac);
    assert_eq!(journal("").path_key, files.0.path().join("journal.pathkey"));
    for key in [auditor.to_text(), public.display().to_string()] {
        let lines = format!("path_mode = \"sealed\"\nauditor_key = {key:?}");
        assert_eq!(journal(&lines).paths, PathMode::Sealed(auditor.clone()));
    }
    for (lines, key) in [
        ("path_mode = \"sealed\"", "journal.auditor_key: missing"),
        (
            "path_mode = \"sealed\"\nauditor_key = \"%/auditor\"",
            "journal.auditor_key: ",
        ),
        (
            "path_mode = \"hmac\"\nauditor_key = \"%/auditor.pub\"",
            "journal.auditor_key: path_mode",
        ),
        (
            "path_mode = \"hidden\"",
            "journal.path_mode: \"hidden\": expected",
        ),
    ] {
        let faults = files.faults(&with(lines));
        assert!(
            faults.len() == 1 && faults[0].starts_with(key),
            "{faults:?}"
        );
    }
}

#[test]
fn a_path_key_that_can_not_be_used_is_a_fault_only_where_paths_are_hidden() {
    let files = Files::new();
    let with = |lines: &str| MINIMAL.replace("[journal]", &format!("[journal]\n{lines}"));
    fs::write(files.0.path().join("journal.pathkey"), [0; 31]).unwrap();
    let hidden = with("path_mode = \"hmac\"");
    let faults = files.faults(&hidden);
    assert!(
        faults.len() == 1 && faults[0].starts_with("journal.path_key_file: "),
        "{faults:?}"
    );
    assert!(files.parse(MINIMAL).is_ok());
    fs::remove_file(files.0.path().join("journal.pathkey")).unwrap();
    assert!(files.parse(&hidden).is_ok());
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let config = Files::new().parse(MINIMAL).unwrap();
    assert_eq!(config.server.cipher_policy.name(), "hipaa-2026");
    assert_eq!(config.server.login_grace, Duration::from_secs(60));
    assert_eq!(config.server.idle_timeout, Duration::from_secs(600));
    assert_eq!(config.server.session_limit, Duration::from_secs(43_200));
    assert_eq!(config.server.shutdown_grace, Duration::from_secs(30));
    assert_eq!(config.server.reload_grace, Duration::from_secs(600));
    assert_eq!(config.server.max_connections, 1024);
    assert_eq!(config.server.max_unauthenticated, 128);
    assert_eq!(config.server.max_unauthenticated_per_source, 16);
    assert_eq!(config.server.max_auth_failures, 6);
    assert!(config.bans.is_none() && config.metrics.is_none() && config.backends.is_empty());
}

#[test]
fn extensions_are_off_until_they_are_named_and_scp_is_served_until_it_is_refused() {
    let files = Files::new();
    let config = files.parse(MINIMAL).unwrap();
    assert_eq!(config.sftp.extensions, Extensions::default());
    assert_eq!(config.server.scp, ScpMode::Serve);
    let text = MINIMAL.replace("[accounts]", "scp = \"refuse\"\n[accounts]")
        + "[sftp]\nextensions = [\"copy-data\"]\n";
    let config = files.parse(&text).unwrap();
    assert!(config.sftp.extensions.copy_data && !config.sftp.extensions.hardlink);
    assert_eq!(config.server.scp, ScpMode::Refuse);
    let text = MINIMAL.replace("[accounts]", "scp = \"off\"\n[accounts]")
        + "[sftp]\nextensions = [\"copy-data\", \"fsync@openssh.com\"]\n";
    let faults = files.faults(&text);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("server.scp: expected"));
    assert!(faults[1].starts_with("sftp.extensions[1]: \"fsync@openssh.com\" can't"));
}

#[test]
fn every_fault_is_reported_at_once_with_its_key_and_the_way_out() {
    let files = Files::new();
    files.write("open_password", "x\n", 0o644);
    let faults = files.faults(
        r#"
unknown = 1
[server]
listen = ["127.0.0.1", "127.0.0.1:22", "127.0.0.1:22", 5]
host_keys = ["%/missing"]
cipher_policy = "hipaa-2025"
login_grace_seconds = "60"
idle_timeout_seconds = 0
colour = "red"
[accounts]
[bans]
agent_socket = "%/agent.sock"
exempt = ["192.0.2.1/24", "nowhere", "192.0.2.0/24", "2001:db8::1"]
[metrics]
listen = "192.0.2.1:9465"
[backends.a]
kind = "nfs"
[backends.b]
kind = "local"
directory = "%/missing"
[backends.c]
kind = "ftp"
address = ":21"
user = "gateway"
password_file = "%/open_password"
tls = "none"
plaintext_exception = { reason = "old", expires = "2026-11-21" }
"#,
    );
    let expected = [
        "server.listen[3]: expected text, found the number 5",
        "server.listen[0]: \"127.0.0.1\" is not an address with a port, such as \"192.0.2.1:22\" or \"[::]:22\"",
        "server.listen[2]: 127.0.0.1:22 is listed twice",
        "server.host_keys[0]: missing: can't be read: No such file or directory (os error 2)",
        "server.cipher_policy: unknown cipher policy \"hipaa-2025\"; known: hipaa-2026, fips-140-3, pq-only, legacy-compat",
        "server.login_grace_seconds: expected a whole number from 1 to 604800, found the text \"60\"",
        "server.idle_timeout_seconds: expected a whole number from 1 to 604800, found the number 0",
        "accounts.database: missing; expected the path of the accounts database",
        "journal: missing; expected a table [journal]",
        "bans.exempt[0]: 192.0.2.1/24 has bits set behind the prefix; write 192.0.2.0/24 for the network or 192.0.2.1 for the address",
        "bans.exempt[1]: \"nowhere\" is not a network such as \"192.0.2.0/24\" or \"2001:db8::/32\"",
        "metrics.listen: 192.0.2.1:9465 is not a loopback address; metrics name users' behaviour and have no login",
        "backends.a.kind: expected \"local\", \"ftp\", \"s3\", \"azure\", \"gcs\", \"sftp\" or \"failover\", found \"nfs\"",
        "backends.b.directory: missing is not a directory that can be seen",
        "backends.c.address: expected a host with a port, such as \"ftp.example.org:21\", found \":21\"",
        "backends.c.password_file: open_password can be used by others (mode 0644); run `chmod 0600 open_password`, or 0640 for the daemon's group",
        "backends.c.plaintext_exception.approver: missing; expected who accepted the risk",
        "backends.c.plaintext_exception.expires: the exception ended on 2026-11-21; move the server to TLS or have a new one approved",
    ];
    for line in expected {
        assert!(
            faults.iter().any(|fault| fault == line),
            "{line}\n{faults:#?}"
        );
    }
    assert!(
        faults
            .iter()
            .any(|fault| fault.starts_with("unknown: unknown key"))
    );
    assert!(
        faults
            .iter()
            .any(|fault| fault.starts_with("server.colour: unknown key"))
    );
    assert_eq!(faults.len(), expected.len() + 2, "{faults:#?}");
}

#[test]
fn a_file_that_is_not_toml_is_one_fault() {
    assert_eq!(Files::new().faults("[server\n").len(), 1);
}

#[test]
fn a_host_key_is_ed25519_in_openssh_form_without_passphrase_and_only_ours() {
    let files = Files::new();
    let key = |text: &str, mode| {
        files.write("host_key", text, mode);
        files.faults(MINIMAL).join("\n")
    };
    assert!(key("no key", 0o600).contains("not a private key in OpenSSH format"));
    assert!(key("", 0o644).contains("can be used by others (mode 0644)"));
    assert!(key("", 0o660).contains("can be used by others (mode 0660)"));
    let ecdsa = ssh_keygen(&files, &["-t", "ecdsa", "-N", ""]);
    assert!(key(&ecdsa, 0o600).contains("hipaa-2026 offers only ssh-ed25519: make one with `portcullis-proxy host-key generate FILE`"));
    let locked = ssh_keygen(&files, &["-t", "ed25519", "-N", "passphrase"]);
    assert!(key(&locked, 0o600).contains("has a passphrase"));
    let good = ssh_keygen(&files, &["-t", "ed25519", "-N", ""]);
    files.write("host_key", &good, 0o600);
    files.parse(MINIMAL).unwrap();
}

fn ssh_keygen(files: &Files, arguments: &[&str]) -> String {
    let path = files.0.path().join("generated");
    let _ = fs::remove_file(&path);
    let output = std::process::Command::new("ssh-keygen")
        .args(["-q", "-f"])
        .arg(&path)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_denied_algorithm_is_a_fault_wherever_it_is_named() {
    let files = Files::new();
    let with =
        |lines: &str| files.faults(&MINIMAL.replace("[accounts]", &format!("{lines}\n[accounts]")));
    let faults = with(
        r#"cipher_policy = "hipaa-2026"
[server.algorithms]
ciphers = ["aes256-gcm@openssh.com", "3des-cbc", "none"]
macs = ["hmac-md5"]
key_exchanges = ["diffie-hellman-group14-sha1", "diffie-hellman-group16-sha512"]"#,
    );
    assert_eq!(faults.len(), 5, "{faults:#?}");
    assert_eq!(
        faults
            .iter()
            .filter(|fault| fault.contains("can't be enabled by any configuration"))
            .count(),
        4
    );
    assert!(
        with("cipher_policy = \"none\"")
            .join("")
            .contains("can't be enabled")
    );
    let narrowed = files
        .parse(&MINIMAL.replace(
            "[accounts]",
            "[server.algorithms]\nkey_exchanges = [\"mlkem768x25519-sha256\"]\n[accounts]",
        ))
        .unwrap();
    assert_eq!(
        narrowed.server.cipher_policy.key_exchanges(),
        ["mlkem768x25519-sha256"]
    );
}

#[test]
fn the_sample_configuration_names_every_key_and_has_no_fault_but_its_files() {
    let sample = include_str!("../../../deploy/portcullis-proxy.toml");
    let faults = Config::parse(sample, today()).unwrap_err();
    for fault in &faults {
        assert!(
            fault.problem.contains("can't be read")
                || fault.problem.contains("can't be opened")
                || fault.problem.contains("can be seen"),
            "{fault}"
        );
    }
}

#[test]
fn accounts_can_be_managed_while_the_rest_of_the_file_has_faults() {
    let files = Files::new();
    files.write(
        "proxy.toml",
        "[accounts]\ndatabase = \"/db\"\n[server]\nlisten = 5\n[backends.a]\nkind = \"nfs\"\n",
        0o644,
    );
    let path = files.0.path().join("proxy.toml");
    let AccountCommandsConfig {
        accounts, backends, ..
    } = Config::load_accounts(&path).unwrap();
    assert_eq!(accounts.database, Path::new("/db"));
    assert_eq!(backends, ["a"]);
    files.write("proxy.toml", "[accounts]\n", 0o644);
    assert!(Config::load_accounts(&path).is_err());
}

#[test]
fn a_secret_is_not_printed() {
    let files = Files::new();
    let config = files
        .parse(&format!(
            "{MINIMAL}[backends.legacy]\nkind = \"ftp\"\naddress = \"198.51.100.20\"\nuser = \"g\"\npassword_file = \"%/password\"\ntls = \"explicit\"\n"
        ))
        .unwrap();
    let printed = format!("{config:?}");
    assert!(
        !printed.contains("sesame") && !printed.contains("PRIVATE"),
        "{printed}"
    );
}
