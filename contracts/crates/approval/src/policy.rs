// SPDX-License-Identifier: MIT
//! Policy versions: a version is the digest of a policy file of `attestation_policy/` and its compact tuples, which
//! become measurement sets. It is proposed, waits, and is then activated; one at a time.

use std::fmt;

use measurements::{MeasurementSets, NewSet, Role, RoleEnd, SetError};
use near_sdk::near;
use near_sdk::store::{IterableMap, LookupMap};

const MAX_TUPLES: usize = 32;

/// A version that waits. Times are unix seconds.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingPolicy {
    pub version: u32,
    /// Of the exact bytes of the policy file, 64 hex digits.
    pub sha256: String,
    pub sets: Vec<NewSet>,
    /// How long after activation the other sets of the same roles hold at most; None leaves them as they are.
    pub grace_seconds: Option<u64>,
    pub proposed_at: u64,
    pub activates_at: u64,
}

/// A version that was activated.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyVersion {
    pub version: u32,
    pub sha256: String,
    pub sets: Vec<u32>,
    pub proposed_at: u64,
    pub activated_at: u64,
    pub revoked_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    Digest,
    Size,
    Pending,
    NothingPending,
    OtherPending,
    TooEarly,
    NotFound,
    Revoked,
    Set(SetError),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            PolicyError::Digest => "sha256 must be 64 lower-case hex digits: that of the policy file's bytes",
            PolicyError::Size => "A policy version has 1 to 32 measurement sets",
            PolicyError::Pending => "Another policy version is pending; activate or cancel it first",
            PolicyError::NothingPending => "No policy version is pending",
            PolicyError::OtherPending => "The pending policy version has another number",
            PolicyError::TooEarly => "The delay of the pending policy version is not over",
            PolicyError::NotFound => "Policy version not found",
            PolicyError::Revoked => "The policy version is revoked already",
            PolicyError::Set(error) => return error.fmt(formatter),
        })
    }
}

impl From<SetError> for PolicyError {
    fn from(error: SetError) -> Self {
        PolicyError::Set(error)
    }
}

/// All versions that there ever were, and the one that waits; each under a key of its own.
#[near(serializers = [borsh])]
pub struct Policies {
    versions: IterableMap<u32, PolicyVersion>,
    /// Under the key `()`, if there is one.
    pending: LookupMap<(), PendingPolicy>,
    proposed: u32,
    /// Of a state that had them in one list, until `move_older` has moved them. They come before all others.
    older: Vec<PolicyVersion>,
    older_pending: Option<PendingPolicy>,
}

/// The form in which all of it was kept in the state of the contract.
pub mod v2 {
    use super::{near, PendingPolicy, PolicyVersion};

    #[near(serializers = [borsh])]
    #[derive(Default)]
    pub struct Policies {
        pub versions: Vec<PolicyVersion>,
        pub pending: Option<PendingPolicy>,
        pub proposed: u32,
    }
}

impl Policies {
    /// None yet, under storage keys that begin with `prefix`.
    pub fn new(prefix: &[u8]) -> Self {
        Self::of_older(prefix, v2::Policies::default())
    }

    pub fn of_older(prefix: &[u8], old: v2::Policies) -> Self {
        let under = |letter: u8| [prefix, &[letter]].concat();
        Policies {
            versions: IterableMap::new(under(b'v')),
            pending: LookupMap::new(under(b'p')),
            proposed: old.proposed,
            older: old.versions,
            older_pending: old.pending,
        }
    }

    /// Versions that were activated, oldest first.
    pub fn page(&self, from: u32, limit: u32) -> Vec<PolicyVersion> {
        let rest = (from as usize).saturating_sub(self.older.len());
        let older = self.older.iter().skip(from as usize);
        older.chain(self.versions.values().skip(rest)).take(limit as usize).cloned().collect()
    }

    pub fn pending(&self) -> Option<&PendingPolicy> {
        self.older_pending.as_ref().or_else(|| self.pending.get(&()))
    }

