// SPDX-License-Identifier: MIT
//! Keystores: registration by quote, the key that is asked for, revocation.

use approval::{
    encode_hex, new_challenge, now, registration_report_data, require_ed25519, reverification_report_data,
};
use approval::{Appraised, Refusal};
use measurements::Role;
use near_sdk::{env, near, require, Allowance, Gas, NearToken, Promise, PromiseOrValue, PublicKey};
use serde_json::json;

use crate::events::{emit, Event, KeyRequested, KeysRevoked, KeystoreRejected};
use crate::index::{gas_for_removal, gas_of_removals, MAX_REMOVALS};
use crate::proposals::EXECUTION_BYTES;
use crate::state::StateV2;
use crate::storage::{pay, price_of, spare_balance};
use crate::{
    require_gas, Action, Answer, Candidate, Contract, ContractExt, KeyRequest, KeysRemoved, Keystore,
    Proposal, Status, StoredKeystore, Submission,
};

/// All that a keystore's key may call, on this account.
const KEYSTORE_METHODS: &str = "request_key";
const ALLOWANCE: NearToken = NearToken::from_near(1);
/// More than an access key takes of storage, in balance.
const ACCESS_KEY_PRICE: NearToken = NearToken::from_millinear(3);
/// For an access key: its callback, and what the call does after that is made.
const KEY_CALLBACK_GAS: Gas = Gas::from_tgas(10);
const KEY_GAS: Gas = Gas::from_tgas(16);
const MPC_GAS: Gas = Gas::from_tgas(100);
const MPC_DEPOSIT: NearToken = NearToken::from_yoctonear(1);

const KEY_FAILED: &str =
    "The access key could not be added: it is on the account already, or the account has no \
                          balance for it";

