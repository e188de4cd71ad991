// SPDX-License-Identifier: MIT
//! Views.

use approval::{now, CollateralInfo, RootCa};
use measurements::{MeasurementSet, Measurements, Role};
use near_sdk::{near, AccountId, PublicKey};

use crate::{Config, Contract, ContractExt, Keystore, ProposalView, StoredKeystore, StoredProposal};

#[near]
impl Contract {
    pub fn get_proposal(&self, proposal_id: u64) -> Option<ProposalView> {
        let state = self.state();
        state.proposals.get(&proposal_id).map(|StoredProposal::V1(proposal)| state.view(proposal))
    }

    /// Proposals by number, which begin at 1; `from_index` 0 is the first.
    pub fn get_proposals(&self, from_index: Option<u64>, limit: Option<u64>) -> Vec<ProposalView> {
        let first = from_index.unwrap_or(0).saturating_add(1);
        let last = first.saturating_add(limit.unwrap_or(50).min(100)).min(self.state().next_proposal_id);
        (first..last).filter_map(|id| self.get_proposal(id)).collect()
    }

    pub fn get_dao_members(&self) -> Vec<&AccountId> {
        self.state().members.iter().collect()
    }

    pub fn get_measurement_sets(&self) -> &[MeasurementSet] {
        self.state().approvals.sets.all()
    }

    pub fn get_approved_measurements(&self) -> Vec<&Measurements> {
        self.state().approvals.sets.active_at(now()).map(|set| &set.measurements).collect()
    }

    pub fn is_measurements_approved(&self, measurements: Measurements) -> bool {
        self.state().approvals.sets.is_approved(Role::Keystore, &measurements, now())
    }

    pub fn is_keystore_approved(&self, public_key: PublicKey) -> bool {
        self.state().is_approved(&public_key)
    }

    pub fn get_keystore(&self, public_key: PublicKey) -> Option<&Keystore> {
        self.state().keystores.get(&public_key).map(|StoredKeystore::V1(keystore)| keystore)
    }

    pub fn get_keystores(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<&Keystore> {
        let from = from_index.unwrap_or(0) as usize;
        let limit = limit.unwrap_or(100).min(100) as usize;
        let keystores = self.state().keystores.values();
        keystores.skip(from).take(limit).map(|StoredKeystore::V1(keystore)| keystore).collect()
    }

    pub fn get_owner(&self) -> &AccountId {
        &self.state().owner_id
    }

    /// The stored collateral of an FMSPC (12 hex digits), or what was stored last.
    pub fn get_collateral(&self, fmspc: Option<String>) -> Option<String> {
        self.state().approvals.collateral_json(fmspc)
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
            next_proposal_id: state.next_proposal_id,
            approved_keystores_count: state.keystores.len(),
            approved_measurements_count: state.approvals.sets.active_at(now()).count() as u32,
            has_collateral: !state.approvals.collateral_info().is_empty(),
            handed_over: state.handed_over,
            register_contract_id: state.register_contract_id.clone(),
            proposal_ttl_seconds: state.proposal_ttl_seconds,
            keystore_ttl_seconds: state.keystore_ttl_seconds,
        }
    }
}
