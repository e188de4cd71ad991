// SPDX-License-Identifier: MIT
//! What the owner does while the DAO is set up, and what is left of it after `hand_over`.

use approval::now;
use measurements::{MeasurementSet, Measurements, NewSet, PlatformRules, Role};
use near_sdk::{env, near, require, AccountId};

use crate::events::{emit, Event, HandedOver, MembershipChanged};
use crate::state::StateV2;
use crate::{or_panic, Contract, ContractExt};

#[near]
impl Contract {
    /// A keystore's set without bounds; nothing when such a set is active already. Gives how many keys of keystores
    /// are still to be deleted (`remove_expired_keystores`), since others were cleared.
    pub fn add_approved_measurements(
        &mut self,
        measurements: Measurements,
        clear_others: Option<bool>,
    ) -> u32 {
        let state = self.set_up();
        let mut remaining = 0;
        if clear_others.unwrap_or(false) {
            (_, remaining) = state.expire_sets(|other| *other != measurements);
        }
        let unbounded = |set: &MeasurementSet| set.measurements == measurements && set.not_after.is_none();
        if !state.approvals.sets.matching(&measurements, now()).iter().any(unbounded) {
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
        remaining
    }

    /// Gives how many keys of keystores are still to be deleted.
    pub fn remove_approved_measurements(&mut self, measurements: Measurements) -> u32 {
        let (ended, remaining) = self.set_up().expire_sets(|other| *other == measurements);
        require!(ended > 0, "Measurements not found");
        remaining
    }

    /// Gives how many keys of keystores are still to be deleted.
    pub fn clear_all_approved_measurements(&mut self) -> u32 {
        self.set_up().expire_sets(|_| true).1
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

    /// Gives how many sets ended, and how many keys of theirs are still to be deleted.
    fn expire_sets(&mut self, which: impl Fn(&Measurements) -> bool) -> (usize, u32) {
        let sets = self.approvals.sets.newest_lasting(crate::views::MAX_SETS, now()).into_iter();
        let ids: Vec<u32> = sets.filter(|set| which(&set.measurements)).map(|set| set.id).collect();
        let ended = self.approvals.sets.end_ids(&ids, now());
        (ended.len(), self.sets_ended(&ended, now()))
    }

    pub(crate) fn expire_set(&mut self, id: u32, not_after: u64) -> Result<(), String> {
        let not_after =
            self.approvals.sets.expire(id, not_after, now()).map_err(|error| error.to_string())?;
        self.sets_ended(&[id], not_after);
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
