// SPDX-License-Identifier: MIT
//! The register contract. It lives on the operator account of the main contract and gives it the keys of
//! workers: each key comes with a TDX quote that shows approved measurements and names the key.
//!
//! A quote that is not good enough is answered with a value (`rejected`, reason, detail), so that a worker
//! can tell "refused" from "unreachable". Time is block time; all times are unix seconds.

mod events;
mod keys;
mod types;

#[cfg(test)]
mod tests;

use measurements::{MeasurementSet, MeasurementSets, Measurements, SetError};
use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{env, near, require, AccountId, BorshStorageKey, PanicOnDefault, PublicKey};
use quote_verify::{is_root_certificate, Collateral, Fmspc, INTEL_ROOT_CA_DER};

use events::{emit, Event, OwnershipTransferred};
pub use types::*;

const DEFAULT_KEY_TTL_SECONDS: u64 = 30 * 86_400;

#[near(serializers = [borsh])]
#[derive(BorshStorageKey)]
enum StorageKey {
    Collateral,
    Keys,
}

/// The state, by version: a new version adds a variant and a migration.
#[near(contract_state)]
#[derive(PanicOnDefault)]
pub enum Contract {
    V1(StateV1),
}

#[near(serializers = [borsh])]
pub struct StateV1 {
    owner_id: AccountId,
    init_worker_account: AccountId,
    outlayer_contract_id: AccountId,
    /// None is Intel's. Set at init, never after.
    root_ca_der: Option<Vec<u8>>,
    key_ttl_seconds: u64,
    sets: MeasurementSets,
    fmspcs: Vec<Fmspc>,
    collateral: LookupMap<Fmspc, StoredCollateral>,
    keys: IterableMap<PublicKey, StoredKey>,
}

#[near]
impl Contract {
    /// `root_ca_der_hex` is for local networks with a simulated platform; without it the root is Intel's.
    #[init]
    pub fn new(
        owner_id: AccountId,
        init_worker_account: AccountId,
        outlayer_contract_id: AccountId,
        root_ca_der_hex: Option<String>,
        key_ttl_seconds: Option<u64>,
    ) -> Self {
        let root_ca_der = root_ca_der_hex.map(|text| {
            let der = hex::decode(text).unwrap_or_else(|_| env::panic_str("root_ca_der_hex is not hex"));
            require!(is_root_certificate(&der), "root_ca_der_hex is not a self-signed EC P-256 certificate");
            der
        });
        let key_ttl_seconds = key_ttl_seconds.unwrap_or(DEFAULT_KEY_TTL_SECONDS);
        require!(key_ttl_seconds > 0, "key_ttl_seconds must be positive");
        Contract::V1(StateV1 {
            owner_id,
            init_worker_account,
            outlayer_contract_id,
            root_ca_der: root_ca_der.filter(|der| der != INTEL_ROOT_CA_DER),
            key_ttl_seconds,
            sets: MeasurementSets::default(),
            fmspcs: Vec::new(),
            collateral: LookupMap::new(StorageKey::Collateral),
            keys: IterableMap::new(StorageKey::Keys),
        })
    }

    // --- measurement sets (owner) ---

    /// Approve measurements from `not_before` until `not_after`; an absent bound is open.
    pub fn add_measurement_set(
        &mut self,
        measurements: Measurements,
        name: Option<String>,
        not_before: Option<u64>,
        not_after: Option<u64>,
    ) -> u32 {
        self.assert_owner();
        require!(name.as_ref().is_none_or(|name| name.len() <= 128), "The name is longer than 128 bytes");
        self.state_mut().add_set(measurements, name, not_before, not_after)
    }

    /// Let a set end earlier; at or before now means now, without delay.
    pub fn expire_measurement_set(&mut self, id: u32, not_after: u64) {
        self.assert_owner();
        let set = or_panic(self.state_mut().sets.expire(id, not_after, now()));
        emit(Event::MeasurementSetChanged([set]));
    }

