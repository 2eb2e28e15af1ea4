//! Asks RADIUS servers whether a code is right: a second factor whose secrets lie elsewhere.
//!
//! Deny on doubt: a server that is silent, unreachable or answers what it can't prove counts as no answer, and no answer
//! from any server is a refusal.

pub(crate) mod packet;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    sync::Semaphore,
    time::{Instant as Deadline, timeout, timeout_at},
};

pub use self::packet::VALUE_MAX;
use self::packet::{CODE_MAX, PACKET_MAX, Question, Reply, Request};
use super::{Secret, breaker::Breaker, template::NameTemplate};

/// How servers are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct RadiusSettings {
    /// In the order in which they are asked.
    pub servers: Vec<RadiusServer>,
    /// How the gateway calls itself.
    pub nas_identifier: String,
    /// What the servers are told as the user's name.
    pub user_name: NameTemplate,
    /// How long a transmission waits for an answer.
    pub timeout: Duration,
    /// How often one server is sent the same request.
    pub transmissions: u32,
    /// How long a server rests that did not answer.
    pub rest: Duration,
    /// How many checks run at a time; more wait for as long as one transmission does.
    pub at_once: usize,
}

/// A server.
#[derive(Debug, Clone, PartialEq)]
pub struct RadiusServer {
    pub name: String,
    pub address: SocketAddr,
    pub secret: Secret,
}

/// What became of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RadiusVerdict {
    Accepted,
    Rejected,
    /// The server asks back (Access-Challenge), which this gateway does not pass on: a refusal.
    Challenged,
    /// Not sent: empty, or longer than RADIUS can carry.
    Unsendable,
    /// No server gave an answer that is proven to be its own.
    Unavailable,
}

/// The servers, and which of them rest.
#[derive(Debug)]
pub struct Radius {
    settings: RadiusSettings,
    breakers: Vec<Mutex<Breaker>>,
    places: Semaphore,
    /// Of their own: whoever shows nothing right takes no place from who does.
    decoy_places: Semaphore,
}

impl Radius {
    pub fn new(settings: RadiusSettings) -> Self {
        Self {
            breakers: settings
                .servers
                .iter()
                .map(|_| Mutex::new(Breaker::new(settings.rest)))
                .collect(),
            places: Semaphore::new(settings.at_once),
            decoy_places: Semaphore::new(settings.at_once),
            settings,
        }
    }

    pub fn settings(&self) -> &RadiusSettings {
        &self.settings
    }

    /// Asks one server after the other until one answers. `user` is the name by which the servers know the account.
    pub async fn check(&self, user: &str, code: &Secret, source: IpAddr) -> RadiusVerdict {
        self.check_in(&self.places, user, code, source).await
    }

    async fn check_in(
        &self,
        places: &Semaphore,
        user: &str,
        code: &Secret,
        source: IpAddr,
    ) -> RadiusVerdict {
        if code.is_empty() || code.expose().len() > CODE_MAX {
            return RadiusVerdict::Unsendable;
        }
        let Ok(Ok(_place)) = timeout(self.settings.timeout, places.acquire()).await else {
            tracing::warn!(
                at_once = self.settings.at_once,
                "too many RADIUS checks at a time: one is refused"
            );
            return RadiusVerdict::Unavailable;
        };
        let source = source.to_canonical().to_string();
        let question = Question {
            user,
            code,
            nas_identifier: &self.settings.nas_identifier,
            calling_station: &source,
        };
        for (server, breaker) in self.settings.servers.iter().zip(&self.breakers) {
            let lock = || breaker.lock().unwrap_or_else(PoisonError::into_inner);
            if !lock().admits(Instant::now()) {
                continue;
            }
            match self.ask(server, &question).await {
                Ok(reply) => {
                    lock().answered();
                    return match reply {
                        Reply::Accept => RadiusVerdict::Accepted,
                        Reply::Reject => RadiusVerdict::Rejected,
                        Reply::Challenge => RadiusVerdict::Challenged,
                    };
                }
                Err(error) => {
                    if error.is_the_servers() {
                        lock().failed(Instant::now());
                    }
                    tracing::warn!(
                        server = server.name,
                        address = %server.address,
                        rests_seconds = self.settings.rest.as_secs(),
                        error = &error as &dyn std::error::Error,
                        "a RADIUS server gave no answer"
                    );
                }
            }
        }
        RadiusVerdict::Unavailable
    }

    /// The same exchange for nothing, with a user and a code that are made up: for users that there are not.
    pub async fn decoy(&self, source: IpAddr) {
        let mut random = [0; 12];
        if getrandom::fill(&mut random).is_ok() {
            let (user, code) = random.split_at(8);
            let code = Secret::from(hex::encode(code));
            let places = &self.decoy_places;
            self.check_in(places, &hex::encode(user), &code, source)
                .await;
        }
    }

    async fn ask(&self, server: &RadiusServer, question: &Question<'_>) -> Result<Reply, AskError> {
        let secret = server.secret.expose();
        let mut random = [0; 17];
        getrandom::fill(&mut random).map_err(AskError::Randomness)?;
        let [identifier, authenticator @ ..] = random;
        let request =
            Request::new(question, secret, identifier, authenticator).map_err(AskError::Request)?;
        // A socket for each request: its port is random, and, connected, it hears that server alone.
        let any = match server.address {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).await.map_err(AskError::Socket)?;
        socket
            .connect(server.address)
            .await
            .map_err(AskError::Socket)?;
        let mut packet = vec![0; PACKET_MAX];
        let mut unproven = None;
        for _ in 0..self.settings.transmissions {
            socket
                .send(request.bytes())
                .await
                .map_err(AskError::Socket)?;
            let deadline = Deadline::now() + self.settings.timeout;
            while let Ok(received) = timeout_at(deadline, socket.recv(&mut packet)).await {
                let length = received.map_err(AskError::Socket)?;
                match request.read_reply(packet.get(..length).unwrap_or_default(), secret) {
                    Ok(reply) => return Ok(reply),
                    Err(error) => unproven = Some(error),
                }
            }
        }
        Err(unproven.map_or(AskError::Silent, AskError::Unproven))
    }
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the system has no randomness")]
    Randomness(#[source] getrandom::Error),
    #[error("the request can't be made")]
    Request(#[source] packet::Oversized),
    #[error("it can't be reached")]
    Socket(#[source] io::Error),
    #[error("it is silent; does it know this gateway's address, and the same secret?")]
    Silent,
    #[error("what came was no proven reply")]
    Unproven(#[source] packet::ReplyError),
}

impl AskError {
    /// False if the server was not asked at all.
    fn is_the_servers(&self) -> bool {
        match self {
            Self::Socket(_) | Self::Silent | Self::Unproven(_) => true,
            Self::Randomness(_) | Self::Request(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
