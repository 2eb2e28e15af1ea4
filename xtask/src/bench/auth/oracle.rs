//! What a stranger can tell from bytes and time: unknown user, wrong password, wrong key, wrong code.
//!
//! The kinds are drawn in random order over the whole run, so that what else the machine does hits all alike. Each is
//! compared with the unknown user who is asked the same.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::Account;
use portcullis_tests::raw_ssh::{Message, Transport, UserKey, is_failure};
use portcullis_tests::report::{Measure, Report, median};

use super::lab::{Gateway, Lab, at_once};
use super::statistics::mann_whitney;

const SAMPLES: usize = 500;
/// Each waits a quarter of a second for its answer and computes little, so that some at once do not disturb each other.
const AT_ONCE: usize = 4;
/// Wrong codes of one account before its delay begins, whose answers are not the common case.
const CODES_EACH: usize = 4;
/// Two lists of one source pass below it once in a hundred runs.
const SIGNIFICANCE: f64 = 0.01;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// The user, who is asked for password and code.
    User,
    Password,
    Code,
    /// The user, who shows a key.
    KeyOfNobody,
    Key,
}

impl Wrong {
    const ALL: [Self; 5] = [
        Self::User,
        Self::Password,
        Self::Code,
        Self::KeyOfNobody,
        Self::Key,
    ];
}

/// What one try heard, and after how many milliseconds the verdict came.
struct Sample {
    wrong: Wrong,
    heard: Vec<Vec<u8>>,
    milliseconds: f64,
}

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let count = lab.scale(SAMPLES, 12);
    let gateway = lab.gateway(256)?;
    let accounts = gateway.accounts(count.div_ceil(CODES_EACH))?;
    let mut tries: Vec<(Wrong, &Account)> = Wrong::ALL
        .iter()
        .flat_map(|&wrong| {
            accounts
                .iter()
                .cycle()
                .take(count)
                .map(move |account| (wrong, account))
        })
        .collect();
    fastrand::shuffle(&mut tries);
    // What the first ones meet is not what the others meet: pages that were never touched, an empty cache.
    for &wrong in &Wrong::ALL {
        let account = accounts.first().context("there are accounts")?;
        if wrong != Wrong::Code {
            sample(&gateway, wrong, account)?;
        }
    }
    let samples = at_once(AT_ONCE, tries, |(wrong, account)| {
        sample(&gateway, wrong, account)
    })?;

    report.condition(
        "oracle",
        format!("{count} of each kind in random order, {AT_ONCE} at once; time from the deciding request to the verdict"),
    );
    for (wrong, unknown, name) in [
        (Wrong::Password, Wrong::User, "password"),
        (Wrong::Code, Wrong::User, "code"),
        (Wrong::Key, Wrong::KeyOfNobody, "key"),
    ] {
        let heard = |kind: Wrong| samples.iter().filter(move |sample| sample.wrong == kind);
        let first = heard(unknown).next().context("there are samples")?;
        let different = heard(wrong)
            .chain(heard(unknown))
            .filter(|sample| sample.heard != first.heard)
            .count();
        report.results.push(Measure::at_most(
            format!("auth.oracle.{name}.other_bytes"),
            different as f64,
            "samples",
            0.0,
            0.0,
        ));
        let times =
            |kind: Wrong| -> Vec<f64> { heard(kind).map(|sample| sample.milliseconds).collect() };
        let (wrong, unknown) = (times(wrong), times(unknown));
        let p = mann_whitney(&wrong, &unknown);
        println!(
            "  {name}: {:.1} ms, unknown user {:.1} ms, p = {p:.3}, {different} with other bytes",
            median(wrong.iter().copied()),
            median(unknown.iter().copied())
        );
        report.results.extend([
            Measure::at_least(
                format!("auth.oracle.{name}.p"),
                p,
                "",
                SIGNIFICANCE,
                SIGNIFICANCE,
            ),
            Measure::plain(format!("auth.oracle.{name}"), median(wrong), "ms"),
            Measure::plain(
                format!("auth.oracle.{name}.unknown_user"),
                median(unknown),
                "ms",
            ),
        ]);
    }
    Ok(())
}

fn sample(gateway: &Gateway, wrong: Wrong, account: &Account) -> Result<Sample> {
    let mut transport = Transport::ready(gateway.proxy.address)?;
    let user = match wrong {
        Wrong::User | Wrong::KeyOfNobody => "nobody.at.all",
        Wrong::Password | Wrong::Code | Wrong::Key => &account.name,
    };
    let mut heard = Vec::new();
    let deciding = match wrong {
        Wrong::KeyOfNobody | Wrong::Key => {
            UserKey::unknown().request(transport.session_id()?, user)
        }
        Wrong::User | Wrong::Password | Wrong::Code => {
            let password = match wrong {
                Wrong::Code => &account.password,
                Wrong::User | Wrong::Password | Wrong::KeyOfNobody | Wrong::Key => {
                    "Not-this-one-2026"
                }
            };
            heard.push(transport.ask(&Message::keyboard_interactive(user))?);
            heard.push(transport.ask(&Message::answers(&[password]))?);
            Message::answers(&[account.phone.wrong_code()])
        }
    };
    let begun = Instant::now();
    let verdict = transport.ask(&deciding)?;
    let milliseconds = begun.elapsed().as_secs_f64() * 1_000.0;
    ensure!(is_failure(&verdict), "{wrong:?}: {verdict:?}");
    heard.push(verdict);
    Ok(Sample {
        wrong,
        heard,
        milliseconds,
    })
}
