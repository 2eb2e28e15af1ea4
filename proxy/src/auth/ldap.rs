//! Asks a directory (LDAP, Active Directory) whether a password is right, and for a person's groups.
//!
//! The password is right if the directory takes a simple bind with it. Deny on doubt: a server that can't be reached,
//! does not prove who it is, is silent or answers nonsense gives no verdict, and no verdict is a refusal.

mod ber;
mod connection;
mod dn;
mod filter;
pub(crate) mod message;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::{sync::Semaphore, time::timeout};

pub use self::{
    connection::LdapServer,
    dn::DnTemplate,
    filter::{Filter, FilterError},
};
use self::{
    connection::{Connection, ConnectionError},
    filter::Values,
    message::{Entry, ResultCode, Scope, Search},
};
use super::{Secret, breaker::Breaker};

/// Groups of one person that are read at most.
const GROUPS_MAX: u32 = 1000;
/// No attribute at all (RFC 4511 section 4.5.1.8).
const NO_ATTRIBUTE: &str = "1.1";

/// How a directory is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct LdapSettings {
    /// In the order in which they are asked.
    pub servers: Vec<LdapServer>,
    /// Who may vouch for the servers' certificates.
    pub authorities: Vec<CertificateDer<'static>>,
    pub people: People,
    pub groups: Option<Groups>,
    /// What a server may take for all of one check.
    pub timeout: Duration,
    /// How long a server rests that gave no verdict.
    pub rest: Duration,
    /// How many checks run at a time; more wait for as long as one check may take.
    pub at_once: usize,
    /// How often it is looked whether the user of a live session is still there.
    pub recheck: Option<Duration>,
}

/// How a person's entry is found.
#[derive(Debug, Clone, PartialEq)]
pub enum People {
    /// By a search, as an account that may look.
    Search {
        account: ServiceAccount,
        base: String,
        /// Has a place for the name.
        filter: Filter,
    },
    /// By its name.
    Template(DnTemplate),
}

/// An account of the gateway in the directory.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceAccount {
    pub dn: String,
    pub password: Secret,
}

/// Where a person's groups are, and what they are called here.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    pub source: GroupSource,
    /// A group of the directory, its ASCII letters in lower case, and the gateway's group.
    pub names: BTreeMap<String, String>,
}

/// Where a person's groups are.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupSource {
    /// In an attribute of the person, such as `memberOf`.
    OfPerson { attribute: String },
    /// In an attribute of each group that names the person, such as `cn`.
    OfGroup {
        base: String,
        /// Has a place for the person's DN or name.
        filter: Filter,
        attribute: String,
    },
}

/// What became of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryVerdict {
    /// Right. The person's groups, as the gateway calls them.
    Right {
        groups: BTreeSet<String>,
    },
    Wrong(Refusal),
    /// No server gave a verdict.
    Unavailable,
}

/// Why a password does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not sent.
    EmptyPassword,
    NoEntry,
    /// The name fits several people.
    SeveralEntries,
    /// Also of an account that is disabled, expired or locked in Active Directory.
    Credentials,
    /// Refused with another result code than that of a wrong password.
    Other,
}

impl Refusal {
    /// The word in records.
    pub fn reason(self) -> &'static str {
        match self {
            Self::EmptyPassword => "empty_password",
            Self::NoEntry => "directory_no_entry",
            Self::SeveralEntries => "directory_several_entries",
            Self::Credentials => "bad_password",
            Self::Other => "directory_refused",
        }
    }
}

/// Whether a person is still in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Present,
    Gone,
    /// No server said.
    Unknown,
}

/// The servers, and which of them rest.
pub struct Directory {
    settings: LdapSettings,
    tls: Arc<ClientConfig>,
    breakers: Vec<Mutex<Breaker>>,
    places: Semaphore,
    /// Of their own: whoever has no account takes no place from who has one.
    decoy_places: Semaphore,
}

