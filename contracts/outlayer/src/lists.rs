// SPDX-License-Identifier: MIT
//! Lists of what an account or a project has. Each item stands under keys of its own, so a change costs the same however
//! long the list is, and frees exactly what it once took: the last item moves into the gap that a removed one leaves.
//!
//! Keys are a byte that says which kind of list it is, the name of the list (borsh), and for
//! the head nothing, for an item its place (4 bytes), for a place the item's digest (16 bytes).

use near_sdk::{borsh, env};

use crate::storage::entry_bytes;

/// Secrets of an account: accessor and profile (borsh). The mark is its highest payment key nonce.
pub const SECRETS: Lists = Lists(0xc0);
/// Names of an account's projects.
pub const PROJECTS: Lists = Lists(0xc1);
/// Slots of a project's versions, by its uuid.
pub const VERSIONS: Lists = Lists(0xc2);

const DIGEST: usize = 16;
const PLACE: usize = 4;

/// Lists of one kind.
#[derive(Clone, Copy)]
pub struct Lists(u8);

/// A list is there as long as it has items; while it is, the mark only grows.
#[derive(Clone, Copy, Default, borsh::BorshSerialize, borsh::BorshDeserialize)]
#[borsh(crate = "near_sdk::borsh")]
struct Head {
    count: u32,
    mark: u32,
}

impl Lists {
    pub fn count(self, name: &str) -> u32 {
        self.head(name).count
    }

    pub fn mark(self, name: &str) -> u32 {
        self.head(name).mark
    }

    pub fn contains(self, name: &str, item: &[u8]) -> bool {
        env::storage_has_key(&self.place_key(name, item))
    }

    /// Append an item that is not there yet; `mark` raises the list's.
    pub fn add(self, name: &str, item: &[u8], mark: u32) {
        let head = self.head(name);
        self.put(name, head.count, item);
        self.put_head(name, Head { count: head.count + 1, mark: head.mark.max(mark) });
    }

    /// Take an item away; gives whether it was there.
    pub fn remove(self, name: &str, item: &[u8]) -> bool {
        let key = self.place_key(name, item);
        let Some(place) = read::<u32>(&key) else { return false };
        env::storage_remove(&key);
        let head = self.head(name);
        let last = self.item_key(name, head.count - 1);
        if place != head.count - 1 {
            let moved = env::storage_read(&last).unwrap_or_default();
            self.put(name, place, &moved);
        }
        env::storage_remove(&last);
        self.put_head(name, Head { count: head.count - 1, ..head });
        true
    }

    /// `limit` items from the `from`-th on.
    pub fn page(self, name: &str, from: u64, limit: u64) -> Vec<Vec<u8>> {
        let end = u64::from(self.count(name)).min(from.saturating_add(limit));
        let items = (from.min(end)..end)
            .filter_map(|place| env::storage_read(&self.item_key(name, u32::try_from(place).ok()?)));
        items.collect()
    }

    /// Bytes of state for one item, without the list's head.
    pub fn item_bytes(name: &str, item: usize) -> usize {
        let key = 1 + 4 + name.len();
        entry_bytes(key + PLACE, item) + entry_bytes(key + DIGEST, PLACE)
    }

    /// Bytes of state that a list takes beside its items.
    pub fn head_bytes(name: &str) -> usize {
        entry_bytes(1 + 4 + name.len(), 2 * PLACE)
    }

    fn put(self, name: &str, place: u32, item: &[u8]) {
        env::storage_write(&self.item_key(name, place), item);
        env::storage_write(&self.place_key(name, item), &place.to_le_bytes());
    }

    fn head(self, name: &str) -> Head {
        read(&self.key(name)).unwrap_or_default()
    }

    fn put_head(self, name: &str, head: Head) {
        if head.count == 0 {
            env::storage_remove(&self.key(name));
        } else {
            let bytes = [head.count.to_le_bytes(), head.mark.to_le_bytes()].concat();
            env::storage_write(&self.key(name), &bytes);
        }
    }

    fn key(self, name: &str) -> Vec<u8> {
        let length = (name.len() as u32).to_le_bytes();
        [&[self.0][..], &length, name.as_bytes()].concat()
    }

    fn item_key(self, name: &str, place: u32) -> Vec<u8> {
        [self.key(name), place.to_le_bytes().to_vec()].concat()
    }

    fn place_key(self, name: &str, item: &[u8]) -> Vec<u8> {
        [&self.key(name), &env::sha256_array(item)[..DIGEST]].concat()
    }
}

fn read<T: borsh::BorshDeserialize>(key: &[u8]) -> Option<T> {
    env::storage_read(key).and_then(|bytes| borsh::from_slice(&bytes).ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use near_sdk::test_utils::VMContextBuilder;
    use near_sdk::testing_env;

    use super::*;

    fn bytes(items: &BTreeSet<Vec<u8>>) -> usize {
        let bytes: usize = items.iter().map(|item| Lists::item_bytes("a.test", item.len())).sum();
        bytes + if items.is_empty() { 0 } else { Lists::head_bytes("a.test") }
    }

    #[test]
    fn a_list_holds_what_was_added_and_frees_what_it_took() {
        let mut expected = BTreeSet::new();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..600 {
            // a call of its own, with the state of those before it
            testing_env!(VMContextBuilder::new().storage_usage(1_000_000).build());
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let item = vec![b'x'; (seed % 9) as usize];
            let before = bytes(&expected);
            if expected.insert(item.clone()) {
                assert!(!SECRETS.contains("a.test", &item));
                SECRETS.add("a.test", &item, 3);
            } else {
                expected.remove(&item);
                assert!(SECRETS.remove("a.test", &item));
                assert!(!SECRETS.remove("a.test", &item));
            }
            assert_eq!(env::storage_usage() + before as u64, 1_000_000 + bytes(&expected) as u64);
            let found: BTreeSet<Vec<u8>> = SECRETS.page("a.test", 0, u64::MAX).into_iter().collect();
            assert_eq!((&found, SECRETS.count("a.test") as usize), (&expected, expected.len()));
            assert!(found.iter().all(|item| SECRETS.contains("a.test", item)));
        }
    }

    #[test]
    fn lists_of_other_names_and_kinds_do_not_meet() {
        testing_env!(VMContextBuilder::new().build());
        for name in ["ab", "abc"] {
            SECRETS.add(name, name.as_bytes(), 0);
            PROJECTS.add(name, b"project", 7);
        }
        assert_eq!(SECRETS.page("ab", 0, 9), [b"ab".to_vec()]);
        assert_eq!(PROJECTS.page("abc", 0, 9), [b"project".to_vec()]);
        assert_eq!((SECRETS.mark("ab"), PROJECTS.mark("ab")), (0, 7));
        assert!(SECRETS.page("ab", 1, u64::MAX).is_empty());
        assert!(SECRETS.page("ab", u64::MAX, u64::MAX).is_empty());
        assert!(SECRETS.remove("ab", b"ab"));
        assert_eq!((SECRETS.count("ab"), SECRETS.count("abc")), (0, 1));
    }
}
