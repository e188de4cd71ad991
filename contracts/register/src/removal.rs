// SPDX-License-Identifier: MIT
//! Keys that lost their approval: found by the index of the sets that have keys, and removed in bounded gas.

use near_sdk::{env, near, require, Gas, Promise, PublicKey};

use crate::events::{emit, Event, KeysGone};
use crate::keys::digest;
use crate::{Contract, ContractExt, KeyRecord, KeysRemoved, StateV3, StoredKey};

/// One call deletes at most so many access keys.
const MAX_REMOVALS: usize = 100;
/// As many keys of an older version get into the index by one call.
const INDEXED_AT_ONCE: usize = 50;
/// What it takes to give one of them its place.
const INDEXING_GAS: Gas = Gas::from_tgas(2);
/// What one more step of a search may take, and what ends the call.
const STEP_GAS: Gas = Gas::from_tgas(6);

#[near]
impl Contract {
    /// Remove keys that are no longer valid: the given ones, or those that are found with the gas that is attached.
    /// Anyone may. Gives what was removed, at most 100: call again until that is nothing.
    pub fn remove_expired_keys(&mut self, public_keys: Option<Vec<PublicKey>>) -> Vec<PublicKey> {
        let state = self.state_mut();
        let Some(mut given) = public_keys else {
            state.index_older();
            let (removed, _) = state.remove_dead(false, "expired");
            return removed;
        };
        given.sort();
        given.dedup();
        given.retain(|key| state.is_dead(key));
        given.truncate(MAX_REMOVALS);
        state.remove(&given, "expired");
        given
    }

    /// Remove keys at once, registered here or not. One promise each, so that one that is gone does not stop
    /// the others.
    pub fn remove_worker_keys(&mut self, public_keys: Vec<PublicKey>) {
        self.assert_owner();
        require!(public_keys.len() <= MAX_REMOVALS, format!("At most {MAX_REMOVALS} keys at a time"));
        self.state_mut().remove(&public_keys, "owner");
    }

    /// How many keys belong to sets that ended: what is left for `remove_expired_keys` because of them. Of the first 200
    /// sets that have keys.
    pub fn get_keys_without_approval(&self) -> u32 {
        let state = self.state();
        let sets = (0..state.index.sets().min(200)).filter_map(|place| state.index.set_at(place));
        sets.filter(|set| !state.is_set_active(*set)).map(|set| state.index.count(set)).sum()
    }
}

impl StateV3 {
    /// After sets ended: remove up to 100 of their keys.
    pub(crate) fn remove_unapproved(&mut self) -> KeysRemoved {
        self.note_ending();
        self.index_older();
        let (removed, remaining) = self.remove_dead(true, "set_ended");
        KeysRemoved { removed: removed.len() as u32, remaining }
    }

    /// Sets ended: a registration that is under way looks at its set again.
    pub(crate) fn note_ending(&mut self) {
        self.endings = self.endings.wrapping_add(1);
    }

    /// Remove the keys of sets that ended, and unless `only_ended` the keys that expired. Goes on where the last call
    /// stopped. Gives what was removed, and how many keys the sets that it saw to have ended still have.
    fn remove_dead(&mut self, only_ended: bool, reason: &str) -> (Vec<PublicKey>, u32) {
        let mut removed = Vec::new();
        let mut remaining = 0;
        for _ in 0..self.index.sets() {
            if !enough_gas() {
                break;
            }
            if self.search_at >= self.index.sets() {
                self.search_at = 0;
            }
            let Some(set) = self.index.set_at(self.search_at) else { break };
            let ended = !self.is_set_active(set);
            if ended || !only_ended {
                while removed.len() < MAX_REMOVALS && enough_gas() {
                    let Some(key) = self.index.first(set, enough_gas) else { break };
                    if !ended && !self.is_dead(&key) {
                        break;
                    }
                    self.forget(&key);
                    removed.push(key);
                }
            }
            let left = self.index.count(set);
            remaining += if ended { left } else { 0 };
            // a set that lost its last key has left its place to another
            self.search_at += u32::from(left > 0);
        }
        announce(&removed, reason);
        (removed, remaining)
    }

    pub(crate) fn remove(&mut self, public_keys: &[PublicKey], reason: &str) {
        for key in public_keys {
            self.forget(key);
        }
        announce(public_keys, reason);
    }

    /// Remove a key and its access key; its trace stays.
    fn forget(&mut self, public_key: &PublicKey) {
        self.removed.set(digest(public_key), Some(()));
        self.unstore(public_key);
        let _ = Promise::new(env::current_account_id()).delete_key(public_key.clone());
    }

    /// Give keys of older versions a place in the index, as many as the gas allows. Their order by expiry is that of
    /// their places; within one call it is exact.
    pub(crate) fn index_older(&mut self) {
        let mut batch = Vec::new();
        while self.unindexed > 0
            && batch.len() < INDEXED_AT_ONCE
            && gas_left() > STEP_GAS.saturating_add(INDEXING_GAS.saturating_mul(batch.len() as u64))
        {
            self.unindexed = self.unindexed.min(self.keys.len());
            let Some(place) = self.unindexed.checked_sub(1) else { break };
            self.unindexed = place;
            let Some((public_key, stored)) = self.keys.iter().nth(place as usize) else { continue };
            if !matches!(stored, StoredKey::V3(_)) {
                batch.push(stored.to_key(public_key));
            }
        }
        batch.sort_by_key(|key| std::cmp::Reverse(key.expires_at));
        for key in batch {
            if let Some(mut record) = KeyRecord::of_key(&key, 0) {
                record.place = self.index.add_first(key.measurement_set, &key.public_key);
                self.keys.insert(key.public_key, StoredKey::V3(record));
                self.flush_key();
            }
        }
    }
}

fn announce(public_keys: &[PublicKey], reason: &str) {
    if !public_keys.is_empty() {
        emit(Event::WorkerKeysRemoved([KeysGone { public_keys, reason }]));
    }
}

/// Whether one more step fits into the gas of this call.
fn enough_gas() -> bool {
    gas_left() > STEP_GAS
}

fn gas_left() -> Gas {
    env::prepaid_gas().saturating_sub(env::used_gas())
}
