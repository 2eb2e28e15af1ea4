//! From `[backends.NAME]` to services.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use portcullis_journal::Journal;
use tokio_util::task::AbortOnDropHandle;

use super::{exception::Dated, names::JournalNames};
use crate::{
    backend::{
        BackendService,
        encrypted::{EncryptedService, Foreign, NamedPlaces, Pending, Vault},
        failover::{FailoverService, Member, Probe},
        ftp::{
            FtpService, FtpSettings, FtpTls, Password, TlsTrust,
            settings::{AuthoritiesError, Charset},
        },
        local::{LocalService, LocalSettings},
        named::NamedService,
        object::{self, AccessKey, AzureKey, ObjectService, ObjectSettings, SecretText},
        sftp::{Credential, PoolLimits, Publication, SftpService, SftpSettings},
        staging::{Claims, UploadSettings},
    },
    config::{
        self, AtRest, BackendConfig, BucketAccess, BucketTransport, Config, KeyPair, TrustAnchor,
    },
    gate::names::Keeper,
    session::Backends,
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

/// The services of all sections.
#[derive(Debug)]
pub(super) struct Built {
    entries: BTreeMap<String, Entry>,
    /// By the files that the services reach, also those of services that only live sessions have.
    claims: BTreeMap<String, Claims>,
}

#[derive(Debug, Clone)]
struct Entry {
    service: Arc<dyn BackendService>,
    /// Those that another build did not make.
    failover: Option<Arc<FailoverService>>,
    /// Those that another build did not make.
    names: Option<Keeper>,
    /// Ends with the last configuration that has the section as it is.
    _beside: Option<Arc<Beside>>,
}

/// What runs beside a service while it is configured.
#[derive(Debug)]
enum Beside {
    Watch(#[expect(dead_code, reason = "held for its end")] AbortOnDropHandle<()>),
    Sweeps(#[expect(dead_code, reason = "held for its end")] mpsc::SyncSender<()>),
}

impl Built {
    /// By the names of their sections.
    pub(super) fn services(&self) -> Backends {
        let services: HashMap<_, _> = self
            .entries
            .iter()
            .map(|(name, entry)| (name.clone(), Arc::clone(&entry.service)))
            .collect();
        Arc::new(services)
    }

    /// Asks the members of new failover backends for their health, so that the first session gets one that is there.
    pub(super) async fn probe_new(&self) {
        let failovers = self
            .entries
            .values()
            .filter_map(|entry| entry.failover.as_ref());
        join_all(failovers.map(|failover| failover.probe())).await;
    }

    /// Who has the names of a backend where they are encrypted.
    pub(super) fn keeper(&self, name: &str) -> Option<Keeper> {
        self.entries.get(name)?.names.clone()
    }

    /// Reads the keys of names that are new, or makes them; nobody waits for it.
    pub(super) fn prepare_new(&self) {
        for keeper in self
            .entries
            .values()
            .filter_map(|entry| entry.names.clone())
        {
            tokio::spawn(async move { keeper.prepare().await });
        }
    }
}

/// Makes a service for each section; `node` is this gateway's name. What is in `before` and has not changed stays the same
/// value, with its connections. No server is reached yet.
pub(super) fn build(
    config: &Config,
    journal: &Journal,
    names: &Arc<JournalNames>,
    before: Option<(&Config, &Built)>,
) -> Result<Built, BuildError> {
    let folder = config.journal.verification();
    let wanted = |config| Wanted::of(config, &folder);
    let before = before.map(|(config, built)| (wanted(config), built));
    build_all(wanted(config), &config.journal.node, journal, names, before)
}

/// What is said of backends.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    configs: &'a BTreeMap<String, BackendConfig>,
    at_rest: &'a BTreeMap<String, AtRest>,
    /// Folder of the heads that are being exchanged.
    pending: &'a Path,
}

impl<'a> Wanted<'a> {
    fn of(config: &'a Config, pending: &'a Path) -> Self {
        Self {
            configs: &config.backends,
            at_rest: &config.at_rest,
            pending,
        }
    }

    fn leading_to(&self, name: &str) -> Vec<String> {
        leading_to(self.configs, name)
    }
}

/// The backend, and the lists that it is a member of: mounts of any of them lead to it.
pub(super) fn leading_to(configs: &BTreeMap<String, BackendConfig>, name: &str) -> Vec<String> {
    let leads = |config: &BackendConfig| match config {
        BackendConfig::Failover { members, .. } => members.iter().any(|member| member == name),
        BackendConfig::Local { .. }
        | BackendConfig::Sftp { .. }
        | BackendConfig::Ftp { .. }
        | BackendConfig::Bucket(_) => false,
    };
    let lists = configs.iter().filter(|(_, config)| leads(config));
    std::iter::once(name.to_owned())
        .chain(lists.map(|(list, _)| list.clone()))
        .collect()
}

fn build_all(
    wanted: Wanted<'_>,
    node: &str,
    journal: &Journal,
    names: &Arc<JournalNames>,
    before: Option<(Wanted<'_>, &Built)>,
) -> Result<Built, BuildError> {
    let Wanted {
        configs,
        at_rest,
        pending,
    } = wanted;
    let unchanged = |name: &str, config: &BackendConfig| {
        let (old, built) = before?;
        let entry = built.entries.get(name)?;
        let is_same = old.configs.get(name) == Some(config)
            && old.at_rest.get(name) == at_rest.get(name)
            && old.leading_to(name) == wanted.leading_to(name);
        is_same.then(|| Entry {
            failover: None,
            names: None,
            ..entry.clone()
        })
    };
    let mut claims = before.map_or_else(BTreeMap::new, |(_, built)| built.claims.clone());
    // Two of them are this list and the one before.
    claims.retain(|_, claims| claims.holders() > 2);
    let mut entries = BTreeMap::new();
    for (name, config) in configs {
        let entry = match unchanged(name, config) {
            Some(entry) => Some(entry),
            None => entry(config, node, &mut claims)
                .map_err(|source| BuildError {
                    name: name.clone(),
                    source,
                })?
                .map(|entry| {
                    let names = NamedPlaces {
                        names: Arc::new(Arc::clone(names)),
                        backends: wanted.leading_to(name),
                    };
                    entry.at_rest(name, at_rest.get(name), journal, pending, names)
                }),
        };
        entries.extend(entry.map(|entry| (name.clone(), entry)));
    }
    for (name, config) in configs {
        if let BackendConfig::Failover {
            members,
            check_interval,
        } = config
        {
            let keeps_members = members.iter().all(|member| {
                configs
                    .get(member)
                    .is_some_and(|config| unchanged(member, config).is_some())
            });
            let entry = match unchanged(name, config).filter(|_| keeps_members) {
                Some(entry) => entry,
                None => failover(name, members, *check_interval, configs, &entries),
            };
            entries.insert(name.clone(), entry);
        }
    }
    Ok(Built { entries, claims })
}

impl Entry {
    /// With its files as they are to lie there.
    fn at_rest(
        mut self,
        name: &str,
        at_rest: Option<&AtRest>,
        journal: &Journal,
        folder: &Path,
        names: NamedPlaces,
    ) -> Self {
        match at_rest {
            None | Some(AtRest::Plain(None)) => {}
            Some(AtRest::Plain(Some(exception))) => {
                self.service = Arc::new(Dated::new(self.service, exception.expires));
            }
            Some(AtRest::Encrypted {
                keys,
                is_migrating,
                has_names,
                realm,
            }) => {
                if *has_names {
                    let service = Arc::clone(&self.service);
                    let keeper =
                        Keeper::new(journal.clone(), service, name, keys.ring.clone(), *realm);
                    self.names = Some(keeper.clone());
                    self.service = Arc::new(NamedService::new(self.service, Arc::new(keeper)));
                }
                let vault = Vault {
                    ring: keys.ring.clone(),
                    realm: *realm,
                    foreign: if *is_migrating {
                        Foreign::Read
                    } else {
                        Foreign::Refuse
                    },
                    update_limit: keys.update_limit,
                    spool_directory: keys.spool_directory.clone(),
                    pending: pending(folder, name),
                    names: keys.check_names.then_some(names),
                    vouch: keys.vouch,
                };
                self.service = Arc::new(EncryptedService::new(self.service, vault));
            }
        }
        self
    }
}

/// Where the head is kept that is being exchanged on the backend of that name.
pub(super) fn pending(folder: &Path, name: &str) -> Pending {
    Pending::new(folder.join(hex::encode(name)).with_extension("pending"))
}

fn failover(
    name: &str,
    members: &[String],
    check_interval: Duration,
    configs: &BTreeMap<String, BackendConfig>,
    entries: &BTreeMap<String, Entry>,
) -> Entry {
    let members = members
        .iter()
        .filter_map(|member| {
            let probe = probe(configs.get(member)?)?;
            let service = Arc::clone(&entries.get(member)?.service);
            Some(Member::new(member, service, probe))
        })
        .collect();
    let failover = Arc::new(FailoverService::new(name, members));
    let watch = tokio::spawn(Arc::clone(&failover).watch(check_interval));
    Entry {
        service: Arc::clone(&failover) as _,
        failover: Some(failover),
        names: None,
        _beside: Some(Arc::new(Beside::Watch(AbortOnDropHandle::new(watch)))),
    }
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
        BackendConfig::Bucket(bucket) => Some(Probe::Connection {
            address: bucket.address()?.to_string(),
        }),
        BackendConfig::Failover { .. } => None,
    }
}

/// `None` for a list of others, which is made once those are there.
fn entry(
    config: &BackendConfig,
    node: &str,
    claims: &mut BTreeMap<String, Claims>,
) -> Result<Option<Entry>, Box<dyn std::error::Error + Send + Sync>> {
    let mut upload_settings = |uploads: &config::Uploads| UploadSettings {
        resume: uploads.resume,
        may_resume: true,
        retention: uploads.retention,
        node: node.to_owned(),
        claims: claims.entry(place(config)).or_default().clone(),
    };
    let mut beside = None;
    let service: Arc<dyn BackendService> = match config {
        BackendConfig::Failover { .. } => return Ok(None),
        BackendConfig::Local {
            directory,
            uploads,
            timeout,
        } => {
            let service = Arc::new(LocalService::new(LocalSettings {
                directory: directory.clone(),
                uploads: upload_settings(uploads),
                timeout: *timeout,
            })?);
            let swept = service.clone();
            let (end, ends) = mpsc::sync_channel(0);
            // Beside everything else: a large tree takes minutes, and nothing waits for it.
            std::thread::Builder::new()
                .name("staging-sweep".to_owned())
                .spawn(move || {
                    loop {
                        swept.sweep_leftovers(SystemTime::now());
                        if ends.recv_timeout(SWEEP_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                            return;
                        }
                    }
                })?;
            beside = Some(Arc::new(Beside::Sweeps(end)));
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
                uploads: upload_settings(uploads),
                charset: match charset {
                    config::Charset::Utf8 => Charset::AsTheyAre,
                    config::Charset::Utf8Only => Charset::Utf8,
                    config::Charset::Latin1 => Charset::Latin1,
                },
                copy_limit: *copy_limit,
            })?);
            match config.plaintext_exception() {
                Some(exception) => Arc::new(Dated::new(service, exception.expires)),
                None => service,
            }
        }
        BackendConfig::Bucket(bucket) => {
            let service = Arc::new(ObjectService::new(&ObjectSettings {
                endpoint: bucket.endpoint.clone(),
                bucket: bucket.name.clone(),
                prefix: bucket.prefix.clone(),
                credential: credential(&bucket.access),
                trust: match &bucket.transport {
                    BucketTransport::Tls(trust) => trusted(trust)?,
                    // Not asked for: the endpoint is http://.
                    BucketTransport::Loopback | BucketTransport::Plaintext(_) => TlsTrust::WebRoots,
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
            pool,
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
            uploads: upload_settings(uploads),
            publication: if *publishes_directly {
                Publication::Direct
            } else {
                Publication::Rename
            },
            copy_limit: *copy_limit,
            pool: PoolLimits {
                connections: pool.connections,
                channels: pool.channels,
                idle: pool.idle,
            },
            keepalive: pool.keepalive,
            timeout: *timeout,
        })),
    };
    Ok(Some(Entry {
        service,
        failover: None,
        names: None,
        _beside: beside,
    }))
}

/// Which files a backend reaches. Two spellings of one server are two places, as they are to a person who reads the file.
fn place(config: &BackendConfig) -> String {
    match config {
        BackendConfig::Local { directory, .. } => directory.display().to_string(),
        BackendConfig::Ftp { address, user, .. } => format!("ftp {user} {address}"),
        BackendConfig::Sftp { address, user, .. } => format!("sftp {user} {address}"),
        BackendConfig::Bucket(bucket) => {
            format!(
                "bucket {} {} {}",
                bucket.endpoint, bucket.name, bucket.prefix
            )
        }
        BackendConfig::Failover { members, .. } => members.join(" "),
    }
}

fn credential(access: &BucketAccess) -> object::Credential {
    match access {
        BucketAccess::S3 { region, id, secret } => object::Credential::S3 {
            region: region.clone(),
            key: AccessKey::new(id.expose(), secret.expose()),
        },
        BucketAccess::AzureKey { account, key } => object::Credential::Azure {
            account: account.clone(),
            key: AzureKey::Shared(SecretText::new(key.expose())),
        },
        BucketAccess::AzureSignature { account, signature } => object::Credential::Azure {
            account: account.clone(),
            key: AzureKey::Signature(SecretText::new(signature.expose())),
        },
        BucketAccess::Gcs { service_account } => object::Credential::Gcs {
            service_account: SecretText::new(service_account.expose()),
        },
    }
}

pub(super) fn trusted(anchor: &TrustAnchor) -> Result<TlsTrust, AuthoritiesError> {
    Ok(match anchor {
        TrustAnchor::WebRoots => TlsTrust::WebRoots,
        TrustAnchor::Authorities { file, .. } => TlsTrust::authorities_in(file)?,
        TrustAnchor::Pinned(fingerprint) => TlsTrust::Pinned(*fingerprint),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(directory: &Path, seconds: u64) -> BackendConfig {
        BackendConfig::Local {
            directory: directory.to_owned(),
            uploads: config::Uploads {
                resume: true,
                retention: Duration::from_secs(3600),
            },
            timeout: Duration::from_secs(seconds),
        }
    }

    fn configs(directory: &Path, seconds: u64) -> BTreeMap<String, BackendConfig> {
        let failover = |members: [&str; 2]| BackendConfig::Failover {
            members: members.map(str::to_owned).to_vec(),
            check_interval: Duration::from_secs(3600),
        };
        [
            ("a", local(directory, 30)),
            ("b", local(directory, 30)),
            ("c", local(directory, seconds)),
            ("a-or-b", failover(["a", "b"])),
            ("b-or-c", failover(["b", "c"])),
        ]
        .map(|(name, config)| (name.to_owned(), config))
        .into()
    }

    #[tokio::test]
    async fn what_has_not_changed_stays_the_same_service_and_a_list_changes_with_its_members() {
        let directory = tempfile::tempdir().unwrap();
        let journal = crate::testing::journal(directory.path());
        let (before, after) = (configs(directory.path(), 30), configs(directory.path(), 31));
        let none = BTreeMap::new();
        let wanted = |configs| Wanted {
            configs,
            at_rest: &none,
            pending: directory.path(),
        };
        let names = Arc::new(JournalNames::beside(
            Path::new("/nonexistent"),
            Path::new(""),
        ));
        let old = build_all(wanted(&before), "node", &journal, &names, None).unwrap();
        let new = build_all(
            wanted(&after),
            "node",
            &journal,
            &names,
            Some((wanted(&before), &old)),
        )
        .unwrap();
        let (old, new) = (old.services(), new.services());
        let is_same = |name: &str| Arc::ptr_eq(&old[name], &new[name]);
        assert!(is_same("a") && is_same("b") && is_same("a-or-b"));
        assert!(!is_same("c") && !is_same("b-or-c"));
    }
}