/// Why a directory can't be used at all.
#[derive(Debug, thiserror::Error)]
#[error("prepare TLS for the directory")]
pub struct DirectoryError(#[from] rustls::Error);

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Directory {
    /// # Errors
    /// If an authority's certificate can't be used.
    pub fn new(settings: LdapSettings) -> Result<Self, DirectoryError> {
        let mut roots = RootCertStore::empty();
        for authority in &settings.authorities {
            roots.add(authority.clone())?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(tls),
            breakers: settings
                .servers
                .iter()
                .map(|_| Mutex::new(Breaker::new(settings.rest)))
                .collect(),
            places: Semaphore::new(settings.at_once),
            decoy_places: Semaphore::new(settings.at_once),
            settings,
        })
    }

    pub fn settings(&self) -> &LdapSettings {
        &self.settings
    }

    /// Whether `password` is that of the person called `login` there.
    pub async fn check(&self, login: &str, password: &Secret) -> DirectoryVerdict {
        // To a directory that reads up to the first zero, both are empty.
        if matches!(password.expose(), [] | [0, ..]) {
            return DirectoryVerdict::Wrong(Refusal::EmptyPassword);
        }
        self.ask(&self.places, login, Some(password)).await
    }

    /// The same work for nothing, with a name and a password that are made up: for users that there are not.
    pub async fn decoy(&self) {
        if let Some((login, password)) = made_up().zip(made_up()) {
            let password = Secret::from(password);
            self.ask(&self.decoy_places, &login, Some(&password)).await;
        }
    }

    /// Whether the search still finds the person called `login` there.
    pub async fn presence(&self, login: &str) -> Presence {
        if matches!(self.settings.people, People::Template(_)) {
            return Presence::Unknown;
        }
        match self.ask(&self.places, login, None).await {
            DirectoryVerdict::Right { .. } => Presence::Present,
            DirectoryVerdict::Wrong(_) => Presence::Gone,
            DirectoryVerdict::Unavailable => Presence::Unknown,
        }
    }

    /// Asks one server after the other until one gives a verdict. Without a password: only whether there is one such
    /// person.
    async fn ask(
        &self,
        places: &Semaphore,
        login: &str,
        password: Option<&Secret>,
    ) -> DirectoryVerdict {
        let limit = self.settings.timeout;
        let Ok(Ok(_place)) = timeout(limit, places.acquire()).await else {
            tracing::warn!(
                at_once = self.settings.at_once,
                "too many checks by the directory at a time: one is refused"
            );
            return DirectoryVerdict::Unavailable;
        };
        for (server, breaker) in self.settings.servers.iter().zip(&self.breakers) {
            let lock = || breaker.lock().unwrap_or_else(PoisonError::into_inner);
            if !lock().admits(Instant::now()) {
                continue;
            }
            let ended = match timeout(limit, self.ask_server(server, login, password)).await {
                Ok(ended) => ended,
                Err(_) => Err(ServerError::Timeout(limit)),
            };
            match ended {
                Ok(verdict) => {
                    lock().answered();
                    return verdict;
                }
                Err(error) => {
                    let rests = error.is_outage();
                    if rests {
                        lock().failed(Instant::now());
                    } else {
                        lock().answered();
                    }
                    tracing::warn!(
                        %server,
                        rests,
                        error = &error as &dyn std::error::Error,
                        "a directory server gave no verdict"
                    );
                }
            }
        }
        DirectoryVerdict::Unavailable
    }

    async fn ask_server(
        &self,
        server: &LdapServer,
        login: &str,
        password: Option<&Secret>,
    ) -> Result<DirectoryVerdict, ServerError> {
        let mut connection = Connection::open(server, &self.tls).await?;
        let verdict = self.judge(&mut connection, login, password).await?;
        // The verdict does not depend on a goodbye.
        tokio::spawn(timeout(self.settings.timeout, connection.close()));
        Ok(verdict)
    }

    async fn judge(
        &self,
        connection: &mut Connection,
        login: &str,
        password: Option<&Secret>,
    ) -> Result<DirectoryVerdict, ServerError> {
        let (dn, entry) = match &self.settings.people {
            People::Template(template) => (template.fill(login), None),
            People::Search {
                account,
                base,
                filter,
            } => {
                bind_as(connection, account).await?;
                let entries = self.find(connection, base, filter, login).await?;
                match <[Entry; 1]>::try_from(entries) {
                    Ok([entry]) => (entry.dn.clone(), Some(entry)),
                    Err(entries) => {
                        if password.is_some() {
                            bind_in_vain(connection, base).await?;
                        }
                        return Ok(DirectoryVerdict::Wrong(if entries.is_empty() {
                            Refusal::NoEntry
                        } else {
                            Refusal::SeveralEntries
                        }));
                    }
                }
            }
        };
        let Some(password) = password else {
            return Ok(DirectoryVerdict::Right {
                groups: BTreeSet::new(),
            });
        };
        match connection.bind(&dn, password).await? {
            ResultCode::SUCCESS => {}
            ResultCode::INVALID_CREDENTIALS => {
                return Ok(DirectoryVerdict::Wrong(Refusal::Credentials));
            }
            code if code.is_outage() => return Err(ServerError::Refused("a bind", code.0)),
            ResultCode(code) => {
                tracing::warn!(
                    dn,
                    code,
                    "the directory refused a bind, and not for a wrong password"
                );
                return Ok(DirectoryVerdict::Wrong(Refusal::Other));
            }
        }
        let groups = self.groups(connection, login, &dn, entry).await?;
        Ok(DirectoryVerdict::Right { groups })
    }

    /// The people of that name: none, one, or two for several.
    async fn find(
        &self,
        connection: &mut Connection,
        base: &str,
        filter: &Filter,
        login: &str,
    ) -> Result<Vec<Entry>, ServerError> {
        let attribute = match &self.settings.groups {
            Some(Groups {
                source: GroupSource::OfPerson { attribute },
                ..
            }) => attribute,
            Some(_) | None => NO_ATTRIBUTE,
        };
        let search = Search {
            base,
            scope: Scope::Subtree,
            filter,
            values: Values {
                name: login,
                dn: "",
            },
            size_limit: 2,
            time_limit: self.time_limit(),
            attribute,
        };
        let found = connection.search(&search).await?;
        match found.code {
            ResultCode::SUCCESS => Ok(found.entries),
            ResultCode::SIZE_LIMIT_EXCEEDED if found.entries.len() == 2 => Ok(found.entries),
            ResultCode(code) => Err(ServerError::Refused("the search for the user", code)),
        }
    }

    async fn groups(
        &self,
        connection: &mut Connection,
        login: &str,
        dn: &str,
        entry: Option<Entry>,
    ) -> Result<BTreeSet<String>, ServerError> {
        let Some(Groups { source, names }) = &self.settings.groups else {
            return Ok(BTreeSet::new());
        };
        let (base, scope, filter, attribute) = match (source, &entry) {
            (GroupSource::OfPerson { attribute }, Some(entry)) => {
                return Ok(named(std::slice::from_ref(entry), attribute, names));
            }
            // The bind just made may read its own entry.
            (GroupSource::OfPerson { attribute }, None) => {
                (dn, Scope::Entry, &Filter::anything(), attribute)
            }
            (
                GroupSource::OfGroup {
                    base,
                    filter,
                    attribute,
                },
                _,
            ) => {
                if let People::Search { account, .. } = &self.settings.people {
                    bind_as(connection, account).await?;
                }
                (base.as_str(), Scope::Subtree, filter, attribute)
            }
        };
        let search = Search {
            base,
            scope,
            filter,
            values: Values { name: login, dn },
            size_limit: GROUPS_MAX,
            time_limit: self.time_limit(),
            attribute,
        };
        let found = connection.search(&search).await?;
        match found.code {
            ResultCode::SUCCESS => Ok(named(&found.entries, attribute, names)),
            ResultCode(code) => Err(ServerError::Refused("the search for groups", code)),
        }
    }

    /// In whole seconds; zero would be none.
    fn time_limit(&self) -> u32 {
        u32::try_from(self.settings.timeout.as_secs().max(1)).unwrap_or(u32::MAX)
    }
}

