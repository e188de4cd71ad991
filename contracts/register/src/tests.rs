// SPDX-License-Identifier: MIT
//! The contract's own rules. Verification of quotes is tested in `quote-verify`, and whole on the localnet.

use std::panic::{catch_unwind, AssertUnwindSafe};

use approval::{registration_report_data, Refusal};
use measurements::{Measurements, NewSet, PlatformRules, Role};
use near_sdk::mock::{with_mocked_blockchain, MockAction};
use near_sdk::test_utils::{get_created_receipts, get_logs, VMContextBuilder};
use near_sdk::{testing_env, AccountId, NearToken, PublicKey};
use quote_verify::{sha256, CollateralFacts, Verified, INTEL_ROOT_CA_DER, TD_ATTRIBUTES};

use crate::*;

const DAY: u64 = 86_400;
const KEY: &str = "ed25519:6E8sCci9badyRkXb3JoRpBj5p8C6Tw41ELDZoiihKEtp";

fn id(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn key() -> PublicKey {
    KEY.parse().unwrap()
}

fn call_as(caller: &str, seconds: u64) {
    let mut builder = VMContextBuilder::new();
    builder
        .current_account_id(id("worker.test"))
        .predecessor_account_id(id(caller))
        .block_timestamp(seconds * 1_000_000_000);
    testing_env!(builder.build());
}

fn contract(root: Option<&[u8]>, ttl: Option<u64>) -> Contract {
    with_mocked_blockchain(|chain| drop(chain.take_storage()));
    call_as("owner.test", 1_000);
    Contract::new(id("owner.test"), id("init.test"), id("outlayer.test"), root.map(hex::encode), ttl, None)
}

fn assert_refused<T>(expected: &str, call: impl FnOnce() -> T) {
    let payload = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(_) => panic!("the call was not refused"),
        Err(payload) => payload,
    };
    let said = payload.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(said.contains(expected), "expected {expected:?}, got {said:?}");
}

fn measurements(byte: u8) -> Measurements {
    Measurements::new([byte; 48], [[byte; 48]; 4])
}

/// What verification of a genuine quote for `key()` gives.
fn verified() -> Verified {
    let mut report_data = [0u8; 64];
    report_data[..32].copy_from_slice(&key().as_bytes()[1..]);
    Verified {
        mrtd: [1; 48],
        rtmr: [[1; 48]; 4],
        report_data,
        td_attributes: TD_ATTRIBUTES,
        fmspc: [7; 6],
        tcb_status: "UpToDate".to_string(),
        advisory_ids: Vec::new(),
        report_sha256: sha256(b"report"),
        collateral: CollateralFacts {
            fmspc: [7; 6],
            pce_id: [0; 2],
            tcb_evaluation_data_number: 1,
            qe_evaluation_data_number: 1,
            issue_date: 0,
            next_update: u64::MAX,
            issued: [0; 4],
        },
    }
}

fn judge(state: &StateV2, verified: &Verified) -> Result<WorkerKey, Refusal> {
    let roles = [Role::Worker, Role::Compiler];
    let appraised = state.approvals.judge(verified, &registration_report_data(&key()), &roles)?;
    Ok(state.appraised(&key(), appraised))
}

fn add_set(contract: &mut Contract, byte: u8, role: Role) -> u32 {
    contract.add_measurement_set(measurements(byte), None, None, None, Some(role), None)
}

/// Admit `key()` as after a verified quote.
fn admit(contract: &mut Contract) -> RegisterResult {
    let state = contract.state_mut();
    let key = judge(state, &verified()).map_err(|refusal| refusal.reason).unwrap();
    state.admit(key)
}

fn actions() -> Vec<MockAction> {
    get_created_receipts().into_iter().flat_map(|receipt| receipt.actions).collect()
}

#[test]
fn the_root_is_intels_unless_given_at_init() {
    assert!(!contract(None, None).get_root_ca().simulated);
    // naming Intel's own root is not a simulation
    assert!(!contract(Some(INTEL_ROOT_CA_DER), None).get_root_ca().simulated);
    assert_refused("not a self-signed", || contract(Some(b"nothing"), None));
    let mut changed = INTEL_ROOT_CA_DER.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    assert_refused("not a self-signed", || contract(Some(&changed), None));
    assert_refused("must be positive", || contract(None, Some(0)));
}

