//! From `[backends.NAME]` to services.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use super::exception::Dated;
use crate::{
    backend::{
        BackendService,
        ftp::{FtpService, FtpSettings, FtpTls, Password, TlsTrust},
        local::{LocalService, LocalSettings},
        sftp::{Credential, SftpService, SftpSettings},
    },
    config::{self, BackendConfig, KeyPair, TrustAnchor},
};

/// Why a backend can't be used.
#[derive(Debug, thiserror::Error)]
#[error("prepare backend {name}")]
pub struct BuildError {
    name: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Makes a service for each section. No server is reached yet.
pub(super) fn build(
    configs: &BTreeMap<String, BackendConfig>,
) -> Result<HashMap<String, Arc<dyn BackendService>>, BuildError> {
    configs
        .iter()
        .map(|(name, config)| {
            let service = service(config).map_err(|source| BuildError {
                name: name.clone(),
                source,
            })?;
            Ok((name.clone(), service))
        })
        .collect()
}

fn service(
    config: &BackendConfig,
) -> Result<Arc<dyn BackendService>, Box<dyn std::error::Error + Send + Sync>> {
    match config {
        BackendConfig::Local { directory } => {
            let service = Arc::new(LocalService::new(LocalSettings {
                directory: directory.clone(),
            })?);
            let swept = service.clone();
            // Beside the start: a large tree takes minutes, and nothing waits for it.
            std::thread::Builder::new()
                .name("staging-sweep".to_owned())
                .spawn(move || swept.sweep_leftovers(SystemTime::now()))?;
            Ok(service)
        }
        BackendConfig::Ftp {
            address,
            user,
            password,
            tls,
            timeout,
        } => {
            let service = Arc::new(FtpService::new(FtpSettings {
                address: address.to_string(),
                user: user.clone(),
                password: Password::new(password.expose()),
                tls: match tls {
                    // The exception is on record.
                    config::FtpTls::Plaintext(_) => FtpTls::None,
                    config::FtpTls::Explicit { server_name, trust } => FtpTls::Explicit {
                        server_name: server_name.clone(),
                        trust: match trust {
                            TrustAnchor::WebRoots => TlsTrust::WebRoots,
                            TrustAnchor::Authorities(file) => TlsTrust::authorities_in(file)?,
                            TrustAnchor::Pinned(fingerprint) => TlsTrust::Pinned(*fingerprint),
                        },
                    },
                },
                timeout: *timeout,
            })?);
            Ok(match config.plaintext_exception() {
                Some(exception) => Arc::new(Dated::new(service, exception.expires)),
                None => service,
            })
        }
        BackendConfig::Sftp {
            address,
            user,
            host_key,
            credential,
            timeout,
        } => Ok(Arc::new(SftpService::new(SftpSettings {
            host: address.host.clone(),
            port: address.port,
            user: user.clone(),
            host_key: host_key.as_ref().clone(),
            credential: match credential {
                config::Credential::Key(KeyPair(key)) => {
                    Credential::Key(Arc::new(key.as_ref().clone()))
                }
                config::Credential::Password(password) => {
                    Credential::Password(password.expose().to_owned().into())
                }
            },
            timeout: *timeout,
        }))),
    }
}
