//! Passes ban requests on to the agent, and puts each on record.

use ipnet::IpNet;
use portcullis_journal::{Event, EventKind, Journal, Verdict};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_client::{AgentClient, Answer},
    auth::{
        attempt::Bans,
        throttle::{BanRequest, ThrottleConfig},
    },
    config::BansConfig,
    metrics,
};

/// Ban requests that wait for the agent; one that finds the queue full is dropped, its source will fail again.
const QUEUE: usize = 64;

/// Passes on what is asked for with the result, until `stop` or until nobody can ask any more.
pub(super) fn relay(config: &BansConfig, journal: &Journal, stop: &CancellationToken) -> Bans {
    let (sender, requests) = mpsc::channel(QUEUE);
    let relay = BanRelay {
        requests,
        agent: AgentClient::new(&config.agent_socket),
        exempt: config.exempt.clone(),
        journal: journal.clone(),
    };
    let stop = stop.clone();
    Handle::current().spawn(async move { stop.run_until_cancelled(relay.run()).await });
    Bans {
        config: ThrottleConfig {
            failures: config.failures,
            window: config.window,
            lifetime: config.lifetime,
        },
        requests: sender,
    }
}

#[derive(Debug)]
struct BanRelay {
    requests: mpsc::Receiver<BanRequest>,
    agent: AgentClient,
    exempt: Vec<IpNet>,
    journal: Journal,
}

impl BanRelay {
    async fn run(mut self) {
        while let Some(request) = self.requests.recv().await {
            self.relay(request).await;
        }
    }

    async fn relay(&self, request: BanRequest) {
        let (outcome, code, explanation) = if self.is_exempt(&request.source) {
            (Verdict::Deny, "exempt", None)
        } else {
            let answer = self
                .agent
                .ban(request.source, request.lifetime, &request.reason)
                .await;
            match answer {
                Ok(Answer::Banned) => (Verdict::Success, "banned", None),
                Ok(Answer::Protected { explanation }) => {
                    (Verdict::Deny, "protected", Some(explanation))
                }
                Err(error) => {
                    let chain = chain(&error);
                    tracing::error!(source = %request.source, error = chain, "a ban was not made");
                    (Verdict::Failure, "agent_failed", Some(chain))
                }
            }
        };
        tracing::info!(source = %request.source, outcome = code, reason = request.reason, "ban asked for");
        metrics::ban_asked(code);

        let mut event = Event::new(EventKind::BanChange);
        event.outcome = Some(outcome);
        event.reason = Some(code.to_owned());
        for (key, value) in [
            ("action", "ban".into()),
            ("cidr", request.source.to_string().into()),
            ("lifetime_seconds", request.lifetime.as_secs().into()),
            ("because", request.reason.into()),
        ] {
            event.body.insert(key.to_owned(), value);
        }
        if let Some(explanation) = explanation {
            event
                .body
                .insert("explanation".to_owned(), explanation.into());
        }
        if let Err(error) = self.journal.append(event).await {
            tracing::error!(%error, "a ban is not on record");
        }
    }

    fn is_exempt(&self, source: &IpNet) -> bool {
        self.exempt
            .iter()
            .any(|network| network.contains(source) || source.contains(network))
    }
}

/// An error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
