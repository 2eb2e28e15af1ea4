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
    let offered: Vec<_> = policy
        .host_keys()
        .iter()
        .copied()
        .filter(|&name| {
            let mut keys = config.server.host_keys.iter();
            keys.any(|key| key.is_one_of(&[name]))
        })
        .collect();
    super::print(&match arguments.format {
        PolicyFormat::Json => format!("{:#}", as_json(policy, &offered)),
        PolicyFormat::SshAudit => as_ssh_audit_policy(policy, &offered),
    });
    Ok(())
}

/// `host_keys` are those that the gateway has keys for.
fn as_json(policy: &CipherPolicy, host_keys: &[&str]) -> serde_json::Value {
    let exception = policy.exception().map(|exception| {
        json!({
            "reason": exception.reason,
            "approver": exception.approver,
            "expires": exception.expires.to_string(),
        })
    });
    json!({
        "policy": policy.name(),
        "claim": policy.claim(),
        "exception": exception,
        "not_implemented": policy.not_implemented(),
        "key_exchanges": policy.key_exchanges(),
        "host_keys": host_keys,
        "user_keys": policy.user_keys(),
        "user_rsa_bits_min": policy.key_rules().rsa_bits_min,
        "ciphers": policy.ciphers(),
        "macs": policy.macs(),
        "compression": [COMPRESSION],
        "strict_key_exchange": true,
        "rekey_bytes": policy.rekey_bytes(),
        "rekey_seconds": policy.rekey_time().as_secs(),
    })
}

fn as_ssh_audit_policy(policy: &CipherPolicy, host_keys: &[&str]) -> String {
    let mut key_exchanges = policy.key_exchanges().to_vec();
    key_exchanges.extend(["ext-info-s", "kex-strict-s-v00@openssh.com"]);
    [
        format!("name = \"Portcullis {}\"", policy.name()),
        "version = 1".to_owned(),
        format!("compressions = {COMPRESSION}"),
        format!("host keys = {}", host_keys.join(", ")),
        format!("key exchanges = {}", key_exchanges.join(", ")),
        format!("ciphers = {}", policy.ciphers().join(", ")),
        format!("macs = {}", policy.macs().join(", ")),
    ]
    .join("\n")
}
