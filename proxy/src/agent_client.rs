//! Asks the agent on this machine to drop a source on the wire, and offers it the networks of the accounts.
//!
//! A failure here is logged, counted and recorded, and never holds up an authentication: without the agent the
//! proxy's own throttles still stand.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};
use tokio::{net::UnixStream, time};

use crate::allowlist::ListedSource;

/// Longest wait for the agent: it answers in a millisecond, or is hanging.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a list to be put in force.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const LONGEST_ANSWER: usize = 64 * 1024;
/// One customer of an IPv6 provider has at least a /64 and changes addresses in it at will (RFC 6177, RFC 8981), so
/// that a ban of one address would ban nothing. The throttles count by the same unit.
const IPV6_PREFIX: u8 = 64;

/// The unit in which a source is counted and banned: an IPv4 address, an IPv6 /64.
pub fn source_network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::from(address)),
        IpAddr::V6(address) => IpNet::V6(
            Ipv6Net::new(address, IPV6_PREFIX)
                .unwrap_or_else(|_| Ipv6Net::from(address))
                .trunc(),
        ),
    }
}

/// How the agent answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The source is dropped on the wire.
    Banned,
    /// The source is protected (an administrator, the gateway's own address) and can't be banned.
    Protected { explanation: String },
}

/// What the agent would do with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    pub passes: bool,
    pub reason: String,
    /// The entry, ban or protection that decides.
    pub by: String,
}

/// Why a ban could not be asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    #[error("reach the agent at {}", socket.display())]
    Connect {
        socket: PathBuf,
        source: std::io::Error,
    },
    #[error("talk to the agent at {}", socket.display())]
    Exchange {
        socket: PathBuf,
        source: hyper::Error,
    },
    #[error("the agent did not answer in time")]
    TimedOut,
    #[error("the agent refused with {status}: {explanation}")]
    Refused {
        status: StatusCode,
        explanation: String,
    },
}

/// A client of the agent's socket.
#[derive(Debug, Clone)]
pub struct AgentClient {
    socket: PathBuf,
}

impl AgentClient {
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Asks that everything from `source` be dropped for `lifetime`.
    ///
    /// # Errors
    /// If the agent can't be reached, does not answer in time, or refuses for another reason than protection.
    pub async fn ban(
        &self,
        source: IpNet,
        lifetime: Duration,
        reason: &str,
    ) -> Result<Answer, AgentError> {
        let body = json!({
            "source": source.to_string(),
            "lifetime_seconds": lifetime.as_secs(),
            "reason": reason,
        });
        let (status, answer) = time::timeout(TIMEOUT, self.send(Method::POST, "/v1/bans", body))
            .await
            .map_err(|_| AgentError::TimedOut)??;
        match status {
            StatusCode::CREATED | StatusCode::OK => Ok(Answer::Banned),
            StatusCode::CONFLICT => Ok(Answer::Protected {
                explanation: answer,
            }),
            status => Err(AgentError::Refused {
                status,
                explanation: answer,
            }),
        }
    }

    /// Puts the whole list `offer:NAME` in force.
    ///
    /// # Errors
    /// If the agent can't be reached, does not answer in time, or refuses: what it had stays in force then.
    pub async fn offer(&self, name: &str, entries: &[ListedSource]) -> Result<(), AgentError> {
        let entries: Vec<Value> = entries
            .iter()
            .map(|entry| {
                let mut offered = json!({
                    "prefix": entry.network.to_string(),
                    "owner": entry.owner,
                });
                // The agent takes a date as the end of that day, UTC, as the accounts mean it.
                if let (Some(expires), Some(offered)) = (entry.expires, offered.as_object_mut()) {
                    offered.insert("expires".to_owned(), expires.to_string().into());
                }
                offered
            })
            .collect();
        let body = json!({ "entries": entries, "reason": "sources of accounts" });
        let path = format!("/v1/offers/{name}");
        let (status, explanation) =
            time::timeout(LIST_TIMEOUT, self.send(Method::PUT, &path, body))
                .await
                .map_err(|_| AgentError::TimedOut)??;
        if status == StatusCode::OK {
            Ok(())
        } else {
            Err(AgentError::Refused {
                status,
                explanation,
            })
        }
    }

