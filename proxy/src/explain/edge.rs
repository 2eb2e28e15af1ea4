//! What decides before the login: the network card, the listener, the algorithms.

use super::{Answer, Facts, Finding, Nic, Question, Stage};
use crate::{allowlist::Allowlist, config::AcceptMode};

pub(super) fn nic(facts: &Facts<'_>) -> Finding {
    let agent = if facts.config.allowlist.is_some() {
        "allowlist.agent_socket"
    } else {
        "bans.agent_socket"
    };
    let (answer, rule, set_by) = match &facts.nic {
        Nic::NoAgent => (
            Answer::Unknown,
            "no agent is configured, so that it can't be asked".to_owned(),
            facts.lines.of(agent),
        ),
        Nic::Silent { problem } => (
            Answer::Unknown,
            format!("the agent does not answer: {problem}"),
            facts.lines.of(agent),
        ),
        Nic::Judged { passes, reason, by } => (
            if *passes {
                Answer::Allowed
            } else {
                Answer::Denied
            },
            reason.clone(),
            by.clone(),
        ),
    };
    Finding {
        stage: Stage::Nic,
        answer,
        rule,
        set_by,
    }
}

pub(super) fn listener(facts: &Facts<'_>, allowlist: &Allowlist, question: &Question) -> Finding {
    let server = &facts.config.server;
    let source = question.source.to_canonical();
    let penalty = facts.throttle.penalised(source, question.now);
    let is_forwarder = server
        .proxy_protocol_from
        .iter()
        .any(|named| named.contains(&source));
    let (answer, rule, set_by) = if let Some(penalty) = penalty {
        (
            Answer::Denied,
            format!("{}: it pays for earlier failures", penalty.code()),
            facts.lines.of("penalties"),
        )
    } else if is_forwarder {
        (
            Answer::Unknown,
            "it is a load balancer: ask about the client that its PROXY header names".to_owned(),
            facts.lines.of("server.proxy_protocol_from"),
        )
    } else {
        match (server.accept, allowlist.covering(source)) {
            (AcceptMode::Any, _) => (
                Answer::Allowed,
                "connections are accepted from anywhere".to_owned(),
                facts.lines.of("server.accept"),
            ),
            (AcceptMode::ListedSources, Some(listed)) => (
                Answer::Allowed,
                format!("{} is a source of {}", listed.network, listed.owner),
                "account set --source".to_owned(),
            ),
            (AcceptMode::ListedSources, None) => (
                Answer::Denied,
                "source_not_listed: it is in no enabled account's networks".to_owned(),
                facts.lines.of("server.accept"),
            ),
        }
    };
    Finding {
        stage: Stage::Listener,
        answer,
        rule,
        set_by,
    }
}

pub(super) fn cipher(facts: &Facts<'_>) -> Finding {
    let policy = &facts.config.server.cipher_policy;
    let until = policy.exception().map_or_else(String::new, |exception| {
        format!(
            ", a relaxation until {} ({}, approved by {})",
            exception.expires, exception.reason, exception.approver
        )
    });
    Finding {
        stage: Stage::Cipher,
        answer: Answer::Allowed,
        rule: format!(
            "{}{until}: a client needs one of {} key exchanges, {} ciphers and {} MACs (print-policy shows them)",
            policy.name(),
            policy.key_exchanges().len(),
            policy.ciphers().len(),
            policy.macs().len()
        ),
        set_by: facts.lines.of("server.cipher_policy"),
    }
}
