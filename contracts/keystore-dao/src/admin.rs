// SPDX-License-Identifier: MIT
//! What the owner does while the DAO is set up, and what is left of it after `hand_over`.

use approval::{now, SetsEnd};
use measurements::{MeasurementSet, Measurements, NewSet, PlatformRules, Role};
use near_sdk::{env, near, require, AccountId};

use crate::events::{emit, Event, HandedOver, MembershipChanged};
use crate::{or_panic, Contract, ContractExt, StateV1};

#[near]
impl Contract {
    /// A keystore's set without bounds; nothing when such a set is active already.
    pub fn add_approved_measurements(&mut self, measurements: Measurements, clear_others: Option<bool>) {
        let state = self.set_up();
        if clear_others.unwrap_or(false) {
            state.expire_sets(|other| *other != measurements);
        }
        let unbounded = |set: &MeasurementSet| set.measurements == measurements && set.not_after.is_none();
        if !state.approvals.sets.active_at(now()).any(unbounded) {
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
    }

    pub fn remove_approved_measurements(&mut self, measurements: Measurements) {
        let ended = self.set_up().expire_sets(|other| *other == measurements);
        require!(ended > 0, "Measurements not found");
    }

    pub fn clear_all_approved_measurements(&mut self) {
        self.set_up().expire_sets(|_| true);
    }

    pub fn add_dao_member(&mut self, account_id: AccountId) {
        let state = self.set_up();
        or_panic(state.add_member(account_id.clone()));
        state.emit_membership(Some(&account_id), None);
    }

    pub fn remove_dao_member(&mut self, account_id: AccountId) {
        let state = self.set_up();
        or_panic(state.remove_member(&account_id));
        state.emit_membership(None, Some(&account_id));
    }

    /// Newer collateral. The owner may bring it after the hand-over too: it verifies to the root and never goes back.
    pub fn update_collateral(&mut self, collateral: String) {
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

    fn set_up(&mut self) -> &mut StateV1 {
        self.assert_owner();
        require!(!self.state().handed_over, "The owner has handed over to the DAO; make a proposal");
        self.state_mut()
    }
}

impl StateV1 {
    pub(crate) fn add_set(&mut self, set: NewSet) -> Result<(), String> {
        if set.role != Role::Keystore {
            return Err("Measurement sets of this contract have the role keystore".to_string());
        }
        let set = self.approvals.sets.add(set, None, now()).map_err(|error| error.to_string())?;
        emit(Event::MeasurementSetAdded([set]));
        Ok(())
    }

    fn expire_sets(&mut self, which: impl Fn(&Measurements) -> bool) -> usize {
        let ended = self.approvals.sets.expire_where(now(), |set| which(&set.measurements));
        if !ended.is_empty() {
            emit(Event::MeasurementSetChanged([SetsEnd { ids: &ended, not_after: now() }]));
        }
        ended.len()
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
