//! Offers the agent the networks of the accounts, so that there is one truth of who may reach the gateway.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time};

use crate::causes::chain;
use crate::{agent_client::AgentClient, allowlist::Allowlist, config::AllowlistConfig, metrics};

/// How often the list is offered though nothing changed: an agent that lost it, or whose lists were rolled back, has it
/// again within this time.
const REPEAT: Duration = Duration::from_secs(5);
/// After a refusal or a failure. A list that would cut live connections is taken once the gateway has ended them.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the agent's list true for as long as it runs.
pub(super) async fn keep(
    config: AllowlistConfig,
    mut accounts: watch::Receiver<Option<Arc<Allowlist>>>,
) {
    let agent = AgentClient::new(&config.agent_socket);
    let mut told = None;
    loop {
        let wanted = accounts.borrow_and_update().clone();
        let wait = match wanted {
            // Not read yet: what the agent has stays.
            None => REPEAT,
            Some(wanted) => {
                let offered = agent.offer(&config.list, wanted.entries()).await;
                metrics::allowlist_offered(offered.is_ok());
                match offered {
                    Ok(()) => {
                        if told.take().is_some() {
                            tracing::info!(
                                list = config.list,
                                "the agent has the networks of the accounts again"
                            );
                        }
                        REPEAT
                    }
                    Err(error) => {
                        let problem = chain(&error);
                        if told.as_ref() != Some(&problem) {
                            tracing::error!(
                                list = config.list,
                                error = problem,
                                "the agent does not have the networks of the accounts; what it had before stays in force"
                            );
                            told = Some(problem);
                        }
                        RETRY
                    }
                }
            }
        };
        tokio::select! {
            () = time::sleep(wait) => {}
            changed = accounts.changed() => if changed.is_err() {
                return;
            }
        }
    }
}
