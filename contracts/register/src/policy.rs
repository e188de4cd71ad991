// SPDX-License-Identifier: MIT
//! What is approved: policy versions in two steps, measurement sets, and their removal without delay.
//!
//! On an instance with a delay, approval goes through `propose_policy` only. Without one (`policy_delay_seconds` 0,
//! the default) sets can also be added at once, as the original does. Taking approval away never waits.

use approval::{now, PolicyVersion};
use measurements::{MeasurementSet, Measurements, NewSet, PlatformRules, Role};
use near_sdk::{near, require};

use crate::events::{emit, emit_end, Event, PolicyActivated, PolicyDelayRaised, PolicyRevoked};
use crate::{or_panic, Contract, ContractExt, KeysRemoved, PendingPolicyView, StateV3};

#[near]
impl Contract {
    // --- policy versions ---

    /// Propose a policy version: the SHA-256 of a policy file, and its tuples. It can be activated after the delay.
    /// `grace_seconds` lets the other sets of the same roles end that long after activation. Gives its number.
    pub fn propose_policy(&mut self, sha256: String, sets: Vec<NewSet>, grace_seconds: Option<u64>) -> u32 {
        self.assert_owner();
        let state = self.state_mut();
        require!(sets.iter().all(|set| has_role(set.role)), NO_KEYSTORES);
        let delay = state.policy_delay_seconds;
        let pending = or_panic(state.policies.propose(sha256, sets, grace_seconds, delay, now()));
        emit(Event::PolicyProposed([(&pending).into()]));
        pending.version
    }

    pub fn cancel_policy(&mut self, version: u32) {
        self.assert_owner();
        let cancelled = or_panic(self.state_mut().policies.cancel(version));
        emit(Event::PolicyCancelled([(&cancelled).into()]));
    }

    /// Let the pending version count. Anyone may, once its delay is over. A set of it whose time has passed meanwhile is
    /// left out, so that it holds up no other.
    pub fn activate_policy(&mut self, version: u32) -> PolicyVersion {
        let StateV3 { policies, approvals, .. } = self.state_mut();
        let activation = or_panic(policies.activate(version, &mut approvals.sets, now()));
        for end in &activation.ended {
            emit(Event::MeasurementSetsEnded([end]));
        }
        self.state_mut().note_ending();
        let activated = PolicyActivated { version: &activation.version, left_out: activation.left_out };
        emit(Event::PolicyActivated([activated]));
        activation.version
    }

    /// End all sets of a version now, without delay, and remove the keys that they admitted.
    pub fn revoke_policy(&mut self, version: u32) -> KeysRemoved {
        self.assert_owner();
        let StateV3 { policies, approvals, .. } = self.state_mut();
        let ended = or_panic(policies.revoke(version, &mut approvals.sets, now()));
        emit_end(&ended, now());
        emit(Event::PolicyRevoked([PolicyRevoked { version }]));
        self.state_mut().remove_unapproved()
    }

    /// Make approvals wait longer; a delay never gets shorter.
    pub fn raise_policy_delay(&mut self, policy_delay_seconds: u64) {
        self.assert_owner();
        let state = self.state_mut();
        require!(
            policy_delay_seconds > state.policy_delay_seconds,
            format!("The delay can only be raised; it is {} seconds", state.policy_delay_seconds)
        );
        require!(policy_delay_seconds <= MAX_DELAY_SECONDS, "The delay is longer than 90 days");
        state.policy_delay_seconds = policy_delay_seconds;
        emit(Event::PolicyDelayRaised([PolicyDelayRaised { policy_delay_seconds }]));
    }

    // --- measurement sets ---

    /// Approve measurements from `not_before` until `not_after`; an absent bound is open. Absent rules are R12.
    pub fn add_measurement_set(
        &mut self,
        measurements: Measurements,
        name: Option<String>,
        not_before: Option<u64>,
        not_after: Option<u64>,
        role: Option<Role>,
        platform: Option<PlatformRules>,
    ) -> u32 {
        self.assert_owner();
        let role = role.unwrap_or_default();
        let platform = platform.unwrap_or_default();
        self.state_mut().add_set(NewSet { role, name, measurements, not_before, not_after, platform })
    }

    /// Let a set end earlier; at or before now means now, without delay, and then its keys are removed.
    pub fn expire_measurement_set(&mut self, id: u32, not_after: u64) -> KeysRemoved {
        self.assert_owner();
        let state = self.state_mut();
        let until = or_panic(state.approvals.sets.expire(id, not_after, now()));
        emit_end(&[id], until);
        state.remove_unapproved()
    }

