//! Files that the gateway writes anew while clients may give their names to others.
//!
//! For servers that tell too little of a file to know it again. What this gateway's own clients do is told apart exactly; of what others
//! do, the server's sizes and times say something.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// How long changes that were under way may go on.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5_000 });

/// What is watched on one backend, and what is being changed there.
#[derive(Debug, Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Paths whose names are being changed.
    changes: HashMap<u64, Vec<Box<[u8]>>>,
    watched: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    path: Box<[u8]>,
    is_touched: bool,
    /// Changes wait.
    is_held: bool,
}

/// A file is watched until this is dropped.
#[derive(Debug)]
pub struct Watched {
    watch: Arc<Watch>,
    id: u64,
}

/// A change of what names stand for is under way until this is dropped.
#[derive(Debug)]
pub struct Changing {
    watch: Arc<Watch>,
    id: u64,
}

/// Nobody changes what the watched path stands for until this is dropped.
#[derive(Debug)]
pub struct Held<'a>(&'a Watched);

/// Why a file can't be given the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("clients kept changing what stands under this name for {} s", PATIENCE.as_secs())]
    NeverAlone,
    #[error("a client has changed what stands under this name meanwhile")]
    Touched,
}

impl Watch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits only while one of the paths is held.
    pub(super) async fn changing(self: &Arc<Self>, paths: &[&[u8]]) -> Changing {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            {
                let mut state = self.state();
                let touches = |entry: &Entry| paths.iter().any(|path| touches(path, &entry.path));
                let is_held = |entry: &Entry| entry.is_held && touches(entry);
                if !state.watched.values().any(is_held) {
                    for entry in state.watched.values_mut() {
                        entry.is_touched |= touches(entry);
                    }
                    let id = state.number();
                    let paths = paths.iter().map(|path| Box::from(*path)).collect();
                    state.changes.insert(id, paths);
                    let watch = Arc::clone(self);
                    return Changing { watch, id };
                }
            }
            ended.await;
        }
    }

    /// What changes the path from here on is known. Those that had begun are waited for.
    pub(super) async fn watched(self: &Arc<Self>, path: &[u8]) -> Result<Watched, WatchError> {
        let watched = {
            let mut state = self.state();
            let id = state.number();
            let entry = Entry {
                path: path.into(),
                is_touched: false,
                is_held: false,
            };
            state.watched.insert(id, entry);
            let watch = Arc::clone(self);
            Watched { watch, id }
        };
        let begun = self.state().next;
        let over = async {
            loop {
                let mut ended = std::pin::pin!(self.ended.notified());
                ended.as_mut().enable();
                let is_over = {
                    let state = self.state();
                    let mut before = state.changes.iter().filter(|(id, _)| **id < begun);
                    !before.any(|(_, paths)| paths.iter().any(|changed| touches(changed, path)))
                };
                if is_over {
                    return;
                }
                ended.await;
            }
        };
        let waited = timeout(PATIENCE, over).await;
        waited.map_err(|_| WatchError::NeverAlone)?;
        Ok(watched)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

impl Watched {
    /// From here on until the end of what this gives, clients leave the path as it is.
    ///
    /// # Errors
    /// If one has not since it is watched.
    pub fn hold(&self) -> Result<Held<'_>, WatchError> {
        let mut state = self.watch.state();
        match state.watched.get_mut(&self.id) {
            Some(entry) if !entry.is_touched => {
                entry.is_held = true;
                Ok(Held(self))
            }
            Some(_) | None => Err(WatchError::Touched),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.0.watch.state().watched.get_mut(&self.0.id) {
            entry.is_held = false;
        }
        self.0.watch.ended.notify_waiters();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.state().watched.remove(&self.id);
        self.watch.ended.notify_waiters();
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.watch.state().changes.remove(&self.id);
        self.watch.ended.notify_waiters();
    }
}

/// True if a change at `changed` may change what `watched` stands for: the same path, or a directory above it. Where one counts from
/// the login directory and the other one from the server's root, only their ends can be compared.
fn touches(changed: &[u8], watched: &[u8]) -> bool {
    let names = |path| -> Vec<&[u8]> {
        let names = <[u8]>::split(path, |byte| *byte == b'/');
        names.filter(|name| !matches!(*name, b"" | b".")).collect()
    };
    let is_absolute = |path: &[u8]| path.starts_with(b"/");
    let (from_root, watched_from_root) = (is_absolute(changed), is_absolute(watched));
    let (changed, watched) = (names(changed), names(watched));
    (1..=watched.len()).any(|length| {
        let above = watched.get(..length).unwrap_or_default();
        match (from_root, watched_from_root) {
            (true, false) => changed.ends_with(above),
            (false, true) => above.ends_with(&changed),
            (true, true) | (false, false) => changed == above,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn watch() -> Arc<Watch> {
        Arc::default()
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("it does not wait")
    }

    #[test]
    fn a_change_touches_its_path_what_lies_below_and_what_may_be_the_same_path() {
        for (changed, watched, expected) in [
            ("a/b", "a/b", true),
            ("a", "a/b", true),
            ("/srv/a", "a/b", true),
            ("/srv/a/b", "./a/b", true),
            ("b", "/srv/a/b", true),
            ("a/b/c", "a/b", false),
            ("c/b", "a/b", false),
            ("/srv/c/b", "a/b", false),
            ("b", "a/c", false),
            ("b", "a/b", false),
        ] {
            let found = touches(changed.as_bytes(), watched.as_bytes());
            assert_eq!(found, expected, "{changed} {watched}");
        }
    }

    #[tokio::test]
    async fn a_file_that_nobody_changes_can_be_held_and_one_that_somebody_has_changed_can_not() {
        let watch = watch();
        let watched = now(watch.watched(b"a/b")).unwrap();
        drop(now(watch.changing(&[b"a/c"])));
        drop(watched.hold().unwrap());
        drop(now(watch.changing(&[b"x", b"a/b"])));
        assert_eq!(watched.hold().unwrap_err(), WatchError::Touched);
        let again = now(watch.watched(b"a/b")).unwrap();
        assert!(again.hold().is_ok());
    }

    #[tokio::test]
    async fn what_is_held_is_waited_for_and_what_had_begun_before_too() {
        let watch = watch();
        let watched = now(watch.watched(b"a")).unwrap();
        let held = watched.hold().unwrap();
        drop(now(watch.changing(&[b"b"])));
        let mut changing = std::pin::pin!(watch.changing(&[b"a"]));
        assert!(poll!(changing.as_mut()).is_pending());
        drop(held);
        let change = now(changing);
        assert_eq!(watched.hold().unwrap_err(), WatchError::Touched);

        let mut second = std::pin::pin!(watch.watched(b"a"));
        assert!(poll!(second.as_mut()).is_pending());
        // One that begins later is no reason to wait.
        let later = now(watch.changing(&[b"a"]));
        drop(change);
        let second = now(second).unwrap();
        assert_eq!(second.hold().unwrap_err(), WatchError::Touched);
        drop(later);
    }

    #[tokio::test]
    async fn a_change_that_hangs_is_not_waited_for_for_ever() {
        let watch = watch();
        let _hanging = now(watch.changing(&[b"a"]));
        let given_up = watch.watched(b"a").await;
        assert_eq!(given_up.unwrap_err(), WatchError::NeverAlone);
    }
}
