//! All prefixes of one family, in order, in buckets small enough to insert into.

use std::{collections::BTreeMap, convert::Infallible};

use super::{
    compile::for_each_prefix,
    prefix::{Address, Prefix},
    state::{Actions, Code, Rest},
};

/// Prefixes with the same first bits, in order.
pub(super) type Bucket<A> = Vec<(Prefix<A>, Actions)>;

/// Buckets by their prefixes' first bits, the others being zero.
pub(super) trait Buckets<A>: Clone + Default {
    fn get(&self, key: A) -> Option<&Bucket<A>>;
    fn get_or_insert(&mut self, key: A) -> Option<&mut Bucket<A>>;
    /// Gives up the bucket, if it is empty.
    fn tidy(&mut self, key: A);
    /// Those from `first` to `last`, in order.
    fn visit<'a>(&'a self, first: A, last: A, visit: impl FnMut(A, &'a Bucket<A>))
    where
        A: 'a;
}

/// One for each /16.
#[derive(Debug, Clone, Default)]
pub(super) struct Dense(Vec<Bucket<u32>>);

impl Buckets<u32> for Dense {
    fn get(&self, key: u32) -> Option<&Bucket<u32>> {
        self.0.get(key as usize >> 16)
    }

    fn get_or_insert(&mut self, key: u32) -> Option<&mut Bucket<u32>> {
        if self.0.is_empty() {
            self.0.resize_with(1 << 16, Vec::new);
        }
        self.0.get_mut(key as usize >> 16)
    }

    fn tidy(&mut self, _: u32) {}

    fn visit<'a>(&'a self, first: u32, last: u32, mut visit: impl FnMut(u32, &'a Bucket<u32>)) {
        let tops = first >> 16..=last >> 16;
        for (top, bucket) in tops.zip(self.0.iter().skip(first as usize >> 16)) {
            visit(top << 16, bucket);
        }
    }
}

impl Buckets<u128> for BTreeMap<u128, Bucket<u128>> {
    fn get(&self, key: u128) -> Option<&Bucket<u128>> {
        self.get(&key)
    }

    fn get_or_insert(&mut self, key: u128) -> Option<&mut Bucket<u128>> {
        Some(self.entry(key).or_default())
    }

    fn tidy(&mut self, key: u128) {
        if self.get(&key).is_some_and(Vec::is_empty) {
            self.remove(&key);
        }
    }

    fn visit<'a>(&'a self, first: u128, last: u128, mut visit: impl FnMut(u128, &'a Bucket<u128>)) {
        for (key, bucket) in self.range(first..=last) {
            visit(*key, bucket);
        }
    }
}

/// Prefixes and the actions of their rules.
#[derive(Debug, Clone)]
pub(super) struct Index<A: Address> {
    /// Prefixes shorter than a bucket's.
    short: BTreeMap<Prefix<A>, Actions>,
    /// A bit for each length that `short` has or had.
    short_lengths: u64,
    /// The others.
    buckets: A::Buckets,
}

impl<A: Address> Default for Index<A> {
    fn default() -> Self {
        Self {
            short: BTreeMap::new(),
            short_lengths: 0,
            buckets: A::Buckets::default(),
        }
    }
}

impl<A: Address> Index<A> {
    pub(super) fn from_sorted(sorted: impl Iterator<Item = (Prefix<A>, Code)>) -> Self {
        let mut index = Self::default();
        let mut held: Option<(A, Bucket<A>)> = None;
        let Ok(()) = for_each_prefix(sorted, |prefix, actions| {
            if prefix.length < A::BUCKET {
                index.short_lengths |= 1 << prefix.length;
                index.short.insert(prefix, actions.clone());
                return Ok::<(), Infallible>(());
            }
            let key = prefix.address.truncate(A::BUCKET);
            match &mut held {
                Some((same, bucket)) if *same == key => bucket.push((prefix, actions.clone())),
                Some(_) | None => {
                    index.put(held.replace((key, vec![(prefix, actions.clone())])));
                }
            }
            Ok(())
        });
        index.put(held);
        index
    }

    fn put(&mut self, bucket: Option<(A, Bucket<A>)>) {
        if let Some((key, bucket)) = bucket
            && let Some(place) = self.buckets.get_or_insert(key)
        {
            *place = bucket;
        }
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
        self.buckets.get(prefix.address.truncate(A::BUCKET))
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
        let key = prefix.address.truncate(A::BUCKET);
        let Some(bucket) = self.buckets.get_or_insert(key) else {
            return;
        };
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
        let Some(bucket) = self.buckets.get_or_insert(key) else {
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
        self.buckets.tidy(key);
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
        self.buckets.visit(prefix.address, last, |key, bucket| {
            // What is shorter than a bucket's prefixes and has its first address, or one before, comes first.
            while let Some((other, actions)) = short.next_if(|(other, _)| other.address <= key) {
                visit(*other, actions);
            }
            for (other, actions) in bucket {
                visit(*other, actions);
            }
        });
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