#[test]
fn an_admitted_key_gets_a_scoped_access_key_once() {
    let mut contract = contract(None, None);
    add_set(&mut contract, 1, Role::Worker);
    call_as("init.test", 2_000);
    let RegisterResult::Approved { expires_at, .. } = admit(&mut contract) else { panic!("not approved") };
    assert_eq!(expires_at, 2_000 + 30 * DAY);
    let added = actions();
    let [MockAction::AddKeyWithFunctionCall { receiver_id, method_names, allowance, .. }] = &added[..] else {
        panic!("{added:?}")
    };
    assert_eq!((receiver_id, *allowance), (&id("outlayer.test"), Some(NearToken::from_near(10))));
    assert_eq!(method_names.len(), 5);
    call_as("init.test", 3_000);
    let RegisterResult::Approved { expires_at, .. } = admit(&mut contract) else { panic!("not approved") };
    assert_eq!(expires_at, 3_000 + 30 * DAY);
    assert!(actions().is_empty());
    assert_eq!(contract.get_worker_keys(None, None).len(), 1);
}

#[test]
fn validity_ends_with_the_key_and_with_its_set() {
    let mut contract = contract(None, Some(100));
    let set = add_set(&mut contract, 1, Role::Worker);
    admit(&mut contract);
    let valid_at = |contract: &Contract, seconds| {
        call_as("anyone.test", seconds);
        contract.is_worker_key_valid(key())
    };
    assert_eq!([1_099, 1_100].map(|at| valid_at(&contract, at)), [true, false]);
    call_as("owner.test", 1_050);
    contract.expire_measurement_set(set, 1_060);
    assert_eq!([1_059, 1_060].map(|at| valid_at(&contract, at)), [true, false]);
}

#[test]
fn anyone_removes_dead_keys_and_only_those() {
    let mut contract = contract(None, Some(100));
    add_set(&mut contract, 1, Role::Worker);
    admit(&mut contract);
    call_as("anyone.test", 1_099);
    assert!(contract.remove_expired_keys(Some(vec![key()])).is_empty());
    assert!(actions().is_empty());
    call_as("anyone.test", 1_100);
    assert_eq!(contract.remove_expired_keys(Some(vec![key(), key()])), [key()]);
    assert!(matches!(actions()[..], [MockAction::DeleteKey { .. }]));
    assert!(contract.get_worker_key(key()).is_none());
}

#[test]
fn report_data_is_the_key_and_zeros() {
    let mut contract = contract(None, None);
    add_set(&mut contract, 1, Role::Worker);
    for index in 0..64 {
        let mut other = verified();
        other.report_data[index] ^= 0x80;
        let refused = judge(contract.state(), &other);
        assert_eq!(refused.err().map(|refusal| refusal.reason), Some("report_data_mismatch"), "byte {index}");
    }
}

