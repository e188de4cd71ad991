// SPDX-License-Identifier: MIT
//! Keystores: registration by quote, the key that is asked for, revocation.

use approval::{now, registration_report_data, require_ed25519, Refusal};
use measurements::Role;
use near_sdk::{env, near, require, AccountId, Allowance, Gas, NearToken, Promise, PublicKey};
use serde_json::json;

use crate::events::{emit, Event, KeyRequested, KeysRevoked, KeystoreRejected};
use crate::{
    Action, Candidate, Contract, ContractExt, KeyRequest, Keystore, Refused, StateV1, StoredKeystore,
    Submission,
};

/// All that a keystore's key may call, on this account.
const KEYSTORE_METHODS: &str = "request_key";
const ALLOWANCE: NearToken = NearToken::from_near(1);
const MPC_GAS: Gas = Gas::from_tgas(100);
const MPC_DEPOSIT: NearToken = NearToken::from_yoctonear(1);

#[near]
impl Contract {
    /// Verify the quote and, when it shows approved measurements and names this key, propose to approve the keystore.
    /// Gives the proposal's number, or why there is none.
    pub fn submit_keystore_registration(
        &mut self,
        public_key: PublicKey,
        tdx_quote_hex: String,
        app_id: Option<String>,
    ) -> Submission {
        let state = self.state_mut();
        let submitter = env::predecessor_account_id();
        require!(
            submitter == state.init_account_id,
            format!("Only {} can call submit_keystore_registration", state.init_account_id)
        );
        require_ed25519(&public_key);
        require!(!state.keystores.contains_key(&public_key), "Keystore already approved");
        require!(app_id.as_ref().is_none_or(|id| id.len() <= 128), "app_id is longer than 128 bytes");
        let report_data = registration_report_data(&public_key);
        match state.approvals.appraise(&tdx_quote_hex, &report_data, &[Role::Keystore]) {
            Ok(appraised) => {
                let candidate = Candidate {
                    public_key,
                    measurements: appraised.measurements,
                    measurement_set: appraised.set,
                    tcb_status: appraised.tcb_status,
                    fmspc: appraised.fmspc,
                    quote_report_sha256: appraised.report_sha256,
                    app_id,
                };
                Submission::Proposal(state.create(Action::ApproveKeystore(candidate), submitter))
            }
            Err(Refusal { reason, detail }) => {
                emit(Event::KeystoreRejected([KeystoreRejected {
                    public_key: &public_key,
                    reason,
                    detail: &detail,
                }]));
                Submission::Refused(Refused::Rejected { reason: reason.to_string(), detail })
            }
        }
    }

    /// Ask the MPC network for the key of this account. Only an approved keystore's key on this account can: the
    /// call comes from the account itself, signed by that key.
    pub fn request_key(&mut self, request: KeyRequest) -> Promise {
        require!(
            env::predecessor_account_id() == env::current_account_id(),
            "request_key is called by this account itself, with an approved keystore's key"
        );
        let public_key = env::signer_account_pk();
        let state = self.state();
        require!(state.is_approved(&public_key), "The key that signed is no approved keystore's");
        emit(Event::KeyRequested([KeyRequested {
            public_key: &public_key,
            derivation_path: &request.derivation_path,
            domain_id: request.domain_id,
        }]));
        let args = json!({ "request": request }).to_string().into_bytes();
        Promise::new(state.mpc_contract_id.clone()).function_call(
            "request_app_private_key".to_string(),
            args,
            MPC_DEPOSIT,
            MPC_GAS,
        )
    }
}

impl StateV1 {
    /// Approved, and its measurement set is still active.
    pub(crate) fn is_approved(&self, public_key: &PublicKey) -> bool {
        self.keystores.get(public_key).is_some_and(|StoredKeystore::V1(keystore)| {
            self.approvals.sets.get(keystore.measurement_set).is_some_and(|set| set.is_active_at(now()))
        })
    }

    pub(crate) fn approve_keystore(&mut self, candidate: &Candidate, proposal_id: u64) -> Result<(), String> {
        if self.keystores.contains_key(&candidate.public_key) {
            return Err("Keystore already approved".to_string());
        }
        let set = self.approvals.sets.get(candidate.measurement_set);
        if !set.is_some_and(|set| set.is_active_at(now())) {
            return Err("The keystore's measurements are no longer approved".to_string());
        }
        let this: AccountId = env::current_account_id();
        let _ = Promise::new(this.clone()).add_access_key_allowance(
            candidate.public_key.clone(),
            Allowance::limited(ALLOWANCE).unwrap_or(Allowance::Unlimited),
            this,
            KEYSTORE_METHODS.to_string(),
        );
        let keystore = Keystore {
            public_key: candidate.public_key.clone(),
            measurement_set: candidate.measurement_set,
            proposal_id,
            approved_at: now(),
        };
        emit(Event::KeystoreApproved([&keystore]));
        self.keystores.insert(keystore.public_key.clone(), StoredKeystore::V1(keystore));
        Ok(())
    }

    /// Only keys of keystores are ever deleted; those that are gone already are passed over.
    pub(crate) fn revoke_keystores(&mut self, public_keys: &[PublicKey]) -> Result<(), String> {
        let mut revoked = Vec::new();
        for key in public_keys {
            if self.keystores.remove(key).is_some() {
                let _ = Promise::new(env::current_account_id()).delete_key(key.clone());
                revoked.push(key.clone());
            }
        }
        if revoked.is_empty() {
            return Err("None of the keys is an approved keystore's".to_string());
        }
        emit(Event::KeystoreKeysRevoked([KeysRevoked { public_keys: &revoked }]));
        Ok(())
    }
}
