// SPDX-License-Identifier: MIT
//! Worker keys: registration by quote, validity, removal.

use approval::{
    new_challenge, now, registration_report_data, require_ed25519, reverification_report_data, Appraised,
    Refusal,
};
use measurements::Role;
use near_sdk::{env, near, require, AccountId, Allowance, NearToken, Promise, PublicKey};

use crate::events::{emit, Event, KeyRegistered, KeyRejected, KeysRemoved};
use crate::{Contract, ContractExt, RegisterResult, StateV2, StoredKey, WorkerKey};

/// What a worker's key may call on the main contract.
const WORKER_METHODS: &str = "resolve_execution,submit_execution_output,submit_execution_output_and_resolve,\
                              resume_topup,resume_delete_payment_key";
/// What a compiler's key may call, and only here: it proves an identity, and must not be able to answer a request.
const COMPILER_METHODS: &str = "reverify_worker_key";
const ALLOWANCE: NearToken = NearToken::from_near(10);
/// One receipt of a removal deletes at most so many keys (a receipt holds 100 actions).
const MAX_REMOVALS: usize = 100;

/// The roles that register here.
const ROLES: &[Role] = &[Role::Worker, Role::Compiler];

#[near]
impl Contract {
    /// Verify the quote and, when it shows approved measurements and names this key, let the key act for this
    /// account. A live key that registers again lives longer.
    pub fn register_worker_key(&mut self, public_key: PublicKey, tdx_quote_hex: String) -> RegisterResult {
        let state = self.state_mut();
        require!(
            env::predecessor_account_id() == state.init_worker_account,
            format!("Only {} can call register_worker_key", state.init_worker_account)
        );
        require_ed25519(&public_key);
        match state.appraise(&public_key, &tdx_quote_hex) {
            Ok(key) => state.admit(key),
            Err(refusal) => reject(&public_key, refusal),
        }
    }

    /// Let a registered key live longer by a fresh quote of its TD: REPORTDATA commits to the key's `challenge`, which
    /// changes with every quote that is accepted. Anyone may bring it.
    pub fn reverify_worker_key(&mut self, public_key: PublicKey, tdx_quote_hex: String) -> RegisterResult {
        let state = self.state_mut();
        match state.reappraise(&public_key, &tdx_quote_hex) {
            Ok(key) => {
                emit(Event::WorkerKeyReverified([key_event(&key, true)]));
                state.keep(key)
            }
            Err(refusal) => reject(&public_key, refusal),
        }
    }

    /// Remove keys that are no longer valid: the given ones, or all. Anyone may. Gives what was removed.
    pub fn remove_expired_keys(&mut self, public_keys: Option<Vec<PublicKey>>) -> Vec<PublicKey> {
        let state = self.state_mut();
        let given = public_keys.unwrap_or_else(|| state.keys.keys().cloned().collect());
        let dead = |key: &PublicKey| state.key(key).is_some_and(|key| !state.is_valid(&key));
        let mut removed: Vec<PublicKey> = given.into_iter().filter(dead).collect();
        removed.sort();
        removed.dedup();
        removed.truncate(MAX_REMOVALS);
        state.remove(&removed, "expired");
        removed
    }

    /// Remove keys at once, registered here or not. One promise each, so that one that is gone does not stop
    /// the others.
    pub fn remove_worker_keys(&mut self, public_keys: Vec<PublicKey>) {
        self.assert_owner();
        require!(public_keys.len() <= MAX_REMOVALS, format!("At most {MAX_REMOVALS} keys at a time"));
        self.state_mut().remove(&public_keys, "owner");
    }

    pub fn get_worker_key(&self, public_key: PublicKey) -> Option<WorkerKey> {
        self.state().key(&public_key)
    }

    pub fn get_worker_keys(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<WorkerKey> {
        let from = from_index.unwrap_or(0) as usize;
        let limit = limit.unwrap_or(100).min(100) as usize;
        self.state().keys.values().skip(from).take(limit).map(StoredKey::to_key).collect()
    }

    /// Registered, not expired, and its measurement set is active.
    pub fn is_worker_key_valid(&self, public_key: PublicKey) -> bool {
        let state = self.state();
        state.key(&public_key).is_some_and(|key| state.is_valid(&key))
    }
}

impl StateV2 {
    fn key(&self, public_key: &PublicKey) -> Option<WorkerKey> {
        self.keys.get(public_key).map(StoredKey::to_key)
    }

