use portcullis_journal::AccountKind;

use super::*;
use crate::{auth::flow::FactorPolicy, exception::Exception};

struct World {
    _directory: tempfile::TempDir,
    accounts: Accounts,
    uid: UserId,
    now: DateTime<Utc>,
}

fn rescue() -> AccountName {
    "rescue".parse().unwrap()
}

fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
    let admin = accounts.administer("test");
    let uid = admin.add(&rescue(), AccountKind::BreakGlass, None).unwrap();
    for custodian in ["ann", "ben"] {
        let name: AccountName = custodian.parse().unwrap();
        admin.add(&name, AccountKind::Admin, None).unwrap();
    }
    World {
        _directory: directory,
        accounts,
        uid,
        now: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
    }
}

impl World {
    fn uid_of(&self, name: &str) -> UserId {
        self.accounts
            .list()
            .unwrap()
            .into_iter()
            .find(|account| account.name == name)
            .unwrap()
            .uid
    }

    fn custodian(&self, name: &str) -> Custodian {
        Custodian::for_test(self.uid_of(name), name)
    }

    fn open_until(
        &self,
        until: TimeDelta,
        longest: TimeDelta,
    ) -> Result<(OpeningId, NoteId), AccountsError> {
        let (ann, ben) = (self.custodian("ann"), self.custodian("ben"));
        let request = OpeningRequest {
            reason: "the directory service burns",
            custodians: [&ann, &ben],
            until: self.now + until,
            longest,
        };
        self.accounts
            .administer("test")
            .open_break_glass(&rescue(), &request, self.now)
    }

    fn open(&self) -> Result<(OpeningId, NoteId), AccountsError> {
        self.open_until(TimeDelta::hours(4), OPEN_MAX)
    }

    /// What the daemon does once the notes are in the journal.
    fn record(&self) {
        let last = self
            .accounts
            .pending_changes()
            .unwrap()
            .last()
            .map(|change| change.id);
        self.accounts.forget_changes(last.unwrap_or(0)).unwrap();
    }

    fn holds(&self, after: TimeDelta) -> bool {
        let opening = self.accounts.opening(self.uid, self.now + after).unwrap();
        opening.is_some()
    }

    fn close(&self, after: TimeDelta) -> Result<(), AccountsError> {
        self.accounts
            .administer("test")
            .close_break_glass(&rescue(), self.now + after)
    }

    fn review(&self, reviewer: &str, after: TimeDelta) -> Result<(), AccountsError> {
        self.accounts.administer("test").review_break_glass(
            &rescue(),
            reviewer,
            "as it should be",
            self.now + after,
        )
    }

    fn epoch(&self) -> i64 {
        self.accounts.standing(self.uid).unwrap().unwrap().epoch
    }

