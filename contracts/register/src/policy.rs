// SPDX-License-Identifier: MIT
//! What is approved: policy versions in two steps, measurement sets, and their removal without delay.
//!
//! On an instance with a delay, approval goes through `propose_policy` only. Without one (`policy_delay_seconds` 0,
//! the default) sets can also be added at once, as the original does. Taking approval away never waits.

use approval::{now, PolicyVersion};
use measurements::{MeasurementSet, Measurements, NewSet, PlatformRules, Role};
use near_sdk::{near, require};

use crate::events::{emit, emit_end, Event, PolicyDelayRaised, PolicyRevoked};
use crate::{or_panic, Contract, ContractExt, PendingPolicyView, StateV2};

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
        emit(Event::PolicyProposed([pending.into()]));
        pending.version
    }

    pub fn cancel_policy(&mut self, version: u32) {
        self.assert_owner();
        let cancelled = or_panic(self.state_mut().policies.cancel(version));
        emit(Event::PolicyCancelled([(&cancelled).into()]));
    }

    /// Let the pending version count. Anyone may, once its delay is over.
    pub fn activate_policy(&mut self, version: u32) -> PolicyVersion {
        let StateV2 { policies, approvals, .. } = self.state_mut();
        let (activated, ended, until) = or_panic(policies.activate(version, &mut approvals.sets, now()));
        emit_end(&ended, until);
        emit(Event::PolicyActivated([&activated]));
        activated
    }

    /// End all sets of a version now, without delay.
    pub fn revoke_policy(&mut self, version: u32) {
        self.assert_owner();
        let StateV2 { policies, approvals, .. } = self.state_mut();
        let ended = or_panic(policies.revoke(version, &mut approvals.sets, now()));
        emit_end(&ended, now());
        emit(Event::PolicyRevoked([PolicyRevoked { version }]));
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

    /// Let a set end earlier; at or before now means now, without delay.
    pub fn expire_measurement_set(&mut self, id: u32, not_after: u64) {
        self.assert_owner();
        let until = or_panic(self.state_mut().approvals.sets.expire(id, not_after, now()));
        emit_end(&[id], until);
    }

    /// The original's form: a worker's set without bounds; nothing when such a set is active already.
    pub fn add_approved_measurements(&mut self, measurements: Measurements, clear_others: Option<bool>) {
        self.assert_owner();
        let state = self.state_mut();
        state.assert_no_delay();
        if clear_others.unwrap_or(false) {
            state.expire_sets(|set| set.measurements != measurements);
        }
        let unbounded = |set: &MeasurementSet| {
            set.role == Role::Worker && set.measurements == measurements && set.not_after.is_none()
        };
        if !state.approvals.sets.active_at(now()).any(unbounded) {
            state.add_set(NewSet {
                role: Role::Worker,
                name: None,
                measurements,
                not_before: None,
                not_after: None,
                platform: PlatformRules::default(),
            });
        }
    }

    pub fn remove_approved_measurements(&mut self, measurements: Measurements) {
        self.assert_owner();
        let ended = self.state_mut().expire_sets(|set| set.measurements == measurements);
        require!(ended > 0, "Measurements not found");
    }

    pub fn clear_all_approved_measurements(&mut self) {
        self.assert_owner();
        self.state_mut().expire_sets(|_| true);
    }

    // --- views ---

    pub fn get_measurement_sets(&self) -> &[MeasurementSet] {
        self.state().approvals.sets.all()
    }

    /// What is active now for a role (by default the worker's), without times: the original's form.
    pub fn get_approved_measurements(&self, role: Option<Role>) -> Vec<&Measurements> {
        let role = role.unwrap_or_default();
        let sets = self.state().approvals.sets.active_at(now());
        sets.filter(|set| set.role == role).map(|set| &set.measurements).collect()
    }

    pub fn is_measurements_approved(&self, measurements: Measurements, role: Option<Role>) -> bool {
        self.state().approvals.sets.is_approved(role.unwrap_or_default(), &measurements, now())
    }

    /// Policy versions that were activated, oldest first.
    pub fn get_policies(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<&PolicyVersion> {
        let from = from_index.unwrap_or(0) as usize;
        let limit = limit.unwrap_or(100).min(100) as usize;
        self.state().policies.versions().iter().skip(from).take(limit).collect()
    }

    pub fn get_pending_policy(&self) -> Option<PendingPolicyView> {
        self.state().policies.pending().map(|policy| PendingPolicyView {
            seconds_until_activation: policy.activates_at.saturating_sub(now()),
            policy: policy.clone(),
        })
    }
}

pub(crate) const MAX_DELAY_SECONDS: u64 = 90 * 86_400;
const NO_KEYSTORES: &str = "Keystores are approved by the keystore DAO, not here";

fn has_role(role: Role) -> bool {
    role != Role::Keystore
}

impl StateV2 {
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
        emit(Event::MeasurementSetAdded([set]));
        set.id
    }

    fn expire_sets(&mut self, which: impl Fn(&MeasurementSet) -> bool) -> usize {
        let ended = self.approvals.sets.expire_where(now(), which);
        emit_end(&ended, now());
        ended.len()
    }
}
