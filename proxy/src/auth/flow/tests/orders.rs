//! Random orders of methods, users and changes: nobody gets in whom the oracle would not let in.

use std::rc::Rc;

use super::{
    oracle::{Oracle, Proof, Terms, Who},
    *,
};

const NAMES: [&str; 4] = [ALICE, BOB, "carol", "nobody"];
const WINDOW_MINUTES: u64 = 30;
/// The clock runs over the last day of an exception and back.
const MINUTES: u64 = 3 * 24 * 60;
/// Windows that may be tried: the last ones that were opened, whosoever they are.
const WINDOWS: usize = 8;

/// SplitMix64: a stream of choices that a seed repeats.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }

    fn verdict(&mut self) -> Verdict {
        match self.below(4) {
            0 | 1 => Verdict::Right,
            2 => Verdict::Wrong,
            _ => Verdict::Empty,
        }
    }

    fn both(&mut self) -> Both {
        let password = self.verdict();
        let code = match password {
            Verdict::Right | Verdict::Empty => self.verdict(),
            Verdict::Wrong => Verdict::Wrong,
        };
        let factor = self.code_factor();
        Both {
            password,
            code,
            factor,
        }
    }

    fn code_factor(&mut self) -> Factor {
        [Factor::Totp, Factor::RecoveryCode, Factor::Radius][self.index(3)]
    }

    fn key(&mut self) -> ShownKey {
        let factor = [Factor::PublicKey, Factor::SecurityKey, Factor::Certificate][self.index(3)];
        ShownKey::for_test(["K0", "K1"][self.index(2)], factor)
    }
}

/// What many connections share.
struct World {
    choices: Choices,
    profiles: [Rc<Profile>; 3],
    windows: Vec<Window>,
    start: DateTime<Utc>,
    minute: u64,
    oracle: Oracle,
    accepted: u32,
    by_window: u32,
    single: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let window = Some(Duration::from_secs(60 * WINDOW_MINUTES));
        let login = LoginOptions {
            window,
            appended_code: true,
            ..LoginOptions::default()
        };
        let one_round = LoginOptions {
            prompts: Some(Prompts::OneRound),
            ..LoginOptions::default()
        };
        Self {
            choices: Choices(seed),
            profiles: [
                Rc::new(Profile { login, ..alice() }),
                Rc::new(Profile {
                    login: one_round,
                    ..profile(2, BOB, pair_until(2))
                }),
                Rc::new(Profile {
                    has_code: false,
                    login: LoginOptions {
                        window,
                        ..LoginOptions::default()
                    },
                    ..profile(3, "carol", FactorPolicy::TwoClass)
                }),
            ],
            windows: Vec::new(),
            start: noon(1),
            minute: 0,
            oracle: Oracle::default(),
            accepted: 0,
            by_window: 0,
            single: 0,
        }
    }

    fn evidence(&mut self, open: Option<Question>) -> Evidence {
        let choices = &mut self.choices;
        match choices.below(16) {
            0 => Evidence::None,
            1 => foreign_key(),
            2 | 3 => Evidence::Key {
                shown: Some(choices.key()),
            },
            4 if !self.windows.is_empty() => {
                let age = choices
                    .index(self.windows.len())
                    .min(choices.index(WINDOWS));
                Evidence::KeyInWindow {
                    shown: choices.key(),
                    window: self.windows[self.windows.len() - 1 - age].clone(),
                }
            }
            4..=6 => Evidence::Password(choices.verdict()),
            7 => Evidence::PasswordWithCode(choices.both()),
            8 => Evidence::AnswerBoth(choices.both()),
            9 => Evidence::Answer(choices.verdict(), Factor::ALL[choices.index(7)]),
            _ => match open {
                None => Evidence::Begin,
                Some(Question::Password) => answer(choices.verdict()),
                Some(Question::Code) => Evidence::Answer(choices.verdict(), choices.code_factor()),
                Some(Question::Both) => Evidence::AnswerBoth(choices.both()),
            },
        }
    }

    /// One connection of random requests.
    fn play(&mut self) {
        let rules = FlowRules {
            verdict: [VerdictMode::Stepwise, VerdictMode::Single][self.choices.index(2)],
            prompts: [Prompts::TwoRounds, Prompts::OneRound][self.choices.index(2)],
            list_password: false,
        };
        let mut flow = Flow::new(rules);
        self.oracle.begin();
        let mut open = None;
        let mut user = self.choices.index(NAMES.len());
        for _ in 0..2 + self.choices.below(7) {
            if self.choices.one_in(8) {
                user = self.choices.index(NAMES.len());
            }
            if self.choices.one_in(160) {
                Rc::make_mut(&mut self.profiles[self.choices.index(3)]).epoch += 1;
            }
            if self.choices.one_in(240) {
                let account = Rc::make_mut(&mut self.profiles[self.choices.index(3)]);
                account.login.window_era += 1;
            }
            self.minute = (self.minute + u64::from(self.choices.one_in(8))) % MINUTES;
            let evidence = self.evidence(open);
            // The account of "nobody", and now and then a disabled one, is not there.
            let is_enabled = !self.choices.one_in(32);
            let account = self.profiles.get(user).filter(|_| is_enabled).cloned();
            let account = account.as_deref();
            let who = Who {
                name: user,
                account: account.map(|account| (account.uid.0, account.epoch)),
            };
            self.oracle.observe(who, proofs(&evidence, open, account));
            let now = self.start + chrono::Duration::minutes(self.minute as i64);
            open = None;
            match flow.step(NAMES[user], account, evidence, now) {
                Decision::Ask(question) => open = Some(question),
                Decision::Accepted(shown) => {
                    let account = account.expect("nobody can't be accepted");
                    self.enter(account, &shown, now);
                    assert_eq!((shown.uid(), shown.name()), (account.uid, NAMES[user]));
                    self.single += u32::from(rules.verdict == VerdictMode::Single);
                }
                Decision::Partial { .. } => assert_eq!(rules.verdict, VerdictMode::Stepwise),
                Decision::Enrol(user) => panic!("nobody showed a token: {user:?}"),
                Decision::Rejected { .. } => {}
            }
        }
    }

    fn enter(&mut self, account: &Profile, shown: &Authenticated, now: DateTime<Utc>) {
        let terms = Terms {
            pair: match &account.policy {
                FactorPolicy::TwoClass => false,
                FactorPolicy::PossessionPair(exception) => exception.expires >= now.date_naive(),
            },
            window_minutes: account.login.window.map(|window| window.as_secs() / 60),
            window_era: account.login.window_era,
            minute: self.minute,
        };
        assert!(
            self.oracle.permits(terms),
            "one class was enough: {shown:?} after {:?}",
            self.oracle
        );
        assert!(!shown.is_mfa() || self.oracle.knows(), "{shown:?}");
        assert_eq!(shown.is_mfa(), shown.policy() == "two-class", "{shown:?}");
        self.oracle.entered(terms);
        self.accepted += 1;
        self.by_window += u32::from(shown.window().is_some());
        if let Some(window) = shown.opens() {
            if self.windows.len() == WINDOWS {
                self.windows.remove(0);
            }
            self.windows.push(window.clone());
        }
    }
}

