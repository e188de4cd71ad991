// SPDX-License-Identifier: MIT
//! Runs single contract calls in nearcore's own VM and says what happened.
//!
//! One JSON object per line on stdin describes a call (see `Call`), one per line on stdout its outcome
//! (see `Outcome`). The localnet's VM is compared with it: result, logs, state, receipts, gas, profile.
//! A line `{"smith": hex}` is answered with `{"code": hex}`: the random module that the bytes lead to.

mod external;
mod smith;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::rc::Rc;
use std::sync::Arc;

use near_parameters::{ActionCosts, ExtCosts, RuntimeConfig, RuntimeConfigStore};
use near_primitives_core::account::AccountContract;
use near_primitives_core::config::ViewConfig;
use near_primitives_core::hash::CryptoHash;
use near_primitives_core::types::{AccountId, Balance, Gas};
use near_vm_runner::logic::types::PromiseResult;
use near_vm_runner::logic::{ReturnData, VMContext};
use near_vm_runner::{Contract, ContractCode, MockContractRuntimeCache};
use serde::{Deserialize, Serialize};
use strum::IntoEnumIterator;

use external::Replay;

/// One call. Byte strings are hex, amounts decimal strings, gas and heights numbers.
#[derive(Deserialize)]
struct Call {
    protocol_version: u32,
    code: String,
    method: String,
    input: String,
    current_account_id: String,
    signer_account_id: String,
    signer_account_pk: String,
    predecessor_account_id: String,
    refund_to_account_id: String,
    block_height: u64,
    block_timestamp: u64,
    epoch_height: u64,
    account_balance: String,
    account_locked_balance: String,
    storage_usage: u64,
    attached_deposit: String,
    prepaid_gas: u64,
    random_seed: String,
    output_data_receivers: Vec<String>,
    view_max_gas: Option<u64>,
    chain_id: String,
    promise_results: Vec<Option<String>>,
    storage: BTreeMap<String, String>,
    /// Trie nodes charged for each write and removal in turn; the last one for all that follow.
    trie_nodes: Vec<u64>,
    /// Ids that the call's own yields get in turn; after them nearcore's mock makes some.
    #[serde(default)]
    data_ids: Vec<String>,
    /// Yields of earlier calls that wait to be resumed.
    #[serde(default)]
    pending_yields: Vec<PendingYield>,
}

#[derive(Deserialize)]
struct PendingYield {
    data_id: String,
    yield_id: Option<String>,
}

/// Asks for a random module instead.
#[derive(Deserialize)]
struct Smith {
    smith: String,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Returned {
    None,
    Value(String),
    Receipt(u64),
}

#[derive(Serialize)]
struct Failure {
    debug: String,
    display: String,
}

#[derive(Serialize)]
struct Outcome {
    burnt_gas: u64,
    used_gas: u64,
    returned: Returned,
    logs: Vec<String>,
    error: Option<Failure>,
    balance: String,
    storage_usage: u64,
    storage: BTreeMap<String, String>,
    actions: serde_json::Value,
    profile: BTreeMap<String, u64>,
}

struct Code(Arc<ContractCode>);

impl Contract for Code {
    fn hash(&self) -> CryptoHash {
        *self.0.hash()
    }

    fn get_code(&self) -> Option<Arc<ContractCode>> {
        Some(self.0.clone())
    }
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn account(text: &str) -> Fallible<AccountId> {
    Ok(text.parse()?)
}

fn amount(text: &str) -> Fallible<Balance> {
    Ok(Balance::from_yoctonear(text.parse()?))
}

fn hash(hex: &str) -> Fallible<CryptoHash> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hex, &mut bytes)?;
    Ok(CryptoHash(bytes))
}

