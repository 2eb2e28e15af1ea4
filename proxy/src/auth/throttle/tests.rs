use chrono::TimeDelta;
use proptest::prelude::*;

use super::{
    table::{SOURCES_MAX, SOURCES_OF_NETWORK_MAX},
    *,
};

const SESSION: SessionId = SessionId([7; 16]);
const OTHER: SessionId = SessionId([9; 16]);

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn after(seconds: i64) -> DateTime<Utc> {
    start() + TimeDelta::seconds(seconds)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn bans(failures: u32) -> BanConfig {
    BanConfig {
        failures,
        window: Duration::from_secs(60),
        lifetime: Duration::from_secs(900),
        max_lifetime: Duration::from_secs(3600),
        max_per_minute: 2,
        exempt: vec!["198.51.100.0/24".parse().unwrap()],
    }
}

/// Penalties as they are by default.
fn penalties() -> Throttle {
    Throttle::new(ThrottleConfig::default())
}

/// Bans only.
fn banning(failures: u32) -> Throttle {
    Throttle::new(ThrottleConfig {
        penalties: PenaltyConfig {
            max: Duration::ZERO,
            ..PenaltyConfig::default()
        },
        bans: Some(bans(failures)),
    })
}

impl Throttle {
    fn fail(&mut self, source: &str, name: &str, now: DateTime<Utc>) -> Option<BanRequest> {
        self.failed(address(source), name, Mistake::Code, SESSION, now)
    }

    fn refuses(&self, source: &str, now: DateTime<Utc>) -> Option<Penalised> {
        self.penalised(address(source), now)
    }
}

#[test]
fn a_penalty_holds_above_the_threshold_until_it_has_run_out_and_not_below() {
    let mut throttle = penalties();
    for _ in 0..3 {
        throttle.fail("192.0.2.7", "alice", start());
    }
    assert_eq!(
        throttle.refuses("192.0.2.7", start()),
        None,
        "15 s are the threshold"
    );
    throttle.fail("192.0.2.7", "alice", start());
    assert_eq!(
        throttle.refuses("192.0.2.7", start()),
        Some(Penalised::Source)
    );
    assert_eq!(
        throttle.refuses("::ffff:192.0.2.7", after(19)),
        Some(Penalised::Source)
    );
    assert_eq!(throttle.refuses("192.0.2.7", after(20)), None);
    assert_eq!(throttle.refuses("192.0.2.8", start()), None, "a neighbour");
}

#[test]
fn failures_that_leave_time_for_the_penalty_to_run_out_hold_nobody_off() {
    let mut throttle = penalties();
    for failure in 0..100 {
        throttle.fail("192.0.2.7", "alice", after(5 * failure));
        assert_eq!(throttle.refuses("192.0.2.7", after(5 * failure)), None);
    }
}

#[test]
fn each_loss_costs_what_it_does_in_openssh_and_ten_minutes_are_the_most() {
    for (loss, free) in [(Loss::NoAuth, 15), (Loss::Grace, 1), (Loss::Crash, 0)] {
        let mut throttle = penalties();
        let source = address("2001:db8::1");
        for _ in 0..free {
            throttle.lost(source, loss, OTHER, start());
        }
        assert_eq!(throttle.penalised(source, start()), None, "{loss:?}");
        throttle.lost(source, loss, OTHER, start());
        assert_eq!(throttle.penalised(source, start()), Some(Penalised::Source));
        for _ in 0..1000 {
            throttle.lost(source, loss, OTHER, start());
        }
        assert!(throttle.penalised(source, after(599)).is_some());
        assert_eq!(throttle.penalised(source, after(600)), None);
    }
}

#[test]
fn a_connection_that_paid_for_wrong_answers_does_not_pay_for_leaving() {
    for (session, is_held) in [(SESSION, false), (OTHER, true)] {
        let mut throttle = penalties();
        for _ in 0..3 {
            throttle.fail("192.0.2.7", "alice", start());
        }
        throttle.lost(address("192.0.2.7"), Loss::NoAuth, session, start());
        assert_eq!(throttle.refuses("192.0.2.7", start()).is_some(), is_held);
    }
}

#[test]
fn a_clock_that_jumps_back_leaves_nobody_out_for_longer_than_the_longest_penalty() {
    let mut throttle = penalties();
    for _ in 0..10 {
        throttle.fail("192.0.2.7", "alice", after(1_000_000));
    }
    assert!(throttle.refuses("192.0.2.7", start()).is_some());
    throttle.lost(address("192.0.2.7"), Loss::NoAuth, OTHER, start());
    assert!(throttle.refuses("192.0.2.7", after(599)).is_some());
    assert_eq!(throttle.refuses("192.0.2.7", after(600)), None);
}

#[test]
fn exempt_sources_pay_nothing_and_their_neighbours_do() {
    let mut throttle = penalties();
    for source in ["127.0.0.5", "::1", "128.0.0.1"] {
        for _ in 0..20 {
            throttle.fail(source, "alice", start());
        }
    }
    assert_eq!(throttle.refuses("127.0.0.5", start()), None);
    assert_eq!(throttle.refuses("::1", start()), None);
    assert!(!throttle.name_is_penalised(address("::1"), "alice", start()));
    assert!(throttle.refuses("128.0.0.1", start()).is_some());
}

#[test]
fn who_moves_to_the_next_address_pays_in_the_network_and_another_network_does_not() {
    let mut throttle = penalties();
    for host in 0..100_u128 {
        let prefix = 0x2001_0db8_0001_0000_0000_0000_0000_0000_u128;
        let source = std::net::Ipv6Addr::from(prefix + (host << 64) + 1);
        throttle.failed(source.into(), "alice", Mistake::Code, SESSION, start());
    }
    assert_eq!(
        throttle.refuses("2001:db8:1:ffff::1", start()),
        Some(Penalised::Network)
    );
    assert_eq!(throttle.refuses("2001:db8:2::1", start()), None);
    throttle.succeeded(address("2001:db8:1:8::1"), "bob", after(1));
    assert_eq!(
        throttle.refuses("2001:db8:1:8::2", after(1)),
        None,
        "has a good user"
    );
}

#[test]
fn behind_an_address_with_good_users_the_one_who_fails_pays_alone() {
    let mut throttle = penalties();
    let office = address("192.0.2.7");
    throttle.succeeded(office, "alice", start());
    for _ in 0..10 {
        throttle.fail("192.0.2.7", "mallory", after(1));
        throttle.lost(office, Loss::Grace, OTHER, after(1));
    }
    assert_eq!(throttle.penalised(office, after(1)), None);
    assert!(throttle.name_is_penalised(office, "mallory", after(1)));
    assert!(!throttle.name_is_penalised(office, "alice", after(1)));
    assert!(!throttle.name_is_penalised(office, "mallory", after(51)));

    let eight_days = after(8 * 24 * 3600);
    for _ in 0..4 {
        throttle.fail("192.0.2.7", "mallory", eight_days);
    }
    assert!(
        throttle.penalised(office, eight_days).is_some(),
        "the login was long ago"
    );
}

#[test]
fn many_names_from_one_address_are_a_spray_whoever_else_is_behind_it() {
    let mut throttle = penalties();
    throttle.succeeded(address("192.0.2.7"), "alice", start());
    for name in 0..16 {
        throttle.fail("192.0.2.7", &format!("user{name}"), after(1));
    }
    assert_eq!(throttle.refuses("192.0.2.7", after(1)), None);
    for name in 16..20 {
        throttle.fail("192.0.2.7", &format!("user{name}"), after(1));
    }
    assert_eq!(
        throttle.refuses("192.0.2.7", after(1)),
        Some(Penalised::Source)
    );
}

#[test]
fn a_login_takes_back_what_its_name_was_charged_and_nothing_of_the_others() {
    let mut throttle = penalties();
    for _ in 0..3 {
        throttle.fail("192.0.2.7", "alice", start());
        throttle.fail("192.0.2.9", "alice", start());
        throttle.fail("192.0.2.9", "bob", start());
    }
    throttle.succeeded(address("192.0.2.7"), "alice", start());
    throttle.succeeded(address("192.0.2.9"), "alice", start());
    assert_eq!(throttle.refuses("192.0.2.7", start()), None);
    assert_eq!(
        throttle.refuses("192.0.2.9", after(14)),
        Some(Penalised::Source)
    );
    assert_eq!(throttle.refuses("192.0.2.9", after(15)), None);
}

#[test]
fn the_last_failure_of_the_measure_asks_for_a_ban_with_its_evidence() {
    let mut throttle = banning(3);
    assert_eq!(throttle.fail("192.0.2.7", "alice", start()), None);
    let source = address("192.0.2.7");
    let other = SessionId([8; 16]);
    assert_eq!(
        throttle.failed(source, "bob", Mistake::Key, other, after(59)),
        None
    );
    let ban = throttle.fail("192.0.2.7", "alice", after(60)).unwrap();
    assert_eq!(ban.plan, Plan::Ban);
    assert_eq!(ban.source, "192.0.2.7/32".parse::<IpNet>().unwrap());
    assert_eq!(ban.lifetime, Duration::from_secs(900));
    assert_eq!(ban.decided, after(60));
    assert_eq!(
        ban.evidence,
        Evidence {
            failures: 3,
            mistakes: [0, 2, 1, 0],
            names: 2,
            since: start(),
            sessions: vec![SESSION, other, SESSION],
            earlier_bans: 0,
        }
    );
    assert_eq!(
        throttle.fail("192.0.2.7", "alice", after(61)),
        None,
        "the count begins anew"
    );
}

#[test]
fn a_pause_as_long_as_the_window_begins_another_row_and_a_shorter_one_does_not() {
    for (pause, is_banned) in [(59, true), (60, false)] {
        let mut throttle = banning(3);
        throttle.fail("192.0.2.7", "alice", start());
        throttle.fail("192.0.2.7", "alice", after(pause));
        let ban = throttle.fail("192.0.2.7", "alice", after(2 * pause));
        assert_eq!(ban.is_some(), is_banned, "{pause}");
    }
}

#[test]
fn one_ipv6_64_is_one_source_and_the_next_is_another() {
    let mut throttle = banning(3);
    throttle.fail("2001:db8::1", "alice", start());
    throttle.fail("2001:db8:0:1::1", "alice", start());
    assert_eq!(throttle.fail("2001:db8::2", "alice", start()), None);
    let ban = throttle.fail("2001:db8::3", "alice", start()).unwrap();
    assert_eq!(ban.source, "2001:db8::/64".parse::<IpNet>().unwrap());
}

#[test]
fn each_further_ban_doubles_up_to_the_longest_and_a_good_week_begins_anew() {
    let mut throttle = banning(1);
    let mut now = start();
    for minutes in [15, 30, 60, 60] {
        let ban = throttle.fail("192.0.2.7", "alice", now).unwrap();
        assert_eq!(ban.lifetime, Duration::from_secs(minutes * 60));
        now += TimeDelta::seconds(4000);
    }
    now += TimeDelta::days(8);
    let ban = throttle.fail("192.0.2.7", "alice", now).unwrap();
    assert_eq!(ban.lifetime, Duration::from_secs(900));
}

#[test]
fn good_users_of_an_address_make_its_ban_take_more_failures() {
    let mut throttle = banning(3);
    throttle.succeeded(address("192.0.2.7"), "alice", start());
    throttle.succeeded(address("192.0.2.7"), "bob", start());
    for failure in 1..=9 {
        let ban = throttle.fail("192.0.2.7", "mallory", after(failure));
        assert_eq!(ban.is_some(), failure == 9, "{failure}");
    }
}

#[test]
fn an_account_of_the_attackers_own_does_not_forgive_guesses_at_another() {
    let mut throttle = banning(3);
    let banned = (1..=12).find(|_| {
        throttle.succeeded(address("192.0.2.7"), "mallory", start());
        throttle.fail("192.0.2.7", "alice", start()).is_some()
    });
    assert_eq!(banned, Some(6));
}

#[test]
fn only_so_many_bans_are_made_in_a_minute_and_that_is_told_once() {
    let mut throttle = banning(1);
    let plan = |throttle: &mut Throttle, host: u8, now| {
        let source = format!("192.0.2.{host}");
        throttle.fail(&source, "alice", now).map(|ban| ban.plan)
    };
    assert_eq!(plan(&mut throttle, 1, start()), Some(Plan::Ban));
    assert_eq!(plan(&mut throttle, 2, start()), Some(Plan::Ban));
    assert_eq!(plan(&mut throttle, 3, start()), Some(Plan::Withhold));
    assert_eq!(plan(&mut throttle, 4, start()), None);
    assert_eq!(
        plan(&mut throttle, 3, after(60)),
        Some(Plan::Ban),
        "asked again"
    );
}

#[test]
fn a_source_that_is_never_banned_takes_no_other_ones_ban() {
    let mut throttle = banning(1);
    for _ in 0..5 {
        let ban = throttle.fail("198.51.100.9", "alice", start()).unwrap();
        assert_eq!(ban.plan, Plan::Exempt);
    }
    let ban = throttle.fail("192.0.2.7", "alice", start()).unwrap();
    assert_eq!(ban.plan, Plan::Ban);
}

#[test]
fn one_network_pushes_out_its_own_sources_and_nobody_elses() {
    let mut throttle = penalties();
    for _ in 0..6 {
        throttle.fail("2001:db8:ffff::1", "alice", start());
        throttle.fail("192.0.2.7", "alice", start());
    }
    for subnet in 0..1000_u128 {
        let prefix = 0x2001_0db8_0001_0000_0000_0000_0000_0000_u128;
        let source = std::net::Ipv6Addr::from(prefix + (subnet << 64) + 1);
        throttle.failed(source.into(), "bob", Mistake::Code, SESSION, after(1));
    }
    assert_eq!(throttle.table.len(), SOURCES_OF_NETWORK_MAX + 2);
    assert_eq!(
        throttle.refuses("2001:db8:ffff::1", after(2)),
        Some(Penalised::Source)
    );
    assert_eq!(
        throttle.refuses("192.0.2.7", after(2)),
        Some(Penalised::Source)
    );
}

#[test]
fn the_table_is_bounded_and_forgets_first_what_no_longer_matters() {
    let mut throttle = penalties();
    for _ in 0..6 {
        throttle.fail("192.0.2.7", "alice", start());
    }
    throttle.succeeded(address("192.0.2.8"), "bob", start());
    for n in 0..SOURCES_MAX + 100 {
        let source = IpAddr::from((0x0A00_0000 + u32::try_from(n).unwrap()).to_be_bytes());
        throttle.lost(source, Loss::NoAuth, OTHER, after(1));
    }
    assert_eq!(throttle.table.len(), SOURCES_MAX);
    assert_eq!(
        throttle.refuses("192.0.2.7", after(2)),
        Some(Penalised::Source)
    );
    for _ in 0..6 {
        throttle.fail("192.0.2.8", "mallory", after(2));
    }
    assert_eq!(
        throttle.refuses("192.0.2.8", after(2)),
        None,
        "its good user is remembered"
    );
}

#[derive(Debug, Clone)]
enum Happening {
    Failure { source: u8, name: u8 },
    Loss { source: u8 },
    Login { source: u8, name: u8 },
    Pause { seconds: u8 },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..3_u8, 0..20_u8).prop_map(|(source, name)| Happening::Failure { source, name }),
        2 => (0..3_u8).prop_map(|source| Happening::Loss { source }),
        1 => (0..3_u8, 0..20_u8).prop_map(|(source, name)| Happening::Login { source, name }),
        2 => (0..30_u8).prop_map(|seconds| Happening::Pause { seconds }),
    ]
}

