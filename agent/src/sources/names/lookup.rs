//! Questions to DNS servers.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RecordType},
};

/// One try of one server.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;

/// The addresses of one family that a name has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub addresses: BTreeSet<IpAddr>,
    /// How long the answer holds: the least TTL of its records.
    pub ttl: Duration,
}

/// Why there are no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name does not exist, or has none of this family.
    #[error("no such record")]
    NoRecords,
    /// Nobody could tell.
    #[error("{0}")]
    Failed(String),
}

/// Asks DNS servers, and never `/etc/hosts`.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

impl Resolver {
    /// Asks `servers`, or those of `/etc/resolv.conf` if none are given.
    ///
    /// # Errors
    /// If there are no servers to ask.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, String> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio()
                .map_err(|error| format!("read /etc/resolv.conf: {error}"))?
        } else {
            let servers = servers.iter().map(server).collect();
            TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(servers),
                TokioRuntimeProvider::default(),
            )
        };
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        // An attacker off the path has more to guess.
        options.case_randomization = true;
        builder
            .build()
            .map(Self)
            .map_err(|error| format!("set up DNS: {error}"))
    }

    pub(super) async fn v4(&self, host: &str) -> Result<Lookup, LookupError> {
        self.ask(host, RecordType::A).await
    }

    pub(super) async fn v6(&self, host: &str) -> Result<Lookup, LookupError> {
        self.ask(host, RecordType::AAAA).await
    }

    async fn ask(&self, host: &str, kind: RecordType) -> Result<Lookup, LookupError> {
        let failed = |error: String| LookupError::Failed(format!("{kind} of {host}: {error}"));
        let mut name = Name::from_ascii(host).map_err(|error| failed(error.to_string()))?;
        // With the final dot no search domain is tried.
        name.set_fqdn(true);
        let answer = match self.0.lookup(name, kind).await {
            Ok(answer) => answer,
            Err(error) if is_no_answer(&error) => return Err(LookupError::NoRecords),
            Err(error) => return Err(failed(error.to_string())),
        };
        let addresses: BTreeSet<IpAddr> = answer
            .answers()
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .collect();
        if addresses.is_empty() {
            return Err(LookupError::NoRecords);
        }
        Ok(Lookup {
            addresses,
            ttl: answer
                .valid_until()
                .saturating_duration_since(Instant::now()),
        })
    }
}

/// Whether a server knows that there is nothing, as opposed to not knowing.
fn is_no_answer(error: &NetError) -> bool {
    use hickory_resolver::{net::DnsError, proto::op::ResponseCode};

    let NetError::Dns(DnsError::NoRecordsFound(records)) = error else {
        return false;
    };
    matches!(
        records.response_code,
        ResponseCode::NoError | ResponseCode::NXDomain
    )
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(
        address.ip(),
        true,
        vec![
            with_port(ConnectionConfig::udp()),
            with_port(ConnectionConfig::tcp()),
        ],
    )
}
