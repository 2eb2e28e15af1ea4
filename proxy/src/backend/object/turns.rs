//! Publications of one key take turns in this gateway. Some servers look whether something stands there and then act on it, in two
//! steps (SeaweedFS): under load two uploads that must not replace both pass.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

use super::{bucket::Bucket, location::Key};

type Lock = tokio::sync::Mutex<()>;

/// Of the whole process: two backends may lead to one bucket, and a reload makes others.
static KEYS: LazyLock<Mutex<HashMap<String, Weak<Lock>>>> = LazyLock::new(Mutex::default);

/// Until it is dropped, nobody else publishes under its key.
#[derive(Debug)]
pub(super) struct Turn {
    name: String,
    lock: Option<Arc<Lock>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    pub(super) async fn of(bucket: &Bucket, key: &Key) -> Self {
        Self::at(format!("{} {key}", bucket.name())).await
    }

    async fn at(name: String) -> Self {
        let lock = {
            let mut keys = keys();
            let known = keys.get(&name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(Lock::default());
                keys.insert(name.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        let mut turn = Self {
            name,
            lock: Some(Arc::clone(&lock)),
            guard: None,
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        self.lock = None;
        let mut keys = keys();
        if keys
            .get(&self.name)
            .is_some_and(|lock| lock.strong_count() == 0)
        {
            keys.remove(&self.name);
        }
    }
}

fn keys() -> MutexGuard<'static, HashMap<String, Weak<Lock>>> {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn turn(name: &str) -> impl Future<Output = Turn> {
        Turn::at(name.to_owned())
    }

    #[tokio::test]
    async fn one_key_has_one_turn_at_a_time_and_leaves_nothing_behind() {
        let first = turn("b /a").await;
        let other = turn("b /b").await;
        let mut second = Box::pin(turn("b /a"));
        assert!((&mut second).now_or_never().is_none());
        // One that gave up waiting.
        drop(Box::pin(turn("b /a")).now_or_never());
        drop(first);
        let second = second.await;
        assert!(turn("b /a").now_or_never().is_none());
        drop((second, other));
        let left = keys().keys().filter(|key| key.starts_with("b /")).count();
        assert_eq!(left, 0);
    }
}
