// SPDX-License-Identifier: MIT
//! Keystores by the measurement set that admitted them, in the order in which they expire, so that those that no longer
//! count are found without reading the others. And every key that was ever admitted, for good.

use approval::KeyIndex;
use near_sdk::store::LookupSet;
use near_sdk::{env, near, Gas, IntoStorageKey, PublicKey};

use crate::state::StateV2;
use crate::{gas_left, Keystore, StorageKey, StoredKeystore};

/// A receipt holds 100 actions, and all logs of a call 16 KB.
pub(crate) const MAX_REMOVALS: usize = 100;
/// For each key that a call removes. Measured: about 0.9 Tgas, some of it when the call ends.
const REMOVAL_GAS: Gas = Gas::from_gas(1_500_000_000_000);
/// What is left to the call that removes as many as its gas allows.
const REST_GAS: Gas = Gas::from_tgas(15);

/// Listing a keystore takes less gas than a removal; what the call itself needs counts as so many.
const LISTING_REST: usize = 10;

#[near(serializers = [borsh])]
pub struct KeystoreIndex {
    pub keys: KeyIndex,
    /// Where the next search begins.
    search_at: u32,
    /// Digests of all keys that were ever admitted.
    admitted: LookupSet<[u8; 32]>,
    /// Keystores at places before this one may be of the first version's state, which had no lists.
    unlisted: u32,
}

impl KeystoreIndex {
    pub fn new(unlisted: u32) -> Self {
        KeystoreIndex {
            keys: KeyIndex::new(&StorageKey::KeysBySet.into_storage_key()),
            search_at: 0,
            admitted: LookupSet::new(StorageKey::Admitted),
            unlisted,
        }
    }

    pub fn was_admitted(&self, key: &PublicKey) -> bool {
        self.admitted.contains(&digest(key))
    }
}

impl StateV2 {
    /// Keep a keystore at the end of its set's queue: a new one, or one that lives longer from now on.
    pub(crate) fn enlist(&mut self, keystore: Keystore) {
        let key = keystore.public_key.clone();
        if let Some(StoredKeystore::V2(known, place)) = self.keystores.get(&key) {
            let (set, place) = (known.measurement_set, *place);
            self.unlist(set, place);
        }
        self.index.admitted.insert(digest(&key));
        let place = self.index.keys.add(keystore.measurement_set, &key);
        self.keystores.insert(key, StoredKeystore::V2(keystore, place));
    }

    /// Forget a keystore; that its key was admitted stays known.
    pub(crate) fn delist(&mut self, key: &PublicKey) -> bool {
        let Some(stored) = self.keystores.remove(key) else { return false };
        if let StoredKeystore::V2(keystore, place) = stored {
            self.unlist(keystore.measurement_set, place);
        }
        true
    }

    fn unlist(&mut self, set: u32, place: u64) {
        self.index.keys.remove(set, place);
        self.index.keys.close_if_empty(set);
    }

    /// List keystores of a state that had no lists: up to so many, and as many as the gas allows. Gives how many are
    /// left at most.
    pub(crate) fn complete_index(&mut self, limit: usize) -> u32 {
        let mut batch: Vec<Keystore> = Vec::new();
        while self.index.unlisted > 0 && batch.len() < limit && gas_for_removal(batch.len() + LISTING_REST) {
            self.index.unlisted = self.index.unlisted.min(self.keystores.len());
            let Some(place) = self.index.unlisted.checked_sub(1) else { break };
            self.index.unlisted = place;
            if let Some(StoredKeystore::V1(keystore)) = self.keystores.values().nth(place as usize) {
                batch.push(keystore.clone());
            }
        }
        // each goes before those that are listed
        batch.sort_by_key(|keystore| std::cmp::Reverse(keystore.expires_at));
        for keystore in batch {
            let key = keystore.public_key.clone();
            self.index.admitted.insert(digest(&key));
            let place = self.index.keys.add_first(keystore.measurement_set, &key);
            self.keystores.insert(key, StoredKeystore::V2(keystore, place));
        }
        self.index.unlisted
    }

    /// Delist keystores of sets that ended, and unless `only_ended` those that expired: up to 100, and as many as the gas
    /// allows. Goes on where the last search stopped. Gives their keys, and how many more the sets that it saw to have
    /// ended still have.
    pub(crate) fn delist_dead(&mut self, only_ended: bool) -> (Vec<PublicKey>, u32) {
        let (mut found, mut more) = (Vec::new(), 0);
        for _ in 0..self.index.keys.sets() {
            if !gas_for_removal(found.len()) {
                break;
            }
            if self.index.search_at >= self.index.keys.sets() {
                self.index.search_at = 0;
            }
            let Some(set) = self.index.keys.set_at(self.index.search_at) else { break };
            let ended = !self.is_active(set);
            if ended || !only_ended {
                self.delist_dead_of(set, ended, &mut found);
            }
            let left = self.index.keys.count(set);
            more += if ended { left } else { 0 };
            // a set that lost its last key has left its place to another
            self.index.search_at += u32::from(left > 0);
        }
        (found, more)
    }

    fn delist_dead_of(&mut self, set: u32, ended: bool, found: &mut Vec<PublicKey>) {
        while found.len() < MAX_REMOVALS {
            let removed = found.len();
            let Some(key) = self.index.keys.first(set, || gas_for_removal(removed)) else { return };
            if !ended && self.is_approved(&key) {
                return;
            }
            self.delist(&key);
            found.push(key);
        }
    }
}

/// Whether the gas that is left suffices to end a call that has removed so many keys, and one more.
pub(crate) fn gas_for_removal(removed: usize) -> bool {
    gas_left() >= gas_of_removals(removed + 1)
}

/// What a call needs to remove so many keys and to end.
pub(crate) fn gas_of_removals(count: usize) -> Gas {
    REST_GAS.saturating_add(REMOVAL_GAS.saturating_mul(count as u64))
}

fn digest(key: &PublicKey) -> [u8; 32] {
    env::sha256_array(key.as_bytes())
}