#[near]
impl Contract {
    /// Verify the quote and, when it shows approved measurements and names this key, propose to approve the keystore.
    /// Gives the proposal's number, or why there is none; the number of the open proposal if there is one for this key.
    /// The deposit, if any, pays for the proposal's storage and comes back when it is decided.
    #[payable]
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
        let appraised = match state.appraise(&public_key, &tdx_quote_hex) {
            Ok(appraised) => appraised,
            Err(refusal) => {
                pay(&submitter, env::attached_deposit());
                return Submission::Refused(reject(&public_key, refusal));
            }
        };
        if let Some(id) = state.open_registration(&public_key) {
            pay(&submitter, env::attached_deposit());
            return Submission::Proposal(id);
        }
        let candidate = Candidate {
            public_key,
            measurements: appraised.measurements,
            measurement_set: appraised.set,
            tcb_status: appraised.tcb_status,
            fmspc: encode_hex(&appraised.fmspc),
            quote_report_sha256: encode_hex(&appraised.report_sha256),
            app_id,
        };
        Submission::Proposal(state.create(Action::ApproveKeystore(candidate), submitter))
    }

    /// The access key of a keystore that was voted in is there, or could not be added.
    #[private]
    pub fn on_key_added(&mut self, proposal_id: u64) {
        let added = env::promise_result_checked(0, 0).is_ok();
        let state = self.state_mut();
        let usage = env::storage_usage();
        let Some((mut proposal, action)) = state.find(proposal_id) else { return };
        let Action::ApproveKeystore(candidate) = &action else { return };
        let (status, failure) = match state.admit(candidate, proposal_id, added) {
            Ok(()) => (Status::Executed, None),
            Err(failure) => (Status::Failed, Some(failure)),
        };
        state.close(&mut proposal, action, status, failure, usage);
    }

    /// Let an approved keystore's key live longer by a fresh quote of its TD: REPORTDATA commits to the key's
    /// `challenge`, which changes with every quote that is accepted. Anyone may bring it. The allowance of the key is
    /// full again then.
    pub fn reverify_keystore(
        &mut self,
        public_key: PublicKey,
        tdx_quote_hex: String,
    ) -> PromiseOrValue<Answer> {
        match self.state_mut().reverify(&public_key, &tdx_quote_hex) {
            Ok(keystore) => {
                require_gas(KEY_GAS, "the access key is replaced");
                emit(Event::KeystoreReverified([&keystore]));
                let replaced = Promise::new(env::current_account_id()).delete_key(public_key.clone());
                let callback = callback().on_key_renewed(public_key.clone());
                PromiseOrValue::Promise(with_keystore_key(replaced, &public_key).then(callback))
            }
            Err(refusal) => PromiseOrValue::Value(reject(&public_key, refusal)),
        }
    }

    /// The access key of a keystore was replaced, both halves or neither. A keystore without one does not count.
    #[private]
    pub fn on_key_renewed(&mut self, public_key: PublicKey) -> Answer {
        let renewed = env::promise_result_checked(0, 0).is_ok();
        let state = self.state_mut();
        match state.keystores.get(&public_key).map(StoredKeystore::keystore) {
            Some(keystore) if renewed => Answer::Approved {
                measurement_set: keystore.measurement_set,
                expires_at: keystore.expires_at,
                public_key,
            },
            _ => {
                state.delete(std::slice::from_ref(&public_key), "access_key_failed");
                let detail = "the access key could not be replaced".to_string();
                reject(&public_key, Refusal { reason: "access_key_failed", detail })
            }
        }
    }

    /// Delete the keys of keystores that are no longer approved: expired, or their set has ended; of the given ones,
    /// or those that the contract knows of. Anyone may. One call deletes at most 100, and fewer if it has little gas;
    /// gives those. Nothing is left when it gives none.
    pub fn remove_expired_keystores(&mut self, public_keys: Option<Vec<PublicKey>>) -> Vec<PublicKey> {
        self.state_mut().remove_ended(public_keys)
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

impl StateV2 {
    /// Approved, not expired, and its measurement set is still active.
    pub(crate) fn is_approved(&self, public_key: &PublicKey) -> bool {
        self.keystores.get(public_key).is_some_and(|stored| self.counts(stored.keystore()))
    }

    pub(crate) fn counts(&self, keystore: &Keystore) -> bool {
        now() < keystore.expires_at && self.is_active(keystore.measurement_set)
    }

    pub(crate) fn is_active(&self, set: u32) -> bool {
        self.approvals.sets.get(set).is_some_and(|set| set.is_active_at(now()))
    }

    /// A registration quote counts once: a key that was admitted before stays what it is now, or gone.
    fn appraise(&self, public_key: &PublicKey, tdx_quote_hex: &str) -> Result<Appraised, Refusal> {
        if self.index.was_admitted(public_key) {
            let detail = "the key was an approved keystore's and was removed; use a new key".to_string();
            return Err(Refusal { reason: "key_removed", detail });
        }
        self.approvals.appraise(tdx_quote_hex, &registration_report_data(public_key), &[Role::Keystore])
    }

    /// Whether a candidate could be admitted now.
    pub(crate) fn admissible(&self, candidate: &Candidate) -> Result<(), String> {
        if self.keystores.contains_key(&candidate.public_key) {
            return Err("Keystore already approved".to_string());
        }
        if self.index.was_admitted(&candidate.public_key) {
            return Err("The keystore's key was removed".to_string());
        }
        if !self.is_active(candidate.measurement_set) {
            return Err("The keystore's measurements are no longer approved".to_string());
        }
        Ok(())
    }

    /// Add the access key of a keystore that was voted in; the keystore counts once it is there.
    pub(crate) fn add_key(&self, candidate: &Candidate, proposal: &Proposal) {
        require_gas(KEY_GAS, "this admits a keystore");
        // the keystore goes where the proposal kept room, if it did
        let more = EXECUTION_BYTES.saturating_sub(proposal.room.len());
        let needed = ACCESS_KEY_PRICE.saturating_add(price_of(more as u64));
        let yocto = needed.as_yoctonear();
        require!(
            spare_balance() >= needed,
            format!(
                "This account needs {yocto} yoctoNEAR of balance for the access key: send them, then vote"
            )
        );
        let added = with_keystore_key(Promise::new(env::current_account_id()), &candidate.public_key);
        let _ = added.then(callback().on_key_added(proposal.id));
    }

    fn admit(&mut self, candidate: &Candidate, proposal_id: u64, added: bool) -> Result<(), String> {
        if !added {
            return Err(KEY_FAILED.to_string());
        }
        if let Err(failure) = self.admissible(candidate) {
            let _ = Promise::new(env::current_account_id()).delete_key(candidate.public_key.clone());
            return Err(failure);
        }
        let keystore = Keystore {
            public_key: candidate.public_key.clone(),
            measurement_set: candidate.measurement_set,
            proposal_id,
            approved_at: now(),
            expires_at: now().saturating_add(self.keystore_ttl_seconds),
            challenge: encode_hex(&new_challenge(&candidate.public_key)),
        };
        emit(Event::KeystoreApproved([&keystore]));
        self.enlist(keystore);
        Ok(())
    }

    /// Only keys of keystores are ever deleted; those that are gone already are passed over.
    pub(crate) fn revoke_keystores(&mut self, public_keys: &[PublicKey]) -> Result<(), String> {
        require_gas(gas_of_removals(public_keys.len()), "this deletes the keys of keystores");
        if self.delete(public_keys, "vote").is_empty() {
            return Err("None of the keys is an approved keystore's".to_string());
        }
        Ok(())
    }

    /// After sets ended: delete as many keys of theirs as one call can.
    pub(crate) fn remove_unapproved(&mut self) -> KeysRemoved {
        self.complete_index(MAX_REMOVALS);
        let (keys, remaining) = self.delist_dead(true);
        self.delete_access_keys(&keys, "set_ended", remaining);
        KeysRemoved { removed: keys.len() as u32, remaining }
    }

    fn remove_ended(&mut self, public_keys: Option<Vec<PublicKey>>) -> Vec<PublicKey> {
        let Some(mut given) = public_keys else {
            self.complete_index(MAX_REMOVALS);
            let (keys, remaining) = self.delist_dead(false);
            self.delete_access_keys(&keys, "expired", remaining);
            return keys;
        };
        given.retain(|key| self.keystores.contains_key(key) && !self.is_approved(key));
        given.truncate((0..MAX_REMOVALS).take_while(|removed| gas_for_removal(*removed)).count());
        self.delete(&given, "expired")
    }

    /// Forget those of these keystores that there are and delete their keys. Gives those.
    fn delete(&mut self, public_keys: &[PublicKey], reason: &str) -> Vec<PublicKey> {
        let keys: Vec<_> = public_keys.iter().filter(|key| self.delist(key)).cloned().collect();
        self.delete_access_keys(&keys, reason, 0);
        keys
    }

    /// `remaining`: how many more are to be deleted since their sets ended.
    fn delete_access_keys(&self, public_keys: &[PublicKey], reason: &str, remaining: u32) {
        for key in public_keys {
            let _ = Promise::new(env::current_account_id()).delete_key(key.clone());
        }
        if !public_keys.is_empty() {
            emit(Event::KeystoreKeysRevoked([KeysRevoked { public_keys, reason, remaining }]));
        }
    }

    fn reverify(&mut self, public_key: &PublicKey, tdx_quote_hex: &str) -> Result<Keystore, Refusal> {
        let Some(known) = self.keystores.get(public_key).map(StoredKeystore::keystore) else {
            let detail = "only an approved keystore can be verified again".to_string();
            return Err(Refusal { reason: "key_not_registered", detail });
        };
        let report_data = reverification_report_data(public_key, &known.challenge);
        let appraised = self.approvals.appraise(tdx_quote_hex, &report_data, &[Role::Keystore])?;
        let keystore = Keystore {
            measurement_set: appraised.set,
            expires_at: now().saturating_add(self.keystore_ttl_seconds),
            challenge: encode_hex(&new_challenge(public_key)),
            ..known.clone()
        };
        self.enlist(keystore.clone());
        Ok(keystore)
    }
}

fn with_keystore_key(promise: Promise, public_key: &PublicKey) -> Promise {
    promise.add_access_key_allowance(
        public_key.clone(),
        Allowance::limited(ALLOWANCE).unwrap_or(Allowance::Unlimited),
        env::current_account_id(),
        KEYSTORE_METHODS.to_string(),
    )
}

fn callback() -> ContractExt {
    Contract::ext(env::current_account_id()).with_static_gas(KEY_CALLBACK_GAS).with_unused_gas_weight(0)
}

fn reject(public_key: &PublicKey, Refusal { reason, detail }: Refusal) -> Answer {
    emit(Event::KeystoreRejected([KeystoreRejected { public_key, reason, detail: &detail }]));
    Answer::Rejected { reason: reason.to_string(), detail }
}