    /// Let a version wait until `now + delay`.
    pub fn propose(
        &mut self,
        sha256: String,
        sets: Vec<NewSet>,
        grace_seconds: Option<u64>,
        delay: u64,
        now: u64,
    ) -> Result<PendingPolicy, PolicyError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if sha256.len() != 64 || !sha256.bytes().all(hex) {
            return Err(PolicyError::Digest);
        }
        if !(1..=MAX_TUPLES).contains(&sets.len()) {
            return Err(PolicyError::Size);
        }
        if self.pending().is_some() {
            return Err(PolicyError::Pending);
        }
        let activates_at = now.saturating_add(delay);
        sets.iter().try_for_each(|set| set.check(activates_at))?;
        self.proposed += 1;
        let version = self.proposed;
        let pending = PendingPolicy { version, sha256, sets, grace_seconds, proposed_at: now, activates_at };
        self.pending.set((), Some(pending.clone()));
        Ok(pending)
    }

    /// Drop the version that waits.
    pub fn cancel(&mut self, version: u32) -> Result<PendingPolicy, PolicyError> {
        let pending = self.require_pending(version)?.clone();
        self.older_pending = None;
        self.pending.set((), None);
        Ok(pending)
    }

    /// Let the version that waits count, once its delay is over.
    ///
    /// A set that cannot count any more is left out, so that it holds up no other: one whose time has passed while it
    /// waited, or with whose measurements too many sets hold. Grace ends the sets of the roles that the version has
    /// sets of which count.
    pub fn activate(
        &mut self,
        version: u32,
        sets: &mut MeasurementSets,
        now: u64,
    ) -> Result<Activation, PolicyError> {
        if now < self.require_pending(version)?.activates_at {
            return Err(PolicyError::TooEarly);
        }
        let PendingPolicy { sha256, sets: new, grace_seconds, proposed_at, .. } = self.cancel(version)?;
        let (good, mut left_out): (Vec<_>, Vec<_>) = new.into_iter().partition(|set| set.check(now).is_ok());
        let until = now.saturating_add(grace_seconds.unwrap_or(0));
        let mut roles: Vec<Role> = Vec::new();
        if grace_seconds.is_some() {
            good.iter().for_each(|set| {
                if !roles.contains(&set.role) {
                    roles.push(set.role);
                }
            });
        }
        let ended = roles.into_iter().map(|role| sets.end_role(role, until, &[])).collect();
        let mut ids = Vec::with_capacity(good.len());
        for set in good {
            match sets.add(set.clone(), Some(version), now) {
                Ok(added) => ids.push(added.id),
                Err(_) => left_out.push(set),
            }
        }
        let activated =
            PolicyVersion { version, sha256, sets: ids, proposed_at, activated_at: now, revoked_at: None };
        self.versions.insert(version, activated.clone());
        Ok(Activation { version: activated, ended, left_out: left_out.len() as u32 })
    }

    /// End all sets of a version now. Gives the ids of those that this ended.
    pub fn revoke(
        &mut self,
        version: u32,
        sets: &mut MeasurementSets,
        now: u64,
    ) -> Result<Vec<u32>, PolicyError> {
        let older = self.older.iter_mut().find(|one| one.version == version);
        let found = older.or_else(|| self.versions.get_mut(&version)).ok_or(PolicyError::NotFound)?;
        if found.revoked_at.is_some() {
            return Err(PolicyError::Revoked);
        }
        found.revoked_at = Some(now);
        Ok(sets.end_ids(&found.sets, now))
    }

    /// Give up to `limit` versions of the old list keys of their own; gives how many are left in it.
    pub fn move_older(&mut self, limit: u32) -> u32 {
        if let Some(pending) = self.older_pending.take() {
            self.pending.set((), Some(pending));
        }
        let count = (limit as usize).min(self.older.len());
        for version in self.older.drain(..count) {
            self.versions.insert(version.version, version);
        }
        self.versions.flush();
        self.older.len() as u32
    }

    fn require_pending(&self, version: u32) -> Result<&PendingPolicy, PolicyError> {
        match self.pending() {
            None => Err(PolicyError::NothingPending),
            Some(pending) if pending.version != version => Err(PolicyError::OtherPending),
            Some(pending) => Ok(pending),
        }
    }
}

