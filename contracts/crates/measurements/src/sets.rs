// SPDX-License-Identifier: MIT
//! Where the sets are kept: each under a key of its own, with an index by measurements, so that what a quote costs
//! does not grow with the number of sets.
//!
//! A whole role is ended by one record, however many sets it has: a set counts the role's ends that came before it
//! (its epoch), and the first end after those bounds it.

use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{env, near};

use crate::{MeasurementSet, Measurements, NewSet, Role, SetError};

/// So many sets with the same measurements can hold at the same time: an appraisal reads all of them.
pub const MAX_HOLDING_TOGETHER: usize = 16;

#[near(serializers = [borsh])]
enum StoredSet {
    V1 {
        set: MeasurementSet,
        /// How many ends of its role do not concern it.
        epoch: u32,
    },
}

/// All sets of a role up to this id end at `not_after` at the latest, but for `except`.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleEnd {
    pub role: Role,
    pub last_id: u32,
    pub except: Vec<u32>,
    pub not_after: u64,
}

/// The sets of a contract; the first id is 1, and no id is given twice.
#[near(serializers = [borsh])]
pub struct MeasurementSets {
    /// Of a state that had all sets in one list, until `move_older` has moved them. By ascending id, before all others.
    older: Vec<MeasurementSet>,
    sets: IterableMap<u32, StoredSet>,
    /// Ids of the sets with these measurements that had not ended when the last of them was added.
    by_measurements: LookupMap<[u8; 32], Vec<u32>>,
    /// When a role's sets end, by role and epoch; never descending, so the first that concerns a set is the earliest.
    role_ends: LookupMap<(u8, u32), u64>,
    /// How many ends each role has.
    epochs: [u32; 3],
    last_id: u32,
    /// Where pruning goes on.
    prune_at: u32,
}

impl MeasurementSets {
    /// No sets yet, under storage keys that begin with `prefix`.
    pub fn new(prefix: &[u8]) -> Self {
        Self::of_older(prefix, Vec::new())
    }

    /// With the sets of a list, by ascending id.
    pub fn of_older(prefix: &[u8], older: Vec<MeasurementSet>) -> Self {
        let under = |letter: u8| [prefix, &[letter]].concat();
        MeasurementSets {
            last_id: older.last().map_or(0, |set| set.id),
            older,
            sets: IterableMap::new(under(b's')),
            by_measurements: LookupMap::new(under(b'm')),
            role_ends: LookupMap::new(under(b'e')),
            epochs: [0; 3],
            prune_at: 0,
        }
    }

    // --- reading ---

    pub fn len(&self) -> u32 {
        self.older.len() as u32 + self.sets.len()
    }

    /// How many sets still are in the old list, which is read and written with the state.
    pub fn in_list(&self) -> u32 {
        self.older.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, id: u32) -> Option<MeasurementSet> {
        let older = self.older.iter().find(|set| set.id == id);
        older.cloned().or_else(|| self.sets.get(&id).map(|stored| self.effective(stored)))
    }

    /// Sets by their place, which only pruning changes; older ones come first.
    pub fn page(&self, from: u32, limit: u32) -> Vec<MeasurementSet> {
        let older = self.older.iter().skip(from as usize).cloned();
        let rest = (from as usize).saturating_sub(self.older.len());
        let others = self.sets.values().skip(rest).map(|stored| self.effective(stored));
        older.chain(others).take(limit as usize).collect()
    }

    /// What is active among the newest sets, by their place.
    pub fn newest_active(&self, newest: u32, now: u64) -> Vec<MeasurementSet> {
        let mut found = self.page(self.len().saturating_sub(newest), newest);
        found.retain(|set| set.is_active_at(now));
        found
    }

    /// What has not ended among the newest sets, by their place.
    pub fn newest_lasting(&self, newest: u32, now: u64) -> Vec<MeasurementSet> {
        let mut found = self.page(self.len().saturating_sub(newest), newest);
        found.retain(|set| set.not_after.is_none_or(|until| now < until));
        found
    }

