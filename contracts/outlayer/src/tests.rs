// SPDX-License-Identifier: MIT
//! The contract's logic without a chain. What needs a yield to be resumed is tested against the localnet.

use std::panic::{catch_unwind, AssertUnwindSafe};

use near_sdk::json_types::U128;
use near_sdk::mock::{with_mocked_blockchain, MockAction};
use near_sdk::test_utils::{get_created_receipts, get_logs, VMContextBuilder};
use near_sdk::{test_vm_config, testing_env, AccountId, NearToken, PromiseResult, RuntimeFeesConfig};
use serde_json::{json, Value};

use crate::*;

const HASH: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const OTHER_HASH: &str = "3333333333333333333333333333333333333333333333333333333333333333";
const DEPOSIT: u128 = NearToken::from_millinear(100).as_yoctonear();
const SECOND: u64 = 1_000_000_000;

fn id(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn context(caller: &str, deposit: u128, seconds: u64) -> VMContextBuilder {
    let mut builder = VMContextBuilder::new();
    builder
        .current_account_id(id("outlayer.test"))
        .predecessor_account_id(id(caller))
        .signer_account_id(id("signer.test"))
        .account_balance(NearToken::from_near(1_000))
        .attached_deposit(NearToken::from_yoctonear(deposit))
        .block_timestamp(seconds * SECOND);
    builder
}

/// The next call comes from here.
fn call_as(caller: &str, deposit: u128, seconds: u64) {
    testing_env!(context(caller, deposit, seconds).build());
}

/// A new contract on empty storage.
fn contract() -> Contract {
    with_mocked_blockchain(|chain| drop(chain.take_storage()));
    call_as("owner.test", 0, 1);
    Contract::new(id("owner.test"), Some(id("worker.test")), None, None)
}

/// What a call that panics says.
fn refusal<T>(call: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(_) => panic!("the call was not refused"),
        Err(payload) => payload
            .downcast_ref::<String>()
            .cloned()
            .or(payload.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap(),
    }
}

fn assert_refused<T>(expected: &str, call: impl FnOnce() -> T) {
    let said = refusal(call);
    assert!(said.contains(expected), "expected {expected:?}, got {said:?}");
}

fn wasm(hash: &str) -> CodeSource {
    CodeSource::WasmUrl {
        url: "https://example.test/a.wasm".to_string(),
        hash: hash.to_string(),
        build_target: None,
    }
}

fn wasm_request() -> ExecutionSource {
    serde_json::from_value(json!({"WasmUrl": {"url": "https://example.test/a.wasm", "hash": HASH}})).unwrap()
}

fn project_request(project_id: &str) -> ExecutionSource {
    ExecutionSource::Project { project_id: project_id.to_string(), version_key: None }
}

fn request(contract: &mut Contract, source: ExecutionSource, limits: Value, params: Value) {
    let limits = serde_json::from_value(limits).unwrap();
    let params = serde_json::from_value(params).unwrap();
    contract.request_execution(source, limits, Some("in".to_string()), None, None, None, params);
}

/// A project request by bob, who pays `DEPOSIT`; gives its id.
fn pending(contract: &mut Contract) -> u64 {
    call_as("bob.test", DEPOSIT, 10);
    request(contract, project_request("alice.test/app"), json!({}), json!(null));
    contract.next_request_id - 1
}

fn with_project() -> Contract {
    let mut contract = contract();
    call_as("alice.test", DEPOSIT, 5);
    contract.create_project("app".to_string(), wasm(HASH));
    contract
}

/// The operator answers a request.
fn answer(contract: &mut Contract, request_id: u64, response: Value) {
    call_as("worker.test", 0, 20);
    contract.resolve_execution(request_id, serde_json::from_value(response).unwrap(), None);
}

/// The request's yield ends, with this result.
fn call_back(contract: &mut Contract, request_id: u64, result: PromiseResult) {
    testing_env!(
        context("outlayer.test", 0, 20).build(),
        test_vm_config(),
        RuntimeFeesConfig::test(),
        Default::default(),
        vec![result]
    );
    contract.on_execution_response(request_id);
}

fn time_out(contract: &mut Contract, request_id: u64) {
    call_back(contract, request_id, PromiseResult::Failed);
}

fn used() -> Value {
    json!({"instructions": 0, "time_ms": 0})
}

/// Who got how much in the last call.
fn transfers() -> Vec<(String, u128)> {
    get_created_receipts()
        .iter()
        .flat_map(|receipt| {
            receipt.actions.iter().filter_map(|action| match action {
                MockAction::Transfer { deposit, .. } => {
                    Some((receipt.receiver_id.to_string(), deposit.as_yoctonear()))
                }
                _ => None,
            })
        })
        .collect()
}

/// Data of the events of this name in the last call.
fn events(name: &str) -> Vec<Value> {
    get_logs()
        .iter()
        .filter_map(|line| line.strip_prefix("EVENT_JSON:"))
        .map(|text| serde_json::from_str::<Value>(text).unwrap())
        .filter(|event| event["event"] == name)
        .map(|event| event["data"][0].clone())
        .collect()
}

fn request_data() -> Value {
    serde_json::from_str(events("execution_requested")[0]["request_data"].as_str().unwrap()).unwrap()
}

// --- requests ---

#[test]
fn a_request_emits_all_that_a_worker_needs() {
    let mut contract = with_project();
    pending(&mut contract);
    let event = &events("execution_requested")[0];
    assert_eq!(event["data_id"].as_array().unwrap().len(), 32);
    assert_eq!(event["timestamp"], 10 * SECOND);
    assert_eq!(
        request_data(),
        json!({
            "request_id": 0, "sender_id": "signer.test", "predecessor_id": "bob.test",
            "code_source": {"WasmUrl": {"url": "https://example.test/a.wasm", "hash": HASH,
                                        "build_target": "wasm32-wasip1"}},
            "resource_limits": {"max_instructions": 1_000_000_000u64, "max_memory_mb": 128,
                                "max_execution_seconds": 60},
            "input_data": "in", "input_data_in_state": false, "secrets_ref": null, "response_format": "Text",
            "payment": DEPOSIT.to_string(), "attached_usd": "0", "timestamp": 10 * SECOND,
            "compile_only": false, "force_rebuild": false, "store_on_fastfs": false,
            "project_uuid": "p0000000000000001", "project_id": "alice.test/app",
        })
    );
}

#[test]
fn r1_a_project_uuid_from_the_caller_is_refused_for_every_source() {
    let mut contract = with_project();
    for source in [wasm_request(), project_request("alice.test/app")] {
        call_as("bob.test", DEPOSIT, 10);
        assert_refused("project_uuid cannot be given", || {
            request(&mut contract, source, json!({}), json!({"project_uuid": "p0000000000000001"}));
        });
    }
}

#[test]
fn r1_only_a_project_source_carries_a_uuid() {
    let mut contract = with_project();
    call_as("bob.test", DEPOSIT, 10);
    request(&mut contract, wasm_request(), json!({}), json!(null));
    assert_eq!(
        (&request_data()["project_uuid"], &request_data()["project_id"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn r10_absent_and_null_limits_take_the_defaults() {
    let mut contract = contract();
    for limits in [json!({"max_instructions": 1}), json!({"max_instructions": 1, "max_memory_mb": null})] {
        call_as("bob.test", DEPOSIT, 10);
        request(&mut contract, wasm_request(), limits, json!(null));
        let expected = json!({"max_instructions": 1, "max_memory_mb": 128, "max_execution_seconds": 60});
        assert_eq!(request_data()["resource_limits"], expected);
    }
}

#[test]
fn r11_one_default_build_target_for_given_and_absent() {
    let mut contract = contract();
    let mut sources = Vec::new();
    for target in [Value::Null, json!(DEFAULT_BUILD_TARGET)] {
        let source =
            json!({"GitHub": {"repo": "https://github.com/a/b", "commit": "main", "build_target": target}});
        call_as("bob.test", DEPOSIT, 10);
        request(&mut contract, serde_json::from_value(source).unwrap(), json!({}), json!(null));
        sources.push(request_data()["code_source"].clone());
    }
    assert_eq!(sources[0], sources[1]);
    assert_eq!(sources[0]["GitHub"]["build_target"], "wasm32-wasip1");
}

#[test]
fn a_request_without_limits_is_compile_only_and_costs_the_base_fee() {
    let mut contract = contract();
    call_as("bob.test", DEPOSIT, 10);
    contract.request_execution(wasm_request(), None, None, None, None, None, None);
    assert_eq!(request_data()["compile_only"], true);
    answer(&mut contract, 0, json!({"success": true, "resources_used": used()}));
    assert_eq!(transfers(), [("bob.test".to_string(), DEPOSIT - contract.pricing.base_fee)]);
    call_as("bob.test", DEPOSIT, 10);
    assert_refused("input_data must be empty", || {
        contract.request_execution(wasm_request(), None, Some("x".to_string()), None, None, None, None);
    });
}

#[test]
fn wrong_requests_are_refused_by_name() {
    let mut contract = with_project();
    let project = || project_request("alice.test/app");
    let missing = ExecutionSource::Project {
        project_id: "alice.test/app".to_string(),
        version_key: Some(OTHER_HASH.to_string()),
    };
    for (source, limits, params, deposit, expected) in [
        (project_request("alice.test/none"), json!({}), json!(null), DEPOSIT, "Project not found"),
        (missing, json!({}), json!(null), DEPOSIT, "Version not found"),
        (
            project(),
            json!({"max_instructions": 500_000_000_001u64}),
            json!(null),
            DEPOSIT,
            "exceeds hard limit of 500000000000",
        ),
        (
            project(),
            json!({"max_execution_seconds": 181}),
            json!(null),
            DEPOSIT,
            "exceeds hard limit of 180 seconds",
        ),
        (project(), json!({}), json!({"force_rebuild": true}), DEPOSIT, "force_rebuild is not applicable"),
        (
            project(),
            json!({}),
            json!({"store_on_fastfs": true}),
            DEPOSIT,
            "store_on_fastfs requires force_rebuild",
        ),
        (wasm_request(), json!({}), json!({"attached_usd": "1"}), DEPOSIT, "only valid for Project"),
        (
            project(),
            json!({}),
            json!({"attached_usd": "1"}),
            DEPOSIT,
            "Insufficient stablecoin balance. Required: 1, available: 0",
        ),
        (
            project(),
            json!({}),
            json!(null),
            1,
            "Insufficient payment: required 7000100000000000000000 yoctoNEAR for compute, got 1",
        ),
    ] {
        call_as("bob.test", deposit, 10);
        assert_refused(expected, || request(&mut contract, source, limits, params));
    }
    assert_eq!(contract.next_request_id, 0);
}

#[test]
fn a_paused_contract_takes_no_requests() {
    let mut contract = contract();
    call_as("owner.test", 0, 2);
    contract.set_paused(true);
    call_as("bob.test", DEPOSIT, 10);
    assert_refused("Contract is paused", || request(&mut contract, wasm_request(), json!({}), json!(null)));
}

#[test]
fn a_large_input_stays_in_state() {
    let mut contract = contract();
    for (length, in_state) in [(1_025, false), (9_999, false), (10_000, true)] {
        call_as("bob.test", 2 * DEPOSIT, 10);
        let input = "x".repeat(length);
        let limits = Some(PartialLimits::default());
        contract.request_execution(wasm_request(), limits, Some(input.clone()), None, None, None, None);
        let data = request_data();
        assert_eq!(data["input_data_in_state"], in_state);
        assert_eq!(data["input_data"].as_str().unwrap().is_empty(), in_state);
        let stored = contract.get_request(contract.next_request_id - 1).unwrap().input_data;
        assert_eq!(
            stored,
            in_state.then_some(input),
            "a short one is kept, a middle one is in the event alone"
        );
    }
}

#[test]
fn a_short_input_is_kept_where_it_is_paid_for() {
    let mut contract = contract();
    let limits = || Some(PartialLimits::default());
    let required = contract.estimate_execution_cost(None).0;
    for (deposit, length, kept) in [(DEPOSIT, 1_024, true), (required, 10, true), (required, 1_024, false)] {
        call_as("bob.test", deposit, 10);
        let input = "x".repeat(length);
        contract.request_execution(wasm_request(), limits(), Some(input.clone()), None, None, None, None);
        let stored = contract.get_request(contract.next_request_id - 1).unwrap().input_data;
        assert_eq!(stored, kept.then_some(input));
    }
}

#[test]
fn a_request_pays_for_what_it_occupies() {
    let mut contract = contract();
    let input = "x".repeat(20_000);
    let ask = |contract: &mut Contract, deposit: u128| {
        call_as("bob.test", deposit, 10);
        contract.request_execution(
            wasm_request(),
            Some(PartialLimits::default()),
            Some(input.clone()),
            None,
            None,
            None,
            None,
        );
    };
    let said = refusal(|| ask(&mut contract, DEPOSIT));
    let needed: u128 = said.split("needs ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(said.contains("occupies 20") && needed > 20_000 * 10_u128.pow(19), "{said}");
    assert_refused("Insufficient payment", || ask(&mut contract, needed - 1));
    ask(&mut contract, needed);
    assert_eq!(contract.held_payments, needed);
    assert_eq!(storage::price(contract.waiting_bytes as usize), needed);
}

#[test]
fn what_no_worker_could_take_is_refused() {
    let mut contract = contract();
    let near = NearToken::from_near(40).as_yoctonear();
    for (limits, input, secrets, expected) in [
        (json!({"max_memory_mb": 1_025}), "".to_string(), json!(null), "exceeds hard limit of 1024 MB"),
        (json!({}), "x".repeat(1_048_577), json!(null), "input_data has 1048577 bytes"),
        (json!({}), "\u{1}".repeat(1_048_576), json!(null), "input_data has 6291456 bytes as JSON"),
        (
            json!({}),
            "".to_string(),
            json!({"profile": "p".repeat(65), "account_id": "a.test"}),
            "Profile name too long",
        ),
    ] {
        call_as("bob.test", near, 10);
        let limits = serde_json::from_value(limits).unwrap();
        let secrets = serde_json::from_value(secrets).unwrap();
        assert_refused(expected, || {
            contract.request_execution(wasm_request(), limits, Some(input), secrets, None, None, None)
        });
    }
}

#[test]
fn the_estimate_is_what_a_request_must_attach() {
    let mut contract = contract();
    let limits = json!({"max_instructions": 5_000_000_000u64, "max_execution_seconds": 60});
    let required = contract.estimate_execution_cost(serde_json::from_value(limits.clone()).unwrap()).0;
    call_as("bob.test", required - 1, 10);
    assert_refused("Insufficient payment", || {
        request(&mut contract, wasm_request(), limits.clone(), json!(null))
    });
    call_as("bob.test", required, 10);
    request(&mut contract, wasm_request(), limits, json!(null));
}

// --- settlement ---

#[test]
fn r8_charged_and_refunded_add_up_to_the_payment_for_any_use() {
    let mut contract = with_project();
    let mut seed = 42u64;
    let mut fees = 0;
    for round in 0..60 {
        let request_id = pending(&mut contract);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let used = json!({"instructions": seed >> (round % 60), "time_ms": seed >> 50, "compile_time_ms": seed >> 58});
        answer(&mut contract, request_id, json!({"success": true, "resources_used": used}));
        let paid_back: u128 = transfers().iter().map(|(_, amount)| amount).sum();
        call_back(&mut contract, request_id, PromiseResult::Successful(Vec::new()));
        assert!(transfers().is_empty(), "the callback moves no money");
        let event = &events("execution_completed")[0];
        let amount = |name: &str| event[name].as_str().unwrap().parse::<u128>().unwrap();
        let (charged, refunded) = (amount("payment_charged"), amount("payment_refunded"));
        assert_eq!(charged + refunded, DEPOSIT);
        assert_eq!(paid_back, refunded);
        assert!(get_logs().contains(&format!("[[yNEAR charged: \"{charged}\"]]")));
        fees += charged;
        assert_eq!(contract.get_stats(), (round + 1, U128(fees)));
        assert_eq!((contract.fees, contract.held_payments), (fees, 0));
    }
}

#[test]
fn a_failure_costs_the_base_fee_and_is_told() {
    let mut contract = with_project();
    let request_id = pending(&mut contract);
    let failed =
        json!({"success": false, "error": "trap", "resources_used": {"instructions": 9, "time_ms": 9}});
    answer(&mut contract, request_id, failed);
    let base_fee = contract.pricing.base_fee;
    assert_eq!(transfers(), [("bob.test".to_string(), DEPOSIT - base_fee)]);
    call_back(&mut contract, request_id, PromiseResult::Successful(Vec::new()));
    let event = &events("execution_completed")[0];
    assert_eq!((&event["success"], &event["error_message"]), (&json!(false), &json!("trap")));
    assert_eq!(event["payment_charged"], base_fee.to_string());
}

#[test]
fn a_timeout_costs_the_base_fee_and_emits_no_completion() {
    let mut contract = with_project();
    let request_id = pending(&mut contract);
    time_out(&mut contract, request_id);
    assert_eq!(transfers(), [("bob.test".to_string(), DEPOSIT - contract.pricing.base_fee)]);
    assert!(events("execution_completed").is_empty());
    assert!(contract.get_request(request_id).is_none());
}

#[test]
fn the_leaf_of_the_record_is_in_the_last_event_of_success_and_of_failure() {
    let mut contract = with_project();
    let used = json!({"instructions": 0, "time_ms": 0});
    for success in [true, false] {
        for leaf in [json!(null), json!(HASH)] {
            let request_id = pending(&mut contract);
            let done = json!({"success": success, "resources_used": used, "record_sha256": leaf});
            answer(&mut contract, request_id, done);
            call_back(&mut contract, request_id, PromiseResult::Successful(Vec::new()));
            assert_eq!(events("execution_completed")[0].get("record_sha256"), leaf.as_str().map(|_| &leaf));
        }
    }
}

#[test]
fn a_leaf_that_is_not_64_lower_case_hex_digits_is_refused() {
    let mut contract = with_project();
    let request_id = pending(&mut contract);
    let leaf = "ab".repeat(32);
    let done = json!({"success": true, "resources_used": {"instructions": 0, "time_ms": 0}});
    for leaf in ["", "ab", &leaf.to_uppercase(), &leaf[1..], &format!("{leaf}0"), &format!("{}g", &leaf[1..])]
    {
        call_as("worker.test", 0, 10);
        let done: ExecutionResponse = serde_json::from_value(done.clone()).unwrap();
        assert_refused("record_sha256 must be 64 lower-case hex digits", || {
            contract.resolve_execution(request_id, done, Some(leaf.to_string()));
        });
    }
}

/// In the block that delivers a time-out a yield still takes an answer, and drops it.
#[test]
fn the_callback_goes_by_the_record_whatever_the_yield_brings() {
    let mut contract = with_project();
    let results = || {
        let payloads = [&b""[..], b"null", b"{}", b"\xff", b"{\"success\":true}", b"[[[[[["];
        let successful = payloads.map(|payload| PromiseResult::Successful(payload.to_vec()));
        successful.into_iter().chain([PromiseResult::Failed])
    };
    for result in results() {
        let request_id = pending(&mut contract);
        answer(&mut contract, request_id, json!({"success": true, "resources_used": used()}));
        call_back(&mut contract, request_id, result);
        assert!(transfers().is_empty());
        assert_eq!(events("execution_completed")[0]["success"], true);
    }
    for result in results() {
        let request_id = pending(&mut contract);
        call_back(&mut contract, request_id, result);
        assert_eq!(transfers(), [("bob.test".to_string(), DEPOSIT - contract.pricing.base_fee)]);
        assert!(events("execution_completed").is_empty());
    }
}

#[test]
fn each_request_is_answered_once_and_ends_once() {
    let mut contract = with_project();
    let request_id = pending(&mut contract);
    let done = json!({"success": true, "resources_used": used()});
    answer(&mut contract, request_id, done.clone());
    assert!(contract.get_request(request_id).is_none());
    assert!(contract.get_pending_request_ids(None, None).is_empty());
    let stats = contract.get_stats();
    assert_refused("is already answered", || answer(&mut contract, request_id, done.clone()));
    assert_refused("is already answered", || {
        contract.submit_execution_output(request_id, ExecutionOutput::Text("other".to_string()))
    });
    call_as("owner.test", 0, 21);
    assert_refused("Execution request not found", || contract.emergency_cancel_execution(request_id));
    call_back(&mut contract, request_id, PromiseResult::Successful(Vec::new()));
    call_back(&mut contract, request_id, PromiseResult::Successful(Vec::new()));
    assert!(transfers().is_empty());
    assert_eq!(contract.get_stats(), stats);
    assert!(get_logs()[0].contains("not found in pending requests"));
    assert_refused("Execution request not found", || answer(&mut contract, request_id, done));
}

#[test]
fn what_is_left_of_an_answered_request_can_be_removed_when_it_is_stale() {
    let mut contract = with_project();
    let request_id = pending(&mut contract);
    let text = "x".repeat(5_000);
    answer(
        &mut contract,
        request_id,
        json!({"success": true, "resources_used": used(), "output": {"Text": text}}),
    );
    call_as("bob.test", 0, 10 + 600);
    contract.cancel_stale_execution(request_id);
    assert!(transfers().is_empty());
    assert!(contract.request(request_id).is_none());
    assert!(crate::blobs::OUTPUTS.read(request_id).is_none());
}

#[test]
fn sizes_have_limits_and_long_ones_a_price() {
    let mut contract = with_project();
    let text = |length: usize| json!({"success": true, "resources_used": used(), "output": {"Text": "x".repeat(length)}});
    let request_id = pending(&mut contract);
    // the quotes count
    assert_refused("The output is 250001 bytes", || answer(&mut contract, request_id, text(249_999)));
    let call = |contract: &mut Contract, deposit| {
        call_as("bob.test", deposit, 10);
        request(contract, project_request("alice.test/app"), json!({}), json!(null));
        contract.next_request_id - 1
    };
    let base = contract.pricing.base_fee;
    let price = base + 50_000 * cost::OUTPUT_BYTE_PRICE;
    let least = 7_000_100_000_000_000_000_000;
    let affordable = ((least - base) / cost::OUTPUT_BYTE_PRICE) as usize + cost::FREE_OUTPUT_BYTES;
    let poor = call(&mut contract, least);
    assert_refused("does not pay for an output", || answer(&mut contract, poor, text(affordable - 1)));
    answer(&mut contract, poor, text(affordable - 2));
    let request_id = call(&mut contract, DEPOSIT);
    answer(&mut contract, request_id, text(51_022));
    assert_eq!(transfers(), [("bob.test".to_string(), DEPOSIT - price)]);
    let request_id = call(&mut contract, DEPOSIT);
    answer(&mut contract, request_id, text(1_022));
    assert_eq!(transfers(), [("bob.test".to_string(), DEPOSIT - base)]);
}

#[test]
fn the_refund_goes_to_the_payer_that_was_named() {
    let mut contract = with_project();
    call_as("bob.test", DEPOSIT, 10);
    let limits = Some(PartialLimits::default());
    contract.request_execution(wasm_request(), limits, None, None, None, Some(id("payer.test")), None);
    time_out(&mut contract, 0);
    assert_eq!(transfers()[0].0, "payer.test");
}

/// A request of bob's with 100 of his 250 micro-USD attached.
fn pending_with_usd(contract: &mut Contract) -> u64 {
    contract.pools.deposit(&id("bob.test"), 250);
    call_as("bob.test", DEPOSIT, 10);
    request(contract, project_request("alice.test/app"), json!({}), json!({"attached_usd": "100"}));
    assert_eq!(contract.get_user_stablecoin_balance(id("bob.test")), U128(150));
    contract.next_request_id - 1
}

#[test]
fn attached_usd_is_split_between_developer_and_caller() {
    for (refund_usd, earned) in [(json!(null), 100), (json!(30), 70), (json!(100), 0), (json!(1_000), 0)] {
        let mut contract = with_project();
        let request_id = pending_with_usd(&mut contract);
        let used = json!({"instructions": 0, "time_ms": 0});
        let done = json!({"success": true, "resources_used": used, "refund_usd": refund_usd});
        answer(&mut contract, request_id, done);
        assert_eq!(contract.get_developer_earnings(id("alice.test")), U128(earned));
        assert_eq!(contract.get_user_stablecoin_balance(id("bob.test")), U128(250 - earned));
    }
}

#[test]
fn r7_a_large_output_keeps_the_usd_refund() {
    let mut contract = with_project();
    let request_id = pending_with_usd(&mut contract);
    call_as("worker.test", 0, 15);
    contract.submit_execution_output(request_id, ExecutionOutput::Text("x".repeat(10_000)));
    assert!(contract.has_pending_output(request_id));
    let used = json!({"instructions": 0, "time_ms": 0});
    answer(&mut contract, request_id, json!({"success": true, "resources_used": used, "refund_usd": 30}));
    assert_eq!(contract.get_developer_earnings(id("alice.test")), U128(70));
    assert_eq!(contract.get_user_stablecoin_balance(id("bob.test")), U128(180));
}

#[test]
fn a_failure_gives_all_attached_usd_back() {
    let mut contract = with_project();
    let request_id = pending_with_usd(&mut contract);
    time_out(&mut contract, request_id);
    assert_eq!(contract.get_user_stablecoin_balance(id("bob.test")), U128(250));
    assert_eq!(contract.get_developer_earnings(id("alice.test")), U128(0));
}

// --- cancelling ---

#[test]
fn r6_every_way_of_cancelling_returns_everything() {
    type Cancel = fn(&mut Contract, u64);
    let ways: [(&str, Cancel); 4] = [
        ("bob.test", |contract, id| contract.cancel_stale_execution(id)),
        ("owner.test", |contract, id| contract.emergency_cancel_execution(id)),
        ("owner.test", |contract, id| assert_eq!(contract.cancel_pending_requests(vec![id, 99]), 1)),
        ("owner.test", |contract, _| assert_eq!(contract.clear_all_pending_requests(None), 1)),
    ];
    for (who, cancel) in ways {
        let mut contract = with_project();
        let request_id = pending_with_usd(&mut contract);
        call_as(who, 0, 10 + 600);
        cancel(&mut contract, request_id);
        assert_eq!(transfers(), [("bob.test".to_string(), DEPOSIT)]);
        assert_eq!(contract.get_user_stablecoin_balance(id("bob.test")), U128(250));
        assert!(contract.get_pending_request_ids(None, None).is_empty());
    }
}

#[test]
fn only_the_sender_cancels_and_only_when_stale() {
    let mut contract = with_project();
    let request_id = pending(&mut contract);
    call_as("eve.test", 0, 1_000);
    assert_refused("Only the sender can cancel", || contract.cancel_stale_execution(request_id));
    call_as("bob.test", 0, 10 + 599);
    assert_refused("not yet stale", || contract.cancel_stale_execution(request_id));
    assert_refused("Execution request not found", || contract.cancel_stale_execution(77));
}

// --- roles ---

#[test]
fn only_the_operator_gives_results() {
    let mut contract = with_project();
    let request_id = pending(&mut contract);
    let output = || ExecutionOutput::Text("x".to_string());
    let done = || {
        serde_json::from_value(json!({"success": true, "resources_used": {"instructions": 0, "time_ms": 0}}))
    };
    for who in ["owner.test", "bob.test", "alice.test"] {
        call_as(who, 0, 15);
        assert_refused("Only operator", || contract.submit_execution_output(request_id, output()));
        assert_refused("Only operator", || contract.resolve_execution(request_id, done().unwrap(), None));
        assert_refused("Only operator", || {
            let used = ResourceMetrics::default();
            contract.submit_execution_output_and_resolve(
                request_id,
                output(),
                true,
                None,
                used,
                None,
                None,
                None,
            );
        });
    }
}

#[test]
fn an_output_is_submitted_once_and_for_a_request_that_exists() {
    let mut contract = with_project();
    let request_id = pending(&mut contract);
    call_as("worker.test", 0, 15);
    contract.submit_execution_output(request_id, ExecutionOutput::Bytes(vec![1, 2, 3]));
    let again = || contract.submit_execution_output(request_id, ExecutionOutput::Bytes(vec![4]));
    assert_refused("Output already submitted for this request", again);
    assert_refused("Execution request not found", || {
        contract.submit_execution_output(99, ExecutionOutput::Bytes(Vec::new()))
    });
}

#[test]
fn only_the_owner_administers() {
    let mut contract = contract();
    call_as("eve.test", 0, 2);
    type Admin = fn(&mut Contract);
    let methods: [Admin; 11] = [
        |c| c.set_owner(id("eve.test")),
        |c| c.set_operator(id("eve.test")),
        |c| c.set_paused(true),
        |c| c.set_pricing(Some(U128(1)), None, None, None, None, None, None, None),
        |c| c.set_payment_token_contract(Some(id("eve.test")), None),
        |c| c.clear_payment_token_contract(),
        |c| c.set_max_memory_mb(4_096),
        |c| c.set_event_metadata(None, None),
        |c| c.emergency_cancel_execution(0),
        |c| assert_eq!(c.cancel_pending_requests(Vec::new()), 0),
        |c| assert_eq!(c.clear_all_pending_requests(None), 0),
    ];
    for method in methods {
        assert_refused("Only owner", || method(&mut contract));
    }
}

#[test]
fn prices_that_are_not_given_stay() {
    let mut contract = contract();
    let before = contract.pricing.clone();
    contract.set_pricing(None, Some(U128(7)), None, None, None, None, None, Some(U128(9)));
    let expected = Pricing { per_million_instructions_fee: 7, per_compile_ms_fee_usd: 9, ..before };
    assert_eq!(contract.pricing, expected);
}

#[test]
fn event_metadata_tells_deployments_apart() {
    let mut contract = contract();
    contract.set_event_metadata(Some("near-outlayer-dev".to_string()), None);
    call_as("bob.test", DEPOSIT, 10);
    request(&mut contract, wasm_request(), json!({}), json!(null));
    assert!(get_logs()
        .iter()
        .any(|line| line.contains(r#""standard":"near-outlayer-dev","version":"1.0.0""#)));
}

// --- projects ---

#[test]
fn a_project_lives() {
    let mut contract = with_project();
    let uuid = contract.get_project("alice.test/app".to_string()).unwrap().uuid;
    assert_eq!(uuid, "p0000000000000001");
    call_as("alice.test", DEPOSIT, 6);
    assert_eq!(contract.add_version("app".to_string(), wasm(OTHER_HASH), false), OTHER_HASH);
    assert_eq!(contract.get_project("alice.test/app".to_string()).unwrap().active_version, HASH);
    call_as("alice.test", 0, 7);
    contract.set_active_version("app".to_string(), OTHER_HASH.to_string());
    let active = |contract: &Contract| {
        let versions = contract.list_versions("alice.test/app".to_string(), None, None);
        versions.into_iter().map(|version| (version.wasm_hash, version.is_active)).collect::<Vec<_>>()
    };
    assert_eq!(active(&contract), [(HASH.to_string(), false), (OTHER_HASH.to_string(), true)]);
    assert_refused("Cannot remove the active version", || {
        contract.remove_version("app".to_string(), OTHER_HASH.to_string())
    });
    contract.remove_version("app".to_string(), HASH.to_string());
    assert_eq!(contract.get_version_count("alice.test/app".to_string()), 1);
}

#[test]
fn a_request_may_name_an_older_version() {
    let mut contract = with_project();
    call_as("alice.test", DEPOSIT, 6);
    contract.add_version("app".to_string(), wasm(OTHER_HASH), true);
    for (version_key, expected) in [(None, OTHER_HASH), (Some(HASH), HASH)] {
        call_as("bob.test", DEPOSIT, 10);
        let source = ExecutionSource::Project {
            project_id: "alice.test/app".to_string(),
            version_key: version_key.map(str::to_string),
        };
        request(&mut contract, source, json!({}), json!(null));
        assert_eq!(request_data()["code_source"]["WasmUrl"]["hash"], expected);
    }
}

#[test]
fn r2_a_transfer_counts_when_it_is_accepted() {
    let mut contract = with_project();
    let old_id = || "alice.test/app".to_string();
    let uuid = contract.get_project(old_id()).unwrap().uuid;
    call_as("alice.test", 0, 6);
    contract.transfer_project("app".to_string(), id("carol.test"));
    assert_eq!(contract.get_project(old_id()).unwrap().owner, id("alice.test"));
    assert!(contract.list_user_projects(id("carol.test"), None, None).is_empty());
    call_as("eve.test", 0, 7);
    assert_refused("not offered to this account", || contract.accept_project(old_id()));
    call_as("carol.test", DEPOSIT, 7);
    assert_eq!(contract.accept_project(old_id()), "carol.test/app");
    assert!(contract.get_project(old_id()).is_none());
    assert!(contract.list_user_projects(id("alice.test"), None, None).is_empty());
    let moved = &contract.list_user_projects(id("carol.test"), None, None)[0];
    assert_eq!((moved.uuid.as_str(), &moved.owner), (uuid.as_str(), &id("carol.test")));
}

#[test]
fn r3_a_name_holds_no_slash_and_no_other_surprise() {
    let mut contract = contract();
    for name in ["a/b", "", "a b", "a.b", "ä", &"x".repeat(65)] {
        call_as("alice.test", DEPOSIT, 5);
        assert_refused("Project name", || contract.create_project(name.to_string(), wasm(HASH)));
    }
    call_as("alice.test", DEPOSIT, 5);
    let project_id = contract.create_project(format!("{}-_1", "x".repeat(61)), wasm(HASH));
    assert_eq!(project_id.split('/').count(), 2);
}

#[test]
fn r4_deleting_a_project_refunds_every_deposit() {
    let mut contract = contract();
    let mut kept = 0;
    let paid = |deposit: u128| deposit - transfers().iter().map(|(_, amount)| amount).sum::<u128>();
    call_as("alice.test", DEPOSIT, 5);
    contract.create_project("app".to_string(), wasm(HASH));
    kept += paid(DEPOSIT);
    for hash in [OTHER_HASH, &"4".repeat(64), &"5".repeat(64)] {
        call_as("alice.test", DEPOSIT, 6);
        contract.add_version("app".to_string(), wasm(hash), true);
        kept += paid(DEPOSIT);
    }
    call_as("alice.test", 0, 7);
    contract.remove_version("app".to_string(), OTHER_HASH.to_string());
    let mut refunded = transfers()[0].1;
    call_as("alice.test", 0, 8);
    contract.delete_project("app".to_string());
    refunded += transfers()[0].1;
    assert_eq!(refunded, kept);
    assert_eq!(events("system_event")[0]["ProjectStorageCleanup"]["project_uuid"], "p0000000000000001");
    let project_id = || "alice.test/app".to_string();
    assert!(contract.get_project(project_id()).is_none());
    assert!(contract.get_version(project_id(), HASH.to_string()).is_none());
    assert!(contract.version("p0000000000000001", HASH).is_none());
    assert!(contract.user_projects.get(&id("alice.test")).is_none());
}

#[test]
fn a_deposit_too_small_and_a_name_taken_are_refused() {
    let mut contract = with_project();
    call_as("alice.test", DEPOSIT, 6);
    assert_refused("already exists", || contract.create_project("app".to_string(), wasm(HASH)));
    assert_refused("already exists in project", || contract.add_version("app".to_string(), wasm(HASH), true));
    call_as("alice.test", 1, 6);
    assert_refused("Insufficient storage deposit. Required:", || {
        contract.create_project("other".to_string(), wasm(HASH))
    });
    call_as("bob.test", DEPOSIT, 6);
    assert_refused("Project not found", || contract.add_version("app".to_string(), wasm(OTHER_HASH), true));
}

#[test]
fn code_by_address_needs_a_sha256() {
    let mut contract = contract();
    for hash in ["", "22", &"zz".repeat(32), &HASH.replace('2', "A")] {
        call_as("alice.test", DEPOSIT, 5);
        assert_refused("SHA256", || contract.create_project("app".to_string(), wasm(hash)));
    }
}

// --- outputs ---

#[test]
fn json_is_carried_byte_for_byte() {
    let text = r#"{ "b":1.10,  "a":[1e3,"ä\u00e4"] }"#;
    let output: ExecutionOutput = serde_json::from_str(&format!("{{\"Json\":{text}}}")).unwrap();
    assert_eq!(output.into_return_value().1, text.as_bytes());
}

#[test]
fn text_and_bytes_become_json_strings() {
    let value =
        |output: Value| serde_json::from_value::<ExecutionOutput>(output).unwrap().into_return_value().1;
    assert_eq!(value(json!({"Text": "a\"b"})), br#""a\"b""#);
    assert_eq!(value(json!({"Bytes": [104, 105]})), br#""aGk=""#);
}
