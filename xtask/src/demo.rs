//! `cargo xtask demo`: the product at work in seven steps, with the real daemons, a real legacy
//! server and Debian's own OpenSSH client, each host in its own network namespace.

mod leftovers;
mod stage;
mod steps;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{process, setup};
use leftovers::Leftovers;
use stage::Stage;

/// One thing that is shown.
struct Step {
    /// What is claimed.
    claim: &'static str,
    /// Shows it on the stage and returns the evidence in one line.
    show: fn(&mut Stage) -> Result<String>,
}

const STEPS: [Step; 7] = [
    Step {
        claim: "A stranger's packets die at XDP",
        show: steps::a_stranger_is_dropped,
    },
    Step {
        claim: "The agent says why, and what would let him in",
        show: steps::the_agent_says_why,
    },
    Step {
        claim: "A partner's file reaches the legacy server after two factors",
        show: steps::a_partner_uploads_and_downloads,
    },
    Step {
        claim: "The journal has it all, and a changed byte is found",
        show: steps::the_journal_tells_and_is_verified,
    },
    Step {
        claim: "The allowlist changes live",
        show: steps::the_allowlist_changes_live,
    },
    Step {
        claim: "A list that locks the partner out takes itself back",
        show: steps::a_change_takes_itself_back,
    },
    Step {
        claim: "Wrong codes end in a ban on the wire",
        show: steps::wrong_codes_end_in_a_ban,
    },
];

struct Row {
    claim: &'static str,
    outcome: Outcome,
    seconds: f64,
}

enum Outcome {
    Shown(String),
    Failed,
    NotReached,
}

pub(crate) fn run() -> Result<()> {
    setup::ensure(setup::For::Everything)?;
    process::run(process::cargo().args([
        "build",
        "--locked",
        "--package",
        "portcullis-agent",
        "--package",
        "portcullis-proxy",
        "--package",
        "portcullis-journal",
    ]))?;
    let _leftovers = Leftovers::clear_and_guard()?;

    println!("\n== the stage");
    let mut stage = Stage::build().inspect_err(|_| leftovers::wait_if_interrupted())?;
    let mut rows = Vec::new();
    let mut failure = None;
    for (number, step) in (1..).zip(&STEPS) {
        if failure.is_some() {
            rows.push(Row {
                claim: step.claim,
                outcome: Outcome::NotReached,
                seconds: 0.0,
            });
            continue;
        }
        println!("\n== {number}. {}", step.claim);
        let begin = Instant::now();
        let outcome = match (step.show)(&mut stage) {
            Ok(evidence) => Outcome::Shown(evidence),
            Err(error) => {
                leftovers::wait_if_interrupted();
                println!("FAILED: {error:#}");
                stage.print_logs();
                failure = Some(number);
                Outcome::Failed
            }
        };
        rows.push(Row {
            claim: step.claim,
            outcome,
            seconds: begin.elapsed().as_secs_f64(),
        });
    }
    print_table(&rows);
    match failure {
        None => Ok(()),
        Some(number) => bail!("step {number} of the demo failed"),
    }
}

fn print_table(rows: &[Row]) {
    let width = rows
        .iter()
        .map(|row| row.claim.len())
        .max()
        .unwrap_or_default();
    println!("\n   {:width$}  {:>7}  evidence", "what", "seconds");
    for (number, row) in (1..).zip(rows) {
        let evidence = match &row.outcome {
            Outcome::Shown(evidence) => evidence,
            Outcome::Failed => "FAILED",
            Outcome::NotReached => "not reached",
        };
        println!(
            "{number}. {:width$}  {:>7.1}  {evidence}",
            row.claim, row.seconds
        );
    }
}