    /// The active sets with these measurements, the one that holds longest first.
    pub fn matching(&self, measurements: &Measurements, now: u64) -> Vec<MeasurementSet> {
        let mut found = self.with_measurements(measurements);
        found.retain(|set| set.is_active_at(now));
        found.sort_by_key(|set| std::cmp::Reverse(set.not_after.unwrap_or(u64::MAX)));
        found
    }

    pub fn is_approved(&self, role: Role, measurements: &Measurements, now: u64) -> bool {
        self.with_measurements(measurements).iter().any(|set| set.role == role && set.is_active_at(now))
    }

    fn with_measurements(&self, measurements: &Measurements) -> Vec<MeasurementSet> {
        let older = self.older.iter().filter(|set| set.measurements == *measurements).cloned();
        let ids = self.by_measurements.get(&name(measurements));
        let others = ids.into_iter().flatten().filter_map(|id| self.sets.get(id));
        older.chain(others.map(|stored| self.effective(stored))).collect()
    }

    /// The set with the end that it has by itself or by an end of its role.
    fn effective(&self, stored: &StoredSet) -> MeasurementSet {
        let StoredSet::V1 { set, epoch } = stored;
        let mut set = set.clone();
        if *epoch < self.epochs[set.role as usize] {
            if let Some(end) = self.role_ends.get(&(set.role as u8, *epoch)) {
                set.not_after = Some(set.not_after.map_or(*end, |until| until.min(*end)));
            }
        }
        set
    }

    // --- changing ---

    /// Add a set, of a policy version or by itself.
    pub fn add(
        &mut self,
        new: NewSet,
        policy_version: Option<u32>,
        now: u64,
    ) -> Result<MeasurementSet, SetError> {
        new.check(now)?;
        let NewSet { role, name: label, measurements, not_before, not_after, platform } = new;
        let mut together = self.with_measurements(&measurements);
        together.retain(|set| set.not_after.is_none_or(|until| now < until));
        if together.len() >= MAX_HOLDING_TOGETHER {
            return Err(SetError::Full);
        }
        self.last_id += 1;
        let set = MeasurementSet {
            id: self.last_id,
            name: label,
            measurements,
            not_before,
            not_after,
            added_at: now,
            role,
            platform,
            policy_version,
        };
        self.store(set.clone());
        let held = |id: &u32| self.sets.contains_key(id);
        let ids = together.iter().map(|set| set.id).filter(held).chain([set.id]).collect();
        self.by_measurements.insert(name(&set.measurements), ids);
        Ok(set)
    }

    /// Keep a set as it is from now on: no end that its role has had so far concerns it.
    fn store(&mut self, set: MeasurementSet) {
        let epoch = self.epochs[set.role as usize];
        self.sets.insert(set.id, StoredSet::V1 { set, epoch });
    }

    /// Let a set end at `not_after`, at the earliest now: what was approved until now stays true.
    /// Gives its new end.
    pub fn expire(&mut self, id: u32, not_after: u64, now: u64) -> Result<u64, SetError> {
        let set = self.get(id).ok_or(SetError::NotFound)?;
        let until = not_after.max(now);
        if set.not_after.is_some_and(|current| until > current) {
            return Err(SetError::WouldExtend);
        }
        self.set_end(set, until);
        Ok(until)
    }

    /// Let those of these sets that would hold longer end at `until`; gives their ids.
    pub fn end_ids(&mut self, ids: &[u32], until: u64) -> Vec<u32> {
        let longer = |set: &MeasurementSet| set.not_after.is_none_or(|end| until < end);
        let sets: Vec<_> = ids.iter().filter_map(|id| self.get(*id)).filter(longer).collect();
        let ended = sets.iter().map(|set| set.id).collect();
        for set in sets {
            self.set_end(set, until);
        }
        ended
    }

