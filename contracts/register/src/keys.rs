// SPDX-License-Identifier: MIT
//! Worker keys: registration by quote, validity, removal.

use measurements::Measurements;
use near_sdk::{env, near, require, Allowance, CurveType, NearToken, Promise, PublicKey};
use quote_verify::{ParsedQuote, Policy, Rejection, Verified};

use crate::events::{emit, Event, KeyRegistered, KeyRejected, KeysRemoved};
use crate::{now, Contract, ContractExt, RegisterResult, StateV1, StoredCollateral, StoredKey, WorkerKey};

/// What a worker's key may call on the main contract.
const WORKER_METHODS: &str = "resolve_execution,submit_execution_output,submit_execution_output_and_resolve,\
                              resume_topup,resume_delete_payment_key";
const ALLOWANCE: NearToken = NearToken::from_near(10);
/// One receipt of a removal deletes at most so many keys (a receipt holds 100 actions).
const MAX_REMOVALS: usize = 100;

/// A refusal: reason code and words for people.
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    detail: String,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Refusal { reason: rejection.reason.code(), detail: rejection.to_string() }
    }
}

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
        require!(public_key.curve_type() == CurveType::ED25519, "Only ed25519 keys can be registered");
        match state.appraise(&public_key, &tdx_quote_hex) {
            Ok(key) => state.admit(key),
            Err(Refusal { reason, detail }) => {
                emit(Event::WorkerKeyRejected([KeyRejected {
                    public_key: &public_key,
                    reason,
                    detail: &detail,
                }]));
                RegisterResult::Rejected { reason: reason.to_string(), detail }
            }
        }
    }

    /// Remove keys that are no longer valid: the given ones, or all. Anyone may. Gives what was removed.
    pub fn remove_expired_keys(&mut self, public_keys: Option<Vec<PublicKey>>) -> Vec<PublicKey> {
        let state = self.state_mut();
        let given = public_keys.unwrap_or_else(|| state.keys.keys().cloned().collect());
        let dead = |key: &PublicKey| state.key(key).is_some_and(|key| !state.is_valid(key));
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

    pub fn get_worker_key(&self, public_key: PublicKey) -> Option<&WorkerKey> {
        self.state().key(&public_key)
    }

    pub fn get_worker_keys(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<&WorkerKey> {
        let from = from_index.unwrap_or(0) as usize;
        let limit = limit.unwrap_or(100).min(100) as usize;
        self.state().keys.values().skip(from).take(limit).map(|StoredKey::V1(key)| key).collect()
    }

    /// Registered, not expired, and its measurement set is active.
    pub fn is_worker_key_valid(&self, public_key: PublicKey) -> bool {
        let state = self.state();
        state.key(&public_key).is_some_and(|key| state.is_valid(key))
    }
}

impl StateV1 {
    fn key(&self, public_key: &PublicKey) -> Option<&WorkerKey> {
        self.keys.get(public_key).map(|StoredKey::V1(key)| key)
    }

    fn is_valid(&self, key: &WorkerKey) -> bool {
        now() < key.expires_at
            && self.sets.get(key.measurement_set).is_some_and(|set| set.is_active_at(now()))
    }

    fn appraise(&self, public_key: &PublicKey, tdx_quote_hex: &str) -> Result<WorkerKey, Refusal> {
        let quote = hex::decode(tdx_quote_hex).map_err(|_| Refusal {
            reason: "quote_malformed",
            detail: "quote_layout: the quote is not hex".to_string(),
        })?;
        let parsed = ParsedQuote::parse(&quote)?;
        let fmspc = hex::encode(parsed.fmspc());
        let Some(StoredCollateral::V1(collateral, _)) = self.collateral.get(&parsed.fmspc()) else {
            let detail = format!("collateral: none is stored for FMSPC {fmspc}");
            return Err(Refusal { reason: "collateral_missing", detail });
        };
        let verified = parsed.verify(collateral.clone(), self.root(), now())?;
        Policy::default().judge(&verified, now())?;
        self.check_identity(public_key, &verified, fmspc)
    }

    pub(crate) fn check_identity(
        &self,
        public_key: &PublicKey,
        verified: &Verified,
        fmspc: String,
    ) -> Result<WorkerKey, Refusal> {
        let measurements = Measurements::new(verified.mrtd, verified.rtmr);
        let Some(set) = self.sets.find_active(&measurements, now()) else {
            let Measurements { mrtd, rtmr0, rtmr1, rtmr2, rtmr3 } = measurements;
            let detail = format!(
                "Worker measurements not approved. MRTD={mrtd} RTMR0={rtmr0} RTMR1={rtmr1} RTMR2={rtmr2} RTMR3={rtmr3}"
            );
            return Err(Refusal { reason: "measurements_not_approved", detail });
        };
        if verified.report_data != registration_report_data(public_key) {
            let detail = "REPORTDATA is not the key and 32 zero bytes".to_string();
            return Err(Refusal { reason: "report_data_mismatch", detail });
        }
        Ok(WorkerKey {
            public_key: public_key.clone(),
            measurement_set: set.id,
            measurements,
            tcb_status: verified.tcb_status.clone(),
            fmspc,
            verified_at: now(),
            expires_at: now().saturating_add(self.key_ttl_seconds),
            quote_report_sha256: hex::encode(verified.report_sha256),
        })
    }

    pub(crate) fn admit(&mut self, key: WorkerKey) -> RegisterResult {
        let renewed = self.keys.contains_key(&key.public_key);
        if !renewed {
            let _ = Promise::new(env::current_account_id()).add_access_key_allowance(
                key.public_key.clone(),
                Allowance::limited(ALLOWANCE).unwrap_or(Allowance::Unlimited),
                self.outlayer_contract_id.clone(),
                WORKER_METHODS.to_string(),
            );
        }
        emit(Event::WorkerKeyRegistered([KeyRegistered {
            public_key: &key.public_key,
            measurement_set: key.measurement_set,
            tcb_status: &key.tcb_status,
            fmspc: &key.fmspc,
            expires_at: key.expires_at,
            renewed,
        }]));
        let result = RegisterResult::Approved {
            public_key: key.public_key.clone(),
            measurement_set: key.measurement_set,
            tcb_status: key.tcb_status.clone(),
            fmspc: key.fmspc.clone(),
            verified_at: key.verified_at,
            expires_at: key.expires_at,
        };
        self.keys.insert(key.public_key.clone(), StoredKey::V1(key));
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

/// REPORTDATA of a registration: the raw key, then 32 zero bytes. All 64 bytes count.
fn registration_report_data(public_key: &PublicKey) -> [u8; 64] {
    let mut data = [0u8; 64];
    // the first byte of a near-sdk key is its curve
    for (target, byte) in data.iter_mut().zip(public_key.as_bytes().iter().skip(1)) {
        *target = *byte;
    }
    data
}
