// SPDX-License-Identifier: MIT
//! The contract's own rules. Verification of quotes is tested in `quote-verify`, and whole on the localnet.

use std::panic::{catch_unwind, AssertUnwindSafe};

use approval::{registration_report_data, Refusal};
use measurements::{Measurements, NewSet, PlatformRules, Role};
use near_sdk::mock::{with_mocked_blockchain, MockAction};
use near_sdk::test_utils::{get_created_receipts, get_logs, VMContextBuilder};
use near_sdk::{testing_env, AccountId, NearToken, PromiseOrValue, PublicKey};
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

fn judge(state: &StateV3, verified: &Verified) -> Result<KeyRecord, Refusal> {
    let roles = [Role::Worker, Role::Compiler];
    let appraised = state.approvals.judge(verified, &registration_report_data(&key()), &roles)?;
    state.record(&key(), &appraised)
}

fn add_set(contract: &mut Contract, byte: u8, role: Role) -> u32 {
    contract.add_measurement_set(measurements(byte), None, None, None, Some(role), None)
}

const NOTHING: NearToken = NearToken::from_yoctonear(0);

/// Admit `key()` as after a verified quote, when its access key has been added.
fn admit(contract: &mut Contract) -> RegisterResult {
    let state = contract.state_mut();
    let record = judge(state, &verified()).map_err(|refusal| refusal.reason).unwrap();
    let answer = state.keep_new(&key(), record, NOTHING);
    answer.map_err(|refusal| refusal.reason).unwrap()
}

