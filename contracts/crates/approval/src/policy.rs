// SPDX-License-Identifier: MIT
//! Policy versions: a version is the digest of a policy file of `attestation_policy/` and its compact tuples, which
//! become measurement sets. It is proposed, waits, and is then activated; one at a time.

use std::fmt;

use measurements::{MeasurementSet, MeasurementSets, NewSet, SetError};
use near_sdk::near;

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

/// All versions that there ever were, and the one that waits.
#[near(serializers = [borsh])]
#[derive(Default)]
pub struct Policies {
    versions: Vec<PolicyVersion>,
    pending: Option<PendingPolicy>,
    proposed: u32,
}

impl Policies {
    pub fn versions(&self) -> &[PolicyVersion] {
        &self.versions
    }

    pub fn pending(&self) -> Option<&PendingPolicy> {
        self.pending.as_ref()
    }

    /// Let a version wait until `now + delay`.
    pub fn propose(
        &mut self,
        sha256: String,
        sets: Vec<NewSet>,
        grace_seconds: Option<u64>,
        delay: u64,
        now: u64,
    ) -> Result<&PendingPolicy, PolicyError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if sha256.len() != 64 || !sha256.bytes().all(hex) {
            return Err(PolicyError::Digest);
        }
        if !(1..=MAX_TUPLES).contains(&sets.len()) {
            return Err(PolicyError::Size);
        }
        if self.pending.is_some() {
            return Err(PolicyError::Pending);
        }
        let activates_at = now.saturating_add(delay);
        sets.iter().try_for_each(|set| set.check(activates_at))?;
        self.proposed += 1;
        let version = self.proposed;
        Ok(self.pending.insert(PendingPolicy {
            version,
            sha256,
            sets,
            grace_seconds,
            proposed_at: now,
            activates_at,
        }))
    }

    /// Drop the version that waits.
    pub fn cancel(&mut self, version: u32) -> Result<PendingPolicy, PolicyError> {
        self.require_pending(version)?;
        self.pending.take().ok_or(PolicyError::NothingPending)
    }

    /// Let the version that waits count, once its delay is over. Gives it, the ids of the sets whose end moved, and
    /// to when.
    pub fn activate(
        &mut self,
        version: u32,
        sets: &mut MeasurementSets,
        now: u64,
    ) -> Result<(PolicyVersion, Vec<u32>, u64), PolicyError> {
        if now < self.require_pending(version)?.activates_at {
            return Err(PolicyError::TooEarly);
        }
        let PendingPolicy { sha256, sets: new, grace_seconds, proposed_at, .. } =
            self.pending.take().ok_or(PolicyError::NothingPending)?;
        let roles: Vec<_> = new.iter().map(|set| set.role).collect();
        let until = now.saturating_add(grace_seconds.unwrap_or(0));
        let ended = grace_seconds.map_or_else(Vec::new, |_| {
            let other = |set: &MeasurementSet| roles.contains(&set.role);
            sets.expire_where(until, other)
        });
        let mut ids = Vec::with_capacity(new.len());
        for set in new {
            ids.push(sets.add(set, Some(version), now)?.id);
        }
        let activated =
            PolicyVersion { version, sha256, sets: ids, proposed_at, activated_at: now, revoked_at: None };
        self.versions.push(activated.clone());
        Ok((activated, ended, until))
    }

    /// End all sets of a version now. Gives their ids.
    pub fn revoke(
        &mut self,
        version: u32,
        sets: &mut MeasurementSets,
        now: u64,
    ) -> Result<Vec<u32>, PolicyError> {
        let found = self.versions.iter_mut().find(|one| one.version == version);
        let found = found.ok_or(PolicyError::NotFound)?;
        if found.revoked_at.is_some() {
            return Err(PolicyError::Revoked);
        }
        found.revoked_at = Some(now);
        Ok(sets.expire_where(now, |set| set.policy_version == Some(version)))
    }

    fn require_pending(&self, version: u32) -> Result<&PendingPolicy, PolicyError> {
        match &self.pending {
            None => Err(PolicyError::NothingPending),
            Some(pending) if pending.version != version => Err(PolicyError::OtherPending),
            Some(pending) => Ok(pending),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measurements::{Measurements, PlatformRules, Role};

    const DAY: u64 = 86_400;

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
        let (mut policies, mut sets) = (Policies::default(), MeasurementSets::default());
        assert_eq!(propose(&mut policies, set(1, Role::Worker, None), None), Ok(1));
        assert_eq!(policies.activate(1, &mut sets, 1_000 + DAY - 1), Err(PolicyError::TooEarly));
        assert!(sets.all().is_empty());
        let (version, ended, _) = policies.activate(1, &mut sets, 1_000 + DAY).unwrap();
        assert_eq!((version.sets, version.activated_at, ended), (vec![1], 1_000 + DAY, vec![]));
        assert_eq!(sets.get(1).unwrap().policy_version, Some(1));
        assert_eq!(policies.activate(1, &mut sets, 1_000 + DAY), Err(PolicyError::NothingPending));
    }

    #[test]
    fn one_version_waits_at_a_time_and_a_cancelled_number_is_not_used_again() {
        let (mut policies, mut sets) = (Policies::default(), MeasurementSets::default());
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
        let (mut policies, mut sets) = (Policies::default(), MeasurementSets::default());
        sets.add(set(1, Role::Worker, None), None, 1_000).unwrap();
        sets.add(set(2, Role::Compiler, None), None, 1_000).unwrap();
        propose(&mut policies, set(3, Role::Worker, None), Some(7 * DAY)).unwrap();
        let (_, ended, until) = policies.activate(1, &mut sets, 2 * DAY).unwrap();
        assert_eq!((ended, until), (vec![1], 9 * DAY));
        let ends: Vec<_> = sets.all().iter().map(|set| set.not_after).collect();
        assert_eq!(ends, [Some(9 * DAY), None, None]);
    }

    #[test]
    fn a_revoked_version_ends_at_once_and_alone() {
        let (mut policies, mut sets) = (Policies::default(), MeasurementSets::default());
        for byte in [1, 2] {
            let version = propose(&mut policies, set(byte, Role::Worker, None), None).unwrap();
            policies.activate(version, &mut sets, 2 * DAY).unwrap();
        }
        assert_eq!(policies.revoke(1, &mut sets, 3 * DAY), Ok(vec![1]));
        assert_eq!(policies.revoke(1, &mut sets, 3 * DAY), Err(PolicyError::Revoked));
        assert_eq!(policies.revoke(7, &mut sets, 3 * DAY), Err(PolicyError::NotFound));
        assert_eq!(sets.active_at(3 * DAY).map(|set| set.id).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn what_could_never_count_is_not_proposed() {
        let mut policies = Policies::default();
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
}
