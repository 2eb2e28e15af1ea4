//! Full two-factor logins a second.
//!
//! The peer is sshd with the key and, through PAM, a one-time code that it takes any number of times. The proxy is asked
//! for the same under `possession-pair`, each code spent on disk; and for key and password, whose hash is made to be slow.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use portcullis_tests::account::Account;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::raw_ssh::{Message, Transport, UserKey, is_partial_success, number};
use portcullis_tests::report::{Measure, Report, median};
use portcullis_tests::server::USER;
use portcullis_tests::server::openssh::Openssh;
use portcullis_tests::totp::Authenticator;

use super::lab::{Lab, at_once};

const LOGINS: usize = 120;
const AT_ONCE: usize = 8;
/// Of the peer's phone, in base32.
const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
/// A server that asks more than this asks for ever.
const MOST_PROMPTS: usize = 4;

/// Who logs in with which second factor.
struct Login {
    user: String,
    key: PathBuf,
    answer: String,
}

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let count = lab.scale(LOGINS, 6);
    let gateway = lab.gateway(256)?;
    let mut pairs = gateway.possession_pairs(count)?;
    let person = gateway.account("person")?;
    let folder = files::folder("peer")?;
    let peer_key = files::ssh_key(folder.path(), "peer")?;
    let peer = Openssh::with_codes(Place::Loopback, &peer_key, SECRET)?;
    let (ours, theirs) = (gateway.proxy.address, peer.address);
    let wrong = Login {
        user: USER.to_owned(),
        key: peer_key.clone(),
        answer: Authenticator::new(SECRET)?.wrong_code(),
    };
    ensure!(
        log_in(theirs, &wrong).is_err(),
        "sshd takes a wrong code: it does not ask for two factors"
    );

    let mut rounds = Vec::new();
    for round in 0..lab.rounds() {
        let with_password = (0..count).map(|_| with_password(&person)).collect();
        // Codes are shown right before the clock runs: the phone may wait for its next half minute.
        let mut with_codes = || pairs.iter_mut().map(with_code).collect::<Result<Vec<_>>>();
        // One code for all, so it is shown when it is used.
        let at_peer = || -> Result<Vec<Login>> {
            let mut phone = Authenticator::new(SECRET)?;
            phone.wait_for_time();
            let code = phone.next_code()?;
            let login = |_| Login {
                user: USER.to_owned(),
                key: peer_key.clone(),
                answer: code.clone(),
            };
            Ok((0..count).map(login).collect())
        };
        let (pair, password, peer);
        if round % 2 == 0 {
            pair = a_second(ours, with_codes()?)?;
            peer = a_second(theirs, at_peer()?)?;
            password = a_second(ours, with_password)?;
        } else {
            password = a_second(ours, with_password)?;
            peer = a_second(theirs, at_peer()?)?;
            pair = a_second(ours, with_codes()?)?;
        }
        println!(
            "  round {}: key and code {pair:.1}/s, key and password {password:.1}/s, sshd with key and code {peer:.1}/s",
            round + 1
        );
        rounds.push([pair, password, peer]);
    }

    report.condition(
        "two-factor logins",
        format!("{count} a round, {AT_ONCE} at once, a connection each, up to the success"),
    );
    report.results.extend([
        Measure::ratio(
            "auth.logins.key_and_code",
            median(rounds.iter().map(|[pair, _, peer]| pair / peer)),
            5.0,
            10.0,
        ),
        Measure::plain(
            "auth.logins.key_and_password",
            median(rounds.iter().map(|[_, password, peer]| password / peer)),
            "ratio",
        ),
        Measure::plain(
            "auth.logins.key_and_code.proxy",
            median(rounds.iter().map(|[pair, _, _]| *pair)),
            "1/s",
        ),
        Measure::plain(
            "auth.logins.key_and_password.proxy",
            median(rounds.iter().map(|[_, password, _]| *password)),
            "1/s",
        ),
        Measure::plain(
            "auth.logins.key_and_code.sshd_pam",
            median(rounds.iter().map(|[_, _, peer]| *peer)),
            "1/s",
        ),
    ]);
    Ok(())
}

fn with_code(account: &mut Account) -> Result<Login> {
    Ok(Login {
        answer: account.phone.next_code()?,
        user: account.name.clone(),
        key: account.key.clone(),
    })
}

fn with_password(account: &Account) -> Login {
    Login {
        user: account.name.clone(),
        key: account.key.clone(),
        answer: account.password.clone(),
    }
}

fn a_second(address: SocketAddr, logins: Vec<Login>) -> Result<f64> {
    let count = logins.len() as f64;
    let begun = Instant::now();
    at_once(AT_ONCE, logins, |login| log_in(address, &login))?;
    Ok(count / begun.elapsed().as_secs_f64())
}

/// Key, then the one prompt. PAM closes with a round without prompts.
fn log_in(address: SocketAddr, login: &Login) -> Result<()> {
    let mut transport = Transport::ready(address)?;
    let key = UserKey::read(&login.key)?;
    let answer = transport.ask(&key.request(transport.session_id()?, &login.user))?;
    ensure!(is_partial_success(&answer), "the key: {answer:?}");
    let mut answer = transport.ask(&Message::keyboard_interactive(&login.user))?;
    for _ in 0..MOST_PROMPTS {
        match answer.first() {
            Some(&number::USERAUTH_SUCCESS) => return Ok(()),
            Some(&number::USERAUTH_INFO_REQUEST) => {
                let prompts = prompts(&answer)?;
                let answers = vec![login.answer.as_str(); prompts];
                answer = transport.ask(&Message::answers(&answers))?;
            }
            _ => bail!("{} at {address}: {answer:?}", login.user),
        }
    }
    bail!("{address} does not stop asking")
}

/// How many prompts an INFO_REQUEST has (RFC 4256 section 3.2).
fn prompts(request: &[u8]) -> Result<usize> {
    let mut fields = portcullis_tests::raw_ssh::Fields::of(request)?;
    for _ in ["name", "instruction", "language"] {
        fields.string()?;
    }
    usize::try_from(fields.u32()?).context("a number of prompts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_counted() {
        let request = |prompts: u32| {
            Message::new(number::USERAUTH_INFO_REQUEST)
                .string("")
                .string("")
                .string("")
                .u32(prompts)
        };
        assert_eq!(prompts(request(0).bytes()).unwrap(), 0);
        assert_eq!(prompts(request(2).bytes()).unwrap(), 2);
        assert!(prompts(&[number::USERAUTH_INFO_REQUEST, 0]).is_err());
    }
}