    fn is_valid(&self, key: &WorkerKey) -> bool {
        now() < key.expires_at
            && self.approvals.sets.get(key.measurement_set).is_some_and(|set| set.is_active_at(now()))
    }

    fn appraise(&self, public_key: &PublicKey, tdx_quote_hex: &str) -> Result<WorkerKey, Refusal> {
        let report_data = registration_report_data(public_key);
        let appraised = self.approvals.appraise(tdx_quote_hex, &report_data, ROLES)?;
        self.same_role(self.key(public_key), appraised.role)?;
        Ok(self.appraised(public_key, appraised))
    }

    fn reappraise(&self, public_key: &PublicKey, tdx_quote_hex: &str) -> Result<WorkerKey, Refusal> {
        let key = self.key(public_key).ok_or_else(|| Refusal {
            reason: "key_not_registered",
            detail: "only a registered key can be verified again".to_string(),
        })?;
        let report_data = reverification_report_data(public_key, &key.challenge);
        let appraised = self.approvals.appraise(tdx_quote_hex, &report_data, ROLES)?;
        self.same_role(Some(key), appraised.role)?;
        Ok(self.appraised(public_key, appraised))
    }

    /// A key's scope on chain follows from its role, so the role of a key that is there cannot change.
    fn same_role(&self, key: Option<WorkerKey>, role: Role) -> Result<(), Refusal> {
        match key {
            Some(key) if key.role != role => Err(Refusal {
                reason: "role_mismatch",
                detail: "the key is registered for another role; use a new key".to_string(),
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn appraised(&self, public_key: &PublicKey, appraised: Appraised) -> WorkerKey {
        WorkerKey {
            public_key: public_key.clone(),
            measurement_set: appraised.set,
            measurements: appraised.measurements,
            tcb_status: appraised.tcb_status,
            fmspc: appraised.fmspc,
            verified_at: now(),
            expires_at: now().saturating_add(self.key_ttl_seconds),
            quote_report_sha256: appraised.report_sha256,
            role: appraised.role,
            challenge: new_challenge(public_key),
        }
    }

    pub(crate) fn admit(&mut self, key: WorkerKey) -> RegisterResult {
        let renewed = self.keys.contains_key(&key.public_key);
        if !renewed {
            let (receiver, methods) = self.scope(key.role);
            let _ = Promise::new(env::current_account_id()).add_access_key_allowance(
                key.public_key.clone(),
                Allowance::limited(ALLOWANCE).unwrap_or(Allowance::Unlimited),
                receiver,
                methods.to_string(),
            );
        }
        emit(Event::WorkerKeyRegistered([key_event(&key, renewed)]));
        self.keep(key)
    }

    fn scope(&self, role: Role) -> (AccountId, &'static str) {
        match role {
            Role::Worker => (self.outlayer_contract_id.clone(), WORKER_METHODS),
            Role::Compiler | Role::Keystore => (env::current_account_id(), COMPILER_METHODS),
        }
    }

    fn keep(&mut self, key: WorkerKey) -> RegisterResult {
        let result = RegisterResult::Approved {
            public_key: key.public_key.clone(),
            role: key.role,
            measurement_set: key.measurement_set,
            tcb_status: key.tcb_status.clone(),
            fmspc: key.fmspc.clone(),
            verified_at: key.verified_at,
            expires_at: key.expires_at,
        };
        self.keys.insert(key.public_key.clone(), StoredKey::V2(key));
        result
    }

    fn remove(&mut self, public_keys: &[PublicKey], reason: &str) {
        for key in public_keys {
            self.keys.remove(key);
            let _ = Promise::new(env::current_account_id()).delete_key(key.clone());
        }
        if !public_keys.is_empty() {
            emit(Event::WorkerKeysRemoved([KeysRemoved { public_keys, reason }]));
        }
    }
}

fn key_event(key: &WorkerKey, renewed: bool) -> KeyRegistered<'_> {
    KeyRegistered {
        public_key: &key.public_key,
        role: key.role,
        measurement_set: key.measurement_set,
        tcb_status: &key.tcb_status,
        fmspc: &key.fmspc,
        expires_at: key.expires_at,
        renewed,
    }
}

fn reject(public_key: &PublicKey, Refusal { reason, detail }: Refusal) -> RegisterResult {
    emit(Event::WorkerKeyRejected([KeyRejected { public_key, reason, detail: &detail }]));
    RegisterResult::Rejected { reason: reason.to_string(), detail }
}