fn other_key(byte: u8) -> PublicKey {
    PublicKey::from_parts(near_sdk::CurveType::ED25519, vec![byte; 32]).unwrap()
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
fn the_access_key_is_scoped_and_what_is_kept_comes_behind_it_in_one_receipt() {
    let mut contract = contract(None, None);
    add_set(&mut contract, 1, Role::Worker);
    call_as("init.test", 2_000);
    let state = contract.state();
    let record = judge(state, &verified()).map_err(|refusal| refusal.reason).unwrap();
    drop(state.admit(&key(), record, NOTHING));
    let made = actions();
    let [MockAction::AddKeyWithFunctionCall { receiver_id, method_names, allowance, .. }, MockAction::FunctionCallWeight { method_name, gas_weight, .. }] =
        &made[..]
    else {
        panic!("{made:?}")
    };
    assert_eq!((receiver_id, *allowance), (&id("outlayer.test"), Some(NearToken::from_near(10))));
    assert!(!method_names.contains(&"submit_execution_output".to_string()));
    assert_eq!(method_names.len(), 4);
    assert_eq!((method_name.as_slice(), gas_weight.0), (&b"on_access_key"[..], 0));
    assert!(!contract.is_worker_key_valid(key()));
}

#[test]
fn a_key_that_was_removed_is_not_kept_again() {
    let mut contract = contract(None, None);
    add_set(&mut contract, 1, Role::Worker);
    admit(&mut contract);
    call_as("owner.test", 2_000);
    contract.remove_worker_keys(vec![key(), other_key(9)]);
    let state = contract.state_mut();
    let record = judge(state, &verified()).map_err(|refusal| refusal.reason).unwrap();
    for public_key in [key(), other_key(9)] {
        let refused = state.keep_new(&public_key, record.clone(), NOTHING);
        assert_eq!(refused.err().map(|refusal| refusal.reason), Some("key_removed"));
        let refused = state.keep_renewed(&public_key, record.clone());
        assert_eq!(refused.err().map(|refusal| refusal.reason), Some("key_removed"));
    }
}

#[test]
fn a_removed_key_gives_back_what_it_paid_but_for_its_trace() {
    let mut contract = contract(None, None);
    add_set(&mut contract, 1, Role::Worker);
    contract.state_mut().give(NearToken::from_near(2));
    let balance = |contract: &Contract| contract.storage_balance_of(id("init.test")).unwrap();
    admit(&mut contract);
    let after = balance(&contract);
    let min = contract.storage_balance_bounds().min;
    assert_eq!(after.total, NearToken::from_near(2).saturating_sub(min));
    call_as("owner.test", 2_000);
    contract.remove_worker_keys(vec![key()]);
    let lost = NearToken::from_near(2).saturating_sub(balance(&contract).total);
    // the trace: 40 bytes, its storage key, and nothing under it
    assert_eq!(lost, near_sdk::env::storage_byte_cost().saturating_mul(40 + 1 + 32));
    assert!(contract.storage_balance_of(id("eve.test")).is_none());
}

fn numbered_key(number: u16) -> PublicKey {
    let mut bytes = vec![7; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    PublicKey::from_parts(near_sdk::CurveType::ED25519, bytes).unwrap()
}

/// A contract whose registering account owes nearly all it can, the price of a key, and what is missing for another.
fn indebted() -> (Contract, KeyRecord, u128) {
    let mut contract = contract(None, None);
    add_set(&mut contract, 1, Role::Worker);
    let record = judge(contract.state(), &verified()).map_err(|refusal| refusal.reason).unwrap();
    let price = contract.storage_balance_bounds().min.as_yoctonear();
    let credit = NearToken::from_near(10).as_yoctonear();
    for number in 0..(credit / price) as u16 {
        call_as("init.test", 1_000);
        let kept = contract.state_mut().keep_new(&numbered_key(number), record.clone(), NOTHING);
        assert!(kept.is_ok(), "{number}");
    }
    call_as("init.test", 1_000);
    (contract, record, price - credit % price)
}

#[test]
fn what_nobody_paid_is_owed_up_to_the_credit() {
    let (mut contract, record, missing) = indebted();
    assert_refused(&format!("pay at least {missing} with storage_deposit"), || {
        contract.state_mut().keep_new(&key(), record, NOTHING)
    });
    let (mut contract, record, missing) = indebted();
    contract.state_mut().give(NearToken::from_yoctonear(missing));
    assert!(contract.state_mut().keep_new(&key(), record, NOTHING).is_ok());
    assert_eq!(contract.storage_balance_of(id("init.test")).unwrap().owed, NearToken::from_near(10));
}

#[test]
fn the_rest_of_a_deposit_goes_back_and_no_more() {
    for (before, attached, back) in [(0, 20, 11), (50, 20, 11), (50, 3, 0), (0, 3, 0)] {
        let milli = |amount: u128| NearToken::from_millinear(amount);
        let mut contract = contract(None, None);
        add_set(&mut contract, 1, Role::Worker);
        call_as("init.test", 1_000);
        let record = judge(contract.state(), &verified()).map_err(|refusal| refusal.reason).unwrap();
        let price = contract.storage_balance_bounds().min;
        let state = contract.state_mut();
        state.give(milli(before + attached));
        state.keep_new(&key(), record, milli(attached)).map_err(|refusal| refusal.reason).unwrap();
        let sent: Vec<_> =
            actions().into_iter().filter(|action| matches!(action, MockAction::Transfer { .. })).collect();
        let rest = milli(attached).saturating_sub(price);
        assert_eq!(sent.len(), usize::from(back > 0), "{before} {attached}");
        if let [MockAction::Transfer { deposit, .. }] = sent[..] {
            assert_eq!(deposit, rest);
            assert_eq!(rest.as_millinear(), back);
        }
        let balance = contract.storage_balance_of(id("init.test")).unwrap();
        let paid = milli(before + attached).saturating_sub(price).saturating_sub(rest);
        assert_eq!((balance.total, balance.owed), (paid, price.saturating_sub(milli(before + attached))));
    }
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
    let contract = contract(None, None);
    for quote in ["", "zz", "00", &"00".repeat(5_000)] {
        call_as("init.test", 2_000);
        let answer = contract.register_worker_key(key(), quote.to_string());
        let PromiseOrValue::Value(RegisterResult::Rejected { reason, .. }) = answer else {
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
        |c| assert_eq!(c.expire_measurement_set(1, 0).removed, 0),
        |c| assert_eq!(c.add_approved_measurements(measurements(1), None).removed, 0),
        |c| assert_eq!(c.remove_approved_measurements(measurements(1)).removed, 0),
        |c| assert_eq!(c.clear_all_approved_measurements().removed, 0),
        |c| c.update_collateral(String::new(), None),
        |c| c.remove_worker_keys(vec![key()]),
        |c| c.transfer_ownership(id("eve.test")),
        |c| assert_eq!(c.propose_policy("ab".repeat(32), vec![], None), 0),
        |c| c.cancel_policy(1),
        |c| assert_eq!(c.revoke_policy(1).removed, 0),
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
    let record = judge(contract.state(), &verified()).map_err(|refusal| refusal.reason).unwrap();
    drop(contract.state().admit(&key(), record, NOTHING));
    let RegisterResult::Approved { role, .. } = admit(&mut contract) else { panic!("not approved") };
    assert_eq!(role, Role::Compiler);
    let added = actions();
    let [MockAction::AddKeyWithFunctionCall { receiver_id, method_names, .. }, ..] = &added[..] else {
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
        let record = judge(contract.state(), &verified()).map_err(|refusal| refusal.reason).unwrap();
        seen.push(record.challenge);
    }
    seen.dedup();
    assert_eq!(seen.len(), 3);
    admit(&mut contract);
    assert_eq!(contract.get_worker_key(key()).unwrap().challenge.len(), 64);
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
    for index in 0..200u32 {
        let mut set = new_set(0, if index % 2 == 0 { Role::Worker } else { Role::Compiler });
        set.measurements.rtmr3.0[..4].copy_from_slice(&index.to_be_bytes());
        call_as("owner.test", 1_000);
        contract.state_mut().approvals.sets.add(set, None, 1_000).unwrap();
    }
    call_as("owner.test", 1_000);
    contract.clear_all_approved_measurements();
    let logs = get_logs();
    assert_eq!(logs.len(), 2);
    assert!(logs.iter().all(|log| log.contains(r#""last_id":200"#) && log.len() < 300), "{logs:?}");
    assert!(contract.get_approved_measurements(None).is_empty());
    assert!(contract.get_approved_measurements(Some(Role::Compiler)).is_empty());
}

#[test]
fn clearing_others_concerns_workers_only() {
    let mut contract = contract(None, None);
    let worker = add_set(&mut contract, 1, Role::Worker);
    let compiler = add_set(&mut contract, 2, Role::Compiler);
    contract.add_approved_measurements(measurements(3), Some(true));
    let ends = |id| contract.get_measurement_set(id).unwrap().not_after;
    assert_eq!((ends(worker), ends(compiler)), (Some(1_000), None));
    assert_eq!(contract.get_approved_measurements(None), [measurements(3)]);
    // what is approved already stays the same set
    contract.add_approved_measurements(measurements(3), Some(true));
    assert_eq!(contract.get_measurement_sets(None, None).len(), 3);
}

#[test]
fn pruned_sets_are_told_by_events_that_fit_into_the_logs_of_a_call() {
    let mut contract = contract(None, None);
    for _ in 0..10 {
        let mut set = new_set(1, Role::Worker);
        set.name = Some("\u{1}".repeat(128));
        set.not_after = Some(1_001);
        set.platform.statuses = vec![measurements::TcbStatus::TDRelaunchAdvisedConfigurationNeeded; 8];
        set.platform.advisory_prefix_informational = vec!["INTEL-ABCDEFGHIJKLMNOP-".to_string(); 8];
        contract.state_mut().approvals.sets.add(set, None, 1_000).unwrap();
    }
    call_as("anyone.test", 1_001 + 90 * DAY);
    assert!(contract.prune_measurement_sets(None).is_empty());
    call_as("anyone.test", 1_002 + 90 * DAY);
    let first = contract.prune_measurement_sets(Some(1_000));
    assert_eq!(first.len(), 5);
    let logs = get_logs();
    assert!(logs[0].contains("measurement_sets_pruned") && logs[0].len() < 16 * 1024, "{}", logs[0].len());
    call_as("anyone.test", 1_002 + 90 * DAY);
    assert_eq!(contract.prune_measurement_sets(None).len(), 5);
    assert!(contract.get_measurement_sets(None, None).is_empty());
    assert!(contract.prune_measurement_sets(None).is_empty());
}