    fn seal(&self, after: TimeDelta) -> Seal {
        let listed = self.accounts.break_glass(self.now + after).unwrap();
        listed
            .into_iter()
            .find(|(name, ..)| name == "rescue")
            .unwrap()
            .1
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, AccountsError>) -> BreakGlassError {
    match result {
        Err(AccountsError::BreakGlass(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

const HOUR: TimeDelta = TimeDelta::hours(1);

#[test]
fn an_account_is_sealed_until_its_opening_is_on_record_and_again_at_the_end() {
    let world = world();
    assert!(!world.holds(HOUR));
    let (_, note) = world.open().unwrap();
    assert!(!world.holds(HOUR), "the journal has no record of it");
    assert!(!world.accounts.is_on_record(note).unwrap());
    assert_eq!(world.seal(HOUR), Seal::Opening);
    world.record();
    assert!(world.accounts.is_on_record(note).unwrap());
    assert!(world.holds(TimeDelta::zero()));
    assert_eq!(world.seal(HOUR), Seal::Open);
    let end = TimeDelta::hours(4);
    assert!(world.holds(end - TimeDelta::seconds(1)));
    assert!(!world.holds(end));
    assert!(!world.holds(-HOUR), "a clock that went back opens nothing");
    assert_eq!(world.seal(end), Seal::Unreviewed);
}

#[test]
fn two_custodians_are_two_people() {
    let world = world();
    let (ann, ben) = (world.custodian("ann"), world.custodian("ben"));
    let open = |custodians| {
        let request = OpeningRequest {
            reason: "fire",
            custodians,
            until: world.now + HOUR,
            longest: OPEN_MAX,
        };
        world
            .accounts
            .administer("test")
            .open_break_glass(&rescue(), &request, world.now)
    };
    assert!(matches!(
        refusal(open([&ann, &ann])),
        BreakGlassError::OneCustodian { .. }
    ));
    open([&ann, &ben]).unwrap();
}

#[test]
fn the_end_is_at_most_a_day_away_or_what_is_configured() {
    let refused = |until, longest| {
        let world = world();
        matches!(
            world.open_until(until, longest),
            Err(AccountsError::BreakGlass(BreakGlassError::End { .. }))
        )
    };
    let second = TimeDelta::seconds(1);
    assert!(!refused(OPEN_MAX, OPEN_MAX));
    assert!(refused(OPEN_MAX + second, OPEN_MAX));
    assert!(
        refused(OPEN_MAX + second, OPEN_MAX * 2),
        "no configuration allows more"
    );
    assert!(!refused(HOUR, HOUR));
    assert!(refused(HOUR + second, HOUR));
    assert!(refused(TimeDelta::zero(), OPEN_MAX));
}

#[test]
fn only_an_enabled_break_glass_account_can_be_opened() {
    let world = world();
    let admin = world.accounts.administer("test");
    admin.disable(&rescue()).unwrap();
    assert!(matches!(
        refusal(world.open()),
        BreakGlassError::Disabled { .. }
    ));
    admin.enable(&rescue()).unwrap();
    world.open().unwrap();
    let ann: AccountName = "ann".parse().unwrap();
    assert!(matches!(
        refusal(admin.close_break_glass(&ann, world.now)),
        BreakGlassError::OtherKind { .. }
    ));
}

#[test]
fn a_second_opening_waits_for_the_end_and_the_review_of_the_first() {
    let world = world();
    assert!(matches!(
        refusal(world.review("chris", HOUR)),
        BreakGlassError::NothingToReview { .. }
    ));
    world.open().unwrap();
    world.record();
    assert!(matches!(
        refusal(world.open()),
        BreakGlassError::Open { .. }
    ));
    assert!(matches!(
        refusal(world.review("chris", HOUR)),
        BreakGlassError::Open { .. }
    ));
    let before = world.epoch();
    world.close(HOUR).unwrap();
    assert!(world.epoch() > before, "sessions end");
    assert!(!world.holds(HOUR));
    assert!(matches!(
        refusal(world.close(HOUR)),
        BreakGlassError::Sealed { .. }
    ));
    assert!(matches!(
        refusal(world.open()),
        BreakGlassError::Unreviewed { .. }
    ));
    assert!(matches!(
        refusal(world.review(" Ann", HOUR)),
        BreakGlassError::OwnReview { .. }
    ));
    world.review("chris", HOUR).unwrap();
    assert_eq!(world.seal(HOUR), Seal::Sealed);
    world.open().unwrap();
}

#[test]
fn what_ran_out_is_sealed_once_with_a_record_and_ends_sessions() {
    let world = world();
    world.open().unwrap();
    world.record();
    let before = world.epoch();
    let end = world.now + TimeDelta::hours(4);
    let early = world
        .accounts
        .seal_expired(end - TimeDelta::seconds(1))
        .unwrap();
    assert_eq!((early.len(), world.epoch()), (0, before));
    assert_eq!(world.accounts.seal_expired(end).unwrap().len(), 1);
    assert!(world.epoch() > before);
    assert_eq!(world.accounts.seal_expired(end).unwrap().len(), 0);
    let changes = world.accounts.pending_changes().unwrap();
    let event = &changes.last().unwrap().event;
    assert_eq!(event.kind.name(), "admin.break_glass");
    assert_eq!(event.body["action"], "break-glass-expire");
    assert_eq!(event.body["custodians"], json!(["ann", "ben"]));
}

#[test]
fn an_opening_that_is_taken_back_leaves_the_account_sealed_and_both_records() {
    let world = world();
    let (opening, _) = world.open().unwrap();
    world
        .accounts
        .administer("test")
        .withdraw_break_glass(&rescue(), opening)
        .unwrap();
    world.record();
    assert!(!world.holds(HOUR));
    assert_eq!(world.seal(HOUR), Seal::Sealed);
    world.open().unwrap();
}

#[test]
fn a_break_glass_account_can_not_have_an_exception_from_two_classes() {
    let world = world();
    let admin = world.accounts.administer("test");
    let pair = FactorPolicy::PossessionPair(Exception {
        reason: "no keyboard".to_owned(),
        approver: "J. Doe".to_owned(),
        expires: world.now.date_naive(),
    });
    assert!(matches!(
        refusal(admin.set_policy(&rescue(), &pair)),
        BreakGlassError::TwoClasses { .. }
    ));
    admin
        .set_policy(&rescue(), &FactorPolicy::TwoClass)
        .unwrap();
    admin.set_policy(&"ann".parse().unwrap(), &pair).unwrap();
}