    /// The original's form: a worker's set without bounds; nothing when such a set is active already. With
    /// `clear_others` all other sets of workers end now.
    pub fn add_approved_measurements(
        &mut self,
        measurements: Measurements,
        clear_others: Option<bool>,
    ) -> KeysRemoved {
        self.assert_owner();
        let state = self.state_mut();
        state.assert_no_delay();
        let mut active = state.approvals.sets.matching(&measurements, now());
        active.retain(|set| set.role == Role::Worker);
        if clear_others.unwrap_or(false) {
            let same: Vec<u32> = active.iter().map(|set| set.id).collect();
            state.end_role(Role::Worker, &same);
        }
        if active.iter().all(|set| set.not_after.is_some()) {
            state.add_set(NewSet {
                role: Role::Worker,
                name: None,
                measurements,
                not_before: None,
                not_after: None,
                platform: PlatformRules::default(),
            });
        }
        state.remove_unapproved()
    }

    pub fn remove_approved_measurements(&mut self, measurements: Measurements) -> KeysRemoved {
        self.assert_owner();
        let state = self.state_mut();
        let ended = state.approvals.sets.end_measurements(&measurements, None, now());
        require!(!ended.is_empty(), "Measurements not found");
        emit_end(&ended, now());
        state.remove_unapproved()
    }

    /// End all sets, of workers and compilers.
    pub fn clear_all_approved_measurements(&mut self) -> KeysRemoved {
        self.assert_owner();
        let state = self.state_mut();
        for role in [Role::Worker, Role::Compiler] {
            state.end_role(role, &[]);
        }
        state.remove_unapproved()
    }

    /// Delete sets that ended more than 90 days ago; the event holds them. Anyone may. Looks at `limit` sets (at most 100,
    /// by default 50), goes on where the last call stopped, and gives the ids of what it deleted, at most 5.
    pub fn prune_measurement_sets(&mut self, limit: Option<u32>) -> Vec<u32> {
        let ended_before = now().saturating_sub(RETENTION_SECONDS);
        let limit = limit.unwrap_or(50).min(100);
        let pruned = self.state_mut().approvals.sets.prune(limit, MAX_PRUNED, ended_before);
        if !pruned.is_empty() {
            emit(Event::MeasurementSetsPruned(&pruned));
        }
        pruned.into_iter().map(|set| set.id).collect()
    }

    // --- views ---

    /// The sets by their place, which only pruning changes: at most 500, from the first without arguments.
    pub fn get_measurement_sets(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<MeasurementSet> {
        self.state().approvals.sets.page(from_index.unwrap_or(0), limit.unwrap_or(PAGE).min(PAGE))
    }

    pub fn get_measurement_set(&self, id: u32) -> Option<MeasurementSet> {
        self.state().approvals.sets.get(id)
    }

    /// What is active now for a role (by default the worker's), without times: the original's form. Of the newest 500
    /// sets; `is_measurements_approved` knows all.
    pub fn get_approved_measurements(&self, role: Option<Role>) -> Vec<Measurements> {
        let role = role.unwrap_or_default();
        let sets = self.state().approvals.sets.newest_active(PAGE, now());
        sets.into_iter().filter(|set| set.role == role).map(|set| set.measurements).collect()
    }

    pub fn is_measurements_approved(&self, measurements: Measurements, role: Option<Role>) -> bool {
        self.state().approvals.sets.is_approved(role.unwrap_or_default(), &measurements, now())
    }

    /// Policy versions that were activated, oldest first.
    pub fn get_policies(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<PolicyVersion> {
        self.state().policies.page(from_index.unwrap_or(0), limit.unwrap_or(100).min(100))
    }

    pub fn get_pending_policy(&self) -> Option<PendingPolicyView> {
        self.state().policies.pending().map(|policy| PendingPolicyView {
            seconds_until_activation: policy.activates_at.saturating_sub(now()),
            policy: policy.clone(),
        })
    }
}

pub(crate) const MAX_DELAY_SECONDS: u64 = 90 * 86_400;
/// How long a set that ended stays readable at least.
const RETENTION_SECONDS: u64 = 90 * 86_400;
/// Their event holds them whole, and all logs of a call share 16 KB.
const MAX_PRUNED: usize = 5;
const PAGE: u32 = 500;
const NO_KEYSTORES: &str = "Keystores are approved by the keystore DAO, not here";

fn has_role(role: Role) -> bool {
    role != Role::Keystore
}

impl StateV3 {
    fn assert_no_delay(&self) {
        require!(
            self.policy_delay_seconds == 0,
            "This contract approves measurements in two steps: propose_policy, then activate_policy"
        );
    }

    fn add_set(&mut self, set: NewSet) -> u32 {
        self.assert_no_delay();
        require!(has_role(set.role), NO_KEYSTORES);
        let set = or_panic(self.approvals.sets.add(set, None, now()));
        emit(Event::MeasurementSetAdded([&set]));
        set.id
    }

    fn end_role(&mut self, role: Role, except: &[u32]) {
        let end = self.approvals.sets.end_role(role, now(), except);
        emit(Event::MeasurementSetsEnded([&end]));
    }
}