    /// The original's form: a set without bounds; nothing when such a set is active already.
    pub fn add_approved_measurements(&mut self, measurements: Measurements, clear_others: Option<bool>) {
        self.assert_owner();
        let state = self.state_mut();
        if clear_others.unwrap_or(false) {
            state.expire_sets(|set| set.measurements != measurements);
        }
        let unbounded = |set: &MeasurementSet| set.measurements == measurements && set.not_after.is_none();
        if !state.sets.active_at(now()).any(unbounded) {
            state.add_set(measurements, None, None, None);
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

    // --- collateral (owner) ---

    /// Store collateral for the FMSPC that its TCB info names. It must verify to the root and be current, and
    /// never goes back behind what is stored.
    pub fn update_collateral(&mut self, collateral: String) {
        self.assert_owner();
        let state = self.state_mut();
        let verified = Collateral::from_json(&collateral)
            .and_then(|collateral| Ok((collateral.verify(state.root(), now())?, collateral)));
        let (facts, collateral) = verified
            .unwrap_or_else(|rejection| env::panic_str(&format!("{}: {rejection}", rejection.reason.code())));
        let info = CollateralInfo {
            fmspc: hex::encode(facts.fmspc),
            sha256: hex::encode(env::sha256_array(collateral.to_json().as_bytes())),
            tcb_evaluation_data_number: facts.tcb_evaluation_data_number,
            issue_date: facts.issue_date,
            next_update: facts.next_update,
            stored_at: now(),
        };
        if let Some(StoredCollateral::V1(_, stored)) = state.collateral.get(&facts.fmspc) {
            require!(
                info.tcb_evaluation_data_number >= stored.tcb_evaluation_data_number
                    && info.issue_date >= stored.issue_date,
                format!(
                    "The collateral is older than what is stored (evaluation data number {}, issued {})",
                    stored.tcb_evaluation_data_number, stored.issue_date
                )
            );
        } else {
            state.fmspcs.push(facts.fmspc);
        }
        emit(Event::CollateralUpdated([&info]));
        state.collateral.insert(facts.fmspc, StoredCollateral::V1(collateral, info));
    }

    pub fn transfer_ownership(&mut self, new_owner: AccountId) {
        self.assert_owner();
        let old_owner = std::mem::replace(&mut self.state_mut().owner_id, new_owner);
        emit(Event::OwnershipTransferred([OwnershipTransferred {
            old_owner: &old_owner,
            new_owner: &self.state().owner_id,
        }]));
    }

    // --- views ---

    pub fn get_measurement_sets(&self) -> &[MeasurementSet] {
        self.state().sets.all()
    }

    /// What is active now, without times: the original's form.
    pub fn get_approved_measurements(&self) -> Vec<&Measurements> {
        self.state().sets.active_at(now()).map(|set| &set.measurements).collect()
    }

    pub fn is_measurements_approved(&self, measurements: Measurements) -> bool {
        self.state().sets.find_active(&measurements, now()).is_some()
    }

    /// The stored collateral of an FMSPC (12 hex digits), or what was stored last.
    pub fn get_collateral(&self, fmspc: Option<String>) -> Option<String> {
        let state = self.state();
        let fmspc = match fmspc {
            Some(text) => {
                let mut fmspc = Fmspc::default();
                hex::decode_to_slice(text, &mut fmspc).ok()?;
                fmspc
            }
            None => {
                *state.fmspcs.iter().max_by_key(|fmspc| state.collateral_info(fmspc).map(|i| i.stored_at))?
            }
        };
        state.collateral.get(&fmspc).map(|StoredCollateral::V1(collateral, _)| collateral.to_json())
    }

    pub fn get_collateral_info(&self) -> Vec<&CollateralInfo> {
        let state = self.state();
        state.fmspcs.iter().filter_map(|fmspc| state.collateral_info(fmspc)).collect()
    }

    pub fn get_root_ca(&self) -> RootCa {
        let state = self.state();
        RootCa {
            sha256: hex::encode(env::sha256_array(state.root())),
            simulated: state.root_ca_der.is_some(),
        }
    }

    pub fn get_init_worker_account(&self) -> &AccountId {
        &self.state().init_worker_account
    }

    pub fn get_config(&self) -> Config {
        let state = self.state();
        Config {
            owner_id: state.owner_id.clone(),
            init_worker_account: state.init_worker_account.clone(),
            outlayer_contract_id: state.outlayer_contract_id.clone(),
            key_ttl_seconds: state.key_ttl_seconds,
        }
    }
}

impl Contract {
    fn state(&self) -> &StateV1 {
        let Contract::V1(state) = self;
        state
    }

    fn state_mut(&mut self) -> &mut StateV1 {
        let Contract::V1(state) = self;
        state
    }

    fn assert_owner(&self) {
        require!(env::predecessor_account_id() == self.state().owner_id, "Only owner can call this method");
    }
}

impl StateV1 {
    fn root(&self) -> &[u8] {
        self.root_ca_der.as_deref().unwrap_or(INTEL_ROOT_CA_DER)
    }

    fn collateral_info(&self, fmspc: &Fmspc) -> Option<&CollateralInfo> {
        self.collateral.get(fmspc).map(|StoredCollateral::V1(_, info)| info)
    }

    fn add_set(
        &mut self,
        measurements: Measurements,
        name: Option<String>,
        not_before: Option<u64>,
        not_after: Option<u64>,
    ) -> u32 {
        let set = or_panic(self.sets.add(measurements, name, not_before, not_after, now()));
        emit(Event::MeasurementSetAdded([set]));
        set.id
    }

    fn expire_sets(&mut self, which: impl Fn(&MeasurementSet) -> bool) -> usize {
        let ended = self.sets.expire_where(now(), which);
        for set in ended.iter().filter_map(|id| self.sets.get(*id)) {
            emit(Event::MeasurementSetChanged([set]));
        }
        ended.len()
    }
}

fn or_panic<T>(result: Result<T, SetError>) -> T {
    result.unwrap_or_else(|error| env::panic_str(&error.to_string()))
}

fn now() -> u64 {
    env::block_timestamp() / 1_000_000_000
}