    /// What becomes of TCP connections from `source` to `port`.
    ///
    /// # Errors
    /// If the agent can't be reached, does not answer in time, or refuses.
    pub async fn why(&self, source: IpAddr, port: u16) -> Result<Why, AgentError> {
        let path = format!("/v1/why?address={source}&protocol=tcp&port={port}&syn=true");
        let asked = self.send(Method::GET, &path, Value::Null);
        let (status, answer) = time::timeout(TIMEOUT, asked)
            .await
            .map_err(|_| AgentError::TimedOut)??;
        let reply: Value = serde_json::from_str(&answer).unwrap_or_default();
        let text = |key: &str| reply.get(key).and_then(Value::as_str).unwrap_or_default();
        match reply.get("passes").and_then(Value::as_bool) {
            Some(passes) if status == StatusCode::OK => Ok(Why {
                passes,
                reason: format!("{}: {}", text("reason"), text("meaning")),
                by: match reply.get("decided_by") {
                    Some(cover) => format!("the agent's {cover}"),
                    None => format!("the agent's default; {}", text("remedy")),
                },
            }),
            Some(_) | None => Err(AgentError::Refused {
                status,
                explanation: answer,
            }),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> Result<(StatusCode, String), AgentError> {
        let exchange = |source| AgentError::Exchange {
            socket: self.socket.clone(),
            source,
        };
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| AgentError::Connect {
                    socket: self.socket.clone(),
                    source,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(exchange)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "agent")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .expect("a plain path and constant headers make a request");
        let respond = async {
            let response = sender.send_request(request).await.map_err(exchange)?;
            let status = response.status();
            // What the answer says beside its status is only for the log.
            let body = Limited::new(response.into_body(), LONGEST_ANSWER)
                .collect()
                .await
                .map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned())
                .unwrap_or_default();
            Ok((status, body))
        };
        tokio::pin!(respond, connection);
        tokio::select! {
            answer = &mut respond => answer,
            ended = &mut connection => {
                ended.map_err(exchange)?;
                respond.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Json, Router,
        http::StatusCode,
        routing::{post, put},
    };
    use tokio::net::UnixListener;

    use super::*;

    /// An agent that protects one network, and answers the others with what it was asked.
    fn serve(directory: &tempfile::TempDir) -> PathBuf {
        let socket = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let ban = |Json(body): Json<Value>| async move {
            assert_eq!(body["lifetime_seconds"], 900);
            match body["source"].as_str().unwrap() {
                "192.0.2.1/32" => (StatusCode::CONFLICT, "192.0.2.1 is protected"),
                "192.0.2.9/32" => (StatusCode::INTERNAL_SERVER_ERROR, "map is full"),
                "203.0.113.7/32" | "2001:db8:0:1::/64" => (StatusCode::CREATED, ""),
                other => panic!("{other}"),
            }
        };
        let offer = |Json(body): Json<Value>| async move {
            let expected = json!([
                { "prefix": "192.0.2.0/24", "owner": "alice", "expires": "2027-01-31" },
                { "prefix": "2001:db8::/48", "owner": "bob" },
            ]);
            if body["entries"] == expected {
                (StatusCode::OK, "{}")
            } else {
                (StatusCode::CONFLICT, "this would cut 11 live connections")
            }
        };
        let router = Router::new()
            .route("/v1/bans", post(ban))
            .route("/v1/offers/accounts", put(offer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        socket
    }

    async fn ban(socket: &Path, address: &str) -> Result<Answer, AgentError> {
        AgentClient::new(socket)
            .ban(
                source_network(address.parse().unwrap()),
                Duration::from_secs(900),
                "test",
            )
            .await
    }

    #[tokio::test]
    async fn a_ban_is_asked_for_and_a_protected_source_is_told_from_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let socket = serve(&directory);
        for address in ["203.0.113.7", "::ffff:203.0.113.7", "2001:db8:0:1:2:3:4:5"] {
            assert_eq!(
                ban(&socket, address).await.unwrap(),
                Answer::Banned,
                "{address}"
            );
        }
        assert!(matches!(
            ban(&socket, "192.0.2.1").await.unwrap(),
            Answer::Protected { explanation } if explanation.contains("protected")
        ));
        assert!(matches!(
            ban(&socket, "192.0.2.9").await.unwrap_err(),
            AgentError::Refused { explanation, .. } if explanation == "map is full"
        ));
    }

    #[tokio::test]
    async fn a_list_is_offered_whole_and_a_refusal_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let agent = AgentClient::new(&serve(&directory));
        let entry = |network: &str, owner: &str, expires: Option<&str>| ListedSource {
            network: network.parse().unwrap(),
            owner: owner.to_owned(),
            expires: expires.map(|date| date.parse().unwrap()),
        };
        let entries = [
            entry("192.0.2.0/24", "alice", Some("2027-01-31")),
            entry("2001:db8::/48", "bob", None),
        ];
        agent.offer("accounts", &entries).await.unwrap();
        assert!(matches!(
            agent.offer("accounts", &[]).await.unwrap_err(),
            AgentError::Refused { explanation, .. } if explanation.contains("live connections")
        ));
    }

    #[tokio::test]
    async fn an_absent_agent_is_an_error_that_names_its_socket() {
        let error = ban(Path::new("/nonexistent/agent.sock"), "192.0.2.1")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/agent.sock"));
    }
}
