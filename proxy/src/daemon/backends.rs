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
        failover::{FailoverService, Member, Probe},
        ftp::{
            FtpService, FtpSettings, FtpTls, Password, TlsTrust,
            settings::{AuthoritiesError, Charset},
        },
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

/// The services of all sections, and those among them that watch others.
pub(super) struct Built {
    pub(super) services: HashMap<String, Arc<dyn BackendService>>,
    pub(super) failovers: Vec<(Arc<FailoverService>, Duration)>,
}

/// Makes a service for each section; `node` is this gateway's name. No server is reached yet.
pub(super) fn build(
    configs: &BTreeMap<String, BackendConfig>,
    node: &str,
) -> Result<Built, BuildError> {
    let mut services: HashMap<String, Arc<dyn BackendService>> = HashMap::new();
    for (name, config) in configs {
        let service = service(config, node).map_err(|source| BuildError {
            name: name.clone(),
            source,
        })?;
        services.extend(service.map(|service| (name.clone(), service)));
    }
    let mut failovers = Vec::new();
    for (name, config) in configs {
        if let BackendConfig::Failover {
            members,
            check_interval,
        } = config
        {
            let members = members
                .iter()
                .filter_map(|member| {
                    let probe = probe(configs.get(member)?)?;
                    let service = Arc::clone(services.get(member)?);
                    Some(Member::new(member, service, probe))
                })
                .collect();
            let failover = Arc::new(FailoverService::new(name, members));
            services.insert(name.clone(), Arc::clone(&failover) as _);
            failovers.push((failover, *check_interval));
        }
    }
    Ok(Built {
        services,
        failovers,
    })
}

/// How a member's health is found out; `None` for what can't be a member.
fn probe(config: &BackendConfig) -> Option<Probe> {
    match config {
        BackendConfig::Local { directory, .. } => Some(Probe::Directory(directory.clone())),
        BackendConfig::Ftp { address, .. } => Some(Probe::Greeting {
            address: address.to_string(),
            expected: b"220",
        }),
        BackendConfig::Sftp { address, .. } => Some(Probe::Greeting {
            address: address.to_string(),
            expected: b"SSH-",
        }),
        BackendConfig::S3(bucket) => Some(Probe::Connection {
            address: bucket.address()?.to_string(),
        }),
        BackendConfig::Failover { .. } => None,
    }
}

/// `None` for a list of others.
fn service(
    config: &BackendConfig,
    node: &str,
) -> Result<Option<Arc<dyn BackendService>>, Box<dyn std::error::Error + Send + Sync>> {
    let service: Arc<dyn BackendService> = match config {
        BackendConfig::Failover { .. } => return Ok(None),
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
            service
        }
        BackendConfig::Ftp {
            address,
            user,
            password,
            tls,
            uploads,
            charset,
            copy_limit,
            keepalive,
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
                    config::FtpTls::Implicit { server_name, trust } => FtpTls::Implicit {
                        server_name: server_name.clone(),
                        trust: trusted(trust)?,
                    },
                },
                timeout: *timeout,
                keepalive: *keepalive,
                uploads: upload_settings(uploads, node),
                charset: match charset {
                    config::Charset::Utf8 => Charset::AsTheyAre,
                    config::Charset::Latin1 => Charset::Latin1,
                },
                copy_limit: *copy_limit,
            })?);
            match config.plaintext_exception() {
                Some(exception) => Arc::new(Dated::new(service, exception.expires)),
                None => service,
            }
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
            match config.plaintext_exception() {
                Some(exception) => Arc::new(Dated::new(service, exception.expires)),
                None => service,
            }
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
        } => Arc::new(SftpService::new(SftpSettings {
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
        })),
    };
    Ok(Some(service))
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
