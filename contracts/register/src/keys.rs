// SPDX-License-Identifier: MIT
//! Worker keys: registration by quote, re-verification by a fresh one, validity.
//!
//! A quote registers a key once, and a key that was removed stays removed. What is kept of a key is written in the receipt
//! that adds its access key: there are both or neither.

use approval::{
    new_challenge, now, registration_report_data, require_ed25519, reverification_report_data, Appraised,
    Refusal,
};
use measurements::{Role, TcbStatus};
use near_sdk::{
    borsh, env, near, require, serde_json, AccountId, Allowance, Gas, NearToken, Promise, PromiseOrValue,
    PublicKey,
};

use crate::events::{emit, Event, KeyRegistered, KeyRejected};
use crate::{Contract, ContractExt, KeyRecord, RegisterResult, StateV3, StoredKey, WorkerKey};

/// What a worker's key may call on the main contract: the original's list.
const WORKER_METHODS: &str =
    "resolve_execution,submit_execution_output_and_resolve,resume_topup,resume_delete_payment_key";
/// What a compiler's key may call, and only here: it proves an identity, and must not be able to answer a request.
const COMPILER_METHODS: &str = "reverify_worker_key";
const ALLOWANCE: NearToken = NearToken::from_near(10);
/// Twice what `on_access_key` and `on_renewal` are measured to take at most.
const CALLBACK_GAS: Gas = Gas::from_tgas(5);
/// The same for each set that still is in the list of an older state, which these read and write.
const CALLBACK_GAS_PER_SET: Gas = Gas::from_ggas(100);
const MAX_ANSWER: usize = 1_024;

/// The roles that register here.
const ROLES: &[Role] = &[Role::Worker, Role::Compiler];

#[near]
impl Contract {
    /// Verify the quote and, when it shows approved measurements and names this key, let the key act for this account.
    ///
    /// A key that is registered and valid is answered as it is: an answer that was lost is got again, and nothing is
    /// renewed. What the registration stores is paid from the deposit, whose rest goes back, then from the storage
    /// balance; see `storage_deposit`. (Without a deposit nothing is written here, hence `&self`.)
    pub fn register_worker_key(
        &self,
        public_key: PublicKey,
        tdx_quote_hex: String,
    ) -> PromiseOrValue<RegisterResult> {
        let state = self.state();
        require!(
            env::predecessor_account_id() == state.init_worker_account,
            format!("Only {} can call register_worker_key", state.init_worker_account)
        );
        require_ed25519(&public_key);
        let deposit = env::attached_deposit();
        let decided = state.registration(&public_key, &tdx_quote_hex);
        match decided {
            Ok(Registration::New(record)) => state.admit(&public_key, *record, deposit).into(),
            Ok(Registration::Present(answer)) => {
                refund(deposit);
                PromiseOrValue::Value(answer)
            }
            Err(refusal) => {
                refund(deposit);
                PromiseOrValue::Value(reject(&public_key, refusal))
            }
        }
    }

    /// Let a registered key live longer by a fresh quote of its TD, and give its access key the full allowance again:
    /// REPORTDATA commits to the key's `challenge`, which changes with every quote that is accepted. Anyone may.
    pub fn reverify_worker_key(
        &mut self,
        public_key: PublicKey,
        tdx_quote_hex: String,
    ) -> PromiseOrValue<RegisterResult> {
        let state = self.state();
        match state.reappraise(&public_key, &tdx_quote_hex) {
            Ok(record) => state.renew(&public_key, record).into(),
            Err(refusal) => PromiseOrValue::Value(reject(&public_key, refusal)),
        }
    }

    /// Comes behind the access key in its receipt: if that cannot be added this is not run, and what this writes is
    /// written with it.
    #[private]
    pub fn on_access_key(
        &mut self,
        #[serializer(borsh)] public_key: PublicKey,
        #[serializer(borsh)] record: KeyRecord,
        #[serializer(borsh)] renewed: bool,
        #[serializer(borsh)] deposit: NearToken,
        #[serializer(borsh)] endings: u32,
    ) -> RegisterResult {
        let state = self.state_mut();
        // the set may have ended since the quote's receipt; without any ending it is not read again
        let ended = endings != state.endings && !state.is_set_active(record.measurement_set);
        let answer = match (ended, renewed) {
            (true, false) => Err(set_ended()),
            (true, true) => {
                state.removed.set(digest(&public_key), Some(()));
                state.unstore(&public_key);
                Err(set_ended())
            }
            (false, true) => state.keep_renewed(&public_key, record),
            (false, false) => state.keep_new(&public_key, record, deposit),
        };
        answer.unwrap_or_else(|refusal| {
            let _ = Promise::new(env::current_account_id()).delete_key(public_key.clone());
            reject(&public_key, refusal)
        })
    }

