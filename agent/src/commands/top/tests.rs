//! The screen in the sizes that terminals have.

use std::collections::BTreeMap;

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};

use super::*;
use crate::{
    answers::{
        rates::{Fate, Rate},
        recent::Dropped,
    },
    control::{PendingStatus, ReadbackStatus},
    datapath::{Counters, Egress, InterfaceState, InterfaceStatus, RunsAs},
};

fn rate(fate: Fate, reason: &str, per_second: f64, ten: f64, total: u64) -> Rate {
    Rate {
        fate,
        reason: reason.to_owned(),
        per_second,
        per_second_of_ten: ten,
        total,
    }
}

fn dropped<K: std::str::FromStr<Err: std::fmt::Debug>>(source: &str, share: f64) -> Dropped<K> {
    Dropped {
        source: source.parse().unwrap(),
        share,
        reported: 100,
        error: 0,
        reason: None,
    }
}

fn sample() -> Sample {
    Sample {
        status: StatusReply {
            version: "0.1.0".to_owned(),
            pid: 7,
            uptime_seconds: 93_784,
            generation: 12,
            revision: 4,
            layout: String::new(),
            monitor: false,
            interfaces: vec![
                InterfaceStatus {
                    name: "eth0".to_owned(),
                    state: InterfaceState::Enforcing {
                        index: 2,
                        mode: RunsAs::Native,
                        program: 9,
                        renamed_to: None,
                    },
                    egress: Egress::Off,
                },
                InterfaceStatus {
                    name: "eth1".to_owned(),
                    state: InterfaceState::Gone,
                    egress: Egress::Off,
                },
            ],
            allowed: 1_024,
            protected: 3,
            banned: 2,
            journal_healthy: true,
            lag: None,
            counters: Counters {
                passed: BTreeMap::new(),
                ..Counters::default()
            },
            ..StatusReply::default()
        },
        top: TopReply {
            rates: vec![
                rate(Fate::Dropped, "not_listed", 120_400.0, 80_000.0, 9_876_543),
                rate(Fate::Passed, "allowed", 950.2, 1_000.0, 1_234_567_890),
                rate(Fate::Dropped, "banned", 2_000.0, 0.2, 60),
            ],
            sources: vec![
                dropped("198.51.100.7", 0.5),
                dropped("2001:db8:1234:5678:9abc:def0:1234:5678", 0.25),
            ],
            prefixes: vec![
                dropped("198.51.100.0/24", 0.5),
                dropped("2001:db8:1234::/48", 0.25),
            ],
            sampled_seconds: 42,
            reported: 200,
        },
    }
}

fn drawn(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| frame.render_widget(view, frame.area()))
        .unwrap();
    characters(terminal.backend().buffer())
}

fn view() -> View {
    let mut view = View::default();
    view.show(Ok(sample()));
    view
}

fn press(view: &mut View, code: KeyCode) -> bool {
    view.key(KeyEvent::new(code, KeyModifiers::NONE)).is_break()
}

/// The reasons in the order in which they are shown.
fn order(view: &View) -> Vec<&'static str> {
    let screen = drawn(view, 80, 24);
    let mut found: Vec<(usize, &str)> = ["not_listed", "allowed ", "banned "]
        .into_iter()
        .map(|reason| (screen.rfind(reason).unwrap(), reason))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, reason)| reason.trim()).collect()
}

#[test]
fn all_is_on_a_small_screen() {
    let expected = "\
portcullis-agent 0.1.0  up 1d2h  generation 12  enforcing
1 024 allowed  3 protected  2 banned  revision 4
eth0: enforcing, native
eth1: GONE
┌ packets/s, by 10 s ──────────────────────────────────────────────────────────┐
│           reason                              1 s       10 s            total│
│dropped    not_listed                       120.4k      80.0k        9 876 543│
│passed     allowed                             950       1000    1 234 567 890│
│dropped    banned                             2000        0.2               60│
│                                                                              │
│                                                                              │
│                                                                              │
└──────────────────────────────────────────────────────────────────────────────┘
┌ most dropped, sampled over 42 s ─────────┐┌ by /24 and /48, sampled ─────────┐
│source                      ~drops/s share││prefix              ~drops/s share│
│198.51.100.7                   40.0k   50%││198.51.100.0/24        40.0k   50%│
│2001:db8:1234:5678:9abc:de…    20.0k   25%││2001:db8:1234::/48     20.0k   25%│
│                                          ││                                  │
│                                          ││                                  │
│                                          ││                                  │
│                                          ││                                  │
│                                          ││                                  │
└──────────────────────────────────────────┘└──────────────────────────────────┘
q quit  p pause  s sort  arrows pane, scroll
";
    let screen = drawn(&view(), 80, 24);
    assert_eq!(screen, expected, "\n{screen}");
}