fn host(source: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, source + 1])
}

/// Goes through what happened; where it has no logins, `more` failures of each are added to each one.
fn run(happenings: &[Happening], more: usize) -> (Throttle, DateTime<Utc>) {
    let (mut throttle, mut now) = (penalties(), start());
    for happening in happenings {
        match *happening {
            Happening::Failure { source, name } => {
                for _ in 0..=more {
                    throttle.failed(host(source), &name.to_string(), Mistake::Code, SESSION, now);
                }
            }
            Happening::Loss { source } => throttle.lost(host(source), Loss::NoAuth, OTHER, now),
            Happening::Login { source, name } => {
                throttle.succeeded(host(source), &name.to_string(), now);
            }
            Happening::Pause { seconds } => now += TimeDelta::seconds(i64::from(seconds)),
        }
    }
    (throttle, now)
}

proptest! {
    /// Who fails more is never let in sooner.
    #[test]
    fn more_failures_never_admit_whom_fewer_refuse(
        happenings in prop::collection::vec(happening(), 0..60),
        more in 1..4_usize,
        later in 0..700_i64,
    ) {
        let ((fewer, now), (more, _)) = (run(&happenings, 0), run(&happenings, more));
        let now = now + TimeDelta::seconds(later);
        for source in 0..3 {
            if fewer.penalised(host(source), now).is_some() {
                prop_assert!(more.penalised(host(source), now).is_some());
            }
        }
    }

    /// Waiting never makes anything worse, and the longest penalty sets everybody free.
    #[test]
    fn time_alone_only_lets_in(happenings in prop::collection::vec(happening(), 0..60), wait in 0..700_i64) {
        let (throttle, now) = run(&happenings, 0);
        for source in 0..3 {
            let later = now + TimeDelta::seconds(wait);
            if throttle.penalised(host(source), now).is_none() {
                prop_assert_eq!(throttle.penalised(host(source), later), None);
            }
            prop_assert_eq!(throttle.penalised(host(source), now + TimeDelta::seconds(600)), None);
        }
    }

    /// What is stored and read again decides as before.
    #[test]
    fn a_restart_changes_no_decision(happenings in prop::collection::vec(happening(), 0..60), later in 0..300_i64) {
        let (mut before, now) = run(&happenings, 0);
        let mut after = penalties();
        for row in before.changes() {
            after.restore(&row.network.to_string(), &row.state.unwrap()).unwrap();
        }
        let now = now + TimeDelta::seconds(later);
        for source in 0..3 {
            prop_assert_eq!(before.penalised(host(source), now), after.penalised(host(source), now));
            for name in 0..20_u8 {
                let name = name.to_string();
                prop_assert_eq!(
                    before.name_is_penalised(host(source), &name, now),
                    after.name_is_penalised(host(source), &name, now)
                );
            }
        }
    }
}