    /// An access key that could not be renewed is not there: then the key goes, so that none counts without one.
    #[private]
    pub fn on_renewal(public_key: PublicKey) {
        let answer = env::promise_result_checked(0, MAX_ANSWER).unwrap_or_else(|_| {
            let mut contract = loaded();
            contract.state_mut().remove(std::slice::from_ref(&public_key), "access_key");
            env::state_write(&contract);
            let detail =
                "the access key was not there to be renewed; the key is removed: use a new one".to_string();
            let rejected = reject(&public_key, Refusal { reason: "access_key_failed", detail });
            serde_json::to_vec(&rejected).unwrap_or_default()
        });
        env::value_return(&answer);
    }

    pub fn get_worker_key(&self, public_key: PublicKey) -> Option<WorkerKey> {
        self.state().key(&public_key)
    }

    pub fn get_worker_keys(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<WorkerKey> {
        let from = from_index.unwrap_or(0) as usize;
        let limit = limit.unwrap_or(100).min(100) as usize;
        let keys = self.state().keys.iter().skip(from).take(limit);
        keys.map(|(public_key, stored)| stored.to_key(public_key)).collect()
    }

    /// Registered, with an access key, not expired, and its measurement set is active.
    pub fn is_worker_key_valid(&self, public_key: PublicKey) -> bool {
        let state = self.state();
        state.keys.get(&public_key).is_some_and(|stored| state.is_valid(&public_key, stored))
    }
}

/// What a registration finds.
enum Registration {
    New(Box<KeyRecord>),
    Present(RegisterResult),
}

impl StateV3 {
    pub(crate) fn key(&self, public_key: &PublicKey) -> Option<WorkerKey> {
        self.keys.get(public_key).map(|stored| stored.to_key(public_key))
    }

    fn is_valid(&self, public_key: &PublicKey, stored: &StoredKey) -> bool {
        let key = stored.to_key(public_key);
        now() < key.expires_at && self.is_set_active(key.measurement_set)
    }

    pub(crate) fn is_dead(&self, public_key: &PublicKey) -> bool {
        self.keys.get(public_key).is_some_and(|stored| !self.is_valid(public_key, stored))
    }

    pub(crate) fn is_set_active(&self, id: u32) -> bool {
        self.approvals.sets.get(id).is_some_and(|set| set.is_active_at(now()))
    }

    /// What a quote for this key can do: a key that was removed, or is past its time, is not brought back by one.
    fn registration(&self, public_key: &PublicKey, tdx_quote_hex: &str) -> Result<Registration, Refusal> {
        let report_data = registration_report_data(public_key);
        let appraised = self.approvals.appraise(tdx_quote_hex, &report_data, ROLES)?;
        self.same_role(self.key(public_key), appraised.role)?;
        match self.keys.get(public_key) {
            Some(stored) if self.is_valid(public_key, stored) => {
                Ok(Registration::Present(approved(&stored.to_key(public_key))))
            }
            Some(_) => Err(Refusal {
                reason: "key_expired",
                detail: "the key expired, or its measurement set ended: verify it again by a quote over its challenge (reverify_worker_key), or use a new key".to_string(),
            }),
            None if self.removed.contains_key(&digest(public_key)) => Err(removed()),
            None => {
                let record = self.record(public_key, &appraised)?;
                self.afford(record.role)?;
                Ok(Registration::New(Box::new(record)))
            }
        }
    }

