//! From `[backends.NAME]` to services.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::exception::Dated;
use crate::{
    backend::{
        BackendService,
        ftp::{FtpService, FtpSettings, FtpTls, Password, TlsTrust, settings::AuthoritiesError},
        local::{LocalService, LocalSettings},
        s3::{AccessKey, S3Service, S3Settings},
        sftp::{Credential, Publication, SftpService, SftpSettings},
        staging::UploadSettings,
    },
    config::{self, BackendConfig, KeyPair, S3Transport, TrustAnchor},
};

/// Why a backend can't be used.
#[derive(Debug, thiserror::Error)]
#[error("prepare backend {name}")]
pub struct BuildError {
    name: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// How often local directories are searched for what interrupted uploads left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Makes a service for each section; `node` is this gateway's name. No server is reached yet.
pub(super) fn build(
    configs: &BTreeMap<String, BackendConfig>,
    node: &str,
) -> Result<HashMap<String, Arc<dyn BackendService>>, BuildError> {
    configs
        .iter()
        .map(|(name, config)| {
            let service = service(config, node).map_err(|source| BuildError {
                name: name.clone(),
                source,
            })?;
            Ok((name.clone(), service))
        })
        .collect()
}

fn service(
    config: &BackendConfig,
    node: &str,
) -> Result<Arc<dyn BackendService>, Box<dyn std::error::Error + Send + Sync>> {
    match config {
        BackendConfig::Local {
            directory,
            uploads,
            timeout,
        } => {
            let service = Arc::new(LocalService::new(LocalSettings {
                directory: directory.clone(),
                uploads: upload_settings(uploads, node),
                timeout: *timeout,
            })?);
            let swept = service.clone();
            // Beside everything else: a large tree takes minutes, and nothing waits for it.
            std::thread::Builder::new()
                .name("staging-sweep".to_owned())
                .spawn(move || {
                    loop {
                        swept.sweep_leftovers(SystemTime::now());
                        std::thread::sleep(SWEEP_INTERVAL);
                    }
                })?;
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
                        trust: trusted(trust)?,
                    },
                },
                timeout: *timeout,
            })?);
            Ok(match config.plaintext_exception() {
                Some(exception) => Arc::new(Dated::new(service, exception.expires)),
                None => service,
            })
        }
        BackendConfig::S3(bucket) => {
            let service = Arc::new(S3Service::new(&S3Settings {
                endpoint: bucket.endpoint.clone(),
                region: bucket.region.clone(),
                bucket: bucket.bucket.clone(),
                prefix: bucket.prefix.clone(),
                access_key: AccessKey::new(
                    bucket.access_key_id.expose(),
                    bucket.secret_key.expose(),
                ),
                trust: match &bucket.transport {
                    S3Transport::Tls(trust) => trusted(trust)?,
                    // Not asked for: the endpoint is http://.
                    S3Transport::Loopback | S3Transport::Plaintext(_) => TlsTrust::WebRoots,
                },
                timeout: bucket.timeout,
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
            uploads,
            publishes_directly,
            copy_limit,
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
            uploads: upload_settings(uploads, node),
            publication: if *publishes_directly {
                Publication::Direct
            } else {
                Publication::Rename
            },
            copy_limit: *copy_limit,
            timeout: *timeout,
        }))),
    }
}

fn upload_settings(uploads: &config::Uploads, node: &str) -> UploadSettings {
    UploadSettings {
        resume: uploads.resume,
        retention: uploads.retention,
        node: node.to_owned(),
    }
}

fn trusted(anchor: &TrustAnchor) -> Result<TlsTrust, AuthoritiesError> {
    Ok(match anchor {
        TrustAnchor::WebRoots => TlsTrust::WebRoots,
        TrustAnchor::Authorities(file) => TlsTrust::authorities_in(file)?,
        TrustAnchor::Pinned(fingerprint) => TlsTrust::Pinned(*fingerprint),
    })
}
