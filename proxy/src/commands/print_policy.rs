//! `print-policy`: the algorithms in force, for an auditor.

use serde_json::json;

use crate::{
    cipher_policy::{COMPRESSION, CipherPolicy},
    cli::{PolicyFormat, PrintPolicyArgs},
    config::Config,
};

pub(super) fn print_policy(arguments: &PrintPolicyArgs) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config.config, super::today())?;
    let policy = &config.server.cipher_policy;
    super::print(&match arguments.format {
        PolicyFormat::Json => format!("{:#}", as_json(policy)),
        PolicyFormat::SshAudit => as_ssh_audit_policy(policy),
    });
    Ok(())
}

fn as_json(policy: &CipherPolicy) -> serde_json::Value {
    json!({
        "policy": policy.name(),
        "key_exchanges": policy.key_exchanges(),
        "host_keys": policy.host_keys(),
        "user_keys": policy.user_keys(),
        "ciphers": policy.ciphers(),
        "macs": policy.macs(),
        "compression": [COMPRESSION],
        "strict_key_exchange": true,
        "rekey_bytes": policy.rekey_bytes(),
        "rekey_seconds": policy.rekey_time().as_secs(),
    })
}

fn as_ssh_audit_policy(policy: &CipherPolicy) -> String {
    let mut key_exchanges = policy.key_exchanges().to_vec();
    key_exchanges.extend(["ext-info-s", "kex-strict-s-v00@openssh.com"]);
    [
        format!("name = \"Portcullis {}\"", policy.name()),
        "version = 1".to_owned(),
        format!("compressions = {COMPRESSION}"),
        format!("host keys = {}", policy.host_keys().join(", ")),
        format!("key exchanges = {}", key_exchanges.join(", ")),
        format!("ciphers = {}", policy.ciphers().join(", ")),
        format!("macs = {}", policy.macs().join(", ")),
    ]
    .join("\n")
}
