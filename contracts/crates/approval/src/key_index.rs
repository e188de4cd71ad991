// SPDX-License-Identifier: MIT
//! Which keys were admitted by which measurement set, in the order in which they expire. So the keys of a set that ended
//! and the keys that expired are found without reading the others.
//!
//! All keys of a contract live equally long, so a key that was verified later expires later: each set has a queue.
//! A key that is verified again moves to the end, and leaves a gap; gaps cost one read each, once.

use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{near, PublicKey};

/// In the middle, so that keys can come before the first one too.
const FIRST: u64 = 1 << 40;

#[near(serializers = [borsh])]
#[derive(Clone, Copy)]
struct Queue {
    head: u64,
    tail: u64,
    count: u32,
}

/// The sets that have keys, and these keys.
#[near(serializers = [borsh])]
pub struct KeyIndex {
    queues: IterableMap<u32, Queue>,
    entries: LookupMap<(u32, u64), PublicKey>,
}

impl KeyIndex {
    /// No keys yet, under storage keys that begin with `prefix`.
    pub fn new(prefix: &[u8]) -> Self {
        let under = |letter: u8| [prefix, &[letter]].concat();
        KeyIndex { queues: IterableMap::new(under(b'q')), entries: LookupMap::new(under(b'k')) }
    }

    /// How many sets have keys.
    pub fn sets(&self) -> u32 {
        self.queues.len()
    }

    /// The set at a place; places change when a set loses its last key.
    pub fn set_at(&self, place: u32) -> Option<u32> {
        self.queues.keys().nth(place as usize).copied()
    }

    pub fn count(&self, set: u32) -> u32 {
        self.queues.get(&set).map_or(0, |queue| queue.count)
    }

    /// Take the place at the end of a set's queue, for `put`. The queue is written: what `put` stores is the same for each
    /// key.
    pub fn reserve(&mut self, set: u32) -> u64 {
        let place = match self.queues.get_mut(&set) {
            Some(queue) => {
                queue.tail += 1;
                queue.count += 1;
                queue.tail - 1
            }
            None => {
                self.queues.insert(set, Queue { head: FIRST, tail: FIRST + 1, count: 1 });
                FIRST
            }
        };
        self.queues.flush();
        place
    }

    pub fn put(&mut self, set: u32, place: u64, key: &PublicKey) {
        self.entries.set((set, place), Some(key.clone()));
    }

    /// Add a key at the end. Gives its place, by which it is removed.
    pub fn add(&mut self, set: u32, key: &PublicKey) -> u64 {
        let place = self.reserve(set);
        self.put(set, place, key);
        place
    }

    /// Add a key before all others: for keys from before there was an index.
    pub fn add_first(&mut self, set: u32, key: &PublicKey) -> u64 {
        let Some(queue) = self.queues.get_mut(&set) else { return self.add(set, key) };
        queue.head -= 1;
        queue.count += 1;
        let place = queue.head;
        self.put(set, place, key);
        place
    }

    pub fn remove(&mut self, set: u32, place: u64) {
        if self.entries.remove(&(set, place)).is_none() {
            return;
        }
        let Some(queue) = self.queues.get_mut(&set) else { return };
        queue.count -= 1;
        if queue.head == place {
            queue.head += 1;
        }
    }

    /// Forget a set that has no keys.
    pub fn close_if_empty(&mut self, set: u32) {
        if self.queues.get(&set).is_some_and(|queue| queue.count == 0) {
            self.queues.remove(&set);
        }
    }

    /// The key of a set that expires first. Skips gaps while `more` allows; None when that ended, or there is no key.
    pub fn first(&mut self, set: u32, more: impl Fn() -> bool) -> Option<PublicKey> {
        let queue = self.queues.get_mut(&set)?;
        while queue.head < queue.tail && more() {
            if let Some(key) = self.entries.get(&(set, queue.head)) {
                return Some(key.clone());
            }
            queue.head += 1;
        }
        None
    }

    /// Write what changed, so that it can be measured.
    pub fn flush(&mut self) {
        self.queues.flush();
        self.entries.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use near_sdk::mock::with_mocked_blockchain;

    fn index() -> KeyIndex {
        with_mocked_blockchain(|chain| drop(chain.take_storage()));
        KeyIndex::new(b"i")
    }

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_parts(near_sdk::CurveType::ED25519, vec![byte; 32]).unwrap()
    }

    #[test]
    fn keys_come_in_the_order_in_which_they_were_added_without_those_that_moved() {
        let mut index = index();
        let places: Vec<u64> = (1..=4).map(|byte| index.add(7, &key(byte))).collect();
        index.remove(7, places[0]);
        index.remove(7, places[1]);
        index.add(7, &key(1));
        let mut found = Vec::new();
        while let Some(first) = index.first(7, || true) {
            let place =
                (0..9).map(|step| FIRST + step).find(|place| index.entries.get(&(7, *place)) == Some(&first));
            index.remove(7, place.unwrap());
            found.push(first);
        }
        assert_eq!(found, [key(3), key(4), key(1)]);
        index.close_if_empty(7);
        assert_eq!((index.sets(), index.count(7)), (0, 0));
    }

    #[test]
    fn keys_from_before_the_index_come_before_all_others() {
        let mut index = index();
        index.add(1, &key(1));
        index.add_first(1, &key(2));
        assert_eq!(index.first(1, || true), Some(key(2)));
        assert_eq!(index.count(1), 2);
    }

    #[test]
    fn a_search_through_gaps_ends_when_it_must_and_goes_on_later() {
        let mut index = index();
        let places: Vec<u64> = (0..50).map(|byte| index.add(1, &key(byte))).collect();
        for place in places.iter().skip(1).take(48) {
            index.remove(1, *place);
        }
        index.remove(1, places[0]);
        let steps = std::cell::Cell::new(0);
        let ten = || {
            steps.set(steps.get() + 1);
            steps.get() % 10 != 0
        };
        let searches = (1..20).find(|_| index.first(1, ten) == Some(key(49)));
        assert!(searches.is_some_and(|searches| (5..9).contains(&searches)), "{searches:?}");
    }

    #[test]
    fn a_place_is_removed_once() {
        let mut index = index();
        let place = index.add(1, &key(1));
        index.add(1, &key(2));
        index.remove(1, place);
        index.remove(1, place);
        index.remove(2, place);
        assert_eq!(index.count(1), 1);
        index.close_if_empty(1);
        assert_eq!(index.set_at(0), Some(1));
    }
}
