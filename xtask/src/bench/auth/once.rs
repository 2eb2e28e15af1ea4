//! One code in fifty hands: of logins that send it at the same moment, exactly one gets in.

use std::sync::Barrier;

use anyhow::{Context, Result};
use portcullis_tests::account::Account;
use portcullis_tests::raw_ssh::{Message, Transport, number};
use portcullis_tests::report::{Measure, Report};

use super::lab::{Gateway, Lab, at_once};

const HANDS: usize = 50;
const ROUNDS: usize = 200;
/// Codes that a phone shows without waiting for its next half minute.
const CODES_EACH: usize = 3;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let (hands, rounds) = (lab.scale(HANDS, 8), lab.scale(ROUNDS, 4));
    let gateway = lab.gateway(1024)?;
    let mut accounts = gateway.possession_pairs(rounds.div_ceil(CODES_EACH))?;
    let (mut wrong, mut winners) = (0_u32, 0_usize);
    for round in 0..rounds {
        let account = round % accounts.len();
        let account = accounts.get_mut(account).context("there are accounts")?;
        let code = account.phone.next_code()?;
        let in_this_round = together(&gateway, account, &code, hands)?;
        winners += in_this_round;
        if in_this_round != 1 {
            println!("  round {round}: {in_this_round} got in");
            wrong += 1;
        }
    }
    println!("  {rounds} rounds of {hands}: {winners} got in");
    report.condition(
        "once",
        format!("{rounds} rounds, {hands} connections that showed the key send one code together"),
    );
    report.results.push(Measure::at_most(
        "auth.once.rounds_without_exactly_one",
        f64::from(wrong),
        "rounds",
        0.0,
        0.0,
    ));
    Ok(())
}

/// How many of the connections get in with the code.
fn together(gateway: &Gateway, account: &Account, code: &str, hands: usize) -> Result<usize> {
    let prompted = at_once(8, (0..hands).collect(), |_| {
        let mut transport = Transport::ready(gateway.proxy.address)?;
        transport.show_key(account)?;
        transport.send(&Message::keyboard_interactive(&account.name))?;
        transport.expect(number::USERAUTH_INFO_REQUEST)?;
        Ok(transport)
    })?;
    let all = Barrier::new(hands);
    let got_in = at_once(hands, prompted, |mut transport| {
        all.wait();
        let answer = transport.ask(&Message::answers(&[code]))?;
        Ok(answer.first() == Some(&number::USERAUTH_SUCCESS))
    })?;
    Ok(got_in.into_iter().filter(|is_in| *is_in).count())
}