/// What activating a version did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    pub version: PolicyVersion,
    /// The roles whose other sets end, and when.
    pub ended: Vec<RoleEnd>,
    /// How many of its sets could not count any more.
    pub left_out: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use measurements::{Measurements, PlatformRules};
    use near_sdk::mock::with_mocked_blockchain;

    const DAY: u64 = 86_400;

    fn fresh() -> (Policies, MeasurementSets) {
        with_mocked_blockchain(|chain| drop(chain.take_storage()));
        (Policies::new(b"p"), MeasurementSets::new(b"m"))
    }

    fn set(byte: u8, role: Role, not_after: Option<u64>) -> NewSet {
        NewSet {
            role,
            name: None,
            measurements: Measurements::new([byte; 48], [[byte; 48]; 4]),
            not_before: None,
            not_after,
            platform: PlatformRules::default(),
        }
    }

    fn propose(policies: &mut Policies, set: NewSet, grace: Option<u64>) -> Result<u32, PolicyError> {
        policies.propose("ab".repeat(32), vec![set], grace, DAY, 1_000).map(|pending| pending.version)
    }

    #[test]
    fn a_version_counts_after_its_delay_and_not_before() {
        let (mut policies, mut sets) = fresh();
        assert_eq!(propose(&mut policies, set(1, Role::Worker, None), None), Ok(1));
        assert_eq!(policies.activate(1, &mut sets, 1_000 + DAY - 1), Err(PolicyError::TooEarly));
        assert!(sets.is_empty());
        let Activation { version, ended, left_out } = policies.activate(1, &mut sets, 1_000 + DAY).unwrap();
        assert_eq!(left_out, 0);
        assert_eq!((version.sets, version.activated_at, ended), (vec![1], 1_000 + DAY, vec![]));
        assert_eq!(sets.get(1).unwrap().policy_version, Some(1));
        assert_eq!(policies.activate(1, &mut sets, 1_000 + DAY), Err(PolicyError::NothingPending));
    }

    #[test]
    fn one_version_waits_at_a_time_and_a_cancelled_number_is_not_used_again() {
        let (mut policies, mut sets) = fresh();
        propose(&mut policies, set(1, Role::Worker, None), None).unwrap();
        assert_eq!(propose(&mut policies, set(2, Role::Worker, None), None), Err(PolicyError::Pending));
        assert_eq!(policies.cancel(2).err(), Some(PolicyError::OtherPending));
        policies.cancel(1).unwrap();
        assert_eq!(propose(&mut policies, set(2, Role::Worker, None), None), Ok(2));
        // who wanted to activate the first must not activate the second
        assert_eq!(policies.activate(1, &mut sets, 9 * DAY), Err(PolicyError::OtherPending));
    }

    #[test]
    fn grace_ends_the_other_sets_of_the_same_roles_later() {
        let (mut policies, mut sets) = fresh();
        sets.add(set(1, Role::Worker, None), None, 1_000).unwrap();
        sets.add(set(2, Role::Compiler, None), None, 1_000).unwrap();
        propose(&mut policies, set(3, Role::Worker, None), Some(7 * DAY)).unwrap();
        let ended = policies.activate(1, &mut sets, 2 * DAY).unwrap().ended;
        let workers = RoleEnd { role: Role::Worker, last_id: 2, except: vec![], not_after: 9 * DAY };
        assert_eq!(ended, [workers]);
        let ends: Vec<_> = sets.page(0, 9).iter().map(|set| set.not_after).collect();
        assert_eq!(ends, [Some(9 * DAY), None, None]);
    }

    #[test]
    fn a_revoked_version_ends_at_once_and_alone() {
        let (mut policies, mut sets) = fresh();
        for byte in [1, 2] {
            let version = propose(&mut policies, set(byte, Role::Worker, None), None).unwrap();
            policies.activate(version, &mut sets, 2 * DAY).unwrap();
        }
        assert_eq!(policies.revoke(1, &mut sets, 3 * DAY), Ok(vec![1]));
        assert_eq!(policies.revoke(1, &mut sets, 3 * DAY), Err(PolicyError::Revoked));
        assert_eq!(policies.revoke(7, &mut sets, 3 * DAY), Err(PolicyError::NotFound));
        assert_eq!(sets.newest_active(9, 3 * DAY).iter().map(|set| set.id).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn what_could_never_count_is_not_proposed() {
        let (mut policies, _) = fresh();
        let ends_too_early = set(1, Role::Worker, Some(1_000 + DAY));
        assert_eq!(
            propose(&mut policies, ends_too_early, None),
            Err(PolicyError::Set(SetError::EmptyWindow))
        );
        for digest in ["", "AB", &"AB".repeat(32), &"zz".repeat(32)] {
            let proposed = policies.propose(digest.to_string(), vec![], None, 0, 0).map(|p| p.version);
            assert_eq!(proposed, Err(PolicyError::Digest), "{digest}");
        }
        for count in [0, 33] {
            let sets = vec![set(1, Role::Worker, None); count];
            let proposed = policies.propose("ab".repeat(32), sets, None, 0, 0).map(|p| p.version);
            assert_eq!(proposed, Err(PolicyError::Size), "{count}");
        }
    }

    #[test]
    fn a_set_whose_time_passed_while_it_waited_is_left_out_and_holds_up_no_other() {
        let (mut policies, mut sets) = fresh();
        sets.add(set(1, Role::Worker, None), None, 1_000).unwrap();
        sets.add(set(2, Role::Compiler, None), None, 1_000).unwrap();
        let short = set(3, Role::Worker, Some(2 * DAY));
        let new = vec![short, set(4, Role::Compiler, None)];
        policies.propose("ab".repeat(32), new, Some(0), DAY, 1_000).unwrap();
        let activation = policies.activate(1, &mut sets, 2 * DAY).unwrap();
        assert_eq!((activation.version.sets, activation.left_out), (vec![3], 1));
        // no set of workers counts, so the others of workers stay
        let active: Vec<_> = sets.newest_active(9, 2 * DAY).iter().map(|set| set.id).collect();
        assert_eq!(active, [1, 3]);
    }

    #[test]
    fn a_set_too_many_is_left_out() {
        let (mut policies, mut sets) = fresh();
        for _ in 0..measurements::MAX_HOLDING_TOGETHER - 1 {
            sets.add(set(1, Role::Worker, None), None, 1_000).unwrap();
        }
        let new = vec![set(1, Role::Worker, None); 3];
        policies.propose("ab".repeat(32), new, None, 0, 1_000).unwrap();
        let activation = policies.activate(1, &mut sets, 1_000).unwrap();
        assert_eq!((activation.version.sets, activation.left_out), (vec![16], 2));
    }

    #[test]
    fn versions_of_a_list_are_the_same_before_and_after_they_moved() {
        for moves in 0..4 {
            let (_, mut sets) = fresh();
            let version = |version| PolicyVersion {
                version,
                sha256: "ab".repeat(32),
                sets: vec![version],
                proposed_at: 1,
                activated_at: 2,
                revoked_at: None,
            };
            let (mut old, _) = fresh();
            let pending = old.propose("cd".repeat(32), vec![set(1, Role::Worker, None)], None, DAY, 1_000);
            let pending = PendingPolicy { version: 9, ..pending.unwrap() };
            old.cancel(1).unwrap();
            let lists =
                v2::Policies { versions: vec![version(1), version(4)], pending: Some(pending), proposed: 9 };
            let mut policies = Policies::of_older(b"q", lists);
            for _ in 0..moves {
                policies.move_older(1);
            }
            assert_eq!(policies.pending().map(|pending| pending.version), Some(9));
            // while only some have moved, these come last
            let page = |policies: &Policies| {
                let mut page: Vec<_> = policies.page(0, 9).iter().map(|one| one.version).collect();
                if moves == 1 {
                    page.sort_unstable();
                }
                page
            };
            assert_eq!(page(&policies), [1, 4]);
            assert_eq!(policies.activate(9, &mut sets, 3 * DAY).unwrap().version.version, 9);
            assert_eq!(page(&policies), [1, 4, 9]);
            policies.revoke(1, &mut sets, 3 * DAY).unwrap();
            let revoked = |one: &PolicyVersion| one.revoked_at == Some(3 * DAY);
            assert_eq!(policies.page(0, 9).iter().filter(|one| revoked(one)).count(), 1);
            assert_eq!(propose(&mut policies, set(2, Role::Worker, None), None), Ok(10));
        }
    }
}