#[test]
fn what_cannot_be_read_is_rejected_as_a_value() {
    let mut contract = contract(None, None);
    for quote in ["", "zz", "00", &"00".repeat(5_000)] {
        call_as("init.test", 2_000);
        let RegisterResult::Rejected { reason, .. } = contract.register_worker_key(key(), quote.to_string())
        else {
            panic!("approved")
        };
        assert_eq!(reason, "quote_malformed");
        assert!(get_logs()[0].contains(r#""event":"worker_key_rejected","data":[{"public_key""#));
    }
}

#[test]
fn strangers_are_turned_away() {
    let mut contract = contract(None, None);
    call_as("owner.test", 2_000);
    assert_refused("Only init.test can call register_worker_key", || {
        contract.register_worker_key(key(), String::new())
    });
    call_as("eve.test", 2_000);
    type Owners = fn(&mut Contract);
    let methods: [Owners; 12] = [
        |c| assert_eq!(add_set(c, 1, Role::Worker), 0),
        |c| c.expire_measurement_set(1, 0),
        |c| c.add_approved_measurements(measurements(1), None),
        |c| c.remove_approved_measurements(measurements(1)),
        |c| c.clear_all_approved_measurements(),
        |c| c.update_collateral(String::new()),
        |c| c.remove_worker_keys(vec![key()]),
        |c| c.transfer_ownership(id("eve.test")),
        |c| assert_eq!(c.propose_policy("ab".repeat(32), vec![], None), 0),
        |c| c.cancel_policy(1),
        |c| c.revoke_policy(1),
        |c| c.raise_policy_delay(1),
    ];
    for method in methods {
        assert_refused("Only owner", || method(&mut contract));
    }
}

fn new_set(byte: u8, role: Role) -> NewSet {
    NewSet {
        role,
        name: Some("image".to_string()),
        measurements: measurements(byte),
        not_before: None,
        not_after: None,
        platform: PlatformRules::default(),
    }
}

#[test]
fn a_compilers_key_can_only_renew_itself() {
    let mut contract = contract(None, None);
    add_set(&mut contract, 1, Role::Compiler);
    call_as("init.test", 2_000);
    let RegisterResult::Approved { role, .. } = admit(&mut contract) else { panic!("not approved") };
    assert_eq!(role, Role::Compiler);
    let added = actions();
    let [MockAction::AddKeyWithFunctionCall { receiver_id, method_names, .. }] = &added[..] else {
        panic!("{added:?}")
    };
    assert_eq!(
        (receiver_id, &method_names[..]),
        (&id("worker.test"), &["reverify_worker_key".to_string()][..])
    );
    call_as("anyone.test", 2_000);
    assert!(contract.is_measurements_approved(measurements(1), Some(Role::Compiler)));
    assert!(!contract.is_measurements_approved(measurements(1), None));
    assert!(contract.get_approved_measurements(None).is_empty());
}

#[test]
fn each_verification_changes_the_challenge() {
    let mut contract = contract(None, None);
    add_set(&mut contract, 1, Role::Worker);
    let mut seen = Vec::new();
    for seed in 0..3 {
        let mut builder = VMContextBuilder::new();
        builder.predecessor_account_id(id("init.test")).random_seed([seed; 32]);
        testing_env!(builder.build());
        admit(&mut contract);
        seen.push(contract.get_worker_key(key()).unwrap().challenge);
    }
    seen.dedup();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|challenge| challenge.len() == 64));
}

#[test]
fn with_a_delay_nothing_is_approved_at_once() {
    let mut contract = contract(None, None);
    contract.raise_policy_delay(DAY);
    for again in [0, DAY - 1, DAY] {
        assert_refused("can only be raised", || contract.raise_policy_delay(again));
    }
    assert_refused("in two steps", || add_set(&mut contract, 1, Role::Worker));
    assert_refused("in two steps", || contract.add_approved_measurements(measurements(1), None));
    let version = contract.propose_policy("ab".repeat(32), vec![new_set(1, Role::Worker)], None);
    call_as("anyone.test", 1_000 + DAY - 10);
    assert_eq!(contract.get_pending_policy().unwrap().seconds_until_activation, 10);
    assert_refused("The delay of the pending policy", || contract.activate_policy(version));
    call_as("anyone.test", 1_000 + DAY);
    assert_eq!(contract.activate_policy(version).sets, [1]);
    assert!(get_logs()[0].contains("policy_activated"));
    assert!(contract.get_pending_policy().is_none());
    assert!(contract.is_measurements_approved(measurements(1), None));
    // removal does not wait
    call_as("owner.test", 1_001 + DAY);
    contract.revoke_policy(version);
    assert!(!contract.is_measurements_approved(measurements(1), None));
    assert_eq!(contract.get_policies(None, None)[0].revoked_at, Some(1_001 + DAY));
}

#[test]
fn keystores_are_not_approved_here() {
    let mut contract = contract(None, None);
    assert_refused("keystore DAO", || add_set(&mut contract, 1, Role::Keystore));
    let sets = vec![new_set(1, Role::Keystore)];
    assert_refused("keystore DAO", || contract.propose_policy("ab".repeat(32), sets, None));
}

#[test]
fn all_sets_can_be_cleared_at_once_however_many_there_are() {
    let mut contract = contract(None, None);
    for _ in 0..999 {
        contract.state_mut().approvals.sets.add(new_set(1, Role::Worker), None, 1_000).unwrap();
    }
    contract.clear_all_approved_measurements();
    // all logs of a call together have 16 KB on chain
    let logs = get_logs();
    assert_eq!(logs.len(), 1);
    assert!(logs[0].contains("999]") && logs[0].len() < 16 * 1024, "{}", logs[0].len());
    assert!(contract.get_approved_measurements(None).is_empty());
}
