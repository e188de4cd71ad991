// SPDX-License-Identifier: MIT
//! The ids of requests that wait, as bits in pages of 256. Taking an id away changes a bit of its page and, when that
//! was the last one, the links of the two pages beside it: never anything that belongs to another request. The newest
//! page is part of the contract's own record, so ordinary requests need no entry for their ids.

use near_sdk::near;
use near_sdk::store::LookupMap;

use crate::StorageKey;

const PAGE_IDS: u64 = 256;
const WORD_BITS: u64 = 64;
const NO_PAGE: u64 = u64::MAX;

/// Ids in ascending order: pages in the map, each with its neighbours', and after them the newest one.
#[near(serializers = [borsh])]
pub struct PendingIds {
    pages: LookupMap<u64, Page>,
    first: u64,
    last: u64,
    newest: u64,
    newest_bits: Bits,
    count: u64,
}

#[near(serializers = [borsh])]
#[derive(Clone, Copy)]
struct Page {
    bits: Bits,
    previous: u64,
    next: u64,
}

#[near(serializers = [borsh])]
#[derive(Clone, Copy, Default)]
struct Bits([u64; (PAGE_IDS / WORD_BITS) as usize]);

impl Bits {
    /// Set or clear a bit; gives whether that changed it.
    fn put(&mut self, offset: u64, value: bool) -> bool {
        let word = &mut self.0[(offset / WORD_BITS) as usize];
        let bit = 1 << (offset % WORD_BITS);
        let changes = (*word & bit != 0) != value;
        if changes {
            *word ^= bit;
        }
        changes
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The ids of page `number`, ascending.
    fn ids(&self, number: u64) -> impl Iterator<Item = u64> + '_ {
        let is_set = |offset: &u64| self.0[(offset / WORD_BITS) as usize] >> (offset % WORD_BITS) & 1 == 1;
        (0..PAGE_IDS).filter(is_set).map(move |offset| number * PAGE_IDS + offset)
    }
}

impl PendingIds {
    pub(crate) fn new() -> Self {
        PendingIds {
            pages: LookupMap::new(StorageKey::PendingPages),
            first: NO_PAGE,
            last: NO_PAGE,
            newest: 0,
            newest_bits: Bits::default(),
            count: 0,
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn insert(&mut self, id: u64) {
        let number = id / PAGE_IDS;
        if number > self.newest {
            self.begin(number);
        }
        if self.bits_mut(number, true).is_some_and(|bits| bits.put(id % PAGE_IDS, true)) {
            self.count += 1;
        }
    }

    /// Take an id away; one that does not wait is passed over.
    pub fn remove(&mut self, id: u64) {
        let number = id / PAGE_IDS;
        let Some(bits) = self.bits_mut(number, false) else { return };
        if !bits.put(id % PAGE_IDS, false) {
            return;
        }
        let is_empty = bits.is_empty();
        self.count -= 1;
        if is_empty && number != self.newest {
            self.unlink(number);
        }
    }

    /// `limit` ids from the `from`-th on, ascending.
    pub fn list(&self, from: u64, limit: u64) -> Vec<u64> {
        let mut found = Vec::new();
        let mut skip = from;
        let mut take = |number: u64, bits: &Bits| {
            let here = bits.count();
            if skip >= here {
                skip -= here;
            } else {
                let room = limit - found.len() as u64;
                found.extend(bits.ids(number).skip(skip as usize).take(room as usize));
                skip = 0;
            }
            (found.len() as u64) < limit
        };
        let mut number = self.first;
        while let Some(page) = self.pages.get(&number) {
            if !take(number, &page.bits) {
                return found;
            }
            number = page.next;
        }
        take(self.newest, &self.newest_bits);
        found
    }

    pub fn flush(&mut self) {
        self.pages.flush();
    }

    fn bits_mut(&mut self, number: u64, make: bool) -> Option<&mut Bits> {
        if number == self.newest {
            return Some(&mut self.newest_bits);
        }
        if make && !self.pages.contains_key(&number) {
            self.link(number, Bits::default());
        }
        self.pages.get_mut(&number).map(|page| &mut page.bits)
    }

    /// A new newest page; the one before it goes to the map, if anything waits in it.
    fn begin(&mut self, number: u64) {
        let bits = std::mem::take(&mut self.newest_bits);
        let before = std::mem::replace(&mut self.newest, number);
        if !bits.is_empty() {
            self.link(before, bits);
        }
    }

    /// Put a page at its place in the order, which is the end but for ids of an earlier version's state.
    fn link(&mut self, number: u64, bits: Bits) {
        let (mut previous, mut next) = (self.last, NO_PAGE);
        while previous != NO_PAGE && previous > number {
            next = previous;
            previous = self.pages.get(&previous).map_or(NO_PAGE, |page| page.previous);
        }
        self.pages.insert(number, Page { bits, previous, next });
        self.join(previous, number);
        self.join(number, next);
    }

    fn unlink(&mut self, number: u64) {
        if let Some(page) = self.pages.remove(&number) {
            self.join(page.previous, page.next);
        }
    }

    fn join(&mut self, left: u64, right: u64) {
        match self.pages.get_mut(&left) {
            Some(page) => page.next = right,
            None => self.first = right,
        }
        match self.pages.get_mut(&right) {
            Some(page) => page.previous = left,
            None => self.last = left,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_come_in_order_whatever_the_order_of_changes() {
        let (mut ids, mut expected) = (PendingIds::new(), BTreeSet::new());
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for step in 0..4_000_u64 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // mostly new ids in order with gaps, some old ones, and removals in any order
            match seed % 8 {
                0..=2 => {
                    let id = step * 37;
                    ids.insert(id);
                    expected.insert(id);
                }
                3 => {
                    let id = (seed >> 8) % (step * 37 + 1);
                    ids.insert(id);
                    expected.insert(id);
                }
                4 => ids.remove((seed >> 8) % 200_000 + 1_000_000),
                _ => {
                    let at = (seed >> 8) as usize % expected.len().max(1);
                    if let Some(id) = expected.iter().nth(at).copied() {
                        ids.remove(id);
                        expected.remove(&id);
                    }
                }
            }
            assert_eq!(ids.count(), expected.len() as u64);
            let from = (seed >> 20) % 50;
            let all: Vec<u64> = expected.iter().copied().skip(from as usize).take(70).collect();
            assert_eq!(ids.list(from, 70), all);
        }
        assert!(ids.list(u64::MAX, u64::MAX).is_empty());
        assert_eq!(ids.list(0, u64::MAX).len(), expected.len());
    }

    #[test]
    fn empty_pages_go() {
        let mut ids = PendingIds::new();
        for id in (0..10_000).step_by(100) {
            ids.insert(id);
        }
        assert_eq!((ids.first, ids.last, ids.newest), (0, 37, 38));
        for id in (0..10_000).step_by(100) {
            ids.remove(id);
        }
        assert_eq!((ids.count(), ids.first, ids.last, ids.newest), (0, NO_PAGE, NO_PAGE, 38));
        assert!((0..39).all(|number| !ids.pages.contains_key(&number)));
        ids.insert(99_999);
        assert_eq!((ids.first, ids.newest, ids.list(0, 9)), (NO_PAGE, 390, vec![99_999]));
    }
}
