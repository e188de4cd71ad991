// SPDX-License-Identifier: MIT
//! Keystores: registration by quote, the key that is asked for, revocation.

use approval::{
    new_challenge, now, registration_report_data, require_ed25519, reverification_report_data, Refusal,
};
use measurements::Role;
use near_sdk::{env, near, require, AccountId, Allowance, Gas, NearToken, Promise, PublicKey};
use serde_json::json;

use crate::events::{emit, Event, KeyRequested, KeysRevoked, KeystoreRejected};
use crate::{
    Action, Answer, Candidate, Contract, ContractExt, KeyRequest, Keystore, StateV1, StoredKeystore,
    Submission,
};

/// All that a keystore's key may call, on this account.
const KEYSTORE_METHODS: &str = "request_key";
const ALLOWANCE: NearToken = NearToken::from_near(1);
/// A receipt holds 100 actions, and all logs of a call 16 KB.
const MAX_REMOVALS: usize = 100;
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
            Err(refusal) => Submission::Refused(reject(&public_key, refusal)),
        }
    }

    /// Let an approved keystore's key live longer by a fresh quote of its TD: REPORTDATA commits to the key's
    /// `challenge`, which changes with every quote that is accepted. Anyone may bring it.
    pub fn reverify_keystore(&mut self, public_key: PublicKey, tdx_quote_hex: String) -> Answer {
        match self.state_mut().reverify(&public_key, &tdx_quote_hex) {
            Ok(keystore) => {
                emit(Event::KeystoreReverified([&keystore]));
                Answer::Approved {
                    public_key,
                    measurement_set: keystore.measurement_set,
                    expires_at: keystore.expires_at,
                }
            }
            Err(refusal) => reject(&public_key, refusal),
        }
    }

    /// Delete the keys of keystores that are no longer approved: expired, or their set has ended. Anyone may.
    pub fn remove_expired_keystores(&mut self, public_keys: Option<Vec<PublicKey>>) -> Vec<PublicKey> {
        let state = self.state_mut();
        let mut dead = public_keys.unwrap_or_else(|| state.keystores.keys().cloned().collect());
        dead.retain(|key| state.keystores.contains_key(key) && !state.is_approved(key));
        dead.truncate(MAX_REMOVALS);
        state.delete(&dead, "expired")
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
    /// Approved, not expired, and its measurement set is still active.
    pub(crate) fn is_approved(&self, public_key: &PublicKey) -> bool {
        self.keystores.get(public_key).is_some_and(|StoredKeystore::V1(keystore)| {
            now() < keystore.expires_at
                && self
                    .approvals
                    .sets
                    .get(keystore.measurement_set)
                    .is_some_and(|set| set.is_active_at(now()))
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
            expires_at: now().saturating_add(self.keystore_ttl_seconds),
            challenge: new_challenge(&candidate.public_key),
        };
        emit(Event::KeystoreApproved([&keystore]));
        self.keystores.insert(keystore.public_key.clone(), StoredKeystore::V1(keystore));
        Ok(())
    }

    /// Only keys of keystores are ever deleted; those that are gone already are passed over.
    pub(crate) fn revoke_keystores(&mut self, public_keys: &[PublicKey]) -> Result<(), String> {
        if self.delete(public_keys, "vote").is_empty() {
            return Err("None of the keys is an approved keystore's".to_string());
        }
        Ok(())
    }

    fn delete(&mut self, public_keys: &[PublicKey], reason: &str) -> Vec<PublicKey> {
        let mut deleted = Vec::new();
        for key in public_keys {
            if self.keystores.remove(key).is_some() {
                let _ = Promise::new(env::current_account_id()).delete_key(key.clone());
                deleted.push(key.clone());
            }
        }
        if !deleted.is_empty() {
            emit(Event::KeystoreKeysRevoked([KeysRevoked { public_keys: &deleted, reason }]));
        }
        deleted
    }

    fn reverify(&mut self, public_key: &PublicKey, tdx_quote_hex: &str) -> Result<Keystore, Refusal> {
        let Some(StoredKeystore::V1(known)) = self.keystores.get(public_key) else {
            let detail = "only an approved keystore can be verified again".to_string();
            return Err(Refusal { reason: "key_not_registered", detail });
        };
        let report_data = reverification_report_data(public_key, &known.challenge);
        let appraised = self.approvals.appraise(tdx_quote_hex, &report_data, &[Role::Keystore])?;
        let keystore = Keystore {
            measurement_set: appraised.set,
            expires_at: now().saturating_add(self.keystore_ttl_seconds),
            challenge: new_challenge(public_key),
            ..known.clone()
        };
        self.keystores.insert(public_key.clone(), StoredKeystore::V1(keystore.clone()));
        Ok(keystore)
    }
}

fn reject(public_key: &PublicKey, Refusal { reason, detail }: Refusal) -> Answer {
    emit(Event::KeystoreRejected([KeystoreRejected { public_key, reason, detail: &detail }]));
    Answer::Rejected { reason: reason.to_string(), detail }
}
