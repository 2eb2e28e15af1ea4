//! Processor time of the processes that serve, from proc(5).

use std::fs;

use anyhow::{Context, Result, bail};
use portcullis_tests::process::wait_for;

/// Seconds that a process and its children that ended have used: user and system time.
pub(super) fn of_process(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))
        .with_context(|| format!("read the times of process {process}"))?;
    times(&stat)
}

/// Seconds that a peer server has used, ended sessions included. `guard` is the process that started it in a namespace
/// of its own.
///
/// The process that does the encryption of an sshd session outlives the one that sshd waits for, so its time is counted
/// by the shell that is process 1 of the namespace.
pub(super) fn of_peer(guard: u32) -> Result<f64> {
    let [shell] = children(guard)?[..] else {
        bail!("the guard of the peer's namespace has not one child");
    };
    let listener = wait_for("the peer to have no session", || {
        let below = children(shell).ok()?;
        let [listener] = below[..] else { return None };
        children(listener).ok()?.is_empty().then_some(listener)
    })?;
    Ok(of_process(shell)? + of_process(listener)?)
}

fn children(process: u32) -> Result<Vec<u32>> {
    let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))
        .with_context(|| format!("list the children of process {process}"))?;
    Ok(list
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?)
}

/// Fields 14 to 17 of `/proc/PID/stat`, in ticks of 10 ms, as seconds.
fn times(stat: &str) -> Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    // The second field is the name in parentheses and may have spaces and parentheses of its own.
    let (_, fields) = stat.rsplit_once(')').context("the name ends with )")?;
    let ticks: Vec<u32> = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("read the times")?;
    if ticks.len() != 4 {
        bail!("the line ends before the times: {stat}");
    }
    Ok(f64::from(ticks.iter().sum::<u32>()) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_those_behind_the_name_whatever_it_is() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 10 20 0 0 100 50 25 5 20 0 1 0 30 0";
        assert!((times(stat).unwrap() - 1.8).abs() < 1e-9);
        assert!(times("7 (sh) S 1 7 7 0 -1 4194560 10 20 0 0 100 50").is_err());
    }
}