    fn reappraise(&self, public_key: &PublicKey, tdx_quote_hex: &str) -> Result<KeyRecord, Refusal> {
        let key = self.key(public_key).ok_or_else(|| Refusal {
            reason: "key_not_registered",
            detail: "only a registered key can be verified again".to_string(),
        })?;
        let report_data = reverification_report_data(public_key, &key.challenge);
        let appraised = self.approvals.appraise(tdx_quote_hex, &report_data, ROLES)?;
        self.same_role(Some(key), appraised.role)?;
        // a renewal that the account cannot hold would cost the key
        self.afford(appraised.role)?;
        self.record(public_key, &appraised)
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

    pub(crate) fn record(&self, public_key: &PublicKey, appraised: &Appraised) -> Result<KeyRecord, Refusal> {
        Ok(KeyRecord {
            measurement_set: appraised.set,
            measurements: appraised.measurements.clone(),
            tcb_status: TcbStatus::of(&appraised.tcb_status).ok_or_else(|| Refusal {
                reason: "tcb_status",
                detail: "tcb_status: not one that a policy can accept".to_string(),
            })?,
            fmspc: appraised.fmspc,
            verified_at: now(),
            expires_at: now().saturating_add(self.key_ttl_seconds),
            quote_report_sha256: appraised.report_sha256,
            role: appraised.role,
            challenge: new_challenge(public_key),
            place: 0,
            paid: true,
        })
    }

    /// Add the access key and, behind it in the same receipt, keep the key.
    pub(crate) fn admit(&self, public_key: &PublicKey, record: KeyRecord, deposit: NearToken) -> Promise {
        // if the access key cannot be added the deposit stays in the storage balance
        if !deposit.is_zero() {
            let mut contract = loaded();
            contract.state_mut().give(deposit);
            env::state_write(&contract);
        }
        let promise = Promise::new(env::current_account_id());
        self.add_access_key(promise, public_key, record, false, deposit)
    }

    /// The same with the access key that was there before: so it has the allowance, and the methods, of today.
    fn renew(&self, public_key: &PublicKey, record: KeyRecord) -> Promise {
        let promise = Promise::new(env::current_account_id()).delete_key(public_key.clone());
        let nothing = NearToken::from_yoctonear(0);
        self.add_access_key(promise, public_key, record, true, nothing).then(
            Contract::ext(env::current_account_id())
                .with_static_gas(self.callback_gas())
                .with_unused_gas_weight(0)
                .on_renewal(public_key.clone()),
        )
    }

    fn callback_gas(&self) -> Gas {
        let sets = u64::from(self.approvals.sets.in_list());
        CALLBACK_GAS.saturating_add(CALLBACK_GAS_PER_SET.saturating_mul(sets))
    }

    fn add_access_key(
        &self,
        promise: Promise,
        public_key: &PublicKey,
        record: KeyRecord,
        renewed: bool,
        deposit: NearToken,
    ) -> Promise {
        let (receiver, methods) = self.scope(record.role);
        let allowance = Allowance::limited(ALLOWANCE).unwrap_or(Allowance::Unlimited);
        let arguments = borsh::to_vec(&(public_key, record, renewed, deposit, self.endings))
            .unwrap_or_else(|_| env::panic_str("The record cannot be written"));
        promise
            .add_access_key_allowance(public_key.clone(), allowance, receiver, methods.to_string())
            .function_call("on_access_key", arguments, NearToken::from_yoctonear(0), self.callback_gas())
    }

    /// What can change between the quote's receipt and this one is looked at again: the key may have been removed.
    pub(crate) fn keep_new(
        &mut self,
        public_key: &PublicKey,
        record: KeyRecord,
        deposit: NearToken,
    ) -> Result<RegisterResult, Refusal> {
        if self.removed.contains_key(&digest(public_key)) {
            return Err(removed());
        }
        let key = record.to_key(public_key);
        let stored = self.store_new(public_key, record);
        self.charge(stored + self.access_key_bytes(key.role), deposit);
        emit(Event::WorkerKeyRegistered([key_event(&key, false)]));
        Ok(approved(&key))
    }

    pub(crate) fn keep_renewed(
        &mut self,
        public_key: &PublicKey,
        mut record: KeyRecord,
    ) -> Result<RegisterResult, Refusal> {
        let Some(old) = self.keys.get(public_key) else { return Err(removed()) };
        let mut from = None;
        record.paid = false;
        if let StoredKey::V3(old) = old {
            record.paid = old.paid;
            from = Some((old.measurement_set, old.place));
        }
        if let Some((set, place)) = from {
            self.index.remove(set, place);
            self.index.close_if_empty(set);
        }
        record.place = self.index.add(record.measurement_set, public_key);
        let key = record.to_key(public_key);
        self.keys.insert(public_key.clone(), StoredKey::V3(record));
        emit(Event::WorkerKeyReverified([key_event(&key, true)]));
        Ok(approved(&key))
    }

    pub(crate) fn scope(&self, role: Role) -> (AccountId, &'static str) {
        match role {
            Role::Worker => (self.outlayer_contract_id.clone(), WORKER_METHODS),
            Role::Compiler | Role::Keystore => (env::current_account_id(), COMPILER_METHODS),
        }
    }
}

/// For the calls that mostly need no state, or do not change it.
fn loaded() -> Contract {
    env::state_read().unwrap_or_else(|| env::panic_str("The contract is not initialized"))
}

/// Under which a removed key is known for ever.
pub(crate) fn digest(public_key: &PublicKey) -> [u8; 32] {
    env::sha256_array(public_key.as_bytes())
}

pub(crate) fn refund(deposit: NearToken) {
    if !deposit.is_zero() {
        let _ = Promise::new(env::predecessor_account_id()).transfer(deposit);
    }
}

fn set_ended() -> Refusal {
    let detail = "the key's measurement set ended while it was being registered".to_string();
    Refusal { reason: "measurements_not_approved", detail }
}

fn removed() -> Refusal {
    let detail = "the key was removed, and stays so; use a new key".to_string();
    Refusal { reason: "key_removed", detail }
}

fn approved(key: &WorkerKey) -> RegisterResult {
    RegisterResult::Approved {
        public_key: key.public_key.clone(),
        role: key.role,
        measurement_set: key.measurement_set,
        tcb_status: key.tcb_status.clone(),
        fmspc: key.fmspc.clone(),
        verified_at: key.verified_at,
        expires_at: key.expires_at,
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