    /// The same for all sets with these measurements, of a role or of any.
    pub fn end_measurements(
        &mut self,
        measurements: &Measurements,
        role: Option<Role>,
        until: u64,
    ) -> Vec<u32> {
        let mut sets = self.with_measurements(measurements);
        sets.retain(|set| role.is_none_or(|role| set.role == role));
        let ids: Vec<u32> = sets.iter().map(|set| set.id).collect();
        self.end_ids(&ids, until)
    }

    /// Let all sets of a role that there are end at `until`, at the latest, but for `except` (at most a few).
    pub fn end_role(&mut self, role: Role, until: u64, except: &[u32]) -> RoleEnd {
        let spared: Vec<_> =
            except.iter().filter_map(|id| self.get(*id)).filter(|set| set.role == role).collect();
        let count = &mut self.epochs[role as usize];
        for epoch in (0..*count).rev() {
            match self.role_ends.get_mut(&(role as u8, epoch)) {
                Some(end) if *end > until => *end = until,
                _ => break,
            }
        }
        self.role_ends.insert((role as u8, *count), until);
        *count += 1;
        for set in &mut self.older {
            let ends = set.role == role && !except.contains(&set.id);
            if ends && set.not_after.is_none_or(|end| until < end) {
                set.not_after = Some(until);
            }
        }
        let except = spared.iter().map(|set| set.id).collect();
        for set in spared {
            if !self.older.iter().any(|older| older.id == set.id) {
                self.store(set);
            }
        }
        RoleEnd { role, last_id: self.last_id, except, not_after: until }
    }

    /// `set` is as it was effective.
    fn set_end(&mut self, mut set: MeasurementSet, until: u64) {
        set.not_after = Some(until);
        match self.older.iter_mut().find(|older| older.id == set.id) {
            Some(older) => *older = set,
            None => self.store(set),
        }
    }

    /// Delete sets that ended before then, at most `most` of them. Looks at `limit` sets and goes on where the last call
    /// stopped; gives what was deleted.
    pub fn prune(&mut self, limit: u32, most: usize, ended_before: u64) -> Vec<MeasurementSet> {
        let mut pruned = Vec::new();
        for _ in 0..limit.min(self.sets.len()) {
            if pruned.len() == most {
                break;
            }
            if self.prune_at >= self.sets.len() {
                self.prune_at = 0;
            }
            let Some(stored) = self.sets.values().nth(self.prune_at as usize) else { break };
            let set = self.effective(stored);
            if set.not_after.is_some_and(|until| until < ended_before) {
                self.sets.remove(&set.id);
                self.forget(&set);
                pruned.push(set);
            } else {
                self.prune_at += 1;
            }
        }
        pruned
    }

    fn forget(&mut self, set: &MeasurementSet) {
        let name = name(&set.measurements);
        let mut ids = self.by_measurements.remove(&name).unwrap_or_default();
        ids.retain(|id| *id != set.id);
        if !ids.is_empty() {
            self.by_measurements.insert(name, ids);
        }
    }

    /// Give up to `limit` sets of the old list keys of their own; gives how many are left in it.
    pub fn move_older(&mut self, limit: u32, now: u64) -> u32 {
        let count = (limit as usize).min(self.older.len());
        let moved: Vec<_> = self.older.drain(..count).collect();
        for set in moved {
            if set.not_after.is_none_or(|until| now < until) {
                let name = name(&set.measurements);
                let mut ids = self.by_measurements.get(&name).cloned().unwrap_or_default();
                ids.push(set.id);
                self.by_measurements.insert(name, ids);
            }
            self.store(set);
        }
        // now, so that who moves them in steps sees what it costs
        self.sets.flush();
        self.by_measurements.flush();
        self.older.len() as u32
    }
}

/// Under which measurements are indexed.
fn name(measurements: &Measurements) -> [u8; 32] {
    let Measurements { mrtd, rtmr0, rtmr1, rtmr2, rtmr3 } = measurements;
    env::sha256_array([mrtd.0, rtmr0.0, rtmr1.0, rtmr2.0, rtmr3.0].concat())
}
