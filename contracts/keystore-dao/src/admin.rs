// SPDX-License-Identifier: MIT
//! What the owner does while the DAO is set up, and what is left of it after `hand_over`.

use approval::{now, SetsEnd};
use measurements::{Measurements, NewSet, PlatformRules, Role};
use near_sdk::{env, near, require, AccountId};

use crate::events::{emit, Event, HandedOver, MembershipChanged};
use crate::state::StateV2;
use crate::{or_panic, Contract, ContractExt, KeysRemoved};

/// How long a set that ended can still be read.
const RETENTION_SECONDS: u64 = 90 * 86_400;
/// An event holds so many sets.
const MAX_PRUNED: usize = 5;

#[near]
impl Contract {
    /// A keystore's set without bounds; nothing when such a set is active already. With `clear_others` all other sets
    /// end, and up to 100 keys of their keystores are deleted.
    pub fn add_approved_measurements(
        &mut self,
        measurements: Measurements,
        clear_others: Option<bool>,
    ) -> KeysRemoved {
        let state = self.set_up();
        let active = state.approvals.sets.matching(&measurements, now());
        if clear_others.unwrap_or(false) {
            let same: Vec<u32> = active.iter().map(|set| set.id).collect();
            state.end_all_sets(&same);
        }
        if active.iter().all(|set| set.not_after.is_some()) {
            let set = NewSet {
                role: Role::Keystore,
                name: None,
                measurements,
                not_before: None,
                not_after: None,
                platform: PlatformRules::default(),
            };
            or_panic(state.add_set(set));
        }
        state.remove_unapproved()
    }

    /// Ends the sets with these measurements and deletes up to 100 keys of their keystores.
    pub fn remove_approved_measurements(&mut self, measurements: Measurements) -> KeysRemoved {
        let state = self.set_up();
        let ended = state.approvals.sets.end_measurements(&measurements, None, now());
        require!(!ended.is_empty(), "Measurements not found");
        emit(Event::MeasurementSetChanged([SetsEnd { ids: &ended, not_after: now() }]));
        state.remove_unapproved()
    }

    /// Ends all sets and deletes up to 100 keys of their keystores.
    pub fn clear_all_approved_measurements(&mut self) -> KeysRemoved {
        let state = self.set_up();
        state.end_all_sets(&[]);
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

    /// `member` is the original's name of the argument.
    pub fn add_dao_member(&mut self, member: Option<AccountId>, account_id: Option<AccountId>) {
        let state = self.set_up();
        let added = or_panic(one_of(member, account_id));
        or_panic(state.add_member(added.clone()));
        state.emit_membership(Some(&added), None);
    }

    /// `member` is the original's name of the argument.
    pub fn remove_dao_member(&mut self, member: Option<AccountId>, account_id: Option<AccountId>) {
        let state = self.set_up();
        let removed = or_panic(one_of(member, account_id));
        or_panic(state.remove_member(&removed));
        state.emit_membership(None, Some(&removed));
    }

    /// Newer collateral. The owner may bring it after the hand-over too: it verifies to the root and never goes back.
    /// Its place follows from its FMSPC, whatever `index` says, which the original's later versions take.
    pub fn update_collateral(&mut self, collateral: String, index: Option<u32>) {
        let _ = index;
        self.assert_owner();
        or_panic(self.state_mut().store_collateral(&collateral));
    }

    /// Give up the owner's rights for good: measurements and members change by vote only.
    pub fn hand_over(&mut self) {
        let state = self.set_up();
        state.handed_over = true;
        emit(Event::HandedOver([HandedOver { owner_id: &state.owner_id }]));
    }
}

impl Contract {
    fn assert_owner(&self) {
        require!(env::predecessor_account_id() == self.state().owner_id, "Only owner can call this method");
    }

    fn set_up(&mut self) -> &mut StateV2 {
        self.assert_owner();
        require!(!self.state().handed_over, "The owner has handed over to the DAO; make a proposal");
        self.state_mut()
    }
}

impl StateV2 {
    pub(crate) fn add_set(&mut self, set: NewSet) -> Result<(), String> {
        if set.role != Role::Keystore {
            return Err("Measurement sets of this contract have the role keystore".to_string());
        }
        let set = self.approvals.sets.add(set, None, now()).map_err(|error| error.to_string())?;
        emit(Event::MeasurementSetAdded([&set]));
        Ok(())
    }

    /// All sets that there are, but for `except`.
    fn end_all_sets(&mut self, except: &[u32]) {
        let end = self.approvals.sets.end_role(Role::Keystore, now(), except);
        emit(Event::MeasurementSetsEnded([&end]));
    }

    pub(crate) fn expire_set(&mut self, id: u32, not_after: u64) -> Result<(), String> {
        let not_after =
            self.approvals.sets.expire(id, not_after, now()).map_err(|error| error.to_string())?;
        emit(Event::MeasurementSetChanged([SetsEnd { ids: &[id], not_after }]));
        self.remove_unapproved();
        Ok(())
    }

    pub(crate) fn store_collateral(&mut self, collateral: &str) -> Result<(), String> {
        let stored = self.approvals.store_collateral(collateral);
        let info = stored.map_err(|refusal| format!("{}: {}", refusal.reason, refusal.detail))?;
        emit(Event::CollateralUpdated([&info]));
        Ok(())
    }

    pub(crate) fn emit_membership(&self, added: Option<&AccountId>, removed: Option<&AccountId>) {
        emit(Event::MembershipChanged([MembershipChanged {
            added,
            removed,
            members_count: self.members.len() as u32,
            threshold: self.threshold() as u32,
        }]));
    }
}

/// The account that one argument or the other names.
fn one_of(member: Option<AccountId>, account_id: Option<AccountId>) -> Result<AccountId, &'static str> {
    match (member, account_id) {
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (Some(one), Some(other)) if one == other => Ok(one),
        (Some(_), Some(_)) => Err("`member` and `account_id` name different accounts; give one"),
        (None, None) => Err("Missing argument: `member`, the account"),
    }
}