async fn bind_as(connection: &mut Connection, account: &ServiceAccount) -> Result<(), ServerError> {
    match connection.bind(&account.dn, &account.password).await? {
        ResultCode::SUCCESS => Ok(()),
        ResultCode(code) => Err(ServerError::Refused("the gateway's own bind", code)),
    }
}

/// A bind costs what the directory's hash costs; one for nobody keeps an absent name from answering much sooner.
async fn bind_in_vain(connection: &mut Connection, base: &str) -> Result<(), ServerError> {
    if let Some((name, password)) = made_up().zip(made_up()) {
        let dn = format!("cn={name},{base}");
        connection.bind(&dn, &Secret::from(password)).await?;
    }
    Ok(())
}

/// A word that nobody has, unless the system has no randomness.
fn made_up() -> Option<String> {
    let mut random = [0; 12];
    getrandom::fill(&mut random).ok()?;
    Some(hex::encode(random))
}

/// What the gateway calls the groups in `attribute`; others do not matter to it.
fn named(entries: &[Entry], attribute: &str, names: &BTreeMap<String, String>) -> BTreeSet<String> {
    entries
        .iter()
        .flat_map(|entry| entry.values(attribute))
        .filter_map(|group| names.get(&group.to_ascii_lowercase()).cloned())
        .collect()
}

/// Why a server gave no verdict.
#[derive(Debug, thiserror::Error)]
enum ServerError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("it refused {0} (LDAP result {1})")]
    Refused(&'static str, u32),
    #[error("it took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
}

impl ServerError {
    /// True if the server would fail others, too. What it says of one user makes it rest for nobody.
    fn is_outage(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            Self::Connection(error) => error.is_outage(),
            Self::Refused(..) => false,
        }
    }
}

#[cfg(test)]
mod tests;
