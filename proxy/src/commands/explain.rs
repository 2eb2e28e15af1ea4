//! `explain`: which rule decides about a user at a source.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::Utc;

use crate::{
    accounts::Accounts,
    agent_client::AgentClient,
    auth::throttle::Throttle,
    cli::ExplainArgs,
    config::Config,
    explain::{self, Deed, Facts, Nic, Question, lines::Lines},
    throttle_store::ThrottleStore,
};

pub(super) fn explain(arguments: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let file = &arguments.config.config;
    let config = Config::load(file, super::today())?;
    let text = std::fs::read_to_string(file).context("read the configuration")?;
    let accounts = Accounts::open(&config.accounts.database).context("open the accounts")?;
    let mut throttle = Throttle::new(config.throttles());
    ThrottleStore::beside(&config.accounts.database)?.each(|network, state| {
        // What the gateway itself could not read counts for nothing there either.
        let _ = throttle.restore(network, state);
    })?;
    let deed = match (arguments.op, &arguments.path) {
        (Some(verb), Some(path)) => Some(Deed {
            verb,
            path: path.clone(),
        }),
        (None | Some(_), _) => None,
    };
    let question = Question {
        user: arguments.user.clone(),
        source: arguments.source,
        deed,
        now: Utc::now(),
    };
    let facts = Facts {
        config: &config,
        lines: &Lines::new(file, &text),
        accounts: &accounts,
        throttle: &throttle,
        nic: nic(&config, &question)?,
    };
    let findings = explain::explain(&facts, &question)?;
    let answer = explain::overall(&findings);
    if arguments.json {
        let all = serde_json::json!({ "answer": answer, "stages": findings });
        super::print(&all.to_string());
    } else {
        for finding in &findings {
            super::print(&finding.to_string());
        }
    }
    Ok(ExitCode::from(answer.exit_code()))
}

fn nic(config: &Config, question: &Question) -> anyhow::Result<Nic> {
    let socket = match (&config.allowlist, &config.bans) {
        (Some(allowlist), _) => &allowlist.agent_socket,
        (None, Some(bans)) => &bans.agent_socket,
        (None, None) => return Ok(Nic::NoAgent),
    };
    let port = config
        .server
        .listen
        .first()
        .map_or(22, |listen| listen.port());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("ask the agent")?;
    let agent = AgentClient::new(socket);
    Ok(match runtime.block_on(agent.why(question.source, port)) {
        Ok(why) => Nic::Judged {
            passes: why.passes,
            reason: why.reason,
            by: why.by,
        },
        Err(error) => Nic::Silent {
            problem: format!("{:#}", anyhow::Error::from(error)),
        },
    })
}
