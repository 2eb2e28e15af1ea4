//! `check`: the configuration is read and judged, and nothing is started.

use crate::{
    cli::ConfigArgs,
    config::{BackendConfig, BucketConfig, BucketTransport, Config, FtpTls},
};

pub(super) fn check(arguments: &ConfigArgs) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config, super::today())?;
    super::print(&format!(
        "{} is good: {} address(es), policy {}, {} backend(s), {} sink(s), {} alert(s), {} witness(es)",
        arguments.config.display(),
        config.server.listen.len(),
        config.server.cipher_policy.name(),
        config.backends.len(),
        config.sinks.len(),
        config.alerts.len(),
        config.witnesses.len(),
    ));
    let policy = &config.server.cipher_policy;
    if let Some(exception) = policy.exception() {
        super::print(&format!(
            "policy {} is {}: until {}: {} (approved by {})",
            policy.name(),
            policy.claim(),
            exception.expires,
            exception.reason,
            exception.approver
        ));
    }
    for (name, exception) in config.plaintext_exceptions() {
        super::print(&format!(
            "backend {name} sends in clear until {}: {} (approved by {})",
            exception.expires, exception.reason, exception.approver
        ));
    }
    for (name, exception) in config.unencrypted_exceptions() {
        super::print(&format!(
            "files of backend {name} lie there unencrypted until {}: {} (approved by {})",
            exception.expires, exception.reason, exception.approver
        ));
    }
    for (name, exception) in config.plaintext_sinks() {
        super::print(&format!(
            "sink {name} sends in clear until {}: {} (approved by {})",
            exception.expires, exception.reason, exception.approver
        ));
    }
    for note in config.notes_on_keys() {
        super::print(&format!("note: {note}"));
    }
    for rule in config.alerts.iter().filter(|rule| rule.to.is_empty()) {
        super::print(&format!(
            "note: alert {} goes on record and to nobody; its `to` names no sink",
            rule.name
        ));
    }
    if config.backends.values().any(trusts_public_authorities) {
        super::print(
            "note: a backend trusts every public certificate authority; pin its certificate if it has its own",
        );
    }
    Ok(())
}

fn trusts_public_authorities(backend: &BackendConfig) -> bool {
    match backend {
        BackendConfig::Ftp {
            tls: FtpTls::Explicit { trust, .. } | FtpTls::Implicit { trust, .. },
            ..
        }
        | BackendConfig::Bucket(BucketConfig {
            transport: BucketTransport::Tls(trust),
            ..
        }) => *trust == crate::config::TrustAnchor::WebRoots,
        BackendConfig::Ftp { .. }
        | BackendConfig::Local { .. }
        | BackendConfig::Bucket(_)
        | BackendConfig::Sftp { .. }
        // Of a list, its members say it themselves.
        | BackendConfig::Failover { .. } => false,
    }
}
