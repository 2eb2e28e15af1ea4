//! A good login in the middle of an attack: connections that stand open, and guesses by the second.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use portcullis_tests::account::Account;
use portcullis_tests::raw_ssh::{Message, Transport, UserKey, is_failure, number};
use portcullis_tests::report::{Measure, Report, median};

use super::lab::{Gateway, Lab};

const HALF_OPEN: usize = 500;
const GUESSES_A_SECOND: u64 = 200;
/// A guess hears its verdict after some 300 ms, so that a hundred hands make 200 a second with some in reserve.
const HANDS: u64 = 100;
const GOOD_LOGINS: usize = 30;
/// The attack has to run before the logins are timed.
const WARM_UP: Duration = Duration::from_secs(3);
/// Attackers have many machines, and so many addresses.
const SOURCES: u8 = 32;
/// Where the user comes from.
const USER: Ipv4Addr = Ipv4Addr::new(127, 1, 1, 1);

/// The attack, while it goes on.
#[derive(Default)]
struct Attack {
    is_over: AtomicBool,
    /// Numbers given out to guesses, each with its own moment.
    next: AtomicU64,
    judged: AtomicU64,
    /// Guesses that were cut off before a verdict, as a source that guesses too often is.
    turned_away: AtomicU64,
}

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let half_open = lab.scale(HALF_OPEN, 20);
    let a_second = lab.scale(GUESSES_A_SECOND, 4);
    let hands = lab.scale(HANDS, 4);
    let count = lab.scale(GOOD_LOGINS, 4);
    let gateway = lab.gateway(2048)?;
    let alice = gateway.account("alice")?;
    let idle = good_logins(&gateway, &alice, count)?;

    let waiting: Vec<Transport> = (0..half_open)
        .map(|number| stand_open(&gateway, number))
        .collect::<Result<_>>()
        .context("connections that stand half open")?;
    let attack = Attack::default();
    let begun = Instant::now();
    let (busy, guesses) = thread::scope(|scope| -> Result<_> {
        let hands: Vec<_> = (0..hands)
            .map(|_| scope.spawn(|| guess(&gateway, &alice, &attack, begun, a_second)))
            .collect();
        thread::sleep(WARM_UP);
        let (from, before) = (Instant::now(), attack.judged.load(Ordering::Relaxed));
        let busy = good_logins(&gateway, &alice, count);
        let judged = attack.judged.load(Ordering::Relaxed) - before;
        let guesses = judged as f64 / from.elapsed().as_secs_f64();
        attack.is_over.store(true, Ordering::Relaxed);
        for hand in hands {
            hand.join().map_err(|_| anyhow!("a guesser panicked"))??;
        }
        Ok((busy?, guesses))
    })?;
    drop(waiting);

    let ratio = median(busy.iter().copied()) / median(idle.iter().copied());
    println!(
        "  a login takes {:.1} ms, under attack {:.1} ms ({ratio:.2}x); {guesses:.0} guesses a second were judged",
        median(idle.iter().copied()),
        median(busy.iter().copied())
    );
    report.condition(
        "flood",
        format!(
            "{half_open} connections half open, {a_second} guesses a second asked for (passwords, keys, unknown users) from {SOURCES} \
             addresses; {count} logins with key and password from another; max_unauthenticated = 2048"
        ),
    );
    report.results.extend([
        Measure::at_most("auth.flood.login", ratio, "ratio", 2.0, 1.5),
        Measure::plain("auth.flood.login.idle", median(idle), "ms"),
        Measure::plain("auth.flood.login.busy", median(busy), "ms"),
        Measure::plain("auth.flood.guesses_judged", guesses, "1/s"),
        Measure::plain(
            "auth.flood.guesses_turned_away",
            attack.turned_away.load(Ordering::Relaxed) as f64,
            "guesses",
        ),
    ]);
    Ok(())
}

/// Milliseconds of each login, from the connection to the success.
fn good_logins(gateway: &Gateway, account: &Account, count: usize) -> Result<Vec<f64>> {
    (0..count)
        .map(|_| {
            let begun = Instant::now();
            connect(gateway, USER)?.made_ready()?.log_in(account)?;
            Ok(begun.elapsed().as_secs_f64() * 1_000.0)
        })
        .collect()
}

/// A connection that gets as far as its number says, and stays there.
fn stand_open(gateway: &Gateway, number: usize) -> Result<Transport> {
    let mut transport = connect(gateway, attacker(number as u64))?;
    match number % 3 {
        0 => {}
        1 => transport.identify()?,
        _ => {
            transport.identify()?;
            transport.exchange_keys()?;
        }
    }
    Ok(transport)
}

/// Makes guesses at the pace of them all until the attack is over.
fn guess(
    gateway: &Gateway,
    account: &Account,
    attack: &Attack,
    begun: Instant,
    a_second: u64,
) -> Result<()> {
    while !attack.is_over.load(Ordering::Relaxed) {
        let guess = attack.next.fetch_add(1, Ordering::Relaxed);
        let moment = begun + Duration::from_secs_f64(guess as f64 / a_second as f64);
        // A guesser who is late does not wait, and gets no further behind than one guess.
        thread::sleep(moment.saturating_duration_since(Instant::now()));
        let Ok(answer) = verdict(gateway, account, guess) else {
            attack.turned_away.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let is_refused = is_failure(&answer) || answer.first() == Some(&number::DISCONNECT);
        ensure!(is_refused, "a guess was right: {answer:?}");
        attack.judged.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// What the gateway says to a guess, if it lets it come so far.
fn verdict(gateway: &Gateway, account: &Account, number: u64) -> Result<Vec<u8>> {
    let mut transport = connect(gateway, attacker(number))?.made_ready()?;
    let message = match number % 3 {
        0 => Message::password(&account.name, "Not-this-one-2026"),
        1 => UserKey::unknown().request(transport.session_id()?, &account.name),
        _ => Message::password(format!("user{number}"), "Not-this-one-2026"),
    };
    transport.ask(&message)
}

fn attacker(number: u64) -> Ipv4Addr {
    let host = u8::try_from(number % u64::from(SOURCES)).unwrap_or(0);
    Ipv4Addr::new(127, 66, host, 1)
}

fn connect(gateway: &Gateway, source: Ipv4Addr) -> Result<Transport> {
    let address = gateway.proxy.address;
    let std::net::IpAddr::V4(ip) = address.ip() else {
        return Err(anyhow!("the gateway listens on {address}"));
    };
    Transport::connect_from(source, SocketAddrV4::new(ip, address.port()))
        .context("the gateway takes no connection")
}
