//! Rates and quotas of mounts, as a client meets them.

use std::{num::NonZeroU64, time::Instant};

use super::*;
use crate::allowance::{AccountLimits, Allowance, SessionPlace};

fn limited(at: &str, allowance: Allowance) -> Mount {
    let mut mount = testing::everything(at, "memory");
    mount.permissions.list = false;
    mount.allowance = allowance;
    mount
}

fn quota(bytes: u64) -> Allowance {
    Allowance {
        quota: Some(bytes),
        ..Allowance::default()
    }
}

#[tokio::test]
async fn a_quota_counts_what_lies_there_and_what_is_written_and_stops_the_byte_after_it() {
    let mount = limited("/in", quota(1000));
    let mut client = Client::with(vec![mount], testing::journal).await;
    client.memory.make_directory(b"deep");
    client.memory.put(b"deep/a", &[0; 300]);
    client.memory.put(b"b", &[0; 200]);
    let handle = client.open(b"/in/c", REPLACE).await;
    let fits = client.status(write(handle, 0, &[1; 500])).await;
    assert_eq!(fits, Status::Ok);
    let beyond = client.status(write(handle, 500, b"1")).await;
    assert_eq!(beyond, Status::Failure);
    assert_eq!(client.status(close(handle)).await, Status::Failure);
    assert_eq!(client.memory.file(b"c"), None, "it is not whole");
    let longer = Packet::new(9).string(b"/in/b").number(1).long(201);
    assert_eq!(client.status(longer).await, Status::Failure);
    let left = client.leave().await;
    let refused: Vec<_> = left
        .of("op.outcome")
        .into_iter()
        .filter(|outcome| outcome["reason"] == "no_space")
        .collect();
    assert_eq!(refused.len(), 3);
    let looks = left
        .of("op.intent")
        .into_iter()
        .filter(|intent| intent["decision"] == "measuring")
        .count();
    assert!(looks >= 6, "both directories are on record: {looks}");
}

#[tokio::test]
async fn the_rate_of_an_account_holds_over_its_mounts_and_sessions_together() {
    const RATE: u64 = 100_000;
    let ledger = Ledger::default();
    let limits = AccountLimits {
        write_rate: NonZeroU64::new(RATE),
        ..AccountLimits::default()
    };
    let sessions = [
        ledger.admit("alice", limits).unwrap(),
        ledger.admit("alice", limits).unwrap(),
    ];
    let free = ledger.admit("bob", AccountLimits::default()).unwrap();
    let start = |place: &SessionPlace| {
        let mounts = ["/a", "/b"].map(|at| limited(at, Allowance::default()));
        let usage = Arc::clone(place.usage());
        Client::adjusted(mounts.to_vec(), |gate| gate.with_account(usage)).greeted()
    };
    let (mut one, mut two, mut other) = (
        start(&sessions[0]).await,
        start(&sessions[1]).await,
        start(&free).await,
    );
    let content = vec![7; RATE as usize];
    let begun = Instant::now();
    // A full bucket and one second's worth pass at once.
    one.put(b"/a/x", &content).await;
    one.put(b"/b/y", &content).await;
    two.put(b"/a/z", &content).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(two.memory.file(b"z").unwrap(), content);
    let begun = Instant::now();
    for _ in 0..30 {
        other.put(b"/a/x", &content).await;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "another account takes {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_mount_without_a_quota_is_not_measured() {
    let mount = limited("/in", Allowance::default());
    let mut client = Client::with(vec![mount], testing::journal).await;
    client.put(b"/in/c", &[1; 5000]).await;
    let left = client.leave().await;
    let names: Vec<_> = left
        .of("op.intent")
        .into_iter()
        .map(|intent| intent["sftp_op"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["open", "write", "close"]);
}

#[tokio::test]
async fn a_rate_slows_its_own_mount_and_direction_and_nothing_else() {
    const RATE: u64 = 100_000;
    let slow = Allowance {
        read_rate: NonZeroU64::new(RATE),
        ..Allowance::default()
    };
    let mounts = vec![
        limited("/slow", slow),
        limited("/fast", Allowance::default()),
    ];
    let mut client = Client::with(mounts, testing::journal).await;
    client.memory.put(b"a", &vec![7; 3 * RATE as usize]);
    let slow = client.open(b"/slow/a", READ).await;
    let fast = client.open(b"/fast/a", READ).await;
    let begun = Instant::now();
    let mut held_back = Vec::new();
    for third in 0..3 {
        let part = read(slow, third * RATE, RATE as u32);
        held_back.push(client.request(part).await);
    }
    for _ in 0..5 {
        let part = client.ask(read(fast, 0, RATE as u32)).await;
        assert!(matches!(part, Reply::Data(_)));
    }
    let last = held_back.pop().unwrap();
    assert!(
        !client.replies.contains_key(&last),
        "the other mount waited for the slow one"
    );
    assert!(matches!(client.reply(last).await, Reply::Data(_)));
    // The first second's worth passes at once, the second within it, the third after one second.
    assert!(begun.elapsed() >= Duration::from_millis(950));
}
