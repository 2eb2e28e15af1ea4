//! Passes ban requests on to the agent, and puts each on record.

use std::time::Instant;

use chrono::{SecondsFormat, Utc};
use portcullis_journal::{Event, EventKind, Journal, Verdict};
use serde_json::{Map, Value, json};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_client::{AgentClient, Answer},
    auth::throttle::{BanRequest, Mistake, Plan},
    causes::chain,
    config::BansConfig,
    metrics,
};

/// Ban requests that wait for the agent; one that finds the queue full is dropped, its source will fail again.
const QUEUE: usize = 64;

/// Passes on what is asked for with the result, until `stop` or until nobody can ask any more.
pub(super) fn relay(
    config: &BansConfig,
    journal: &Journal,
    stop: &CancellationToken,
) -> mpsc::Sender<BanRequest> {
    let (sender, requests) = mpsc::channel(QUEUE);
    let relay = BanRelay {
        requests,
        agent: AgentClient::new(&config.agent_socket),
        journal: journal.clone(),
    };
    let stop = stop.clone();
    Handle::current().spawn(async move { stop.run_until_cancelled(relay.run()).await });
    sender
}

#[derive(Debug)]
struct BanRelay {
    requests: mpsc::Receiver<BanRequest>,
    agent: AgentClient,
    journal: Journal,
}

impl BanRelay {
    async fn run(mut self) {
        while let Some(request) = self.requests.recv().await {
            self.relay(request).await;
        }
    }

    async fn relay(&self, request: BanRequest) {
        let begun = Instant::now();
        let mut explanation = None;
        let (outcome, code) = match request.plan {
            Plan::Exempt => (Verdict::Deny, "exempt"),
            Plan::Withhold => {
                tracing::error!(source = %request.source, "there were as many bans in this minute as there may be (bans.max_per_minute); no more are made");
                (Verdict::Deny, "too_many_bans")
            }
            Plan::Ban => {
                let answer = self
                    .agent
                    .ban(request.source, request.lifetime, &request.reason)
                    .await;
                match answer {
                    Ok(Answer::Banned) => (Verdict::Success, "banned"),
                    Ok(Answer::Protected { explanation: why }) => {
                        explanation = Some(why);
                        (Verdict::Deny, "protected")
                    }
                    Err(error) => {
                        let chain = chain(&error);
                        tracing::error!(source = %request.source, error = chain, "a ban was not made");
                        explanation = Some(chain);
                        (Verdict::Failure, "agent_failed")
                    }
                }
            }
        };
        let answered = (request.plan == Plan::Ban).then(|| (Utc::now(), begun.elapsed()));
        tracing::info!(source = %request.source, outcome = code, reason = request.reason, "ban asked for");
        metrics::ban_asked(code);

        let mut event = Event::new(EventKind::BanChange);
        event.outcome = Some(outcome);
        event.reason = Some(code.to_owned());
        event.body = describe(&request);
        let mut note = |key: &str, value: Value| {
            event.body.insert(key.to_owned(), value);
        };
        if let Some((at, waited)) = answered {
            note("answered", time(at).into());
            let waited = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
            note("agent_us", waited.into());
        }
        if let Some(explanation) = explanation {
            note("explanation", explanation.into());
        }
        if let Err(error) = self.journal.append(event).await {
            tracing::error!(%error, "a ban is not on record");
        }
    }
}

/// What was asked for, and on what evidence.
fn describe(request: &BanRequest) -> Map<String, Value> {
    let evidence = &request.evidence;
    let mistakes: Map<String, Value> = Mistake::ALL
        .into_iter()
        .zip(evidence.mistakes)
        .filter(|(_, count)| *count > 0)
        .map(|(mistake, count)| (mistake.code().to_owned(), count.into()))
        .collect();
    let sessions: Vec<String> = evidence
        .sessions
        .iter()
        .map(|session| hex::encode(session.0))
        .collect();
    [
        ("action", json!("ban")),
        ("cidr", json!(request.source.to_string())),
        ("lifetime_seconds", json!(request.lifetime.as_secs())),
        ("because", json!(request.reason)),
        ("decided", json!(time(request.decided))),
        ("failures", json!(evidence.failures)),
        ("mistakes", Value::Object(mistakes)),
        ("names", json!(evidence.names)),
        ("since", json!(time(evidence.since))),
        ("sessions", json!(sessions)),
        ("earlier_bans", json!(evidence.earlier_bans)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// To the microsecond.
fn time(time: chrono::DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