#[test]
fn more_room_is_used_and_less_room_is_borne() {
    let wide = drawn(&view(), 132, 50);
    assert!(
        wide.contains("2001:db8:1234:5678:9abc:def0:1234:5678"),
        "{wide}"
    );
    assert!(drawn(&view(), 50, 12).contains("not_listed"));
    for (width, height) in [(40, 10), (10, 3), (1, 1)] {
        drawn(&view(), width, height);
    }
}

#[test]
fn s_changes_the_order_and_comes_round() {
    let mut view = view();
    assert_eq!(order(&view), ["not_listed", "allowed", "banned"]);
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(order(&view), ["not_listed", "banned", "allowed"]);
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(order(&view), ["allowed", "not_listed", "banned"]);
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(order(&view), ["allowed", "banned", "not_listed"]);
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(order(&view), ["not_listed", "allowed", "banned"]);
}

#[test]
fn arrows_scroll_the_pane_they_chose_and_stop_at_its_end() {
    let mut view = view();
    press(&mut view, KeyCode::Right);
    for _ in 0..5 {
        press(&mut view, KeyCode::Down);
    }
    let screen = drawn(&view, 80, 24);
    assert!(!screen.contains("198.51.100.7 "), "{screen}");
    assert!(screen.contains("2001:db8:1234:5678"), "{screen}");
    assert!(screen.contains("198.51.100.0/24"), "the other pane stays");
    press(&mut view, KeyCode::Home);
    assert!(drawn(&view, 80, 24).contains("198.51.100.7 "));
}

#[test]
fn p_pauses_and_q_ends() {
    let mut view = view();
    assert!(!view.is_paused());
    press(&mut view, KeyCode::Char('p'));
    assert!(view.is_paused() && drawn(&view, 80, 24).contains("PAUSED"));
    press(&mut view, KeyCode::Char('p'));
    assert!(!view.is_paused());
    assert!(!press(&mut view, KeyCode::Char('x')));
    assert!(press(&mut view, KeyCode::Char('q')));
}

#[test]
fn a_daemon_that_went_is_named_and_the_last_numbers_stay() {
    let mut view = view();
    view.show(Err("no answer for 2 s".to_owned()));
    let screen = drawn(&view, 80, 24);
    assert!(screen.contains("no answer for 2 s") && screen.contains("not_listed"));
    let mut status = sample();
    status.status.lag = Some("no memory".to_owned());
    status.status.journal_healthy = false;
    view.show(Ok(status));
    let screen = drawn(&view, 80, 24);
    assert!(!screen.contains("no answer"), "{screen}");
    assert!(screen.contains("LAGGING") && screen.contains("journal can't be written"));
}

#[test]
fn a_change_that_waits_and_a_drift_are_above_everything() {
    let mut with = sample();
    with.status.pending = Some(PendingStatus {
        revision: 5,
        by: "alice".to_owned(),
        confirm_by: "2026-11-22T03:00:00Z".parse().unwrap(),
        seconds_left: 42,
    });
    with.status.readback = Some(ReadbackStatus {
        checked: "2026-11-22T02:59:00Z".parse().unwrap(),
        sha256: String::new(),
        drifts: 2,
    });
    let mut view = View::default();
    view.show(Ok(with));
    let screen = drawn(&view, 80, 24);
    assert!(
        screen.contains("Revision 5 by alice is taken back in 42 s"),
        "{screen}"
    );
    assert!(screen.contains("repaired, 2 times"), "{screen}");
}