/// What the request proves: an answer only to the question that is open, one text for both only where it is allowed.
fn proofs(evidence: &Evidence, open: Option<Question>, account: Option<&Profile>) -> [Proof; 2] {
    let right = |verdict: Verdict, proof| match verdict {
        Verdict::Right => proof,
        Verdict::Wrong | Verdict::Empty => Proof::Nothing,
    };
    let pair = |both: &Both| {
        [
            right(both.password, Proof::Password),
            right(both.code, Proof::Code),
        ]
    };
    let key = |key: &ShownKey| match key.fingerprint.as_str() {
        "K0" => Proof::Key(0),
        _ => Proof::Key(1),
    };
    let may_append = account.is_some_and(|account| account.login.appended_code);
    match evidence {
        Evidence::Key { shown: Some(shown) } | Evidence::KeyInWindow { shown, .. } => {
            [key(shown), Proof::Nothing]
        }
        Evidence::Password(verdict) => [right(*verdict, Proof::Password), Proof::Nothing],
        Evidence::PasswordWithCode(both) if may_append => pair(both),
        Evidence::AnswerBoth(both) if open == Some(Question::Both) => pair(both),
        Evidence::AnswerBoth(both) if open == Some(Question::Password) && may_append => pair(both),
        Evidence::Answer(verdict, Factor::Password) if open == Some(Question::Password) => {
            [right(*verdict, Proof::Password), Proof::Nothing]
        }
        Evidence::Answer(verdict, Factor::Totp | Factor::RecoveryCode | Factor::Radius)
            if open == Some(Question::Code) =>
        {
            [right(*verdict, Proof::Code), Proof::Nothing]
        }
        Evidence::None
        | Evidence::Begin
        | Evidence::Token { .. }
        | Evidence::Key { shown: None }
        | Evidence::PasswordWithCode(_)
        | Evidence::AnswerBoth(_)
        | Evidence::Answer(..) => [Proof::Nothing; 2],
    }
}

#[test]
fn one_class_is_never_enough_over_a_million_random_orders_of_methods_and_users() {
    const CONNECTIONS: u64 = 1_200_000;
    const THREADS: u64 = 2;
    let played: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                scope.spawn(move || {
                    let mut world = World::new(worker);
                    for _ in 0..CONNECTIONS / THREADS {
                        world.play();
                    }
                    (world.accepted, world.by_window, world.single)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no violation"))
            .collect()
    });
    // The walk must also find the ways in, or it proves nothing.
    for (accepted, by_window, single) in played {
        assert!(accepted > 20_000, "only {accepted} logins");
        assert!(by_window > 500, "only {by_window} by a window");
        assert!(single > 5_000, "only {single} with a single verdict");
    }
}