fn context(call: &Call, code: &ContractCode) -> Fallible<VMContext> {
    let results = call
        .promise_results
        .iter()
        .map(|result| match result {
            None => Ok(PromiseResult::Failed),
            Some(data) => Ok(PromiseResult::Successful(Rc::from(hex::decode(data)?))),
        })
        .collect::<Fallible<Vec<_>>>()?;
    let receivers =
        call.output_data_receivers.iter().map(|id| account(id)).collect::<Fallible<Vec<_>>>()?;
    Ok(VMContext {
        current_account_id: account(&call.current_account_id)?,
        signer_account_id: account(&call.signer_account_id)?,
        signer_account_pk: hex::decode(&call.signer_account_pk)?,
        predecessor_account_id: account(&call.predecessor_account_id)?,
        refund_to_account_id: account(&call.refund_to_account_id)?,
        input: Rc::from(hex::decode(&call.input)?),
        promise_results: results.into(),
        block_height: call.block_height,
        block_timestamp: call.block_timestamp,
        epoch_height: call.epoch_height,
        account_balance: amount(&call.account_balance)?,
        account_locked_balance: amount(&call.account_locked_balance)?,
        storage_usage: call.storage_usage,
        account_contract: AccountContract::Local(*code.hash()),
        attached_deposit: amount(&call.attached_deposit)?,
        prepaid_gas: Gas::from_gas(call.prepaid_gas),
        random_seed: hex::decode(&call.random_seed)?,
        view_config: call.view_max_gas.map(|gas| ViewConfig { max_gas_burnt: Gas::from_gas(gas) }),
        output_data_receivers: receivers,
    })
}

fn profile(outcome: &near_vm_runner::logic::VMOutcome) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for cost in ExtCosts::iter() {
        rows.insert(format!("WASM_HOST_COST/{cost}"), outcome.profile.get_ext_cost(cost).as_gas());
    }
    for cost in ActionCosts::iter() {
        rows.insert(format!("ACTION_COST/{cost}"), outcome.profile.get_action_cost(cost).as_gas());
    }
    rows.insert("WASM_HOST_COST/wasm_instruction".into(), outcome.profile.get_wasm_cost().as_gas());
    rows.retain(|_, gas| *gas != 0);
    rows
}

fn run(
    call: &Call,
    config: &RuntimeConfig,
    cache: &MockContractRuntimeCache,
) -> Fallible<Outcome> {
    let code = Arc::new(ContractCode::new(hex::decode(&call.code)?, None));
    let context = context(call, &code)?;
    let data_ids = call.data_ids.iter().map(|text| hash(text)).collect::<Fallible<_>>()?;
    let pending = call
        .pending_yields
        .iter()
        .map(|item| Ok((hash(&item.data_id)?, item.yield_id.as_deref().map(hash).transpose()?)))
        .collect::<Fallible<_>>()?;
    let mut ext = Replay::new(call.trie_nodes.clone(), call.chain_id.clone(), data_ids, pending);
    for (key, value) in &call.storage {
        ext.inner.fake_trie.insert(hex::decode(key)?, hex::decode(value)?);
    }
    let gas = context.make_gas_counter(&config.wasm_config);
    let contract = Code(code);
    let prepared = near_vm_runner::prepare(
        &contract,
        config.wasm_config.clone(),
        Some(cache),
        gas,
        &call.method,
    );
    let outcome = near_vm_runner::run(prepared, &mut ext, &context, config.fees.clone())
        .map_err(|error| format!("{error:?}"))?;
    let profile = profile(&outcome);
    let storage =
        ext.inner.fake_trie.iter().map(|(k, v)| (hex::encode(k), hex::encode(v))).collect();
    Ok(Outcome {
        burnt_gas: outcome.burnt_gas.as_gas(),
        used_gas: outcome.used_gas.as_gas(),
        returned: match outcome.return_data {
            ReturnData::None => Returned::None,
            ReturnData::Value(value) => Returned::Value(hex::encode(value)),
            ReturnData::ReceiptIndex(index) => Returned::Receipt(index),
        },
        logs: outcome.logs,
        error: outcome
            .aborted
            .map(|error| Failure { debug: format!("{error:?}"), display: error.to_string() }),
        balance: outcome.balance.as_yoctonear().to_string(),
        storage_usage: outcome.storage_usage,
        storage,
        actions: serde_json::to_value(&ext.inner.action_log)?,
        profile,
    })
}

fn main() -> Fallible<()> {
    let store = RuntimeConfigStore::new(None);
    let cache = MockContractRuntimeCache::default();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if let Ok(Smith { smith }) = serde_json::from_str(&line) {
            let code = smith::module(&hex::decode(smith)?)?;
            serde_json::to_writer(&mut out, &BTreeMap::from([("code", hex::encode(code))]))?;
            out.write_all(b"\n")?;
            out.flush()?;
            continue;
        }
        let call: Call = serde_json::from_str(&line)?;
        let config = store.get_config(call.protocol_version);
        match run(&call, config, &cache) {
            Ok(outcome) => serde_json::to_writer(&mut out, &outcome)?,
            Err(error) => {
                serde_json::to_writer(&mut out, &BTreeMap::from([("runner_error", error.to_string())]))?
            }
        }
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}
