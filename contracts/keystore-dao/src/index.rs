// SPDX-License-Identifier: MIT
//! Keystores by the measurement set that admitted them, each set's in a chain in the order in which they expire: all
//! live equally long, so whoever is admitted or renewed goes to the end. Those that no longer count are found at the
//! beginnings, without reading the others. And every key that was ever admitted, for good.

use approval::now;
use near_sdk::store::{LookupMap, LookupSet};
use near_sdk::{env, near, Gas, PublicKey};

use crate::state::StateV2;
use crate::{gas_left, Keystore, Links, StorageKey, StoredKeystore};

/// What a search leaves to the call: the deletion of a few keys.
const REST_GAS: Gas = Gas::from_tgas(25);

#[near(serializers = [borsh])]
struct Chain {
    first: PublicKey,
    last: PublicKey,
    count: u32,
}

#[near(serializers = [borsh])]
pub struct KeystoreIndex {
    chains: LookupMap<u32, Chain>,
    /// Sets that have keystores.
    sets: Vec<u32>,
    /// Digests of all keys that were ever admitted.
    admitted: LookupSet<[u8; 32]>,
    /// Whether keystores of the first version's state are still to be chained.
    incomplete: bool,
}

impl KeystoreIndex {
    pub fn new(incomplete: bool) -> Self {
        KeystoreIndex {
            chains: LookupMap::new(StorageKey::Chains),
            sets: Vec::new(),
            admitted: LookupSet::new(StorageKey::Admitted),
            incomplete,
        }
    }

    pub fn was_admitted(&self, key: &PublicKey) -> bool {
        self.admitted.contains(&digest(key))
    }

    /// Write what is cached, so that the storage usage counts it.
    pub fn flush(&mut self) {
        self.chains.flush();
    }

    fn count(&self, set: u32) -> u32 {
        self.chains.get(&set).map_or(0, |chain| chain.count)
    }
}

impl StateV2 {
    /// Keep a keystore at the end of its set's chain: a new one, or one that lives longer from now on.
    pub(crate) fn enlist(&mut self, keystore: Keystore) {
        let (key, set) = (keystore.public_key.clone(), keystore.measurement_set);
        if let Some(StoredKeystore::V2(known, links)) = self.keystores.get(&key) {
            let (set, links) = (known.measurement_set, links.clone());
            self.unchain(&key, set, links);
        }
        self.index.admitted.insert(digest(&key));
        let previous = match self.index.chains.get_mut(&set) {
            Some(chain) => {
                chain.count += 1;
                Some(std::mem::replace(&mut chain.last, key.clone()))
            }
            None => {
                self.index.sets.push(set);
                self.index.chains.insert(set, Chain { first: key.clone(), last: key.clone(), count: 1 });
                None
            }
        };
        if let Some(links) = previous.as_ref().and_then(|key| self.links_mut(key)) {
            links.next = Some(key.clone());
        }
        self.keystores.insert(key, StoredKeystore::V2(keystore, Links { previous, next: None }));
    }

    /// Forget a keystore; that its key was admitted stays known.
    pub(crate) fn delist(&mut self, key: &PublicKey) -> bool {
        let Some(stored) = self.keystores.remove(key) else { return false };
        if let StoredKeystore::V2(keystore, links) = stored {
            self.unchain(key, keystore.measurement_set, links);
        }
        true
    }

    fn unchain(&mut self, key: &PublicKey, set: u32, links: Links) {
        if let Some(beside) = links.previous.as_ref().and_then(|key| self.links_mut(key)) {
            beside.next.clone_from(&links.next);
        }
        if let Some(beside) = links.next.as_ref().and_then(|key| self.links_mut(key)) {
            beside.previous.clone_from(&links.previous);
        }
        let Some(chain) = self.index.chains.get_mut(&set) else { return };
        chain.count -= 1;
        if let Some(next) = links.next.as_ref().filter(|_| chain.first == *key) {
            chain.first = next.clone();
        }
        if let Some(previous) = links.previous.as_ref().filter(|_| chain.last == *key) {
            chain.last = previous.clone();
        }
        if chain.count == 0 {
            self.index.chains.remove(&set);
            self.index.sets.retain(|one| *one != set);
        }
    }

    fn links_mut(&mut self, key: &PublicKey) -> Option<&mut Links> {
        match self.keystores.get_mut(key) {
            Some(StoredKeystore::V2(_, links)) => Some(links),
            _ => None,
        }
    }

    /// Chain the keystores of a state that had no chains.
    pub(crate) fn complete_index(&mut self) {
        if std::mem::take(&mut self.index.incomplete) {
            let mut known: Vec<Keystore> =
                self.keystores.values().map(|stored| stored.keystore().clone()).collect();
            known.sort_by_key(|keystore| keystore.expires_at);
            known.into_iter().for_each(|keystore| self.enlist(keystore));
        }
    }

    /// Up to `limit` keys of these sets, and how many more there are. The next search begins with these sets.
    pub(crate) fn keys_of(&mut self, sets: &[u32], limit: usize) -> (Vec<PublicKey>, u32) {
        let (first, rest): (Vec<u32>, Vec<u32>) = self.index.sets.iter().partition(|set| sets.contains(set));
        self.index.sets = [&first[..], &rest[..]].concat();
        let mut found = Vec::new();
        for set in &first {
            self.collect(*set, limit, |_| true, &mut found);
        }
        let all: u32 = first.iter().map(|set| self.index.count(*set)).sum();
        let more = all.saturating_sub(found.len() as u32);
        (found, more)
    }

    /// Up to `limit` keys of keystores that no longer count. A search looks at as many sets as its gas allows (about
    /// three per Tgas), and the next one goes on from there.
    pub(crate) fn ended_keys(&mut self, limit: usize) -> Vec<PublicKey> {
        let (mut found, mut looked_at) = (Vec::new(), 0usize);
        for set in &self.index.sets {
            if found.len() >= limit || (looked_at > 0 && gas_left() < REST_GAS) {
                break;
            }
            let ended = !self.is_active(*set);
            self.collect(*set, limit, |keystore| ended || now() >= keystore.expires_at, &mut found);
            looked_at += 1;
        }
        // the last one may have more
        self.index.sets.rotate_left(looked_at.saturating_sub(1));
        found
    }

    /// Keys from the beginning of a chain, while this is true of them.
    fn collect(&self, set: u32, limit: usize, which: impl Fn(&Keystore) -> bool, found: &mut Vec<PublicKey>) {
        let mut next = self.index.chains.get(&set).map(|chain| &chain.first);
        while let Some(key) = next.filter(|_| found.len() < limit) {
            let Some(StoredKeystore::V2(keystore, links)) = self.keystores.get(key) else { return };
            if !which(keystore) {
                return;
            }
            found.push(key.clone());
            next = links.next.as_ref();
        }
    }
}

fn digest(key: &PublicKey) -> [u8; 32] {
    env::sha256_array(key.as_bytes())
}
