// SPDX-License-Identifier: MIT
//! Views.

use approval::{now, CollateralInfo, RootCa};
use measurements::{MeasurementSet, Measurements, Role};
use near_sdk::{near, AccountId, PublicKey};

use crate::{Config, Contract, ContractExt, Keystore, ProposalView, StoredKeystore};

/// Of a page: each has about 24 KB.
const MAX_COLLATERALS: u32 = 20;

/// What one view can read.
const MAX_SETS: u32 = 500;

#[near]
impl Contract {
    pub fn get_proposal(&self, proposal_id: u64) -> Option<ProposalView> {
        self.state().whole_view(proposal_id)
    }

    /// Those that there are, oldest first; `from_index` counts from 0, and pruned ones leave no gap. Long texts are
    /// shown as their digests; `get_proposal` has them whole.
    pub fn get_proposals(&self, from_index: Option<u64>, limit: Option<u64>) -> Vec<ProposalView> {
        let state = self.state();
        let first = from_index.unwrap_or(0);
        let last = first.saturating_add(limit.unwrap_or(50).min(100));
        (first..last).map_while(|index| state.view(state.proposal_at(index)?)).collect()
    }

    pub fn get_dao_members(&self) -> Vec<&AccountId> {
        self.state().members.iter().collect()
    }

    /// The sets by their place; at most 500.
    pub fn get_measurement_sets(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<MeasurementSet> {
        let limit = limit.unwrap_or(MAX_SETS).min(MAX_SETS);
        self.state().approvals.sets.page(from_index.unwrap_or(0), limit)
    }

    pub fn get_measurement_set(&self, id: u32) -> Option<MeasurementSet> {
        self.state().approvals.sets.get(id)
    }

    /// Of the newest 500 sets.
    pub fn get_approved_measurements(&self) -> Vec<Measurements> {
        let active = self.state().approvals.sets.newest_active(MAX_SETS, now());
        active.into_iter().map(|set| set.measurements).collect()
    }

    pub fn is_measurements_approved(&self, measurements: Measurements) -> bool {
        self.state().approvals.sets.is_approved(Role::Keystore, &measurements, now())
    }

    pub fn is_keystore_approved(&self, public_key: PublicKey) -> bool {
        self.state().is_approved(&public_key)
    }

    pub fn get_keystore(&self, public_key: PublicKey) -> Option<&Keystore> {
        self.state().keystores.get(&public_key).map(StoredKeystore::keystore)
    }

    pub fn get_keystores(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<&Keystore> {
        let from = from_index.unwrap_or(0) as usize;
        let limit = limit.unwrap_or(100).min(100) as usize;
        let keystores = self.state().keystores.values();
        keystores.skip(from).take(limit).map(StoredKeystore::keystore).collect()
    }

    /// The keys that count now.
    pub fn get_approved_keystores(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<&PublicKey> {
        let state = self.state();
        let from = from_index.unwrap_or(0) as usize;
        let limit = limit.unwrap_or(100).min(100) as usize;
        let keystores = state.keystores.values().map(StoredKeystore::keystore);
        let approved = keystores.filter(|keystore| state.counts(keystore));
        approved.skip(from).take(limit).map(|keystore| &keystore.public_key).collect()
    }

    pub fn get_owner(&self) -> &AccountId {
        &self.state().owner_id
    }

    /// The stored collateral of an FMSPC (12 hex digits), or what was stored last.
    pub fn get_collateral(&self, fmspc: Option<String>) -> Option<String> {
        self.state().approvals.collateral_json(fmspc)
    }

    /// The stored collateral of each FMSPC, in the order in which each first came.
    pub fn get_collaterals(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<String> {
        let limit = limit.unwrap_or(MAX_COLLATERALS).min(MAX_COLLATERALS);
        self.state().approvals.collaterals(from_index.unwrap_or(0), limit)
    }

    pub fn get_collateral_info(&self) -> Vec<&CollateralInfo> {
        self.state().approvals.collateral_info()
    }

    pub fn get_root_ca(&self) -> RootCa {
        self.state().approvals.root_ca()
    }

    pub fn get_config(&self) -> Config {
        let state = self.state();
        Config {
            owner_id: state.owner_id.clone(),
            init_account_id: state.init_account_id.clone(),
            mpc_contract_id: state.mpc_contract_id.clone(),
            approval_threshold: state.threshold() as u32,
            dao_members_count: state.members.len() as u32,
            next_proposal_id: state.proposals.next_id,
            approved_keystores_count: state.keystores.len(),
            approved_measurements_count: state.approvals.sets.newest_active(MAX_SETS, now()).len() as u32,
            has_collateral: !state.approvals.collateral_info().is_empty(),
            handed_over: state.handed_over,
            register_contract_id: state.register_contract_id.clone(),
            proposal_ttl_seconds: state.proposal_ttl_seconds,
            keystore_ttl_seconds: state.keystore_ttl_seconds,
            proposals_count: state.proposals_count(),
        }
    }
}
