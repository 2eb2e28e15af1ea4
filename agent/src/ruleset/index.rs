//! All prefixes of one family, in order, in buckets small enough to insert into.

use std::{collections::BTreeMap, convert::Infallible};

use super::{
    compile::for_each_prefix,
    prefix::{Address, Prefix},
    state::{Actions, Code, Rest},
};

type Bucket<A> = Vec<(Prefix<A>, Actions)>;

/// Prefixes and the actions of their rules.
#[derive(Debug, Clone)]
pub(super) struct Index<A> {
    /// Prefixes shorter than a bucket's.
    short: BTreeMap<Prefix<A>, Actions>,
    /// A bit for each length that `short` has or had.
    short_lengths: u64,
    /// The others by their first bits, each in order.
    buckets: BTreeMap<A, Bucket<A>>,
}

impl<A> Default for Index<A> {
    fn default() -> Self {
        Self {
            short: BTreeMap::new(),
            short_lengths: 0,
            buckets: BTreeMap::new(),
        }
    }
}

impl<A: Address> Index<A> {
    pub(super) fn from_sorted(sorted: impl Iterator<Item = (Prefix<A>, Code)>) -> Self {
        let mut index = Self::default();
        let mut buckets: Vec<(A, Bucket<A>)> = Vec::new();
        let Ok(()) = for_each_prefix(sorted, |prefix, actions| {
            if prefix.length < A::BUCKET {
                index.short_lengths |= 1 << prefix.length;
                index.short.insert(prefix, actions.clone());
                return Ok::<(), Infallible>(());
            }
            let key = prefix.address.truncate(A::BUCKET);
            match buckets.last_mut() {
                Some((last, bucket)) if *last == key => bucket.push((prefix, actions.clone())),
                Some(_) | None => buckets.push((key, vec![(prefix, actions.clone())])),
            }
            Ok(())
        });
        index.buckets = buckets.into_iter().collect();
        index
    }

    pub(super) fn get(&self, prefix: Prefix<A>) -> Option<&Actions> {
        if prefix.length < A::BUCKET {
            return self.short.get(&prefix);
        }
        let bucket = self.bucket(prefix)?;
        let at = position(bucket, prefix).ok()?;
        bucket.get(at).map(|(_, actions)| actions)
    }

    fn bucket(&self, prefix: Prefix<A>) -> Option<&Bucket<A>> {
        self.buckets.get(&prefix.address.truncate(A::BUCKET))
    }

    pub(super) fn insert(&mut self, prefix: Prefix<A>, code: Code) {
        if prefix.length < A::BUCKET {
            self.short_lengths |= 1 << prefix.length;
            self.short
                .entry(prefix)
                .and_modify(|actions| actions.add(code))
                .or_insert(Actions::One(code));
            return;
        }
        let bucket = self
            .buckets
            .entry(prefix.address.truncate(A::BUCKET))
            .or_default();
        match position(bucket, prefix) {
            Ok(at) => {
                if let Some((_, actions)) = bucket.get_mut(at) {
                    actions.add(code);
                }
            }
            Err(at) => bucket.insert(at, (prefix, Actions::One(code))),
        }
    }

    /// Whether the action was there.
    pub(super) fn remove(&mut self, prefix: Prefix<A>, code: Code) -> bool {
        let Some(rest) = self.get(prefix).and_then(|actions| actions.without(code)) else {
            return false;
        };
        if prefix.length < A::BUCKET {
            match rest {
                Rest::Nothing => self.short.remove(&prefix),
                Rest::Actions(actions) => self.short.insert(prefix, actions),
            };
            return true;
        }
        let key = prefix.address.truncate(A::BUCKET);
        let Some(bucket) = self.buckets.get_mut(&key) else {
            return false;
        };
        if let Ok(at) = position(bucket, prefix) {
            match rest {
                Rest::Nothing => drop(bucket.remove(at)),
                Rest::Actions(left) => {
                    if let Some((_, actions)) = bucket.get_mut(at) {
                        *actions = left;
                    }
                }
            }
        }
        if bucket.is_empty() {
            self.buckets.remove(&key);
        }
        true
    }

    /// Visits a prefix, if it is there, and those that cover it, the longest first.
    pub(super) fn visit_covering<'a>(
        &'a self,
        prefix: Prefix<A>,
        mut visit: impl FnMut(Prefix<A>, &'a Actions),
    ) {
        if prefix.length >= A::BUCKET
            && let Some(bucket) = self.bucket(prefix)
        {
            visit_covering(bucket, prefix, &mut visit);
        }
        let mut lengths = self.short_lengths & (u64::MAX >> (63 - prefix.length.min(63)));
        while lengths != 0 {
            let length = 63 - lengths.leading_zeros() as u8;
            lengths ^= 1 << length;
            let wider = Prefix::new(prefix.address, length);
            if let Some(actions) = self.short.get(&wider) {
                visit(wider, actions);
            }
        }
    }

    /// Visits all prefixes that this one covers, in order, without itself.
    pub(super) fn visit_covered(
        &self,
        prefix: Prefix<A>,
        mut visit: impl FnMut(Prefix<A>, &Actions),
    ) {
        let last = prefix.last();
        if prefix.length >= A::BUCKET {
            let Some(bucket) = self.bucket(prefix) else {
                return;
            };
            let start = bucket.partition_point(|(other, _)| *other <= prefix);
            for (other, actions) in bucket.iter().skip(start) {
                if other.address > last {
                    break;
                }
                visit(*other, actions);
            }
            return;
        }
        let mut short = self
            .short
            .range(prefix..=Prefix::host(last))
            .filter(|(other, _)| **other != prefix)
            .peekable();
        for (key, bucket) in self.buckets.range(prefix.address..=last) {
            // What is shorter than a bucket's prefixes and has its first address, or one before, comes first.
            while let Some((other, actions)) = short.next_if(|(other, _)| other.address <= *key) {
                visit(*other, actions);
            }
            for (other, actions) in bucket {
                visit(*other, actions);
            }
        }
        for (other, actions) in short {
            visit(*other, actions);
        }
    }

    /// Calls `visit` with every action and how often it is there, in order of the prefixes.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Prefix<A>, Code, u32)) {
        let everything = Prefix::new(A::ZERO, 0);
        let mut each = |prefix, actions: &Actions| {
            for (code, count) in actions.iter() {
                visit(prefix, code, count);
            }
        };
        if let Some(actions) = self.get(everything) {
            each(everything, actions);
        }
        self.visit_covered(everything, each);
    }
}

fn position<A: Address>(bucket: &Bucket<A>, prefix: Prefix<A>) -> Result<usize, usize> {
    bucket.binary_search_by(|(other, _)| other.cmp(&prefix))
}

/// The prefix just before another in order covers it, or what covers the one is no longer than what they have in common.
fn visit_covering<'a, A: Address>(
    bucket: &'a Bucket<A>,
    prefix: Prefix<A>,
    visit: &mut impl FnMut(Prefix<A>, &'a Actions),
) {
    let mut sought = prefix;
    loop {
        let end = bucket.partition_point(|(other, _)| *other <= sought);
        let Some((other, actions)) = end.checked_sub(1).and_then(|at| bucket.get(at)) else {
            return;
        };
        let next = if other.covers(prefix) {
            visit(*other, actions);
            other.length.checked_sub(1)
        } else {
            Some(other.common(prefix))
        };
        match next {
            Some(length) if length >= A::BUCKET => sought = Prefix::new(prefix.address, length),
            Some(_) | None => return,
        }
    }
}
