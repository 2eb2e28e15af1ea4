//! Gateways that serve one directory take turns: none changes what a name in it stands for while another one gives the name to a file
//! that it made of the one it had.
//!
//! The lock is the directory's (flock), whatever the gateways call it and wherever their own directories begin. It is kept for some system
//! calls, and ends with a process that is killed. Where there is none, as on some network file systems, each goes on without.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::fault::Fault;

/// How long others may keep it.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

/// Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "it is held")] OwnedFd);

/// For a change of what names in the directory stand for; `None` without a lock. Somebody who does not give it back is not waited for
/// forever.
pub(super) fn among_others(directory: &OwnedFd) -> Option<Turn> {
    locked(directory, FlockOperation::NonBlockingLockShared, PATIENCE)
        .ok()
        .flatten()
}

/// While no gateway changes what names in the directory stand for; `None` without a lock.
///
/// # Errors
/// If they never stop.
pub(super) fn alone(directory: &OwnedFd) -> Result<Option<Turn>, Fault> {
    locked(
        directory,
        FlockOperation::NonBlockingLockExclusive,
        PATIENCE,
    )
    .map_err(|_| Fault::NeverAlone)
}

/// Somebody else has it.
#[derive(Debug)]
struct Taken;

fn locked(
    directory: &OwnedFd,
    how: FlockOperation,
    patience: Duration,
) -> Result<Option<Turn>, Taken> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // One that may be searched and not read has none.
    let Ok(directory) = rustix::fs::openat(directory, ".", flags, Mode::empty()) else {
        return Ok(None);
    };
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&directory, how) {
            Ok(()) => return Ok(Some(Turn(directory))),
            Err(Errno::WOULDBLOCK) if begun.elapsed() > patience => return Err(Taken),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            Err(Errno::INTR) => {}
            Err(_) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: FlockOperation = FlockOperation::NonBlockingLockShared;
    const ALONE: FlockOperation = FlockOperation::NonBlockingLockExclusive;

    #[test]
    fn many_change_names_at_once_and_one_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        // As another process has it: each opens the directory for itself.
        let open = || OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let (one, other) = (open(), open());
        let at_once = Duration::ZERO;
        let held = locked(&one, SHARED, at_once).unwrap().unwrap();
        assert!(locked(&other, SHARED, at_once).unwrap().is_some());
        assert!(locked(&other, ALONE, at_once).is_err());
        drop(held);
        let held = alone(&other).unwrap().unwrap();
        assert!(locked(&one, SHARED, at_once).is_err());
        drop(held);
        assert!(among_others(&one).is_some());
    }
}
